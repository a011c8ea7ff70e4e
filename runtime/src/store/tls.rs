//! TLS to a database: whom this process trusts, and as whom it comes.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dpc_core::store::StoreError;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// The files of a connection by TLS, all of them PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of authorities. The server's has to come from one of them, and has to be for the
    /// name by which the server is reached: no other authority is trusted.
    pub authorities: PathBuf,
    /// The certificate that this process shows, and its key, where the server asks for one.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl TlsFiles {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] names the file that cannot be read, or holds something else.
    pub(super) fn read(&self) -> Result<ClientConfig, StoreError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authorities)? {
            roots.add(certificate).map_err(|error| unusable(&self.authorities, &error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("ring has what they need")
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.own else { return Ok(config.with_no_client_auth()) };
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
        let shown = config.with_client_auth_cert(certificates(certificate)?, private);
        shown.map_err(|error| unusable(certificate, &error))
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unusable(file, &error))?;
    let found: Result<Vec<_>, _> = found.collect();
    let found = found.map_err(|error| unusable(file, &error))?;
    if found.is_empty() {
        return Err(unusable(file, &"there is no certificate in it"));
    }
    Ok(found)
}

fn unusable(file: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Refused(format!("{}: {error}", file.display()))
}

/// What TLS found wrong, if that is why something failed: waiting does not help.
pub(super) fn refusal<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut reason = Some(error);
    while let Some(here) = reason {
        let inner = here.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|inner| inner.downcast_ref()) {
            return Some(found);
        }
        reason = here.source();
    }
    None
}
