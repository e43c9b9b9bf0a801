"""What is sealed in an encrypted store (page 08), with keys that `keyring.py` finds."""

from __future__ import annotations

import struct
from typing import Dict, Optional

from blake3 import blake3
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_ABYTES as TAG,
)
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt as decrypt,
)
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES as NONCE,
)
from nacl.exceptions import CryptoError

from .damage import Malformed

VERSION = 1
KEY = 32
EPOCH = struct.Struct("<I")
# How much longer something is when it is sealed.
SEAL = NONCE + TAG
# What the seal of a record covers besides its content.
RECORD_DATA = struct.Struct("<HBBII32s8s4x")


class Keys:
    """The keys of a store."""

    def __init__(self, naming: bytes, salt: bytes, data: Dict[int, bytes]) -> None:
        self.salt = salt
        self.names = derive(naming, "Headstock 2026-11 names of blocks")
        self.chain = derive(naming, "Headstock 2026-11 hashes of commits")
        # By epoch.
        self.blocks = {
            epoch: derive(key, "Headstock 2026-11 contents of blocks")
            for epoch, key in data.items()
        }
        self.commits = {
            epoch: derive(key, "Headstock 2026-11 contents of commits")
            for epoch, key in data.items()
        }

    def block(
        self, stored: bytes, kind: int, codec: int, raw: int, name: bytes, form: bytes
    ) -> bytes:
        """The codec's bytes from the stored ones of a record."""
        if len(stored) < EPOCH.size + SEAL:
            raise Malformed(f"{len(stored)} bytes are too few for a seal")
        (epoch,) = EPOCH.unpack_from(stored)
        data = RECORD_DATA.pack(VERSION, kind, codec, epoch, raw, name, form)
        return unseal(of_epoch(self.blocks, epoch), stored[EPOCH.size :], data)

    def lists(self, epoch: int, sealed: bytes, data: bytes) -> bytes:
        """The lists of a commit record, from those bytes and the ones before them."""
        return unseal(of_epoch(self.commits, epoch), sealed, data)


def of_epoch(keys: Dict[int, bytes], epoch: int) -> bytes:
    if epoch not in keys:
        raise Malformed(f"it is sealed with a key of epoch {epoch}, which KEYS does not have")
    return keys[epoch]


def hasher(key: Optional[bytes]) -> blake3:
    """BLAKE3-256, keyed in an encrypted store."""
    return blake3() if key is None else blake3(key=key)


def derive(key: bytes, purpose: str) -> bytes:
    derived: bytes = blake3(key, derive_key_context=purpose).digest()
    return derived


def unseal(key: bytes, sealed: bytes, data: bytes) -> bytes:
    """What was sealed. `data` is covered by the seal without being part of it."""
    if len(sealed) < SEAL:
        raise Malformed(f"{len(sealed)} bytes are too few for a seal")
    try:
        content: bytes = decrypt(sealed[NONCE:], data, sealed[:NONCE], key)
    except CryptoError as why:
        raise Malformed("its seal is broken") from why
    return content
