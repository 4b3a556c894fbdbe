//! The generators of transitions: connections on loopback, and a storm without the network.
//!
//! They use real sockets and make an exact number of transitions. Know nothing of the tools.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Transitions of one connection, both ends: five each, from CLOSE or LISTEN to CLOSE.
pub const PER_CONNECTION: u64 = 10;

/// Listening ports of the churn, below the ephemeral ones.
pub const PORTS: std::ops::RangeInclusive<u16> = 5_001..=5_008;

/// Connects, accepts, sends a few bytes and closes, on several ports in turn, by IPv4 and IPv6.
///
/// One loop makes both ends, so that only the kernel's work is measured and no scheduling. The listeners
/// exist before and after, so that each connection is [`PER_CONNECTION`] transitions and there are no
/// others.
pub struct Churn {
    listeners: Vec<TcpListener>,
    /// The addresses to connect to in turn, each with the number of its listener.
    targets: Vec<(usize, SocketAddr)>,
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
        let listeners: Vec<_> = addresses.map(listen).collect::<Result<_>>()?;
        let targets = listeners.iter().enumerate();
        let targets = targets.map(|(at, listener)| Ok((at, listener.local_addr()?)));
        Ok(Self {
            targets: targets.collect::<Result<_>>()?,
            listeners,
        })
    }

    /// The same, by IPv4 and to one port of this number of hosts.
    pub fn to_hosts(hosts: u32) -> Result<Self> {
        let port = *PORTS.end() + 1;
        let first = u32::from(FIRST_HOST);
        let host = |number| (0, SocketAddr::from((Ipv4Addr::from(first + number), port)));
        Ok(Self {
            listeners: vec![listen((Ipv4Addr::UNSPECIFIED, port).into())?],
            targets: (0..hosts).map(host).collect(),
        })
    }

    /// Makes this number of connections, at this rate or else as fast as possible.
    pub fn run(&self, connections: u64, per_second: Option<u32>) -> Result<Duration> {
        let start = Instant::now();
        for (at, &(listener, address)) in (0..connections).zip(self.targets.iter().cycle()) {
            if let Some(per_second) = per_second {
                let due = Duration::from_secs_f64(at as f64 / f64::from(per_second));
                if let Some(early) = due.checked_sub(start.elapsed()) {
                    std::thread::sleep(early);
                }
            }
            connect(&self.listeners[listener], address)?;
        }
        Ok(start.elapsed())
    }
}

/// The first of the hosts of [`Churn::to_hosts`].
pub const FIRST_HOST: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);

fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("bind {address}"))
}

/// Makes one connection and closes it, the client first.
fn connect(listener: &TcpListener, address: SocketAddr) -> Result<()> {
    let mut client = TcpStream::connect(address).with_context(|| format!("connect {address}"))?;
    let (mut server, _) = listener.accept().context("accept")?;
    client.write_all(b"hello")?;
    let mut bytes = [0; 16];
    let _ = server.read(&mut bytes)?;
    drop(client);
    // The end of the stream: the client's FIN has arrived.
    let _ = server.read(&mut bytes)?;
    Ok(())
}

/// Calls `listen` and `shutdown` in turn on one bound socket: two transitions per turn, without the
/// network.
pub struct Storm {
    socket: TcpListener,
}

impl Storm {
    pub fn new() -> Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let storm = Self { socket };
        // Closed, as after every turn.
        storm.shutdown();
        Ok(storm)
    }

    /// Makes two transitions.
    pub fn turn(&self) {
        // SAFETY: the descriptor is open as long as `socket`.
        unsafe { libc::listen(self.socket.as_raw_fd(), 16) };
        self.shutdown();
    }

    fn shutdown(&self) {
        // SAFETY: the descriptor is open as long as `socket`.
        unsafe { libc::shutdown(self.socket.as_raw_fd(), libc::SHUT_RDWR) };
    }

    /// Makes transitions for this duration, at this rate or else as fast as possible. Returns their number,
    /// and the time that they took.
    pub fn run(&self, duration: Duration, per_second: Option<f64>) -> (u64, Duration) {
        /// Number of turns between two readings of the clock.
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
                // The storm has the core to itself, so it may wait by spinning.
                std::hint::spin_loop();
            }
        }
    }
}
