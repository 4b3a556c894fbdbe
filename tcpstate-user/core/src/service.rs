//! Which side of a connection a socket is, and the port that a person means by it.

/// Which side of the connection this socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Role {
    /// It was there before us, and nothing tells.
    #[default]
    Unknown,
    /// Active open: it connected.
    Client,
    /// Passive open: it was connected to, or it listens.
    Server,
}

impl Role {
    /// As JSON and text write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The port a person means: local for a server, remote for a client.
    pub fn service_port(self, lport: u16, rport: u16) -> Option<u16> {
        let port = match self {
            Self::Unknown => 0,
            Self::Client => rport,
            Self::Server => lport,
        };
        (port != 0).then_some(port)
    }
}

/// A service port as figures are grouped by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServicePort {
    /// This one.
    Port(u16),
    /// One of those that came after [`Limits::max_ports`](crate::model::Limits::max_ports) others.
    Other,
    /// Not known, because the role is not.
    Unknown,
}
