//! TLS with a CA of one's own, SCRAM-SHA-256 and X.509, of source, blockstore and target.

use std::path::PathBuf;
use std::process::Command;

use bson::{Document, doc};
use headstock::access::Role;
use headstock::lab::{Options, ReplicaSet};
use serde_json::Value;
use tempfile::TempDir;

use crate::scene::{create, run, start};

/// A CA, a certificate of the server and one of a client, made by `openssl`.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let made = Self { folder: tempfile::tempdir().expect("a folder") };
        made.authority("ca");
        made.signed(
            "server",
            "/O=servers/CN=localhost",
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
        );
        made.signed("client", "/O=clients/CN=headstock", "extendedKeyUsage=clientAuth");
        made.authority("stranger");
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path").to_owned()
    }

    fn openssl(&self, words: &[&str]) {
        let output = Command::new("openssl").current_dir(self.folder.path()).args(words).output();
        let output = output.expect("openssl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn authority(&self, name: &str) {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let subject = format!("/O={name}/CN={name}");
        let words =
            ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject];
        self.openssl(&[&words[..], &["-keyout", &key, "-out", &certificate]].concat());
    }

    /// `NAME.pem`: key and certificate.
    fn signed(&self, name: &str, subject: &str, extension: &str) {
        let of = |ending: &str| format!("{name}.{ending}");
        let (key, request, signed, extensions) = (of("key"), of("csr"), of("crt"), of("ext"));
        let words = ["req", "-newkey", "rsa:2048", "-nodes", "-subj", subject];
        self.openssl(&[&words[..], &["-keyout", &key, "-out", &request]].concat());
        std::fs::write(self.path(&extensions), extension).expect("write");
        let words =
            ["x509", "-req", "-days", "2", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        let more = ["-in", &request, "-out", &signed, "-extfile", &extensions];
        self.openssl(&[&words[..], &more].concat());
        let read = |name: &str| std::fs::read_to_string(self.path(name)).expect("read");
        std::fs::write(self.path(&of("pem")), read(&key) + &read(&signed)).expect("write");
    }
}

fn has_openssl() -> bool {
    Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success())
}

/// A set that talks TLS only.
async fn secured(certificates: &Certificates, name: &str) -> ReplicaSet {
    let (ca, server) = (certificates.text("ca.pem"), certificates.text("server.pem"));
    let arguments =
        ["--tlsMode", "requireTLS", "--tlsCAFile", &ca, "--tlsCertificateKeyFile", &server];
    let arguments = arguments.into_iter().map(str::to_owned);
    let allow = ["--tlsAllowConnectionsWithoutCertificates".to_owned()];
    start(Options {
        name: name.to_owned(),
        arguments: arguments.chain(allow).collect(),
        uri_options: Some(format!("tls=true&tlsCAFile={}", escaped(&ca))),
        ..Options::default()
    })
    .await
}

/// A path in a connection string.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('/', "%2F")
}

/// Makes a user of the client's certificate with a role that is there; returns its connection string.
async fn by_certificate(set: &ReplicaSet, certificates: &Certificates, roles: &[Role]) -> String {
    let roles: Vec<Document> = roles
        .iter()
        .map(|role| doc! { "role": crate::scene::name(*role), "db": "admin" })
        .collect();
    let create = doc! { "createUser": "CN=headstock,O=clients", "roles": roles };
    set.client().database("$external").run_command(create).await.expect("a user");
    let client = escaped(certificates.path("client.pem").to_str().expect("a path"));
    let plain = set.uri().replace("root:lab-password@", "");
    format!(
        "{plain}&authMechanism=MONGODB-X509&authSource=$external&tlsCertificateKeyFile={client}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn source_blockstore_and_target_by_tls() {
    if !has_openssl() {
        println!("no openssl here: nothing was tried");
        return;
    }
    let certificates = Certificates::new();
    let (source, target) =
        tokio::join!(secured(&certificates, "source"), secured(&certificates, "target"));
    let orders = source.client().database("shop").collection::<Document>("orders");
    orders.insert_many((0..100).map(|id| doc! { "_id": id })).await.expect("insert");
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();

    // SCRAM-SHA-256, said and chosen.
    let mut uris = Vec::new();
    for role in [Role::Source, Role::Blockstore, Role::BlockstoreRead] {
        uris.push(create(&source, role, "pw").await + "&authMechanism=SCRAM-SHA-256");
    }
    let scram = [("SOURCE", uris[0].as_str()), ("BLOCKSTORE", uris[1].as_str())];
    run(&["sync", "--store", &path("scram")], &scram).well("sync");
    run(&["check-access"], &scram).well("check");
    let read = [("BLOCKSTORE", uris[2].as_str())];
    run(&["restore", "--to", &format!("dump:{}", path("dump"))], &read).well("restore");

    // A certificate in the place of a password, everywhere.
    let roles = [Role::Source, Role::Blockstore, Role::BlockstoreRead];
    let source_uri = by_certificate(&source, &certificates, &roles).await;
    create(&target, Role::Target, "pw").await;
    let target_uri = by_certificate(&target, &certificates, &[Role::Target]).await;
    let x509 =
        [("SOURCE", source_uri.as_str()), ("BLOCKSTORE", &source_uri), ("TARGET", &target_uri)];
    let checked: Value = run(&["check-access", "--json"], &x509).well("check").json();
    for server in checked["servers"].as_array().expect("servers") {
        assert_eq!(server["users"][0], "$external.CN=headstock,O=clients");
    }
    run(&["sync", "--store", &path("scram")], &x509).well("sync");
    run(&["rebuild", "--store", &path("rebuilt")], &x509).well("rebuild");
    run(&["restore"], &x509[1..]).well("restore");
    let restored = target.client().database("shop").collection::<Document>("orders");
    assert_eq!(restored.count_documents(doc! {}).await.expect("count"), 100);

    refusals(&certificates, &uris);
    let no_ca = target_uri.replace("ca.pem", "none.pem");
    let ended = run(&["restore"], &[x509[1], ("TARGET", &no_ca)]);
    assert_eq!(ended.code, Some(4), "{}", ended.text);
    for words in ["check its options and the files", "none.pem: I/O error: No such file"] {
        assert!(ended.text.contains(words), "{words}: {}", ended.text);
    }
}

/// What does not fit is refused in words that say why.
fn refusals(certificates: &Certificates, uris: &[String]) {
    let escape = |name| escaped(&certificates.text(name));
    let (ca, stranger) = (escape("ca.pem"), escape("stranger.pem"));
    let plain = format!("tls=true&tlsCAFile={ca}");
    for (uri, words) in [
        (uris[0].replace(&ca, &stranger), "certificate"),
        (uris[0].replace(&format!("&{plain}"), ""), "cannot be asked"),
        (uris[0].replace(":pw@", ":no@"), "refuses the credentials"),
        (uris[0].replace(&ca, &format!("{ca}.none")), "cannot be"),
    ] {
        let uri = uri + "&serverSelectionTimeoutMS=2000";
        let ended = run(&["check-access"], &[("SOURCE", &uri)]);
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains(words), "{words}: {}", ended.text);
        assert!(!ended.text.contains("labels: {}"), "a dump: {}", ended.text);
    }
}
