//! The table as commands for an administrator.

use bson::{Bson, Document, doc};
use serde::Serialize;

use super::{Resource, Role, Version};

/// The database that holds the roles and users: only its roles may name other databases.
const ADMIN: &str = "admin";
/// What stands for the password.
const PASSWORD: &str = "<password>";

/// What makes a role and a user that has it. `--json` prints it: field names never change.
#[derive(Debug, Clone, Serialize)]
pub struct Commands {
    /// The role of this program.
    pub role: Role,
    /// The database to run them on.
    pub database: &'static str,
    /// `createRole`, as a command document.
    #[serde(rename = "createRole")]
    pub create_role: Document,
    /// `createUser`, as a command document; its `pwd` is to be replaced.
    #[serde(rename = "createUser")]
    pub create_user: Document,
}

/// Makes the commands for a server of that version, the blockstore being that database.
#[must_use]
pub fn commands(role: Role, database: &str, version: Version) -> Commands {
    let mut privileges: Vec<(Resource, Vec<&str>)> = Vec::new();
    for need in role.needs(database, version) {
        match privileges.iter_mut().find(|(resource, _)| *resource == need.resource) {
            Some((_, actions)) if actions.contains(&need.action) => {}
            Some((_, actions)) => actions.push(need.action),
            None => privileges.push((need.resource, vec![need.action])),
        }
    }
    let privileges = privileges.into_iter().map(|(resource, actions)| {
        Bson::from(doc! { "resource": resource.to_document(), "actions": actions })
    });
    let name = format!("headstock-{}", role.name());
    let create_role = doc! {
        "createRole": &name,
        "privileges": privileges.collect::<Vec<_>>(),
        "roles": [],
    };
    let create_user = doc! {
        "createUser": &name,
        "pwd": PASSWORD,
        "roles": [{ "role": &name, "db": ADMIN }],
    };
    Commands { role, database: ADMIN, create_role, create_user }
}

/// Text, lists and documents of these as JSON.
fn json(value: &Bson) -> String {
    serde_json::to_string(value).expect("plain values can be written as JSON")
}

impl std::fmt::Display for Commands {
    /// As mongosh takes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { database, create_role, create_user, .. } = self;
        writeln!(f, "db.getSiblingDB(\"{database}\").runCommand({{")?;
        let text = |name: &str| {
            let value = create_role.get(name).cloned().unwrap_or(Bson::Null);
            json(&value)
        };
        writeln!(f, "  \"createRole\": {},", text("createRole"))?;
        writeln!(f, "  \"privileges\": [")?;
        let privileges = create_role.get_array("privileges").map(Vec::as_slice).unwrap_or_default();
        for (number, privilege) in privileges.iter().enumerate() {
            let comma = if number + 1 == privileges.len() { "" } else { "," };
            writeln!(f, "    {}{comma}", json(privilege))?;
        }
        writeln!(f, "  ],\n  \"roles\": {}\n}})", text("roles"))?;
        let user = json(&Bson::from(create_user.clone()));
        let user = user.replace(&format!("\"{PASSWORD}\""), "passwordPrompt()");
        write!(f, "db.getSiblingDB(\"{database}\").runCommand({user})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::NEWEST;

    #[test]
    fn each_resource_stands_once_and_old_servers_get_no_time_series() {
        for role in Role::ALL {
            let privileges = |version| {
                let made = commands(role, "backup", version).create_role;
                made.get_array("privileges").expect("privileges").clone()
            };
            let resource = |one: &Bson| {
                one.as_document().and_then(|one| one.get_document("resource").ok()).cloned()
            };
            let all = privileges(NEWEST);
            for (number, one) in all.iter().enumerate() {
                let others = all.iter().skip(number + 1);
                assert!(others.into_iter().all(|other| resource(one) != resource(other)), "{one}");
            }
            let old = Bson::from(privileges((4, 4))).to_string();
            assert!(!old.contains("system_buckets"), "{old}");
        }
    }

    #[test]
    fn the_text_asks_for_the_password() {
        let text = commands(Role::Groom, "backup", NEWEST).to_string();
        assert!(text.contains("\"pwd\":passwordPrompt()"), "{text}");
        assert!(
            text.contains(
                r#"{"resource":{"db":"backup","collection":"slices"},"actions":["find"]}"#
            ),
            "{text}"
        );
    }
}
