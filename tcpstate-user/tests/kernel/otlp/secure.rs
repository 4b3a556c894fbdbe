//! A collector behind TLS, with certificates of authorities that the test makes.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{PrivateKeyDer, pem::PemObject as _},
};

use super::{answer, beside, check_times, compare, receive, start};
use crate::{net::unused_port, process::has_result};

/// The address of the collector.
const HERE: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Result<Authority> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

/// The way to speak TLS of a collector with a certificate of this authority.
fn certified_by(authority: &Authority) -> Result<Arc<ServerConfig>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::IpAddress(HERE)];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok(Arc::new(config))
}

/// Takes a push and answers it; `None`: its sender gave it up.
fn take(
    tls: Arc<ServerConfig>,
    mut stream: &TcpStream,
) -> Result<Option<ExportMetricsServiceRequest>> {
    let mut connection = ServerConnection::new(tls)?;
    while connection.is_handshaking() {
        if connection.complete_io(&mut stream).is_err() {
            return Ok(None);
        }
    }
    let mut stream = StreamOwned::new(connection, stream);
    let push = receive(&mut stream)?;
    if push.is_some() {
        answer(&mut stream)?;
    }
    Ok(push)
}

/// It pushes from inside its sandbox, to whoever has a certificate of the authority that was in the file at the start.
pub(super) fn over_tls() -> Result<()> {
    let (trusted, other) = (authority("trusted")?, authority("other")?);
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ca.pem");
    fs::write(&file, trusted.pem())?;
    let path = file.to_str().context("a path in UTF-8")?;
    let besides = ["--otlp-certificate", path, "--user", "65534:65534"];
    let present = Arc::new(Mutex::new(certified_by(&trusted)?));
    let renew = |tls| *present.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    let tls = Arc::clone(&present);
    let take = move |stream: &TcpStream| {
        let tls = Arc::clone(&tls.lock().unwrap_or_else(PoisonError::into_inner));
        take(tls, stream)
    };
    let address = SocketAddr::new(HERE, unused_port());
    let (served, collector) = start(address, "https", &besides, take)?;
    fs::remove_file(&file)?;
    served.connect()?;
    compare(&served, &collector)?;
    renew(certified_by(&other)?);
    beside(&served, "unavailable", 1)?;
    renew(certified_by(&trusted)?);
    compare(&served, &collector)?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let output = served.tcpstate.finish()?;
    ensure!(has_result(output.status), "{output:?}");
    let url = format!("https://{address}/v1/metrics");
    for said in [
        format!(
            "cannot push metrics to {url}: cannot agree on TLS: invalid peer certificate: UnknownIssuer"
        ),
        format!("metrics are pushed to {url} again"),
    ] {
        let lines = output.stderr.lines().filter(|line| line.contains(&said));
        ensure!(lines.count() == 1, "not `{said}`: {output:?}");
    }
    check_times(&collector.end()?)
}
