//! The keys of a web configuration: pure.
//!
//! *Source:* `docs/web-configuration.md` of prometheus/exporter-toolkit. Keys without an effect here are refused, not ignored:
//! a file must not promise what does not hold.

use axum::http::{HeaderName, HeaderValue};
use tcpstate_core::nearest::nearest;

use super::yaml::{Mistake, Node, Value, parse};

/// The contents of a file.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) tls: Option<Tls>,
    /// Names and hashes of passwords.
    pub(super) users: Vec<User>,
    /// Headers of every answer.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// A user.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    /// By bcrypt.
    pub(super) hash: String,
}

/// `tls_server_config`.
#[derive(Debug)]
pub(super) struct Tls {
    /// The line of the section.
    pub(super) line: usize,
    pub(super) cert: Pem,
    pub(super) key: Pem,
    pub(super) client_auth: ClientAuth,
    /// The authorities of client certificates.
    pub(super) client_ca: Option<Pem>,
    /// Names of which a client's certificate must have one; empty: any.
    pub(super) client_names: Vec<String>,
    pub(super) min_version: Version,
    pub(super) max_version: Version,
    /// Names of cipher suites of TLS 1.2, with their lines; empty: all.
    pub(super) cipher_suites: Vec<(usize, String)>,
    pub(super) prefer_server_cipher_suites: bool,
    /// Empty: all.
    pub(super) curves: Vec<Curve>,
}

/// Certificates or a key, in the file itself or in another one.
#[derive(Debug)]
pub(super) struct Pem {
    /// The key of the file that has it.
    pub(super) name: &'static str,
    /// The line of that key.
    pub(super) line: usize,
    /// The text, or the name of the file with the text.
    pub(super) text: String,
    pub(super) is_file: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAuth {
    None,
    VerifyIfGiven,
    RequireAndVerify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    X25519,
}

/// The values of a key that a file may have and this server takes, and those that it does not, with the reason.
struct Words<T: 'static> {
    taken: &'static [(&'static str, T)],
    refused: &'static [(&'static str, &'static str)],
}

const CLIENT_AUTH: Words<ClientAuth> = Words {
    taken: &[
        ("NoClientCert", ClientAuth::None),
        ("VerifyClientCertIfGiven", ClientAuth::VerifyIfGiven),
        ("RequireAndVerifyClientCert", ClientAuth::RequireAndVerify),
    ],
    refused: &[
        ("RequestClientCert", UNVERIFIED),
        ("RequireAnyClientCert", UNVERIFIED),
        ("RequireClientCert", UNVERIFIED),
    ],
};

const UNVERIFIED: &str =
    "it takes a certificate and does not verify it; RequireAndVerifyClientCert does";

const VERSIONS: Words<Version> = Words {
    taken: &[("TLS12", Version::Tls12), ("TLS13", Version::Tls13)],
    refused: &[("TLS10", TOO_OLD), ("TLS11", TOO_OLD)],
};

const TOO_OLD: &str = "TLS12 is the oldest version";

const CURVES: Words<Curve> = Words {
    taken: &[
        ("CurveP256", Curve::P256),
        ("CurveP384", Curve::P384),
        ("X25519", Curve::X25519),
    ],
    refused: &[(
        "CurveP521",
        "it is not among CurveP256, CurveP384 and X25519",
    )],
};

/// The headers that can be added, and their values where only certain ones have a meaning.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// The keys of a mapping: those that are taken, and others that such a file may have, with the reason why they are not.
struct Keys {
    /// Its name; empty: it is the whole file.
    of: &'static str,
    taken: &'static [&'static str],
    refused: &'static [(&'static str, &'static str)],
}

const FILE: Keys = Keys {
    of: "",
    taken: &[
        "tls_server_config",
        "http_server_config",
        "basic_auth_users",
    ],
    refused: &[(
        "rate_limit",
        "connections and requests are bounded, and a text is made once a second whoever asks",
    )],
};

const TLS: Keys = Keys {
    of: "tls_server_config",
    taken: &[
        "cert",
        "cert_file",
        "key",
        "key_file",
        "client_allowed_sans",
        "client_auth_type",
        "client_ca",
        "client_ca_file",
        "min_version",
        "max_version",
        "cipher_suites",
        "prefer_server_cipher_suites",
        "curve_preferences",
    ],
    refused: &[],
};

const HTTP: Keys = Keys {
    of: "http_server_config",
    taken: &["http2", "headers"],
    refused: &[],
};

/// All keys and values that are taken.
#[cfg(test)]
pub(super) fn taken() -> Vec<&'static str> {
    let keys = [&FILE, &TLS, &HTTP].into_iter().flat_map(|keys| keys.taken);
    let auth = CLIENT_AUTH.taken.iter().map(|(name, _)| name);
    let versions = VERSIONS.taken.iter().map(|(name, _)| name);
    let curves = CURVES.taken.iter().map(|(name, _)| name);
    let headers = HEADERS.iter().map(|(name, _)| name);
    keys.chain(auth)
        .chain(versions)
        .chain(curves)
        .chain(headers)
        .copied()
        .collect()
}

/// Reads the text of a file.
pub(super) fn read(text: &str) -> Result<Settings, Mistake> {
    let document = parse(text)?;
    let file = Section::new(&FILE, &document)?;
    let mut settings = Settings::default();
    if let Some(section) = file.section("http_server_config", &HTTP)? {
        settings.headers = http(&section)?;
    }
    if let Some((line, node)) = file.there("basic_auth_users") {
        settings.users = users(line, node)?;
    }
    if let Some(section) = file.section("tls_server_config", &TLS)? {
        settings.tls = tls(&section)?;
    }
    Ok(settings)
}

/// A mapping whose keys are known.
struct Section<'a> {
    line: usize,
    entries: Vec<(&'a str, usize, &'a Node)>,
}

impl<'a> Section<'a> {
    fn new(keys: &Keys, node: &'a Node) -> Result<Self, Mistake> {
        let of = keys.of;
        let entries = match &node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            Value::Text(_) | Value::List(_) if of.is_empty() => {
                return Err(Mistake::new(node.line, "expected keys and their values"));
            }
            Value::Text(_) | Value::List(_) => {
                return Err(Mistake::new(
                    node.line,
                    format!("`{of}` must have keys and their values"),
                ));
            }
        };
        for entry in entries {
            let key = &entry.key;
            if keys.taken.contains(&&**key) {
                continue;
            }
            let refused = keys.refused.iter().find(|(name, _)| name == key);
            let why = if let Some((_, why)) = refused {
                format!("`{key}` is not supported: {why}")
            } else {
                let known = keys.taken.iter().copied();
                unknown("key", key, &place(of), known)
            };
            return Err(Mistake::new(entry.line, why));
        }
        let entries = entries.iter();
        Ok(Self {
            line: node.line,
            entries: entries
                .map(|entry| (&*entry.key, entry.line, &entry.node))
                .collect(),
        })
    }

    /// The value of a key that is there and has one.
    fn get(&self, key: &str) -> Option<&'a Node> {
        self.at(key).map(|(_, node)| node)
    }

    /// The same, with the line of the key.
    fn at(&self, key: &str) -> Option<(usize, &'a Node)> {
        let found = self.there(key);
        found.filter(|(_, node)| node.value != Value::Null)
    }

    /// The value of a key that is there, perhaps blank, with the line of the key.
    fn there(&self, key: &str) -> Option<(usize, &'a Node)> {
        let found = self.entries.iter().find(|(name, ..)| *name == key);
        found.map(|(_, line, node)| (*line, *node))
    }

    fn section(&self, key: &str, keys: &Keys) -> Result<Option<Section<'a>>, Mistake> {
        self.get(key)
            .map(|node| Section::new(keys, node))
            .transpose()
    }

    fn text(&self, key: &str) -> Result<Option<(usize, &'a str)>, Mistake> {
        self.at(key)
            .map(|(line, node)| Ok((line, text(key, node)?)))
            .transpose()
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Mistake> {
        let Some((line, text)) = self.text(key)? else {
            return Ok(None);
        };
        match text {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => Err(Mistake::new(line, format!("`{key}` must be true or false"))),
        }
    }

    fn word<T: Copy>(&self, key: &str, words: &Words<T>) -> Result<Option<T>, Mistake> {
        let text = self.text(key)?;
        text.map(|(line, text)| words.find(key, line, text))
            .transpose()
    }

    /// The texts of a list, with their lines.
    fn list(&self, key: &str) -> Result<Vec<(usize, &'a str)>, Mistake> {
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Node {
                value: Value::List(items),
                ..
            }) => items
                .iter()
                .map(|item| Ok((item.line, text(key, item)?)))
                .collect(),
            Some(node) => Err(Mistake::new(node.line, format!("`{key}` must be a list"))),
        }
    }

    /// Certificates or a key, under either of its names.
    fn pem(&self, inline: &'static str, file: &'static str) -> Result<Option<Pem>, Mistake> {
        let pem = |name, is_file| {
            move |(line, text): (usize, &str)| Pem {
                name,
                line,
                text: text.to_owned(),
                is_file,
            }
        };
        match (self.text(inline)?, self.text(file)?) {
            (Some((line, _)), Some(_)) => Err(Mistake::new(
                line,
                format!("give `{inline}` or `{file}`, not both"),
            )),
            (Some(text), None) => Ok(Some(pem(inline, false)(text))),
            (None, text) => Ok(text.map(pem(file, true))),
        }
    }
}

impl<T: Copy> Words<T> {
    fn find(&self, key: &str, line: usize, text: &str) -> Result<T, Mistake> {
        if let Some((_, value)) = self.taken.iter().find(|(name, _)| *name == text) {
            return Ok(*value);
        }
        let refused = self.refused.iter().find(|(name, _)| *name == text);
        let why = if let Some((_, why)) = refused {
            format!("`{text}` is not supported: {why}")
        } else {
            let known = self.taken.iter().map(|(name, _)| *name);
            unknown("value", text, &format!(" for `{key}`"), known)
        };
        Err(Mistake::new(line, why))
    }
}

fn text<'a>(key: &str, node: &'a Node) -> Result<&'a str, Mistake> {
    match &node.value {
        Value::Text(text) => Ok(text),
        _ => Err(Mistake::new(node.line, format!("`{key}` must be a string"))),
    }
}

/// The mistake of a name that nobody knows.
pub(super) fn unknown<'a>(
    what: &str,
    name: &str,
    place: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> String {
    let similar = nearest(name, known);
    let similar = similar.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    format!("unknown {what} `{name}`{place}{similar}")
}

fn place(of: &str) -> String {
    if of.is_empty() {
        String::new()
    } else {
        format!(" in `{of}`")
    }
}

fn http(section: &Section<'_>) -> Result<Vec<(HeaderName, HeaderValue)>, Mistake> {
    if let (Some((line, _)), Some(true)) = (section.at("http2"), section.boolean("http2")?) {
        let why = "`http2: true` is not supported: the server speaks HTTP/1.1";
        return Err(Mistake::new(line, why));
    }
    let Some(node) = section.get("headers") else {
        return Ok(Vec::new());
    };
    let Value::Map(entries) = &node.value else {
        return Err(Mistake::new(
            node.line,
            "`headers` must have names and their values",
        ));
    };
    let mut headers = Vec::new();
    for entry in entries {
        let (line, key) = (entry.line, &entry.key);
        let Some((name, values)) = HEADERS.iter().find(|(name, _)| name == key) else {
            let known = HEADERS.iter().map(|(name, _)| *name);
            let why = unknown("header", key, "", known);
            return Err(Mistake::new(line, why));
        };
        // A blank leaves it out.
        if entry.node.value == Value::Null {
            continue;
        }
        let text = text(key, &entry.node)?;
        if !values.is_empty() && !values.contains(&text) {
            let why = format!("`{key}` must be {}", values.join(" or "));
            return Err(Mistake::new(line, why));
        }
        let value = HeaderValue::from_str(text);
        let value =
            value.map_err(|_| Mistake::new(line, format!("`{key}` must be one line of text")))?;
        let name = name.to_ascii_lowercase();
        let name = HeaderName::from_bytes(name.as_bytes());
        headers.push((
            name.map_err(|_| Mistake::new(line, format!("`{key}` is not the name of a header")))?,
            value,
        ));
    }
    Ok(headers)
}

/// Users, of whom there is at least one: whoever deletes or comments out the last one should not let everybody in.
fn users(line: usize, node: &Node) -> Result<Vec<User>, Mistake> {
    let entries = match &node.value {
        Value::Map(entries) if !entries.is_empty() => entries,
        Value::Map(_) | Value::Null => {
            let why = "`basic_auth_users` has no user; leave it out to ask for no password";
            return Err(Mistake::new(line, why));
        }
        Value::Text(_) | Value::List(_) => {
            let why = "`basic_auth_users` must have names and hashes of passwords";
            return Err(Mistake::new(node.line, why));
        }
    };
    let user = |entry: &super::yaml::Entry| {
        let (line, name) = (entry.line, entry.key.clone());
        if name.contains(':') {
            let why = format!("the user name `{name}` must not contain a colon");
            return Err(Mistake::new(line, why));
        }
        let hash = match &entry.node.value {
            Value::Text(hash) => cost(hash).map(|cost| (hash, cost)),
            _ => None,
        };
        match hash {
            Some((hash, cost)) if cost <= MAX_COST => Ok(User {
                name,
                hash: hash.clone(),
            }),
            Some((_, cost)) => Err(Mistake::new(
                line,
                format!(
                    "the password of `{name}` has a bcrypt cost of {cost}, which takes too long to check; the most is {MAX_COST}"
                ),
            )),
            // It may be a password: it is not shown.
            None => Err(Mistake::new(
                line,
                format!(
                    "the password of `{name}` is not a bcrypt hash, such as `htpasswd -nBC 10 {name}` makes"
                ),
            )),
        }
    };
    entries.iter().map(user).collect()
}

/// The greatest cost of a hash: some seconds. Each further one doubles them, to two days at 31, and one request at a time is checked.
const MAX_COST: u32 = 16;

/// The cost of a hash by bcrypt; `None`: the text is none, or has a cost that bcrypt cannot have.
fn cost(text: &str) -> Option<u32> {
    let parts = text.parse::<bcrypt::HashParts>().ok()?;
    Some(parts.get_cost()).filter(|cost| (4..=31).contains(cost))
}

/// Names of which a client's certificate must have one.
fn client_names(section: &Section<'_>, client_auth: ClientAuth) -> Result<Vec<String>, Mistake> {
    let key = "client_allowed_sans";
    let Some((line, _)) = section.there(key) else {
        return Ok(Vec::new());
    };
    let names = section.list(key)?;
    if names.is_empty() {
        let why = format!("`{key}` has no name, so no client would be let in");
        return Err(Mistake::new(line, why));
    }
    if client_auth != ClientAuth::RequireAndVerify {
        let why = format!("`{key}` takes `client_auth_type: RequireAndVerifyClientCert`");
        return Err(Mistake::new(line, why));
    }
    let name = |(line, name): (usize, &str)| {
        if name.contains('@') && !name.contains(':') {
            let why = format!("`{name}` is not supported: e-mail addresses are not compared");
            return Err(Mistake::new(line, why));
        }
        Ok(name.to_owned())
    };
    names.into_iter().map(name).collect()
}

fn tls(section: &Section<'_>) -> Result<Option<Tls>, Mistake> {
    let line = section.line;
    if section.entries.is_empty() {
        return Ok(None);
    }
    let missing = |what: &str| Mistake::new(line, format!("`tls_server_config` has no `{what}`"));
    let cert = section.pem("cert", "cert_file")?;
    let key = section.pem("key", "key_file")?;
    let client_ca = section.pem("client_ca", "client_ca_file")?;
    let (auth_line, client_auth) = (
        section
            .at("client_auth_type")
            .map_or(line, |(line, _)| line),
        section.word("client_auth_type", &CLIENT_AUTH)?,
    );
    let client_auth = client_auth.unwrap_or(ClientAuth::None);
    match &client_ca {
        Some(ca) if client_auth == ClientAuth::None => {
            let why = format!(
                "`{}` has no effect without `client_auth_type`, such as RequireAndVerifyClientCert",
                ca.name
            );
            return Err(Mistake::new(ca.line, why));
        }
        None if client_auth != ClientAuth::None => {
            let why = "certificates of clients cannot be verified without `client_ca_file`";
            return Err(Mistake::new(auth_line, why));
        }
        _ => {}
    }
    let client_names = client_names(section, client_auth)?;
    let min_version = section.word("min_version", &VERSIONS)?;
    let max_version = section.word("max_version", &VERSIONS)?;
    let curves = section.list("curve_preferences")?.into_iter();
    let curves = curves.map(|(line, text)| CURVES.find("curve_preferences", line, text));
    let suites = section.list("cipher_suites")?.into_iter();
    let tls = Tls {
        line,
        cert: cert.ok_or_else(|| missing("cert_file"))?,
        key: key.ok_or_else(|| missing("key_file"))?,
        client_auth,
        client_ca,
        client_names,
        min_version: min_version.unwrap_or(Version::Tls12),
        max_version: max_version.unwrap_or(Version::Tls13),
        cipher_suites: suites.map(|(line, name)| (line, name.to_owned())).collect(),
        prefer_server_cipher_suites: section
            .boolean("prefer_server_cipher_suites")?
            .unwrap_or(true),
        curves: curves.collect::<Result<_, _>>()?,
    };
    if tls.min_version > tls.max_version {
        let line = section.at("max_version").map_or(line, |(line, _)| line);
        return Err(Mistake::new(
            line,
            "`max_version` is older than `min_version`",
        ));
    }
    Ok(Some(tls))
}
