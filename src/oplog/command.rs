//! Catalog commands: the fields each has.

use super::fields::Reader;
use super::known::Known;
use super::{Command, Error, IndexBuild, Uuid};

/// Reads the command of `row` from its entry; none if the row is of no catalog command.
pub(super) fn catalog_command<'a>(
    row: &'static Known,
    reader: &Reader<'a>,
) -> Result<Option<Command<'a>>, Error> {
    let spec = reader.o;
    let first = row.command.unwrap_or_default();
    Ok(Some(match first {
        "create" => {
            let id_index = reader.value("idIndex")?.and_then(|value| value.as_document());
            Command::Create { name: reader.string(first)?, spec, id_index }
        }
        "drop" => Command::Drop { name: reader.string(first)? },
        "dropDatabase" => Command::DropDatabase,
        "renameCollection" => Command::Rename {
            from: reader.string(first)?,
            to: reader.string("to")?,
            drop_target: drop_target(reader)?,
            stay_temp: reader.flag("stayTemp")?,
        },
        "collMod" => Command::CollMod { name: reader.string(first)?, changes: spec },
        "createIndexes" => Command::CreateIndexes { name: reader.string(first)?, spec },
        "startIndexBuild" => Command::StartIndexBuild(index_build(first, reader)?),
        "commitIndexBuild" => Command::CommitIndexBuild(index_build(first, reader)?),
        "abortIndexBuild" => Command::AbortIndexBuild(index_build(first, reader)?),
        "emptycapped" => Command::EmptyCapped { name: reader.string(first)? },
        "convertToCapped" => Command::ConvertToCapped { name: reader.string(first)?, spec },
        "truncateRange" => Command::TruncateRange { ns: reader.string(first)? },
        "importCollection" => Command::ImportCollection { spec },
        "upgradeDowngradeViewlessTimeseries" => Command::ViewlessTimeseries { spec },
        "dropIndexes" | "deleteIndexes" | "deleteIndex" | "dropIndex" => {
            Command::DropIndexes { name: reader.string(first)?, index: reader.string("index")? }
        }
        _ => return Ok(None),
    }))
}

fn index_build<'a>(command: &'static str, reader: &Reader<'a>) -> Result<IndexBuild<'a>, Error> {
    Ok(IndexBuild {
        name: reader.string(command)?,
        build: reader.uuid("indexBuildUUID")?,
        indexes: reader.array("indexes")?,
    })
}

/// A UUID, or nothing where it is absent or false. `true`, which says that some collection was
/// dropped but not which, is refused.
fn drop_target(reader: &Reader<'_>) -> Result<Option<Uuid>, Error> {
    match reader.value("dropTarget")? {
        None => Ok(None),
        Some(value) if value.as_bool() == Some(false) => Ok(None),
        Some(value) => {
            Uuid::from_value(value).map(Some).ok_or_else(|| reader.wrong("o.dropTarget"))
        }
    }
}
