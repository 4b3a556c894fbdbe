//! The collector: the URL that names it.

use std::{fmt, net::IpAddr};

use axum::http::{Uri, uri::Scheme};
use rustls::pki_types::ServerName;

/// The path of metrics behind the URL of a collector.
///
/// *Source:* the specification of OTLP, "OTLP/HTTP Request".
const PATH: &str = "/v1/metrics";

/// The port of http:// where a URL has none.
const HTTP: u16 = 80;

/// That of https://.
const HTTPS: u16 = 443;

/// A collector that takes metrics over OTLP/HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The name that its certificate must have; `None`: it is reached without TLS.
    server: Option<ServerName<'static>>,
    /// The host and the port, as the URL has them.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// A URL names no collector: it is none, or has more than a host, a port and a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the URL of a collector, such as http://localhost:4318")]
pub struct EndpointError(String);

impl Endpoint {
    /// The collector at this base URL. The path `/v1/metrics` is added to it, unless it ends with that.
    pub fn new(url: &str) -> Result<Self, EndpointError> {
        let not_url = || EndpointError(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| not_url())?;
        let authority = uri.authority().ok_or_else(not_url)?;
        let is_secure = uri.scheme() == Some(&Scheme::HTTPS);
        // They would be sent in the clear, and as part of a name.
        if authority.as_str().contains('@') {
            return Err(not_url());
        }
        let rest = authority.as_str().strip_prefix(authority.host());
        let port = match rest.ok_or_else(not_url)?.strip_prefix(':') {
            None if is_secure => HTTPS,
            None => HTTP,
            Some(port) => port.parse().map_err(|_| not_url())?,
        };
        let host = authority.host().trim_matches(['[', ']']);
        let is_http = is_secure || uri.scheme() == Some(&Scheme::HTTP);
        if !is_http || host.is_empty() || port == 0 || uri.query().is_some() {
            return Err(not_url());
        }
        let server = is_secure.then(|| ServerName::try_from(host.to_owned()));
        let path = uri.path().trim_end_matches('/');
        let path = path.strip_suffix(PATH).unwrap_or(path);
        Ok(Self {
            server: server.transpose().map_err(|_| not_url())?,
            authority: authority.to_string(),
            host: host.to_owned(),
            port,
            path: format!("{path}{PATH}"),
        })
    }

    /// Its name or address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether its address is to be looked up.
    pub fn has_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }

    /// Whether it is reached by TLS.
    pub const fn is_secure(&self) -> bool {
        self.server.is_some()
    }

    /// The name that its certificate must have; `None`: it is reached without TLS.
    pub(super) const fn server(&self) -> Option<&ServerName<'static>> {
        self.server.as_ref()
    }

    /// The header `Host`.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The path that metrics are pushed to.
    pub(super) fn path(&self) -> &str {
        &self.path
    }
}

/// The URL that metrics are pushed to.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure() { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_host_a_port_and_a_path() {
        for (url, host, port, path, has_name) in [
            (
                "http://localhost:4318",
                "localhost",
                4318,
                "/v1/metrics",
                true,
            ),
            ("http://10.0.0.7/", "10.0.0.7", 80, "/v1/metrics", false),
            ("http://[::1]:4318//", "::1", 4318, "/v1/metrics", false),
            (
                "HTTP://prometheus:9090/api/v1/otlp",
                "prometheus",
                9090,
                "/api/v1/otlp/v1/metrics",
                true,
            ),
            ("http://c:1/v1/metrics", "c", 1, "/v1/metrics", true),
            ("http://c:1/v1/metrics/", "c", 1, "/v1/metrics", true),
            ("https://c.example", "c.example", 443, "/v1/metrics", true),
            ("HTTPS://[::1]:4318", "::1", 4318, "/v1/metrics", false),
        ] {
            let endpoint = Endpoint::new(url).unwrap();
            assert_eq!(endpoint.host(), host, "{url}");
            assert_eq!(endpoint.port(), port, "{url}");
            assert_eq!(endpoint.path(), path, "{url}");
            assert_eq!(endpoint.has_name(), has_name, "{url}");
            let is_secure = url.to_ascii_lowercase().starts_with("https:");
            assert_eq!(endpoint.is_secure(), is_secure, "{url}");
            // As it is shown, it is the same.
            assert_eq!(Endpoint::new(&endpoint.to_string()), Ok(endpoint));
        }
    }

    #[test]
    fn others_are_refused() {
        for url in [
            "",
            "localhost:4318",
            "localhost",
            "/v1/metrics",
            "ftp://localhost",
            "http://",
            "http://:4318",
            "http://c:",
            "http://c:0",
            "http://c:65536",
            "http://c:x",
            "http://user:secret@c:4318",
            "http://c:4318/?token=1",
            "http://c d",
            "http://[::1",
            "https://",
            "https://user:secret@c",
            "http://c@c:4318",
            "http://c-token@c:4318",
            // A certificate has no such name.
            "https://c..d",
        ] {
            let error = Endpoint::new(url).unwrap_err();
            assert_eq!(error, EndpointError(url.to_owned()), "{url}");
        }
    }
}
