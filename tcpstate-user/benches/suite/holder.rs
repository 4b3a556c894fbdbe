//! Open sockets in processes of their own, because one process may not have as many files as a host has
//! sockets.

use std::{
    env,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of sockets in one process: both ends of half as many connections.
pub const EACH: usize = 10_000;

/// Written by the process when its sockets are open.
const READY: &[u8; 5] = b"ready";

/// A process that holds [`EACH`] sockets until this is dropped.
pub struct Holder(Child);

impl Holder {
    /// Starts one, and waits until its sockets are open. Each needs a number of its own.
    pub fn start(number: u8) -> Result<Self> {
        let child = Command::new(env::current_exe()?)
            .args(["--hold-sockets", &number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process that holds sockets")?;
        let mut holder = Self(child);
        let mut pipe = holder.0.stdout.take().context("its output")?;
        pipe.read_exact(&mut [0; READY.len()])
            .with_context(|| format!("a process cannot hold {EACH} sockets"))?;
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It ends with this process anyway, when its input ends; this is only sooner.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The main function of that process: opens the sockets, reports that, and waits for the end of its input.
pub fn hold_here(number: u8) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    let address = SocketAddr::from((Ipv4Addr::new(127, 0, 1, number), 4_999));
    let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
    let mut sockets = Vec::with_capacity(EACH);
    for _ in 0..EACH / 2 {
        sockets.push(TcpStream::connect(address)?);
        sockets.push(listener.accept()?.0);
    }
    #[expect(clippy::disallowed_methods, reason = "only the suite reads it")]
    let mut output = std::io::stdout();
    output.write_all(READY)?;
    output.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
