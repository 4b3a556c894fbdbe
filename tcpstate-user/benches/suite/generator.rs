//! What makes transitions: connections on loopback, and a storm without the network.
//!
//! Real sockets, and an exact number of transitions. Knows nothing of who watches.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Transitions of one connection, both ends: five each, from CLOSE or LISTEN to CLOSE.
pub const PER_CONNECTION: u64 = 10;

/// Ports that listen in the churn. Below the ephemeral ones.
pub const PORTS: std::ops::RangeInclusive<u16> = 5_001..=5_008;

/// Connect, accept, a few bytes, close, in turn on several ports, by IPv4 and IPv6.
///
/// One loop makes both ends, so that no scheduling comes between: what is measured is the kernel's
/// work. The listeners are there before and after, so that each connection is [`PER_CONNECTION`]
/// transitions and there are no others.
pub struct Churn {
    listeners: Vec<TcpListener>,
}

impl Churn {
    pub fn new() -> Result<Self> {
        let addresses = PORTS.flat_map(|port| {
            [
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]
            .map(|address| SocketAddr::new(address, port))
        });
        let listeners = addresses
            .map(|address| TcpListener::bind(address).with_context(|| format!("bind {address}")))
            .collect::<Result<_>>()?;
        Ok(Self { listeners })
    }

    /// Makes so many connections, as fast as it can or so many a second.
    pub fn run(&self, connections: u64, per_second: Option<u32>) -> Result<Duration> {
        let addresses = self
            .listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<Result<Vec<_>, _>>()?;
        let start = Instant::now();
        for (at, (listener, address)) in
            (0..connections).zip(self.listeners.iter().zip(addresses).cycle())
        {
            if let Some(per_second) = per_second {
                let due = Duration::from_secs_f64(at as f64 / f64::from(per_second));
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    std::thread::sleep(early);
                }
            }
            connect(listener, address)?;
        }
        Ok(start.elapsed())
    }
}

/// One connection from its beginning to its end; the client closes first.
fn connect(listener: &TcpListener, address: SocketAddr) -> Result<()> {
    let mut client = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    let (mut server, _) = listener.accept().context("accept")?;
    client.write_all(b"hello")?;
    let mut bytes = [0; 16];
    let _ = server.read(&mut bytes)?;
    drop(client);
    // The end of the stream: the client's FIN is there.
    let _ = server.read(&mut bytes)?;
    Ok(())
}

/// `listen` and `shutdown` in turn on one bound socket: two transitions a turn, without the network.
pub struct Storm {
    socket: TcpListener,
}

impl Storm {
    pub fn new() -> Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let storm = Self { socket };
        // Closed, as every turn leaves it.
        storm.shutdown();
        Ok(storm)
    }

    /// Two transitions.
    pub fn turn(&self) {
        // SAFETY: the descriptor is open as long as `socket`.
        unsafe { libc::listen(self.socket.as_raw_fd(), 16) };
        self.shutdown();
    }

    fn shutdown(&self) {
        // SAFETY: the descriptor is open as long as `socket`.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Turns for so long, as fast as it can or at so many transitions a second. Gives how many
    /// transitions there were, and how long they took.
    pub fn run(&self, duration: Duration, per_second: Option<f64>) -> (u64, Duration) {
        /// Between two looks at the clock.
        const AT_ONCE: u64 = 16;
        let start = Instant::now();
        let mut made = 0;
        loop {
            let elapsed = start.elapsed();
            if elapsed >= duration {
                return (made, elapsed);
            }
            if per_second.is_none_or(|rate| made as f64 <= elapsed.as_secs_f64() * rate) {
                for _ in 0..AT_ONCE {
                    self.turn();
                }
                made += 2 * AT_ONCE;
            } else {
                // The core is the storm's own: waiting on it disturbs nobody.
                std::hint::spin_loop();
            }
        }
    }
}
