//! The name by which a client has reached a server that only this host can reach.
//!
//! A page of any site can have its name lead to 127.0.0.1 (DNS rebinding), and then reads the answers as its own. Its requests still
//! carry that name, so only this host's own names are answered.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, Uri, header::HOST, uri::Authority};

/// Whether this server can be meant by a request. One that names no host comes from no browser.
pub(super) fn is_meant(server: SocketAddr, uri: &Uri, headers: &HeaderMap) -> bool {
    let named = headers.get_all(HOST).iter();
    let mut named = named.map(|value| value.to_str().ok()?.parse::<Authority>().ok());
    uri.authority().is_none_or(|host| is_own(server, host))
        && named.all(|host| host.is_some_and(|host| is_own(server, &host)))
}

fn is_own(server: SocketAddr, authority: &Authority) -> bool {
    let host = authority.host();
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address: Result<IpAddr, _> = bare.unwrap_or(host).parse();
    address.is_ok_and(|address| address.to_canonical().is_loopback() || address == server.ip())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn check(uri: &str, hosts: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).unwrap());
        }
        is_meant(
            ([127, 0, 0, 1], 9_716).into(),
            &uri.parse().unwrap(),
            &headers,
        )
    }

    #[test]
    fn only_names_of_this_host_are_meant() {
        for own in [
            "localhost",
            "LocalHost:9716",
            "127.0.0.1:9716",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:9716",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(check("/metrics", &[own]), "{own}");
        }
        for other in [
            "rebound.example",
            "rebound.example:9716",
            "localhost.example",
            "127.0.0.1.example",
            "10.0.0.1:9716",
            "[2001:db8::1]",
            "user@rebound.example",
            "0.0.0.0:9716",
            "",
            "local host",
        ] {
            assert!(!check("/metrics", &[other]), "{other}");
        }
        assert!(check("/metrics", &[]));
        assert!(!check("/metrics", &["localhost", "rebound.example"]));
        assert!(check("http://127.0.0.1:9716/metrics", &["localhost"]));
        assert!(!check("http://rebound.example/metrics", &["localhost"]));
    }
}
