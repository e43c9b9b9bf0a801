//! `headstock check-access`: what a user may not do that this program needs.

use std::path::PathBuf;

use super::args::{BlockstoreArgs, read_uri};
use super::{Error, Exit, output};
use crate::access::{self, NEWEST, Place, Role, ServerReport, Version, Weight};
use crate::blockstore::{self, Probe};
use crate::restore::Target;

const AFTER_HELP: &str = "\
Logs in at each server that is given, by option, file or environment, asks it what the user may do (connectionStatus), and compares
that with a table of what Headstock needs there. Nothing is written to a server. On a server without access control it says so.

ROLES (--role, --print-role)
  source           at the source: sync, daemon, verify
  blockstore       at the blockstore: sync and daemon --blockstore, snapshot delete, fsck --repair. Removes no blocks
  blockstore-read  at the blockstore: restore, rebuild, fsck, snapshots, points --blockstore (also called restore). Writes
                   nothing but its session and its pins
  groom            at the blockstore: groom
  target           at the target: restore --to
  rewind           at the target: restore --rewind
What is compared is enough for everything there is. A job with --include or --exclude may find, and a restore with --ns may write, less.
Unless --role says otherwise, source, blockstore and target are asked for, each where its server is given. The others of a server are
told, too, and do not count for the exit code.

--print-role prints the commands that make such a role and a user, for mongosh, made of the same table. They take the blockstore's
database from its connection string, if it is given [headstock]. For a server before 5.0, which has no time series, add
--server-version 4.4.

A blockstore of objects (a directory or s3://) is tried instead: an object is created, read, listed and deleted there, and creating
it twice must be refused.

--json prints {complete, servers, storages}; servers is an array of {place, server, version, access_control, users, roles}; place is source,
blockstore or target; roles is an array of {role, asked, complete, missing}; missing of {action, resource, weight, why}; weight is
needed, once (until the repository was made) or advised (works without it, less well). --print-role --json prints
{role, database, createRole, createUser}: command documents for that database; replace pwd. storages is an array of
{storage, complete, missing}; missing of {action, why}; action is S3's name of it.

EXIT CODES
  0  all that was asked for is there
  1  a server cannot be reached, or refuses the credentials
  2  wrong usage
  3  something is missing

EXAMPLES
  headstock check-access --source-file /etc/headstock/rs0.uri
  headstock check-access --source-file rs0.uri --blockstore-file blockstore.uri --json
  headstock check-access --blockstore-file blockstore.uri --role restore --role groom
  headstock check-access --blockstore 's3://backups/headstock?region=eu-central-1'
  headstock check-access --print-role source
  headstock check-access --print-role blockstore --blockstore-file blockstore.uri";

/// Check what a user may do at a server, or print the roles to create there
#[derive(Debug, clap::Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Args {
    /// Connection string of the source (with a password: use the environment or --source-file)
    #[arg(long, value_name = "URI", env = "HEADSTOCK_SOURCE", hide_env_values = true)]
    source: Option<String>,
    /// File that holds that connection string; wins over --source
    #[arg(long, value_name = "FILE")]
    source_file: Option<PathBuf>,
    #[command(flatten)]
    blockstore: BlockstoreArgs,
    /// Connection string of a restore's target (with a password: use the environment)
    #[arg(long, visible_alias = "target", value_name = "URI")]
    #[arg(env = "HEADSTOCK_TARGET", hide_env_values = true)]
    to: Option<Target>,
    /// A role that must be complete; may be given several times
    #[arg(long, value_name = "ROLE", conflicts_with = "print_role")]
    role: Vec<Named>,
    /// Print the commands that make this role and a user that has it, and ask no server
    #[arg(long, value_name = "ROLE")]
    print_role: Option<Named>,
    /// The server's version, as 4.4, for --print-role; the newest unless given
    #[arg(long, value_name = "X.Y", requires = "print_role", value_parser = version)]
    server_version: Option<Version>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A role, as it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Named {
    Source,
    Blockstore,
    #[value(alias = "restore", alias = "rebuild")]
    BlockstoreRead,
    Groom,
    Target,
    Rewind,
}

impl From<Named> for Role {
    fn from(named: Named) -> Self {
        match named {
            Named::Source => Self::Source,
            Named::Blockstore => Self::Blockstore,
            Named::BlockstoreRead => Self::BlockstoreRead,
            Named::Groom => Self::Groom,
            Named::Target => Self::Target,
            Named::Rewind => Self::Rewind,
        }
    }
}

fn version(text: &str) -> Result<Version, &'static str> {
    const EXPECTED: &str = "expected a major and a minor version, as 4.4";
    let (major, minor) = text.split_once('.').ok_or(EXPECTED)?;
    let minor = minor.split('.').next().unwrap_or_default();
    Ok((major.parse().map_err(|_| EXPECTED)?, minor.parse().map_err(|_| EXPECTED)?))
}

/// What was found at all servers.
#[derive(serde::Serialize)]
struct Report {
    complete: bool,
    servers: Vec<ServerReport>,
    storages: Vec<Probe>,
}

impl Args {
    /// The servers that are given, and their connection strings.
    fn servers(&self) -> Result<Vec<(Place, String)>, Error> {
        let mut servers = Vec::new();
        let source = match &self.source_file {
            Some(file) => Some(read_uri(file)?),
            None => self.source.clone(),
        };
        servers.extend(source.map(|uri| (Place::Source, uri)));
        servers.extend(self.blockstore.uri()?.map(|uri| (Place::Blockstore, uri)));
        match &self.to {
            Some(Target::Live(uri)) => servers.push((Place::Target, uri.clone())),
            Some(target) => return Err(Error::AccessTarget { target: target.to_string() }),
            None => {}
        }
        if servers.is_empty() {
            return Err(Error::NoServer);
        }
        Ok(servers)
    }

    /// The roles that must be complete.
    fn asked(&self, servers: &[(Place, String)]) -> Result<Vec<Role>, Error> {
        let mut asked: Vec<Role> = self.role.iter().copied().map(Role::from).collect();
        let is_given = |place| servers.iter().any(|(given, _)| *given == place);
        if let Some(role) = asked.iter().find(|role| !is_given(role.place())) {
            let (role, place) = (role.name(), role.place().name());
            return Err(Error::RoleWithoutServer { role, place });
        }
        for (role, place) in [
            (Role::Source, Place::Source),
            (Role::Blockstore, Place::Blockstore),
            (Role::Target, Place::Target),
        ] {
            if is_given(place) && !asked.iter().any(|one| one.place() == place) {
                asked.push(role);
            }
        }
        Ok(asked)
    }
}

/// Runs the command.
pub async fn run(args: Args) -> Result<Exit, Error> {
    if let Some(role) = args.print_role {
        return print_role(&args, role.into()).await;
    }
    let servers = args.servers()?;
    let asked = args.asked(&servers)?;
    let mut report = Report { complete: true, servers: Vec::new(), storages: Vec::new() };
    for (place, uri) in &servers {
        if *place == Place::Blockstore && blockstore::is_of_objects(uri) {
            let storage = blockstore::probe(uri).await?;
            report.complete &= storage.complete;
            report.storages.push(storage);
            continue;
        }
        let server = access::check(*place, uri, &asked).await?;
        report.complete &= server.is_complete();
        report.servers.push(server);
    }
    if args.json {
        output::json(&report)?;
    } else {
        report.servers.iter().try_for_each(tell)?;
        report.storages.iter().try_for_each(tell_storage)?;
    }
    Ok(if report.complete { Exit::Done } else { Exit::Damage })
}

async fn print_role(args: &Args, role: Role) -> Result<Exit, Error> {
    let database = match args.blockstore.uri()? {
        Some(uri) if role.place() == Place::Blockstore && !blockstore::is_of_objects(&uri) => {
            access::database_of(&uri).await?
        }
        _ => access::DATABASE.to_owned(),
    };
    let commands = access::commands(role, &database, args.server_version.unwrap_or(NEWEST));
    if args.json {
        output::json(&commands)?;
    } else {
        output::line(&commands.to_string())?;
    }
    Ok(Exit::Done)
}

fn tell_storage(storage: &Probe) -> Result<(), Error> {
    let found = if storage.complete { "complete" } else { "INCOMPLETE" };
    output::line(&format!("{}: {found}", storage.storage))?;
    for one in &storage.missing {
        output::line(&format!("  missing {}: {}", one.action, one.why))?;
    }
    Ok(())
}

fn tell(report: &ServerReport) -> Result<(), Error> {
    let ServerReport { place, server, version, access_control, users, roles } = report;
    let who = match users.as_slice() {
        [] => "nobody logged in".to_owned(),
        users => format!("as {}", users.join(", ")),
    };
    output::line(&format!("{} {server} (MongoDB {version}), {who}", place.name()))?;
    if !access_control {
        return output::line("  no access control: whoever reaches this server may do everything");
    }
    for role in roles {
        let name = role.role.name();
        let missing = |weights: &[Weight]| {
            let chosen = role.missing.iter().filter(|one| weights.contains(&one.weight));
            chosen.collect::<Vec<_>>()
        };
        let needed = missing(&[Weight::Needed, Weight::Once]);
        if !role.asked {
            let found = match needed.len() {
                0 => "complete".to_owned(),
                more => format!("{more} actions missing"),
            };
            output::line(&format!("  {name}: {found} (not asked for)"))?;
            continue;
        }
        let found = if role.complete { "complete" } else { "INCOMPLETE" };
        output::line(&format!("  {name}: {found}"))?;
        let advised = missing(&[Weight::Advised]);
        for (word, list) in [("missing", needed), ("advised", advised)] {
            for one in list {
                let (action, resource, why) = (one.action, &one.resource, one.why);
                output::line(&format!("    {word} {action} on {resource}: {why}"))?;
            }
        }
        if !role.complete {
            output::line(&format!(
                "    next: `headstock check-access --print-role {name}` prints a role that has it all"
            ))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("4.4"), Ok((4, 4)));
        assert_eq!(version("6.0.5"), Ok((6, 0)));
        assert!(version("6").is_err() && version("x.y").is_err());
    }

    #[test]
    fn names_of_options_are_those_of_reports() {
        use clap::ValueEnum as _;
        for named in Named::value_variants() {
            let name = named.to_possible_value().expect("a name");
            assert_eq!(name.get_name(), Role::from(*named).name());
        }
    }
}
