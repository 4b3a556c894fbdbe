//! The protection of the server: TLS, certificates of clients, passwords, and headers, by the file that the exporters of Prometheus
//! use; and without any of it, a look at the name by which it was reached.
//!
//! - `yaml`: the file as a tree with lines; `file`: its keys; both pure.
//! - `tls`: what rustls takes; `sans`: names of clients; `users`: passwords; `host`: names of this host.

mod file;
mod host;
mod sans;
#[cfg(test)]
mod tests;
mod tls;
mod users;
mod yaml;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header::WWW_AUTHENTICATE},
    middleware::Next,
    response::Response,
};
use rustls::ServerConfig;

use self::{file::Pem, users::Users, yaml::Mistake};
use crate::{answer::answer, files::contents};

const TEXT: &str = "text/plain; charset=utf-8";

/// The protection of a server, as a file describes it. Without a file there is none.
#[derive(Clone, Default)]
pub struct Web(Arc<Parts>);

#[derive(Default)]
struct Parts {
    tls: Option<Arc<ServerConfig>>,
    wants_certificates: bool,
    users: Option<Users>,
    headers: Vec<(HeaderName, HeaderValue)>,
    files: Vec<PathBuf>,
}

/// Why a file is no protection.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// It cannot be read.
    #[error("cannot read the web configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A line of it is wrong, or a file that the line names.
    #[error("{}, line {line}: {why}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line; the first one is 1.
        line: usize,
        /// The mistake.
        why: String,
    },
    /// Passwords could not be remembered.
    #[error("cannot get random numbers from the kernel")]
    Random,
}

impl fmt::Debug for Web {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No secrets.
        f.debug_struct("Web")
            .field("has_tls", &self.has_tls())
            .field("authenticates", &self.authenticates())
            .finish_non_exhaustive()
    }
}

impl Web {
    /// Reads a file, and the certificates and keys that it names.
    ///
    /// *Source:* `docs/web-configuration.md` of prometheus/exporter-toolkit has the form.
    ///
    /// *Errors:* a file cannot be read, or has something that this server does not do.
    pub fn read(path: &Path) -> Result<Self, WebError> {
        let wrong = |mistake: Mistake| WebError::Line {
            path: path.to_owned(),
            line: mistake.line,
            why: mistake.why,
        };
        let mut files = vec![path.to_owned()];
        let text = contents(path)
            .and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other))
            .map_err(|source| WebError::Read {
                path: path.to_owned(),
                source,
            })?;
        let settings = file::read(&text).map_err(wrong)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let tls = settings.tls.map(|tls| {
            let mut text = |pem: &Pem| text_of(pem, folder, &mut files);
            let texts = tls::Texts {
                cert: text(&tls.cert)?,
                key: text(&tls.key)?,
                client_ca: tls.client_ca.as_ref().map(text).transpose()?,
            };
            tls::server_config(&tls, &texts).map(|config| (config, tls.client_auth))
        });
        let tls = tls.transpose().map_err(wrong)?;
        Ok(Self(Arc::new(Parts {
            wants_certificates: tls
                .as_ref()
                .is_some_and(|(_, auth)| *auth == file::ClientAuth::RequireAndVerify),
            tls: tls.map(|(config, _)| config),
            users: Users::new(settings.users).map_err(|_| WebError::Random)?,
            headers: settings.headers,
            files,
        })))
    }

    /// Whether the server speaks TLS.
    pub fn has_tls(&self) -> bool {
        self.0.tls.is_some()
    }

    /// Whether a client has to say who it is, by a password or a certificate.
    pub fn authenticates(&self) -> bool {
        self.0.users.is_some() || self.0.wants_certificates
    }

    /// The files that were read.
    pub fn files(&self) -> &[PathBuf] {
        &self.0.files
    }

    /// The settings of TLS, if it is spoken.
    pub(crate) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.0.tls.clone()
    }

    /// Answers a request, or refuses it.
    pub(crate) async fn guard(&self, server: SocketAddr, request: Request, next: Next) -> Response {
        let mut response = match self.refusal(server, request.uri(), request.headers()).await {
            Some(refusal) => refusal,
            None => next.run(request).await,
        };
        for (name, value) in &self.0.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
    }

    async fn refusal(
        &self,
        server: SocketAddr,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<Response> {
        // A page of another site has neither the password nor a certificate of this name.
        let is_guarded = self.has_tls() || self.authenticates();
        if !is_guarded
            && server.ip().to_canonical().is_loopback()
            && !host::is_meant(server, uri, headers)
        {
            return Some(answer(
                StatusCode::MISDIRECTED_REQUEST,
                TEXT,
                "this server is reached as localhost or by a loopback address only\n",
            ));
        }
        match &self.0.users {
            Some(users) if !users.allow(headers).await => {
                let mut refusal =
                    answer(StatusCode::UNAUTHORIZED, TEXT, "authentication required\n");
                let scheme =
                    HeaderValue::from_static("Basic realm=\"tcpstate\", charset=\"UTF-8\"");
                refusal.headers_mut().insert(WWW_AUTHENTICATE, scheme);
                Some(refusal)
            }
            _ => None,
        }
    }
}

/// The text of certificates or of a key.
fn text_of(pem: &Pem, folder: &Path, files: &mut Vec<PathBuf>) -> Result<Vec<u8>, Mistake> {
    if !pem.is_file {
        return Ok(pem.text.clone().into_bytes());
    }
    let path = folder.join(&pem.text);
    let text = contents(&path).map_err(|error| {
        let (name, path) = (pem.name, path.display());
        Mistake::new(pem.line, format!("`{name}`: cannot read {path}: {error}"))
    })?;
    files.push(path);
    Ok(text)
}
