//! The socket to listen on: it is there before privileges are given up, and listens when all else is done.

use std::net::{SocketAddr, TcpListener as StdListener};

use tokio::net::{TcpListener, TcpSocket};

use crate::ServeError;

/// Connections that the kernel keeps for a server that is busy.
const BACKLOG: u32 = 1_024;

/// A socket that has its address, and takes connections once a server is started on it.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    /// It does not listen yet: whoever connects is refused.
    Bound(TcpSocket),
    /// Somebody else has it listen already.
    Listening(StdListener),
}

impl Listener {
    /// A new socket with this address. Nobody can connect to it yet.
    pub fn bind(address: SocketAddr) -> Result<Self, ServeError> {
        let bind = || {
            let socket = match address {
                SocketAddr::V4(_) => TcpSocket::new_v4(),
                SocketAddr::V6(_) => TcpSocket::new_v6(),
            }?;
            // Otherwise connections of a server before, in TIME_WAIT, would keep the address.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            // With the port that the kernel chose, if 0 was asked for.
            let address = socket.local_addr()?;
            // Another one may have bound it too, thanks to the option above. The first that listens has it.
            Ok(Self {
                address,
                socket: Socket::Bound(socket),
            })
        };
        bind().map_err(|source| ServeError::Listen { address, source })
    }

    /// A socket that listens, from a service manager.
    pub fn passed(listener: StdListener) -> Result<Self, ServeError> {
        let prepare = || {
            listener.set_nonblocking(true)?;
            listener.local_addr()
        };
        let address = prepare().map_err(ServeError::Start)?;
        Ok(Self {
            address,
            socket: Socket::Listening(listener),
        })
    }

    /// Its address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens. The caller is inside a runtime.
    pub(crate) fn listen(self) -> Result<TcpListener, ServeError> {
        match self.socket {
            Socket::Bound(socket) => socket.listen(BACKLOG).map_err(|source| ServeError::Listen {
                address: self.address,
                source,
            }),
            Socket::Listening(listener) => {
                TcpListener::from_std(listener).map_err(ServeError::Start)
            }
        }
    }
}
