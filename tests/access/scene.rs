//! Sets with access control, the users that the program prints, and the program as these users run it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bson::{Document, doc};
use headstock::access::{Need, Resource, Role};
use headstock::lab::{Mongod, Options, Release, ReplicaSet};
use mongodb::Database;
use serde_json::Value;
use tempfile::TempDir;

/// The newest version that the tests run.
pub const VERSION: (u32, u32) = (6, 0);
/// The database of the blockstore.
pub const DATABASE: &str = "headstock";

/// What a command ended with.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub text: String,
    pub output: String,
}

impl Ended {
    pub fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all = text(&output.stdout) + &text(&output.stderr);
        Self { code: output.status.code(), text: all, output: text(&output.stdout) }
    }

    /// Asserts that it went well.
    pub fn well(self, what: &str) -> Self {
        assert_eq!(self.code, Some(0), "{what}: {}", self.text);
        self
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.output).unwrap_or_else(|why| panic!("{why}: {}", self.text))
    }
}

/// The program, with nothing of this process's environment that it reads.
pub fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstock"));
    for name in ["SOURCE", "STORE", "BLOCKSTORE", "TARGET", "LOG"] {
        command.env_remove(format!("HEADSTOCK_{name}"));
    }
    command.args(words);
    command
}

/// Runs the program with connection strings in its environment.
pub fn run(words: &[&str], uris: &[(&str, &str)]) -> Ended {
    let uris = uris.iter().map(|(name, uri)| (format!("HEADSTOCK_{name}"), uri));
    let output = command(words).envs(uris).output().expect("the program starts");
    Ended::of(&output)
}

/// Starts a set of one member with access control.
pub async fn start(options: Options) -> ReplicaSet {
    let mongod = options.mongod.clone();
    let mongod = mongod.unwrap_or_else(|| Mongod::fetch(Release::V6_0_5).expect("a server"));
    let mut arguments = options.arguments.clone();
    arguments.extend(["--setParameter", "ttlMonitorEnabled=false"].map(str::to_owned));
    let options = Options { auth: true, mongod: Some(mongod), arguments, ..options };
    ReplicaSet::start(Options { election_timeout_ms: 1000, ..options }).await.expect("a set")
}

/// The name of a role, and of its user.
pub fn name(role: Role) -> String {
    format!("headstock-{}", role.name())
}

/// Creates a role and its user by the commands that the program prints. `uri`: of the user that is made.
pub async fn create(set: &ReplicaSet, role: Role, password: &str) -> String {
    let printed = run(&["check-access", "--print-role", role.name(), "--json"], &[]).well("print");
    let printed = printed.json();
    let admin = set.client().database(printed["database"].as_str().expect("a database"));
    let document = |name: &str| document(&printed[name]);
    admin.run_command(document("createRole")).await.expect("the role");
    let mut user = document("createUser");
    user.insert("pwd", password);
    admin.run_command(user).await.expect("the user");
    as_user(set, &name(role), password)
}

/// A command document, of JSON.
pub fn document(of: &Value) -> Document {
    serde_json::from_value(of.clone()).expect("a document")
}

/// The connection string of a set for another user.
pub fn as_user(set: &ReplicaSet, user: &str, password: &str) -> String {
    set.uri().replace("root:lab-password@", &format!("{user}:{password}@"))
}

/// Leaves a role just these privileges.
pub async fn allow(set: &ReplicaSet, role: Role, needs: &[Need]) {
    let mut privileges: Vec<(Resource, Vec<&str>)> = Vec::new();
    for need in needs {
        match privileges.iter_mut().find(|(resource, _)| *resource == need.resource) {
            Some((_, actions)) => actions.push(need.action),
            None => privileges.push((need.resource.clone(), vec![need.action])),
        }
    }
    let privileges: Vec<Document> = privileges
        .into_iter()
        .map(|(resource, actions)| doc! { "resource": resource.to_document(), "actions": actions })
        .collect();
    let update = doc! { "updateRole": name(role), "privileges": privileges };
    set.client().database("admin").run_command(update).await.expect("the role is changed");
}

/// Two sets: one that is backed up and is the blockstore too, and one that is restored into and rewound.
pub struct Scene {
    pub set: ReplicaSet,
    pub target: ReplicaSet,
    pub uris: Vec<(Role, String)>,
    /// Of a source's user at the target, which is backed up before it is rewound.
    pub target_source: String,
    folder: TempDir,
}

impl Scene {
    pub async fn set_up() -> Self {
        let options = |name: &str| Options { name: name.to_owned(), ..Options::default() };
        let (set, target) = tokio::join!(start(options("source")), start(options("target")));
        let mut uris = Vec::new();
        for role in Role::ALL {
            let at = match role {
                Role::Target | Role::Rewind => &target,
                _ => &set,
            };
            uris.push((role, create(at, role, "pw").await));
        }
        let target_source = create(&target, Role::Source, "pw").await;
        let folder = tempfile::tempdir().expect("a folder");
        Self { set, target, uris, target_source, folder }
    }

    pub fn uri(&self, role: Role) -> &str {
        let found = self.uris.iter().find(|(one, _)| *one == role);
        &found.expect("every role has a user").1
    }

    /// The set where a role is played.
    pub fn at(&self, role: Role) -> &ReplicaSet {
        match role {
            Role::Target | Role::Rewind => &self.target,
            _ => &self.set,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path that nothing is at.
    pub fn fresh(&self, name: &str) -> String {
        let path = self.path(name);
        clear(&path);
        path.to_str().expect("a path").to_owned()
    }

    pub fn blockstore(&self) -> Database {
        self.set.client().database(DATABASE)
    }

    pub async fn has_repository(&self) -> bool {
        let repository = self.blockstore().collection::<Document>("repository");
        repository.find_one(doc! {}).await.expect("find").is_some()
    }
}

fn clear(path: &Path) {
    if path.exists() {
        std::fs::remove_dir_all(path).expect("remove");
    }
}
