//! `tcpstate serve` with TLS and passwords (`--web.config.file`), from inside its sandbox.
//!
//! The clients are those of rustls, with certificates that the tests make.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rcgen::{CertificateParams, KeyPair, SanType};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;

use crate::{
    api::beside,
    need::{Need, trial},
    net::{PATIENCE, await_that},
    process::{BINARY, has_result, run},
    serve::{ENDS, Get, Scrape, Served, ask, get},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf];
    trials.push(trial("web::protected", &needs, protected));
    trials.push(trial("web::beside_broken_clients", &needs, broken_clients));
    trials.push(trial(
        "web::same_file_as_exporters",
        &[Need::Program("promtool")],
        same_file,
    ));
}

/// The user `ann`, whose password is `open sesame`.
const USERS: &str =
    "basic_auth_users:\n  ann: $2b$04$abcdefghijklmnopqrstuu/LVz6MZlItEy42I2juLihZ66HnQx/cy\n";

/// Her credentials, in Base64.
const ANN: &str = "Authorization: Basic YW5uOm9wZW4gc2VzYW1l\r\n";

const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

/// The other keys, but `client_allowed_sans`, which is too new for some.
const ALL: &str = "  client_ca_file: cert.pem
  client_auth_type: RequireAndVerifyClientCert
  min_version: TLS12
  max_version: TLS13
  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]
  curve_preferences: [X25519, CurveP256, CurveP384]
  prefer_server_cipher_suites: false
http_server_config:
  http2: false
  headers:
    Content-Security-Policy: default-src 'none'
    Strict-Transport-Security: max-age=31536000
    X-Content-Type-Options: nosniff
    X-Frame-Options: sameorigin
    X-XSS-Protection: '0'
";

/// The files of a server, which only root can read.
struct Folder {
    folder: TempDir,
    /// The certificate that is trusted.
    trusted: Arc<Mutex<CertificateDer<'static>>>,
}

impl Folder {
    fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let trusted = Arc::new(Mutex::new(certify(&folder)?));
        let this = Self { folder, trusted };
        this.configure(&format!("{TLS}{USERS}"))?;
        Ok(this)
    }

    fn configure(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.path().join("web.yml"), text)?)
    }

    fn path(&self) -> Result<String> {
        let path = self.folder.path().join("web.yml");
        Ok(path.to_str().context("a path in UTF-8")?.to_owned())
    }

    /// Puts another certificate in the place of the old one, and trusts only that.
    fn renew(&self) -> Result<()> {
        let renewed = certify(&self.folder)?;
        *self.trusted.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        Ok(())
    }

    /// A client that trusts the last certificate, and sends these headers.
    fn client(&self, headers: &'static str) -> Get {
        let trusted = Arc::clone(&self.trusted);
        Box::new(move |server, path| {
            let trusted = trusted
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let stream = TcpStream::connect(server)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            ask(
                StreamOwned::new(connection(trusted)?, stream),
                path,
                headers,
            )
        })
    }
}

/// Makes a certificate for 127.0.0.1 and its key.
fn certify(folder: &TempDir) -> Result<CertificateDer<'static>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    fs::write(folder.path().join("cert.pem"), cert.pem())?;
    fs::write(folder.path().join("key.pem"), key.serialize_pem())?;
    Ok(cert.der().clone())
}

fn connection(trusted: CertificateDer<'static>) -> Result<ClientConnection> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted)?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(IpAddr::from(Ipv4Addr::LOCALHOST));
    Ok(ClientConnection::new(Arc::new(config), name)?)
}

/// It is scraped over TLS with a password, and otherwise not; a certificate is renewed, and a mistake changes nothing.
fn protected() -> Result<()> {
    let folder = Folder::new()?;
    let web = folder.path()?;
    let arguments = ["--user", "65534:65534", "--web.config.file", &web];
    let served = Served::start_by(folder.client(ANN), &arguments)?;
    let hang_up = || kill_process(Pid::from_child(&served.tcpstate.child), Signal::HUP);
    served.connect()?;
    let port = format!("port=\"{}\"", served.port);
    await_that("connections are counted", || {
        let (status, text) = served.get("/metrics")?;
        ensure!(status == 200, "{status}: {text}");
        let scrape = Scrape(text);
        let missing = scrape.sum("tcpstate_transitions_missing_total", &[])
            + scrape.sum("tcpstate_events_lost_total", &[]);
        Ok(scrape.sum("tcpstate_connections_closed_total", &[&port]) == ENDS || missing > 0)
    })?;
    let by = |get: &Get, path: &str| served.netns.run(|| get(served.http, path));
    for (headers, path) in [
        ("", "/metrics"),
        ("", "/healthz"),
        ("Authorization: Basic YW5uOng=\r\n", "/api/v1/connections"),
        ("Authorization: Basic eDp4\r\n", "/"),
    ] {
        let (status, body) = by(&folder.client(headers), path)?;
        ensure!(status == 401, "{path}: {status}: {body}");
    }
    let plain: Get = Box::new(get);
    ensure!(by(&plain, "/").is_err(), "it speaks HTTP without TLS");

    folder.renew()?;
    ensure!(
        served.get("/").is_err(),
        "it has the new certificate already"
    );
    hang_up()?;
    await_that("the certificate is renewed", || {
        Ok(served.get("/").is_ok_and(|(status, _)| status == 200))
    })?;

    folder.configure(&TLS.replace("cert_file", "cert_fil"))?;
    hang_up()?;
    await_that("the mistake is named", || {
        let said = served.tcpstate.said();
        Ok(said.contains("the web configuration stays as it was"))
    })?;
    let (status, _) = served.get("/healthz")?;
    ensure!(status == 200, "/healthz: {status}");

    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let output = served.tcpstate.finish()?;
    ensure!(has_result(output.status), "{output:?}");
    for message in [
        "serving on https://127.0.0.1:",
        "the web configuration was read again, with its certificates",
        "the web configuration stays as it was: ",
        "web.yml, line 2: unknown key `cert_fil` in `tls_server_config`; did you mean `cert_file`?",
    ] {
        ensure!(
            output.stderr.contains(message),
            "no `{message}`: {output:?}"
        );
    }
    Ok(())
}

/// All keys that it takes are those of exporters, and so is a mistake in them.
fn same_file() -> Result<()> {
    let folder = Folder::new()?;
    let web = folder.path()?;
    let config = folder.folder.path().join("serve.toml");
    fs::write(&config, format!("web.config.file = {web:?}\n"))?;
    let config = config.to_str().context("a path in UTF-8")?;
    let check = || {
        let promtool = run("promtool", &["check", "web-config", &web])?;
        let own = run(BINARY, &["serve", "--check-config", "--config", config])?;
        anyhow::Ok((promtool, own))
    };
    let text = format!("{TLS}{ALL}{USERS}");
    folder.configure(&text)?;
    let (promtool, own) = check()?;
    ensure!(
        promtool.status.success() && own.status.success(),
        "{promtool:?}, {own:?}"
    );
    folder.configure(&text.replace("min_version", "min_verison"))?;
    let (promtool, own) = check()?;
    let wanted = "web.yml, line 6: unknown key `min_verison` in `tls_server_config`; did you mean `min_version`?";
    ensure!(
        !promtool.status.success() && own.status.code() == Some(2) && own.stderr.contains(wanted),
        "{promtool:?}, {own:?}"
    );
    Ok(())
}

/// Clients that begin a handshake and do not go on, and those that speak no TLS.
fn broken_clients() -> Result<()> {
    let folder = Folder::new()?;
    let web = folder.path()?;
    let arguments = ["--json", "--web.config.file", &web];
    let served = Served::start_by(folder.client(ANN), &arguments)?;
    let mut hello = Vec::new();
    let trusted = folder
        .trusted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    connection(trusted)?.write_tls(&mut hello)?;
    let begins = [
        &b""[..],
        &hello[..hello.len() / 2],
        &hello,
        // A record of the greatest length, which never ends.
        b"\x16\x03\x03\x40\x00",
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
        &[0xff; 1_024],
    ];
    beside(&served, &begins, |path| served.get(path))?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let (_, summary) = served.tcpstate.finish()?.json()?;
    let accounting = &summary["accounting"];
    ensure!(
        accounting["rejected"] == 0 && accounting["lost_by_reason"]["ring_full"] == 0,
        "{summary}"
    );
    Ok(())
}
