//! The collector, and the authorities whose certificates it may have.
//!
//! Their certificates are read once, when the run starts: the thread that pushes may read no file.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use super::endpoint::Endpoint;
use crate::files::contents;

/// The files in which distributions have the certificates of authorities. The first that is there counts.
///
/// *Source:* `certFiles` in `src/crypto/x509/root_linux.go` of Go.
const OF_HOST: [&str; 6] = [
    // Debian, Arch, Gentoo
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora, RHEL 6
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE
    "/etc/ssl/ca-bundle.pem",
    // OpenELEC
    "/etc/pki/tls/cacert.pem",
    // RHEL 7 and later
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    // Alpine
    "/etc/ssl/cert.pem",
];

/// A collector, ready to be connected to.
#[derive(Clone, Debug)]
pub struct Collector {
    endpoint: Endpoint,
    /// `None`: it is reached without TLS.
    tls: Option<Arc<ClientConfig>>,
}

/// Why there are no authorities.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// This host has no file of them.
    #[error(
        "this host has no certificates of authorities, so no collector can be trusted; --otlp-certificate names a file of them"
    )]
    Nowhere,
    /// A file cannot be read.
    #[error("cannot read the certificates in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A file has none that can be used.
    #[error("{} has no certificate of an authority in PEM", .0.display())]
    Unusable(PathBuf),
    /// The library refuses its own defaults.
    #[error("cannot set TLS up")]
    SetUp(#[from] rustls::Error),
}

impl Collector {
    /// A collector that is reached at this URL. With https, its certificate must be of an authority whose own is in this file, or else in
    /// that of this host, which is read now.
    ///
    /// *Errors:* there are no authorities, and they are needed.
    pub fn new(endpoint: Endpoint, authorities: Option<&Path>) -> Result<Self, TrustError> {
        let tls = endpoint.is_secure().then(|| {
            let of_host = || {
                OF_HOST
                    .map(Path::new)
                    .into_iter()
                    .find(|path| path.exists())
            };
            let path = authorities.or_else(of_host).ok_or(TrustError::Nowhere)?;
            client(authorities_in(path)?)
        });
        Ok(Self {
            tls: tls.transpose()?,
            endpoint,
        })
    }

    /// Its URL.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The way to speak TLS, and the name that the certificate must have; `None`: it is reached without TLS.
    pub(super) fn tls(&self) -> Option<(TlsConnector, ServerName<'static>)> {
        let tls = Arc::clone(self.tls.as_ref()?);
        Some((tls.into(), self.endpoint.server()?.clone()))
    }
}

/// The certificates in a file. Those that cannot be used are passed over, as old ones in the file of a host may be of a form
/// that is no longer taken.
fn authorities_in(path: &Path) -> Result<RootCertStore, TrustError> {
    let text = contents(path).map_err(|source| TrustError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut authorities = RootCertStore::empty();
    authorities.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if authorities.is_empty() {
        return Err(TrustError::Unusable(path.to_owned()));
    }
    Ok(authorities)
}

fn client(authorities: RootCertStore) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(ring::default_provider());
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(client))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn authorities_are_read_where_they_are_needed() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ca.pem");
        let collector = |url: &str| Collector::new(Endpoint::new(url).unwrap(), Some(&path));
        assert!(collector("http://c").unwrap().tls().is_none());
        let error = collector("https://c").unwrap_err();
        assert!(matches!(error, TrustError::Read { .. }), "{error}");
        let key = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let certificate = key.cert.pem();
        let wrong = certificate.replace("CERTIFICATE", "SOMETHING");
        for text in ["", &key.signing_key.serialize_pem(), &wrong] {
            fs::write(&path, text).unwrap();
            let error = collector("https://c").unwrap_err();
            assert!(matches!(error, TrustError::Unusable(_)), "{error}");
        }
        // What cannot be used does not hide what can.
        fs::write(&path, format!("{wrong}{certificate}")).unwrap();
        let (_, name) = collector("https://10.0.0.7").unwrap().tls().unwrap();
        assert_eq!(name, ServerName::try_from("10.0.0.7").unwrap());
    }
}
