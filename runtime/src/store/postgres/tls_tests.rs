//! TLS to a real server: what it has to prove, and what the node shows.

use dpc_core::names::Name;
use dpc_core::shared::SharedStore;

use super::super::testing::{Log, fresh_lane};
use super::super::testing_tls::Authority;
use super::tests::server::Postgres as Server;
use super::*;

/// Two addresses of this machine that only this process uses.
fn addresses() -> [String; 2] {
    let [.., high, low] = std::process::id().to_be_bytes();
    [1, 2].map(|last| format!("127.{last}.{high}.{low}"))
}

/// Makes the server listen by TLS alone, besides its socket. It writes the files itself, so that
/// they are its own.
async fn listen(server: &Server, [here, there]: &[String; 2], authority: &Authority) {
    let (certificate, key) = authority.certificate(here);
    let ca = std::fs::read_to_string(&authority.file).expect("it is there");
    let hba = "local all all trust\n\
               hostssl all shown 127.0.0.0/8 trust clientcert=verify-ca\n\
               hostssl all dpc 127.0.0.0/8 trust\n";
    let way = parse(&server.url, None).expect("good");
    let client = session::connect(&way).await.expect("connects");
    let files = [("cert", &*certificate), ("key", &*key), ("ca", &*ca), ("hba", hba)];
    let row = client.query_one("SHOW data_directory", &[]).await.expect("answers");
    let data: &str = row.get(0);
    for (name, text) in files {
        let copy = format!(
            "COPY (SELECT unnest(string_to_array('{}', E'\\n'))) \
             TO PROGRAM 'umask 077; cat >\"{data}/tls.{name}\"'",
            text.trim_end()
        );
        client.batch_execute(&copy).await.expect("the server writes");
    }
    let set = [
        ("listen_addresses", format!("{here}, {there}")),
        ("ssl", "on".into()),
        ("ssl_cert_file", "tls.cert".into()),
        ("ssl_key_file", "tls.key".into()),
        ("ssl_ca_file", "tls.ca".into()),
        ("hba_file", format!("{data}/tls.hba")),
    ];
    for (key, value) in set {
        let set = format!("ALTER SYSTEM SET {key} = '{value}'");
        client.batch_execute(&set).await.expect("is set");
    }
    let role = "CREATE ROLE shown SUPERUSER LOGIN";
    client.batch_execute(role).await.expect("a role");
    server.order("kill");
    server.order("start");
}

fn options(user: &str, address: &str, tls: Option<TlsFiles>) -> PostgresOptions {
    let url = format!("postgresql://{user}@{address}/dpc");
    PostgresOptions { url, tls, create_tables: true, patience: Duration::from_secs(30) }
}

#[tokio::test]
async fn tls_proves_who_the_server_is_and_who_comes() {
    let Some(server) = Server::start() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, other) =
        (Authority::new(folder.path(), "ours"), Authority::new(folder.path(), "other"));
    let addresses = addresses();
    listen(&server, &addresses, &ours).await;
    let [here, there] = addresses;
    let trusts = |authority: &Authority| Some(authority.trusted());
    let tables = async |options: PostgresOptions| postgres_tables(&options, true).await;
    let refused = async |options: PostgresOptions| {
        let error = tables(options).await.expect_err("it is not as it should be");
        error.to_string()
    };

    tables(options("dpc", &here, trusts(&ours))).await.expect("it is who it should be");
    let text = refused(options("dpc", &here, trusts(&other))).await;
    assert!(text.contains("TLS to postgres failed") && text.contains("UnknownIssuer"), "{text}");
    let text = refused(options("dpc", &there, trusts(&ours))).await;
    assert!(text.contains("TLS to postgres failed") && text.contains("not valid"), "{text}");
    let text = refused(options("dpc", &here, None)).await;
    assert!(text.contains("no encryption"), "{text}");
    let text = refused(options("shown", &here, trusts(&ours))).await;
    assert!(text.contains("certificate"), "{text}");
    let local = PostgresOptions { url: server.url.clone(), ..options("dpc", &here, trusts(&ours)) };
    assert!(refused(local).await.contains("local socket"));

    let shown = options("shown", &here, Some(ours.shown_as("node", folder.path())));
    tables(shown.clone()).await.expect("the server knows who comes");
    commit_to_a_lane(shown);
}

/// Every connection of a lane is by TLS: there is no other way in for that user.
fn commit_to_a_lane(options: PostgresOptions) {
    let name = Name::new("node", "test").expect("valid");
    let owner = Owner { incarnation: Incarnation(1), name, address: "127.0.0.1:1".into() };
    let mut database = PostgresDatabase::open(options, owner).expect("the files are good");
    let lane = fresh_lane();
    let mut log = Log::claim(lane, database.lane(lane, None));
    assert_eq!(log.append(1), Appended::Committed);
    assert_eq!(log.read(1).expect("reads").len(), 1);
}
