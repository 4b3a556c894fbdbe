//! The server behind a web configuration, over real connections, with certificates that the tests make.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::Ipv4Addr,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tcpstate_core::present::Publisher;
use tempfile::TempDir;

use super::*;
use crate::{
    Feed, Listener, Server,
    metrics::tests::publisher,
    tests::{connect, exchange, get, options},
};

/// `bcrypt` of `open sesame`, as cheap as can be.
fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

/// A certificate and its key, in PEM.
struct Certified {
    cert: String,
    key: String,
}

/// An authority of certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for 127.0.0.1, or for a client.
    fn certify(&self) -> Certified {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        self.certify_as(&params)
    }

    fn certify_as(&self, params: &CertificateParams) -> Certified {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Certified {
            cert: cert.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A folder with a web configuration and what it names.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn write_certified(&self, certified: &Certified) {
        self.write("cert.pem", &certified.cert);
        self.write("key.pem", &certified.key);
    }

    fn read(&self, text: &str) -> Result<Web, WebError> {
        self.write("web.yml", text);
        Web::read(&self.0.path().join("web.yml"))
    }
}

const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

fn serve(publisher: &Publisher, web: Web) -> Server {
    let listener = Listener::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut options = options(&Feed::default());
    options.web = web;
    Server::start(&options, listener, publisher.subscribe(), || Ok(())).unwrap()
}

/// The index over TLS, by a client that trusts this authority.
fn get_tls(
    server: &Server,
    authority: &Authority,
    client: Option<&Certified>,
    headers: &str,
) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.0.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(client) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(client.cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, connect(server));
    write!(stream, "GET / HTTP/1.1\r\nHost: x\r\n{headers}\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn basic(name: &str, password: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let both = STANDARD.encode(format!("{name}:{password}"));
    format!("Authorization: Basic {both}\r\n")
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn get_with(server: &Server, headers: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\n{headers}\r\n");
    exchange(server, request.as_bytes())
}

#[test]
fn only_names_of_this_host_are_answered_without_protection() {
    let publisher = publisher();
    let server = serve(&publisher, Web::default());
    let refused = get_with(&server, "Host: rebound.example\r\n");
    assert_eq!(status(&refused), "421", "{refused}");
    assert!(
        refused.ends_with("by a loopback address only\n"),
        "{refused}"
    );
    assert_eq!(status(&get_with(&server, "Host: 127.0.0.1:80\r\n")), "200");
    // A path that does not exist tells nothing either.
    let request = b"GET /x HTTP/1.1\r\nHost: rebound.example\r\n\r\n";
    assert_eq!(status(&exchange(&server, request)), "421");
    // Whoever has the password may use any name.
    let users = format!("basic_auth_users:\n  a: {}\n", hash("b"));
    server.set_web(Folder::new().read(&users).unwrap());
    let headers = format!("Host: name.example\r\n{}", basic("a", "b"));
    assert_eq!(status(&get_with(&server, &headers)), "200");
}

#[test]
fn a_password_is_needed_where_there_are_users() {
    let publisher = publisher();
    let folder = Folder::new();
    let text = format!(
        "basic_auth_users:\n  ann: {}\n  bob: {}\nhttp_server_config:\n  headers:\n    X-Frame-Options: deny\n",
        hash("open sesame"),
        hash("")
    );
    let web = folder.read(&text).unwrap();
    assert!(web.authenticates() && !web.has_tls());
    let server = serve(&publisher, web);
    // The second time it is remembered.
    for _ in 0..2 {
        let answer = get_with(&server, &basic("ann", "open sesame"));
        assert_eq!(status(&answer), "200", "{answer}");
        assert!(answer.contains("x-frame-options: deny\r\n"), "{answer}");
        assert_eq!(status(&get_with(&server, &basic("bob", ""))), "200");
        for headers in [
            String::new(),
            basic("ann", "open"),
            basic("ann", ""),
            basic("bob", "open sesame"),
            basic("eve", "open sesame"),
            basic("", ""),
            basic("ann", "open sesame") + &basic("ann", "open sesame"),
            "Authorization: Bearer x\r\n".to_owned(),
        ] {
            let answer = get_with(&server, &headers);
            assert_eq!(status(&answer), "401", "{headers}: {answer}");
            assert!(
                answer.contains("www-authenticate: Basic realm=\"tcpstate\""),
                "{answer}"
            );
            assert!(answer.contains("x-frame-options: deny\r\n"), "{answer}");
        }
    }
    // No path is left out.
    for path in ["/metrics", "/healthz", "/api/v1/snapshot", "/x"] {
        assert_eq!(status(&get(&server, path, "*/*")), "401", "{path}");
    }
    // Another password, and what was remembered is forgotten.
    let text = format!("basic_auth_users:\n  ann: {}\n", hash("other"));
    server.set_web(folder.read(&text).unwrap());
    assert_eq!(
        status(&get_with(&server, &basic("ann", "open sesame"))),
        "401"
    );
    assert_eq!(status(&get_with(&server, &basic("ann", "other"))), "200");
}

#[test]
fn certificates_are_renewed_and_those_of_clients_verified() {
    let publisher = publisher();
    let (ours, others) = (Authority::new(), Authority::new());
    let folder = Folder::new();
    folder.write_certified(&ours.certify());
    let web = folder.read(TLS).unwrap();
    assert!(web.has_tls() && !web.authenticates());
    let names: Vec<_> = web
        .files()
        .iter()
        .filter_map(|file| file.file_name()?.to_str())
        .collect();
    assert_eq!(names, ["web.yml", "cert.pem", "key.pem"]);
    let server = serve(&publisher, web);
    let answer = get_tls(&server, &ours, None, "").unwrap();
    assert_eq!(status(&answer), "200", "{answer}");
    get_tls(&server, &others, None, "").unwrap_err();
    // Anything but TLS is closed.
    let answer = exchange(&server, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(!answer.contains("HTTP"), "{answer}");
    // Another authority's.
    folder.write_certified(&others.certify());
    server.set_web(folder.read(TLS).unwrap());
    get_tls(&server, &ours, None, "").unwrap_err();
    assert_eq!(status(&get_tls(&server, &others, None, "").unwrap()), "200");
    // Clients need one too.
    folder.write("ca.pem", &ours.0.pem());
    let client_auth =
        format!("{TLS}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n");
    let web = folder.read(&client_auth).unwrap();
    assert!(web.authenticates());
    server.set_web(web);
    get_tls(&server, &others, None, "").unwrap_err();
    get_tls(&server, &others, Some(&others.certify()), "").unwrap_err();
    let client = ours.certify();
    let answer = get_tls(&server, &others, Some(&client), "").unwrap();
    assert_eq!(status(&answer), "200");
    // Or may have one.
    let may = client_auth.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven");
    let web = folder.read(&may).unwrap();
    assert!(!web.authenticates());
    server.set_web(web);
    assert_eq!(status(&get_tls(&server, &others, None, "").unwrap()), "200");
    get_tls(&server, &others, Some(&others.certify()), "").unwrap_err();
}

#[test]
fn a_client_needs_one_of_the_names() {
    let publisher = publisher();
    let authority = Authority::new();
    let folder = Folder::new();
    folder.write_certified(&authority.certify());
    folder.write("ca.pem", &authority.0.pem());
    let web = |names: &str| {
        folder.read(&format!(
            "{TLS}  client_ca_file: ca.pem\n  client_auth_type: RequireAndVerifyClientCert\n  client_allowed_sans: [{names}]\n"
        ))
    };
    let named = |names: Vec<SanType>| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = names;
        authority.certify_as(&params)
    };
    let dns = named(vec![SanType::DnsName(
        "prometheus.example".try_into().unwrap(),
    )]);
    let wild = named(vec![SanType::DnsName("*.example".try_into().unwrap())]);
    let uri = named(vec![SanType::URI(
        "spiffe://example/prometheus".try_into().unwrap(),
    )]);
    let address = authority.certify();
    let server = serve(&publisher, web("prometheus.example").unwrap());
    for (names, client, is_let_in) in [
        ("prometheus.example", &dns, true),
        ("x, prometheus.example", &dns, true),
        ("prometheus.example", &wild, false),
        ("prometheus.example", &uri, false),
        ("other.example, \"*.example\"", &dns, false),
        ("spiffe://example/prometheus", &uri, true),
        ("spiffe://example/other", &uri, false),
        ("127.0.0.1", &address, true),
        ("127.0.0.2", &address, false),
        ("prometheus.example", &address, false),
    ] {
        server.set_web(web(names).unwrap());
        let answer = get_tls(&server, &authority, Some(client), "");
        assert_eq!(answer.is_ok(), is_let_in, "{names}: {answer:?}");
    }
    get_tls(&server, &authority, None, "").unwrap_err();
    let error = web("a@example").unwrap_err().to_string();
    assert!(error.contains("`a@example` is not supported"), "{error}");
}

/// `docs/deploy.md` has each key and each value.
#[test]
fn the_document_has_what_is_taken() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/deploy.md");
    let page = fs::read_to_string(page).unwrap();
    for word in file::taken() {
        assert!(page.contains(&format!("`{word}`")), "no `{word}`");
    }
}

#[test]
fn every_key_that_is_taken_has_its_effect_or_none() {
    let folder = Folder::new();
    let (authority, ours) = (Authority::new(), Authority::new().certify());
    folder.write_certified(&ours);
    folder.write("ca.pem", &authority.0.pem());
    let tls = |more: &str| folder.read(&format!("{TLS}{more}"));
    let config = |more: &str| tls(more).unwrap().tls().unwrap();
    let suites = |more: &str| config(more).crypto_provider().cipher_suites.len();
    let all = suites("");
    let one = "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n";
    // Those of TLS 1.3 stay.
    assert_eq!(suites(one), 4);
    assert!(all > 4);
    let curves = "  curve_preferences:\n  - CurveP384\n  - X25519\n";
    assert_eq!(config(curves).crypto_provider().kx_groups.len(), 2);
    assert!(config("").ignore_client_order);
    assert!(!config("  prefer_server_cipher_suites: false\n").ignore_client_order);
    for more in [
        "  min_version: TLS13\n",
        "  max_version: TLS12\n",
        "  min_version: TLS12\n  max_version: TLS13\n  client_auth_type: NoClientCert\n",
        "http_server_config:\n  http2: false\n",
        "http_server_config:\n  headers:\n    Content-Security-Policy: default-src 'none'\n    X-XSS-Protection:\n",
        "rate_limit_\n",
    ] {
        let web = tls(more);
        assert_eq!(web.is_ok(), more != "rate_limit_\n", "{more}: {web:?}");
    }
    // The texts may be in the file itself.
    let indented = |text: &str| text.replace('\n', "\n    ");
    let inline = format!(
        "tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n  client_auth_type: RequireAndVerifyClientCert\n  client_ca: |\n    {}\n",
        indented(&ours.cert),
        indented(&ours.key),
        indented(&authority.0.pem())
    );
    let web = folder.read(&inline).unwrap();
    assert!(web.has_tls() && web.authenticates());
    assert_eq!(web.files().len(), 1);
    for nothing in [
        "",
        "# nothing\n",
        "tls_server_config:\n",
        "tls_server_config: {}\n",
    ] {
        let web = folder.read(nothing).unwrap();
        assert!(!web.has_tls() && !web.authenticates(), "{nothing}");
    }
}

/// Files, the lines of their mistakes, and the mistakes.
const MISTAKES: &[(&str, usize, &str)] = &[
    (
        "tls_server_confg:\n",
        1,
        "unknown key `tls_server_confg`; did you mean `tls_server_config`?",
    ),
    (
        "\ntls_server_config:\n  cert_fiel: x\n",
        3,
        "unknown key `cert_fiel` in `tls_server_config`; did you mean `cert_file`?",
    ),
    ("zzz: 1\n", 1, "unknown key `zzz`"),
    (
        "rate_limit:\n  burst: 1\n",
        1,
        "`rate_limit` is not supported: connections and requests are bounded",
    ),
    ("x\n", 1, "expected keys and their values"),
    (
        "tls_server_config: x\n",
        1,
        "`tls_server_config` must have keys and their values",
    ),
    ("a: 1\na: 1\n", 2, "duplicate key `a`"),
    (
        "tls_server_config:\n  key_file: key.pem\n",
        2,
        "`tls_server_config` has no `cert_file`",
    ),
    (
        "tls_server_config:\n  min_version: TLS13\n",
        2,
        "has no `cert_file`",
    ),
    (
        "tls_server_config:\n  cert_file: none.pem\n  key_file: key.pem\n",
        2,
        "`cert_file`: cannot read ",
    ),
    (
        "tls_server_config:\n  cert_file: .\n  key_file: key.pem\n",
        2,
        "it is not a regular file",
    ),
    (
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: empty.pem\n",
        3,
        "`key_file`: there is no private key in PEM",
    ),
    (
        "tls_server_config:\n  key_file: key.pem\n  cert_file: empty.pem\n",
        3,
        "`cert_file`: there is no certificate in PEM",
    ),
    (
        "tls_server_config:\n  cert_file: cert.pem\n  key_file: other.pem\n",
        3,
        "`key_file`: ",
    ),
    (
        "tls_server_config:\n  cert_file: a\n  cert: b\n",
        3,
        "give `cert` or `cert_file`, not both",
    ),
    (
        "tls_server_config:\n  cert_file: [a]\n",
        2,
        "`cert_file` must be a string",
    ),
    (
        "basic_auth_users:\n  a: b\n",
        2,
        "the password of `a` is not a bcrypt hash",
    ),
    (
        "basic_auth_users:\n  a: $2y$31$abcdefghijklmnopqrstuuNV3cWbUdcLBMQHTIsYKYRbHpBWm8lKe\n",
        2,
        "the password of `a` has a bcrypt cost of 31",
    ),
    // Commented out, perhaps: that must not let everybody in.
    ("basic_auth_users:\n", 1, "`basic_auth_users` has no user"),
    (
        "basic_auth_users: {}\n",
        1,
        "`basic_auth_users` has no user",
    ),
    (
        "basic_auth_users:\n- a\n",
        2,
        "`basic_auth_users` must have names and hashes",
    ),
    (
        "http_server_config:\n  http2: true\n",
        2,
        "`http2: true` is not supported",
    ),
    (
        "http_server_config:\n  http2: no\n",
        2,
        "`http2` must be true or false",
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Option: deny\n",
        3,
        "unknown header `X-Frame-Option`; did you mean `X-Frame-Options`?",
    ),
    (
        "http_server_config:\n  headers:\n    X-Frame-Options: never\n",
        3,
        "`X-Frame-Options` must be deny or sameorigin",
    ),
    (
        "http_server_config:\n  headers:\n    X-XSS-Protection: \"a\\nb\"\n",
        3,
        "must be one line of text",
    ),
    (
        "http_server_config:\n  headers: x\n",
        2,
        "`headers` must have names",
    ),
];

/// More lines of `tls_server_config`, and their mistakes.
const MISTAKES_OF_TLS: &[(&str, &str)] = &[
    (
        "min_version: TLS14",
        "unknown value `TLS14` for `min_version`; did you mean `TLS12`?",
    ),
    (
        "min_version: TLS10",
        "`TLS10` is not supported: TLS12 is the oldest version",
    ),
    ("max_version: SSL", "unknown value `SSL` for `max_version`"),
    (
        "client_auth_type: RequireAnyClientCert",
        "`RequireAnyClientCert` is not supported: it takes a certificate and does not verify it",
    ),
    (
        "client_allowed_sans: [a]",
        "`client_allowed_sans` takes `client_auth_type: RequireAndVerifyClientCert`",
    ),
    (
        "client_allowed_sans: []",
        "`client_allowed_sans` has no name",
    ),
    ("client_allowed_sans:", "`client_allowed_sans` has no name"),
    (
        "client_auth_type: RequireAndVerifyClientCert",
        "without `client_ca_file`",
    ),
    (
        "client_ca_file: ca.pem",
        "`client_ca_file` has no effect without `client_auth_type`",
    ),
    (
        "cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA25]",
        "; did you mean `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`?",
    ),
    ("cipher_suites: TLS_X", "`cipher_suites` must be a list"),
    (
        "curve_preferences: [CurveP521]",
        "`CurveP521` is not supported",
    ),
    ("prefer_server_cipher_suites: yes", "must be true or false"),
];

#[test]
fn a_mistake_is_named_with_file_line_and_the_nearest_key() {
    let folder = Folder::new();
    let (ours, others) = (Authority::new().certify(), Authority::new().certify());
    folder.write_certified(&ours);
    folder.write("other.pem", &others.key);
    folder.write("empty.pem", "");
    let hash = hash("x");
    for (text, line, why) in MISTAKES {
        let error = folder.read(text).unwrap_err();
        let WebError::Line {
            line: at,
            why: found,
            ..
        } = &error
        else {
            panic!("{text}: {error:?}");
        };
        assert!(found.contains(why) && at == line, "{text}: {error}");
        assert!(error.to_string().contains("web.yml, line "), "{error}");
    }
    for (more, why) in MISTAKES_OF_TLS {
        let error = folder.read(&format!("{TLS}  {more}\n")).unwrap_err();
        let WebError::Line {
            line, why: found, ..
        } = &error
        else {
            panic!("{more}: {error:?}");
        };
        assert!(found.contains(why) && *line == 4, "{more}: {error}");
    }
    // A password in the place of a hash is not shown.
    let error = folder.read("basic_auth_users:\n  a: secret\n").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    let error = folder
        .read(&format!("basic_auth_users:\n  \"a:b\": {hash}\n"))
        .unwrap_err();
    assert!(
        error.to_string().contains("`a:b` must not contain a colon"),
        "{error}"
    );
    let older = folder.read(&format!(
        "{TLS}  min_version: TLS13\n  max_version: TLS12\n"
    ));
    let older = older.unwrap_err().to_string();
    assert!(
        older.ends_with("line 5: `max_version` is older than `min_version`"),
        "{older}"
    );
    let missing = Web::read(&folder.0.path().join("none.yml")).unwrap_err();
    assert!(matches!(missing, WebError::Read { .. }), "{missing:?}");
    let long = "#".repeat(2 << 20);
    assert!(matches!(folder.read(&long), Err(WebError::Read { .. })));
}
