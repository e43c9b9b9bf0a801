"""An independent reader of Headstock stores, written from the pages of `format-spec/` alone.

It shares no code with the program, so that what it reads is what the pages say. It needs Python 3.9
and the packages of `requirements.txt`:

    cd format-spec
    python3 -m pip install --require-hashes --only-binary :all: -r reader/requirements.txt
    python3 -m reader --store DIR snapshots
    python3 -m reader --store DIR collections --snapshot ID
    python3 -m reader --store DIR restore --snapshot ID --ns shop.orders --to orders.bson
    python3 -m reader --store DIR check

An encrypted store needs `--key-file FILE` or `--passphrase-file FILE` before the command.

| file | page |
|---|---|
| `segment.py`, `dictionaries.py`, `footer.py`, `check_files.py` | 01-segment |
| `log.py`, `store.py` | 02-commit-log |
| `blocks.py`, `documents.py` | 03-blocks |
| `keys.py`, `trees.py` | 04-trees |
| `slices.py` | 05-slices |
| `heads.py`, `content_root.py` | 06-heads |
| `jobs.py` | 07-jobs |
| `encryption.py`, `keyring.py` | 08-encryption |
| `check.py` | all of them: walks everything |
"""
