//! TLS to a real node: what it has to prove, and what is shown to it.

use std::path::Path;
use std::sync::OnceLock;

use dpc_core::shared::SharedStore;

use super::super::testing::{Log, fresh_lane};
use super::super::testing_tls::{Authority, write};
use super::tests::{block_on, options, process, start};
use super::*;

/// Of whom the node has its certificate, and whose it accepts.
static OURS: OnceLock<Authority> = OnceLock::new();

/// How the node of all tests is started: at an address that only this process uses, for which it
/// has a certificate, and with TLS for those who ask for it and come with a certificate of their own.
pub(super) fn settings(folder: &Path) -> Vec<(&'static str, String)> {
    let ours = OURS.get_or_init(|| Authority::new(folder, "ours"));
    let [.., high, low] = std::process::id().to_be_bytes();
    let net = format!("{}.{}", 64 + high % 64, low.max(1));
    let (certificate, key) = ours.certificate(&format!("127.{net}.1"));
    let keys = write(folder, "node.pem", &(key + &certificate));
    let config = format!(
        "\nclient_encryption_options:\n  \
           enabled: true\n  \
           optional: true\n  \
           require_client_auth: true\n  \
           ssl_context_factory:\n    \
             class_name: org.apache.cassandra.security.PEMBasedSslContextFactory\n  \
           keystore: '{}'\n  \
           truststore: '{}'\n",
        keys.display(),
        ours.file.display()
    );
    let config = write(folder, "tls.yaml", &config);
    vec![("NET", net), ("CONFIG", config.to_str().expect("text").to_owned())]
}

#[test]
fn tls_proves_who_a_node_is_and_who_comes() {
    let Some(server) = start() else { return };
    let ours = OURS.get().expect("the node has its certificate from it");
    let folder = tempfile::tempdir().expect("a folder");
    let other = Authority::new(folder.path(), "other");
    let by = |tls: TlsFiles| CassandraOptions { tls: Some(tls), ..options(&server) };
    let tables = |options: &CassandraOptions| block_on(cassandra_tables(options, true));
    let refused = |tls| tables(&by(tls)).expect_err("it is not as it should be").to_string();

    let text = refused(other.trusted());
    assert!(text.contains("TLS to") && text.contains("UnknownIssuer"), "{text}");
    let text = refused(ours.trusted());
    assert!(text.contains("TLS to") && text.contains("CertificateRequired"), "{text}");

    let shown = by(ours.shown_as("dpc", folder.path()));
    tables(&shown).expect("both know each other");
    let lane = fresh_lane();
    let mut log = Log::claim(lane, process(shown).lane(lane, None));
    assert_eq!(log.append(1), Appended::Committed);
    assert_eq!(log.read(1).expect("reads").len(), 1);
}
