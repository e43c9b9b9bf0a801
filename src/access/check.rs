//! Compares the table with what a server says of the user that is logged in.

use std::time::Duration;

use bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria};
use mongodb::{Client, Database};
use serde::Serialize;

use super::{Error, Need, Place, Resource, Role, Version, Weight};
use crate::source::client_options;

/// Default limit of finding a server.
const SELECTION_LIMIT: Duration = Duration::from_secs(10);
/// Default limit of a TCP and TLS connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The database of a blockstore, unless the connection string names one.
pub const DATABASE: &str = "headstock";
/// The user lacks a privilege.
const UNAUTHORIZED: i32 = 13;
/// Credentials were refused.
const AUTHENTICATION_FAILED: i32 = 18;
/// Tells how a server was started. Asked only to see whether that is refused.
const PROBE: &str = "getCmdLineOpts";

/// What a server allows. `--json` prints it: field names never change.
#[derive(Debug, Clone, Serialize)]
pub struct ServerReport {
    /// What it is to this program.
    pub place: Place,
    /// Its address, without credentials.
    pub server: String,
    /// Its version.
    pub version: String,
    /// Whether it asks for credentials at all.
    pub access_control: bool,
    /// Who is logged in, as `database.user`.
    pub users: Vec<String>,
    /// Each role that this program can have there.
    pub roles: Vec<RoleReport>,
}

/// What of a role a user has not got.
#[derive(Debug, Clone, Serialize)]
pub struct RoleReport {
    /// The role.
    pub role: Role,
    /// Whether it was asked for.
    pub asked: bool,
    /// Whether nothing that is needed is missing.
    pub complete: bool,
    /// What is, and what is only advised.
    pub missing: Vec<Missing>,
}

/// An action that a user may not do.
#[derive(Debug, Clone, Serialize)]
pub struct Missing {
    /// The server's name of the action.
    pub action: &'static str,
    /// On what.
    pub resource: Resource,
    /// How much depends on it.
    pub weight: Weight,
    /// For what.
    pub why: &'static str,
}

impl ServerReport {
    /// Whether all roles that were asked for are complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.roles.iter().all(|role| role.complete || !role.asked)
    }
}

/// The database of the blockstore that a connection string names.
///
/// # Errors
/// [`Error::Uri`].
pub async fn database_of(uri: &str) -> Result<String, Error> {
    Ok(database(&options(Place::Blockstore, uri).await?))
}

/// Asks a server what the user of a connection string may do there, and compares it with what each role of the place needs.
///
/// # Errors
/// That it cannot be asked.
pub async fn check(place: Place, uri: &str, asked: &[Role]) -> Result<ServerReport, Error> {
    let server = Server::connect(place, uri).await?;
    let (version, text) = server.version().await?;
    let (users, held) = server.held().await?;
    let access_control = server.has_access_control(&held).await?;
    let once = server.lacks_repository().await;
    let roles = Role::ALL.into_iter().filter(|role| role.place() == place).map(|role| {
        let missing = match access_control {
            true => missing(&role.needs(server.database.name(), version), &held, once),
            false => Vec::new(),
        };
        let complete = missing.iter().all(|missing| missing.weight == Weight::Advised);
        RoleReport { role, asked: asked.contains(&role), complete, missing }
    });
    Ok(ServerReport {
        place,
        roles: roles.collect(),
        server: server.name,
        version: text,
        access_control,
        users,
    })
}

/// A privilege that a user has.
type Held = (Resource, Vec<String>);

fn has(held: &[Held], resource: &Resource, action: &str) -> bool {
    let allows = |actions: &[String]| actions.iter().any(|one| one == action || one == "anyAction");
    held.iter().any(|(on, actions)| on.covers(resource) && allows(actions))
}

fn missing(needs: &[Need], held: &[Held], once: bool) -> Vec<Missing> {
    let wanted = needs.iter().filter(|need| once || need.weight != Weight::Once);
    let missing = wanted.filter(|need| !has(held, &need.resource, need.action));
    missing
        .map(|Need { resource, action, weight, why }| {
            let resource = resource.clone();
            Missing { action, resource, weight: *weight, why }
        })
        .collect()
}

async fn options(place: Place, uri: &str) -> Result<ClientOptions, Error> {
    client_options(uri).await.map_err(|problem| Error::Uri { place, problem })
}

fn database(options: &ClientOptions) -> String {
    options.default_database.clone().unwrap_or_else(|| DATABASE.to_owned())
}

/// A server that is asked.
struct Server {
    place: Place,
    name: String,
    client: Client,
    /// Of a blockstore, that of its repository.
    database: Database,
}

impl Server {
    async fn connect(place: Place, uri: &str) -> Result<Self, Error> {
        let mut options = options(place, uri).await?;
        options.server_selection_timeout.get_or_insert(SELECTION_LIMIT);
        options.connect_timeout.get_or_insert(CONNECT_LIMIT);
        options.app_name.get_or_insert_with(|| "headstock check-access".to_owned());
        // Users and roles are the same at every member.
        let primary = ReadPreference::PrimaryPreferred { options: None };
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(primary));
        let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        let (name, database) = (hosts.join(","), database(&options));
        let unusable =
            |error: mongodb::error::Error| Error::Uri { place, problem: error.kind.to_string() };
        let client = Client::with_options(options).map_err(unusable)?;
        Ok(Self { place, name, database: client.database(&database), client })
    }

    /// Runs a command on `admin`; none if the user may not.
    async fn ask(
        &self,
        command: &'static str,
        document: Document,
    ) -> Result<Option<Document>, Error> {
        let reply = self.client.database("admin").run_command(document).await;
        let why = match reply {
            Ok(reply) => return Ok(Some(reply)),
            Err(why) => why,
        };
        let (place, server) = (self.place, self.name.clone());
        match why.kind.as_ref() {
            ErrorKind::Command(refusal) if refusal.code == UNAUTHORIZED => Ok(None),
            ErrorKind::Command(refusal) if refusal.code == AUTHENTICATION_FAILED => {
                Err(Error::Authentication { place, server, source: Box::new(why) })
            }
            ErrorKind::Authentication { .. } => {
                Err(Error::Authentication { place, server, source: Box::new(why) })
            }
            _ => Err(Error::Unreachable { place, server, command, source: Box::new(why) }),
        }
    }

    fn lacks(&self, command: &'static str, field: &'static str) -> Error {
        Error::Reply { place: self.place, server: self.name.clone(), command, field }
    }

    async fn version(&self) -> Result<(Version, String), Error> {
        let command = "buildInfo";
        let info = self.ask(command, doc! { "buildInfo": 1 }).await?.unwrap_or_default();
        let text = info.get_str("version").map_err(|_| self.lacks(command, "version"))?;
        let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Ok((version, text.to_owned()))
    }

    /// Who is logged in, and what they may do.
    async fn held(&self) -> Result<(Vec<String>, Vec<Held>), Error> {
        let command = "connectionStatus";
        let ask = doc! { "connectionStatus": 1, "showPrivileges": true };
        let status = self.ask(command, ask).await?.unwrap_or_default();
        let info = status.get_document("authInfo").map_err(|_| self.lacks(command, "authInfo"))?;
        let list = |name: &'static str| {
            let found = info.get_array(name).map_err(|_| self.lacks(command, name))?;
            Ok::<_, Error>(found.iter().filter_map(Bson::as_document))
        };
        let users = list("authenticatedUsers")?.map(|user| {
            let part = |name| user.get_str(name).unwrap_or_default();
            format!("{}.{}", part("db"), part("user"))
        });
        let held = list("authenticatedUserPrivileges")?.filter_map(|privilege| {
            let resource = Resource::read(privilege.get_document("resource").ok()?)?;
            let actions = privilege.get_array("actions").ok()?.iter();
            Some((resource, actions.filter_map(Bson::as_str).map(str::to_owned).collect()))
        });
        Ok((users.collect(), held.collect()))
    }

    /// Whether it asks for privileges: a command is refused, or allowed without the privilege for it. Who has that is told by the
    /// answer itself.
    async fn has_access_control(&self, held: &[Held]) -> Result<bool, Error> {
        let Some(reply) = self.ask(PROBE, doc! { PROBE: 1 }).await? else { return Ok(true) };
        if !has(held, &Resource::Cluster, PROBE) {
            return Ok(false);
        }
        let security =
            reply.get_document("parsed").and_then(|parsed| parsed.get_document("security"));
        Ok(security.is_ok_and(|security| {
            let is_enabled = security.get_str("authorization").is_ok_and(|word| word == "enabled");
            is_enabled
                || security.contains_key("keyFile")
                || security.contains_key("clusterAuthMode")
        }))
    }

    /// Whether, of a blockstore, the repository is still to be made. If the user may not look, it may be.
    async fn lacks_repository(&self) -> bool {
        let repository = self.database.collection::<Document>("repository");
        let found = repository.find_one(doc! { "_id": 0 }).await;
        !found.is_ok_and(|found| found.is_some())
    }
}
