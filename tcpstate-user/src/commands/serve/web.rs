//! The protection of the server (`--web.config.file`): read, and read again.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tcpstate_cli::Output;
use tcpstate_core::error::chain;
use tcpstate_serve::{Server, Web, WebError};

use crate::message::{BadUsage, note, say};

/// The protection in force, and its file.
pub(super) struct Protection {
    path: Option<PathBuf>,
    web: Web,
}

impl Protection {
    /// Reads it for the first time; without a file there is none.
    pub(super) fn read(path: Option<&Path>) -> anyhow::Result<Self> {
        let web = path.map(Web::read).transpose();
        let web = web.map_err(|error| match error {
            error @ WebError::Line { .. } => BadUsage(error.to_string()).into(),
            error => anyhow::Error::new(error),
        })?;
        Ok(Self {
            path: path.map(Path::to_owned),
            web: web.unwrap_or_default(),
        })
    }

    pub(super) const fn web(&self) -> &Web {
        &self.web
    }

    /// The scheme of the server's addresses.
    pub(super) fn scheme(&self) -> &'static str {
        if self.web.has_tls() { "https" } else { "http" }
    }

    /// Reads it again. Whatever is in the files, the run goes on.
    pub(super) fn reload(&mut self, server: Option<&Server>, output: Output) {
        match self.read_again() {
            Ok(false) => {}
            Ok(true) => {
                if let Some(server) = server {
                    server.set_web(self.web.clone());
                }
                let with = if self.web.has_tls() {
                    ", with its certificates"
                } else {
                    ""
                };
                note(
                    output,
                    &format!("the web configuration was read again{with}"),
                );
            }
            Err(error) => {
                let error = chain(error.as_ref());
                say(&format!("the web configuration stays as it was: {error}"));
            }
        }
    }

    /// Returns whether there is a file.
    fn read_again(&mut self) -> anyhow::Result<bool> {
        let Some(path) = &self.path else {
            return Ok(false);
        };
        let web = Web::read(path)?;
        // Clients know the server by one scheme, and nobody should speak in the clear because of a line that is gone.
        (web.has_tls() == self.web.has_tls())
            .then_some(())
            .context("TLS is switched on or off by a restart only")?;
        // Nor should everybody be let in because of one.
        (web.authenticates() || !self.web.authenticates())
            .then_some(())
            .context("authentication is switched off by a restart only")?;
        self.web = web;
        Ok(true)
    }
}

/// The warning where others can reach the server and something is missing.
pub(super) fn unprotected(address: SocketAddr, web: &Web) -> Option<&'static str> {
    if address.ip().to_canonical().is_loopback() {
        return None;
    }
    match (web.has_tls(), web.authenticates()) {
        (true, true) => None,
        (false, false) => Some("other hosts may reach it: there is neither TLS nor a password"),
        (false, true) => {
            Some("other hosts may reach it: without TLS, passwords are sent in the clear")
        }
        (true, false) => Some(
            "other hosts may reach it: there is TLS, but neither a password nor certificates of clients",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv4Addr};

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_mistake_leaves_what_was() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("web.yml");
        fs::write(&path, "").unwrap();
        let mut protection = Protection::read(Some(&path)).unwrap();
        assert_eq!(protection.scheme(), "http");
        assert!(protection.read_again().unwrap());
        // A hash of `x`.
        let users = "basic_auth_users:\n  a: $2b$04$Dv6ZUqWUu1L6xoDHzDuJ8uViWdg1gWrook7fp3ijuf70vAoaSKA/a\n";
        fs::write(&path, users).unwrap();
        assert!(protection.read_again().unwrap() && protection.web.authenticates());
        fs::write(&path, "basic_auth_user:\n").unwrap();
        let error = protection.read_again().unwrap_err().to_string();
        assert!(
            error.contains("web.yml, line 1: unknown key `basic_auth_user`"),
            "{error}"
        );
        assert!(protection.web.authenticates());
        fs::write(&path, "").unwrap();
        let error = protection.read_again().unwrap_err().to_string();
        assert!(error.contains("authentication is switched off"), "{error}");
        assert!(protection.web.authenticates());
        let missing = Protection::read(Some(&folder.path().join("none")))
            .err()
            .unwrap();
        assert!(
            missing
                .to_string()
                .starts_with("cannot read the web configuration")
        );
        let mut none = Protection::read(None).unwrap();
        assert!(!none.read_again().unwrap());
    }

    #[test]
    fn others_are_warned_of() {
        let web = Web::default();
        let warning = |address: Ipv4Addr| unprotected((address, 1).into(), &web);
        assert_eq!(warning(Ipv4Addr::LOCALHOST), None);
        let text = warning(Ipv4Addr::UNSPECIFIED).unwrap();
        assert!(text.ends_with("neither TLS nor a password"), "{text}");
    }
}
