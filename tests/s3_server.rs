//! What the other tests rely on in the S3 server of the lab: one winner of a race, and nothing lost when it is killed.

use std::fs;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::join_all;
use headstock::lab::S3Server;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
};

const KEYS: usize = 40;
const WRITERS: usize = 6;

/// Whether the object was created; not, if there is one already.
async fn create(store: &impl ObjectStore, key: &Path, text: String) -> bool {
    let options = PutOptions::from(PutMode::Create);
    match store.put_opts(key, text.into(), options).await {
        Ok(_) => true,
        Err(Error::AlreadyExists { .. }) => false,
        Err(error) => panic!("{key}: {error:?}"),
    }
}

async fn read(store: &impl ObjectStore, key: &Path) -> Bytes {
    store.get(key).await.expect("get").bytes().await.expect("body")
}

async fn listed(store: &impl ObjectStore, prefix: &str, after: Option<&str>) -> Vec<String> {
    let prefix = Path::from(prefix);
    let entries = match after {
        Some(after) => store.list_with_offset(Some(&prefix), &Path::from(after)),
        None => store.list(Some(&prefix)),
    };
    let entries: Vec<_> = entries.try_collect().await.expect("list");
    entries.into_iter().map(|entry| entry.location.to_string()).collect()
}

/// All keys at once: who waits for the lock of one key does not hold up the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_many_creators_succeeds() {
    let server = S3Server::start().await.expect("start");
    let clients: Vec<_> = (0..WRITERS).map(|_| server.client().expect("client")).collect();
    let races = (0..KEYS).map(|number| {
        let clients = &clients;
        async move {
            let key = Path::from(format!("race/{number:03}"));
            let writers = clients.iter().enumerate();
            let key_of = &key;
            let tries =
                writers.map(|(writer, store)| create(store, key_of, format!("{number}/{writer}")));
            let won = join_all(tries).await;
            let winners: Vec<usize> = (0..WRITERS).filter(|writer| won[*writer]).collect();
            assert_eq!(winners.len(), 1, "{key} was created by {winners:?}");
            // Through the client of somebody who lost.
            let other = &clients[(winners[0] + 1) % WRITERS];
            assert_eq!(read(other, &key).await, format!("{number}/{}", winners[0]));
        }
    });
    join_all(races).await;
    assert_eq!(listed(&clients[0], "race", None).await.len(), KEYS);
}

#[tokio::test]
async fn what_was_acknowledged_outlives_a_kill() {
    let mut server = S3Server::start().await.expect("start");
    let store = server.client().expect("client");
    assert!(listed(&store, "", None).await.is_empty(), "the bucket is not empty at first");
    for number in 0..20 {
        assert!(create(&store, &Path::from(format!("kept/{number:02}")), number.to_string()).await);
    }
    let large = Path::from("large");
    let body = Bytes::from_iter((0..5_u32 << 20).map(|at| (at % 251) as u8));
    store.put(&large, body.clone().into()).await.expect("put");
    store.delete(&Path::from("kept/07")).await.expect("delete");

    let endpoint = server.endpoint();
    server.kill().expect("kill");
    server.restart().await.expect("restart");
    assert_eq!(server.endpoint(), endpoint);

    let store = server.client().expect("client");
    assert_eq!(read(&store, &large).await, body);
    assert_eq!(store.get_range(&large, 1_000..1_010).await.expect("range"), body[1_000..1_010]);
    let last = GetOptions { range: Some(GetRange::Suffix(7)), ..GetOptions::default() };
    let last = store.get_opts(&large, last).await.expect("get").bytes().await.expect("body");
    assert_eq!(last, body[body.len() - 7..]);
    let after = listed(&store, "kept", Some("kept/05")).await;
    assert_eq!(after.len(), 13, "{after:?}");
    assert_eq!(after[..2], ["kept/06", "kept/08"]);
    assert!(!create(&store, &Path::from("kept/05"), "another".to_owned()).await);
    assert_eq!(read(&store, &Path::from("kept/05")).await, "5");
    let gone = Path::from("kept/07");
    assert!(matches!(store.get(&gone).await, Err(Error::NotFound { .. })));
    assert!(matches!(store.head(&gone).await, Err(Error::NotFound { .. })));
    assert!(create(&store, &gone, "again".to_owned()).await);

    let stranger = server.builder().with_secret_access_key("another").build().expect("client");
    assert!(matches!(stranger.head(&large).await, Err(Error::PermissionDenied { .. })));
}

/// The server makes sockets outside its folder, which are removed all the same.
#[tokio::test]
async fn nothing_is_left_when_it_goes() {
    let server = S3Server::start().await.expect("start");
    let port: u16 = server.endpoint().rsplit(':').next().unwrap().parse().expect("a port");
    let ports = port..port + 8;
    let sockets = || {
        let files = fs::read_dir("/tmp").expect("read /tmp").flatten();
        let names = files.filter_map(|file| file.file_name().into_string().ok());
        let is_ours = |name: &String| {
            let number = name.strip_suffix(".sock").and_then(|name| name.rsplit('-').next());
            name.starts_with("seaweedfs-")
                && number.is_some_and(|port| port.parse().is_ok_and(|port| ports.contains(&port)))
        };
        names.filter(is_ours).count()
    };
    assert!(sockets() > 0, "the server makes none any more: `lab` need not remove them");
    drop(server);
    assert_eq!(sockets(), 0);
    for port in ports.clone() {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "{port} is served");
    }
}
