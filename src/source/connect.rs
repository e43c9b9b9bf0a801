//! From a connection string to clients of single members.
//!
//! Every member gets a client of its own with a direct connection and the credentials, TLS and other
//! options of the string. Which member is read, and when to change it, is decided in `topology`: the
//! driver's own choice could move between two commands that must see the same member.

use std::time::Duration;

use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, ServerAddress};

use super::Error;

/// Default limit of reaching a member: long enough for a slow handshake, short enough to ask the
/// next one soon.
const SELECTION_LIMIT: Duration = Duration::from_secs(5);

/// Default limit of a TCP and TLS connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Default number of connections per member: every range of a scan holds one while a batch is under
/// way, and a tail holds one nearly always.
const CONNECTIONS_MAX: u32 = 64;

/// How the source's logs name us.
const APP_NAME: &str = "headstock";

/// What a connection string says.
#[derive(Clone)]
pub(super) struct Template {
    options: ClientOptions,
    /// The members it names (of an SRV record: those it resolves to).
    pub seeds: Vec<String>,
    /// The set it names, if it does.
    pub set_name: Option<String>,
    /// Whether only the one named member may be used.
    pub direct: bool,
}

impl Template {
    /// Reads a connection string.
    pub async fn parse(uri: &str) -> Result<Self, Error> {
        let options = client_options(uri).await.map_err(|problem| Error::Uri { problem })?;
        if options.load_balanced == Some(true) {
            let problem = "loadBalanced=true names a proxy, not a replica set".to_owned();
            return Err(Error::Uri { problem });
        }
        Ok(Self {
            seeds: options.hosts.iter().map(ToString::to_string).collect(),
            set_name: options.repl_set_name.clone(),
            direct: options.direct_connection == Some(true),
            options,
        })
    }

    /// A client of one member. Does not connect yet.
    pub fn client(&self, address: &str) -> Result<Client, Error> {
        let unusable =
            |error: mongodb::error::Error| Error::Uri { problem: error.kind.to_string() };
        let mut options = self.options.clone();
        options.hosts = vec![ServerAddress::parse(address).map_err(unusable)?];
        options.direct_connection = Some(true);
        // Checked by ourselves, with an error that says what was found.
        options.repl_set_name = None;
        // Preference is ours; the driver's applies to no direct connection.
        options.selection_criteria = None;
        options.server_selection_timeout.get_or_insert(SELECTION_LIMIT);
        options.connect_timeout.get_or_insert(CONNECT_LIMIT);
        options.max_pool_size.get_or_insert(CONNECTIONS_MAX);
        options.app_name.get_or_insert_with(|| APP_NAME.to_owned());
        Client::with_options(options).map_err(unusable)
    }
}

/// What a connection string says, or what is wrong with it, told without its secrets.
pub(crate) async fn client_options(uri: &str) -> Result<ClientOptions, String> {
    ClientOptions::parse(uri).await.map_err(|error| tell(uri, &error.kind))
}

/// What the driver says of a connection string, if that quotes nothing of the user information.
fn tell(uri: &str, kind: &ErrorKind) -> String {
    let message = match kind {
        ErrorKind::InvalidArgument { message, .. } | ErrorKind::DnsResolve { message, .. } => {
            message
        }
        _ => return "it cannot be parsed".to_owned(),
    };
    // The last `@` before the first one of an unescaped password may be far right: everything up to
    // the last is taken for secret.
    let rest = uri.split_once("://").map_or(uri, |(_, rest)| rest);
    let secret = rest.rsplit_once('@').map_or("", |(secret, _)| secret);
    let mut pieces = secret.split([':', '@', '/', '?', '&', '=', '#', ',']);
    if pieces.any(|piece| !piece.is_empty() && message.contains(piece)) {
        return "it cannot be parsed".to_owned();
    }
    message.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn problem(uri: &str) -> String {
        match Template::parse(uri).await {
            Err(Error::Uri { problem }) => problem,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{uri} was taken"),
        }
    }

    #[tokio::test]
    async fn a_wrong_string_is_told_without_its_password() {
        for uri in [
            "mongodb://bob:s3c/ret@h:1/?replicaSet=r",
            "mongodb://bob:s3c@ret@h:1",
            "mongodb://bob:s3c%ret@h:1",
            "mongodb://bob:s3cret@h:notaport",
            "mongodb://bob:s3cret@h:1/?tls=s3cret",
            "bob:s3cret@h:1",
        ] {
            let problem = problem(uri).await;
            assert!(!problem.contains("s3c") && !problem.contains("bob"), "{uri}: {problem}");
        }
        assert!(problem("mongodb://h:1/?tls=perhaps").await.contains("tls"));
        assert!(problem("mongodb://h:1/?loadBalanced=true").await.contains("proxy"));
    }

    #[tokio::test]
    async fn options_reach_the_clients_of_members() {
        let template =
            Template::parse("mongodb://u:p@a,b:27018/?replicaSet=r&tls=true").await.expect("valid");
        assert_eq!(template.seeds, ["a:27017", "b:27018"]);
        assert_eq!(template.set_name.as_deref(), Some("r"));
        assert!(!template.direct);
        template.client("c:27019").expect("a client of a member not named");
    }
}
