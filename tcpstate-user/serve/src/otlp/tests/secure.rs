//! A collector behind TLS, with the certificate of an authority that the test makes.

use std::{fs, net::SocketAddr, thread::JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};
use tcpstate_core::error::chain;
use tempfile::NamedTempFile;

use super::*;

/// An authority, and the file of its certificate.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    file: NamedTempFile,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = NamedTempFile::new().unwrap();
        fs::write(&file, issuer.pem()).unwrap();
        Self { issuer, file }
    }

    /// The way to speak TLS of a server with a certificate for this address.
    fn certify(&self, server: Ipv4Addr) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::IpAddress(server.into())];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }

    /// A collector at this address that is trusted by this authority.
    fn collector(&self, address: SocketAddr) -> Collector {
        let endpoint = Endpoint::new(&format!("https://{address}")).unwrap();
        Collector::new(endpoint, Some(self.file.path())).unwrap()
    }
}

/// A collector that takes one push; `None`: it takes the connection, and the client ends that.
fn listen(tls: Arc<ServerConfig>) -> (SocketAddr, JoinHandle<Option<Received>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(tls).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream).ok()?;
        }
        Some(receive_from(StreamOwned::new(connection, stream), &ok()))
    });
    (address, thread)
}

#[test]
fn a_collector_of_a_trusted_authority_is_pushed_to() {
    let authority = Authority::new("trusted");
    let (address, thread) = listen(authority.certify(Ipv4Addr::LOCALHOST));
    let collector = authority.collector(address);
    assert_eq!(push(&collector).unwrap(), None);
    let received = thread.join().unwrap().unwrap();
    assert!(received.head.starts_with("POST /v1/metrics HTTP/1.1\r\n"));
    assert!(received.head.contains(&format!("\r\nhost: {address}\r\n")));
}

#[test]
fn no_other_gets_anything() {
    let (authority, other) = (Authority::new("trusted"), Authority::new("other"));
    for (tls, why) in [
        (other.certify(Ipv4Addr::LOCALHOST), "UnknownIssuer"),
        (
            authority.certify(Ipv4Addr::new(127, 0, 0, 2)),
            "certificate not valid for name",
        ),
    ] {
        let (address, thread) = listen(tls);
        let failure = push(&authority.collector(address)).unwrap_err();
        assert!(thread.join().unwrap().is_none());
        assert!(matches!(failure, Failure::Tls(_)), "{failure:?}");
        let said = chain(&failure);
        assert!(said.contains(why), "{said}");
        assert_eq!(failure.verdict(), Verdict::Unavailable);
        // Its certificate may be renewed.
        assert_eq!(failure.last(), Last::Failed(None));
    }
}

#[test]
fn one_without_tls_gets_nothing_either() {
    let (listener, _) = listener();
    let collector = Authority::new("trusted").collector(listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&ok()).unwrap();
        let mut rest = Vec::new();
        // It may end it before it has read the answer.
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.windows(4).any(|part| part == b"POST"));
    });
    let failure = push(&collector).unwrap_err();
    assert!(matches!(failure, Failure::Tls(_)), "{failure:?}");
    thread.join().unwrap();
}
