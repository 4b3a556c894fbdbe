//! The packets on the wire, read by tcpdump.

use std::{
    io::{self, BufRead as _, BufReader},
    net::{Ipv4Addr, UdpSocket},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    net::PATIENCE,
    process::{Running, await_exit, interrupt},
};

/// A segment of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Whether it comes from the server's port.
    pub from_server: bool,
    /// The client's port.
    pub client_port: u16,
    /// The flags in tcpdump's format: `S`, `F.`, `R`.
    pub flags: String,
}

/// The packets that were on the wire.
#[derive(Debug, Default)]
pub struct Packets {
    pub segments: Vec<Segment>,
    /// Number of ICMP messages that a packet could not be delivered.
    pub unreachable: usize,
}

/// A running tcpdump on the loopback of one namespace.
pub struct Tcpdump {
    child: Running,
    lines: Receiver<io::Result<String>>,
    port: u16,
    /// The socket for a datagram to itself, the last packet for tcpdump.
    bell: UdpSocket,
}

impl Tcpdump {
    /// Starts it in the namespace of the calling thread, for connections to this port; returns when it
    /// captures.
    pub fn start(port: u16) -> Result<Self> {
        let bell = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let bell_port = bell.local_addr()?.port();
        let mut command = Command::new("tcpdump");
        command
            .args(["-i", "lo", "-n", "-t", "-l", "--immediate-mode"])
            .arg(format!(
                "tcp port {port} or udp port {bell_port} or icmp or icmp6"
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = Running::new(&mut command)?;
        let stderr = child.stderr.take().context("tcpdump without a stderr")?;
        let mut messages = BufReader::new(stderr).lines();
        loop {
            let line = messages
                .next()
                .context("tcpdump ended before it captured")??;
            if line.starts_with("listening on") {
                break;
            }
        }
        // Drains the rest of its messages, so that it never blocks.
        thread::spawn(move || messages.by_ref().for_each(drop));
        let stdout = child.stdout.take().context("tcpdump without a stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            BufReader::new(stdout)
                .lines()
                .try_for_each(|line| sender.send(line))
        });
        Ok(Self {
            child,
            lines,
            port,
            bell,
        })
    }

    /// Ends it, and returns all packets up to now.
    pub fn stop(mut self) -> Result<Packets> {
        let to = self.bell.local_addr()?;
        self.bell.send_to(b"end", to)?;
        // Recognized by its ports: for some of them, tcpdump prints the payload as that of a known protocol.
        let (address, port) = (to.ip(), to.port());
        let end = format!("IP {address}.{port} > {address}.{port}:");
        let mut packets = Packets::default();
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .context("tcpdump prints nothing")??;
            if line.starts_with(&end) {
                break;
            }
            self.take(&line, &mut packets)
                .with_context(|| line.clone())?;
        }
        interrupt(&self.child)?;
        let status = await_exit(&mut self.child)?;
        ensure!(status.success(), "tcpdump: {status}");
        Ok(packets)
    }

    /// `IP 127.0.0.1.40000 > 127.0.0.1.443: Flags [S], seq 1, ...`
    fn take(&self, line: &str, packets: &mut Packets) -> Result<()> {
        if line.contains(" ICMP") {
            packets.unreachable += usize::from(line.contains("unreachable"));
            return Ok(());
        }
        let words: Vec<&str> = line.split(' ').collect();
        let ["IP" | "IP6", from, ">", to, "Flags", flags, ..] = words[..] else {
            bail!("not a segment")
        };
        let port = |endpoint: &str| -> Result<u16> {
            let (_, port) = endpoint.rsplit_once('.').context("no port")?;
            Ok(port.trim_end_matches(':').parse()?)
        };
        let (from, to) = (port(from)?, port(to)?);
        let from_server = from == self.port;
        packets.segments.push(Segment {
            from_server,
            client_port: if from_server { to } else { from },
            flags: flags.trim_matches(['[', ']', ',']).to_owned(),
        });
        Ok(())
    }
}
