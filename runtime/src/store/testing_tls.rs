//! Certificates for the tests of TLS to databases.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use super::TlsFiles;

/// An authority that makes certificates.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub(super) file: PathBuf,
}

impl Authority {
    /// One whose own certificate is in a file of the folder.
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let own = params.self_signed(&key).expect("a certificate");
        let file = write(folder, &format!("{name}.ca"), &own.pem());
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A certificate for an address, and its key, both PEM.
    pub(super) fn certificate(&self, address: &str) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new([address.to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }

    /// The files of somebody who trusts it and shows nothing.
    pub(super) fn trusted(&self) -> TlsFiles {
        TlsFiles { authorities: self.file.clone(), own: None }
    }

    /// The files of somebody who trusts it and comes with a certificate of it.
    pub(super) fn shown_as(&self, name: &str, folder: &Path) -> TlsFiles {
        let (certificate, key) = self.certificate(name);
        let files = [("cert", certificate), ("key", key)];
        let [certificate, key] =
            files.map(|(kind, text)| write(folder, &format!("{name}.{kind}"), &text));
        TlsFiles { own: Some((certificate, key)), ..self.trusted() }
    }
}

/// Writes a file of the folder.
pub(super) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, text).expect("the folder is there");
    file
}
