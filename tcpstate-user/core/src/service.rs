//! Roles and service ports: the side of a connection that a socket is, and the port of its service.

/// The side of a connection that a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Role {
    /// It was there before the capture, and nothing shows its side.
    #[default]
    Unknown,
    /// Active open: it connected.
    Client,
    /// Passive open: it was connected to, or it listens.
    Server,
}

impl Role {
    /// The name in JSON and text.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// The port of the service: local for a server, remote for a client.
    pub fn service_port(self, lport: u16, rport: u16) -> Option<u16> {
        let port = match self {
            Self::Unknown => 0,
            Self::Client => rport,
            Self::Server => lport,
        };
        (port != 0).then_some(port)
    }
}

/// A service port that figures are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServicePort {
    /// This one.
    Port(u16),
    /// A port that came after as many others as the model's limits allow.
    Other,
    /// Not known, because the role is not known.
    Unknown,
}
