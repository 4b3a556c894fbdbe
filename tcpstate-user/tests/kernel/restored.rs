//! A connection that its process restores with `TCP_REPAIR`, as when a container is moved: nothing shows which side
//! it was.
//!
//! The oracle is `getsockopt`, and the test itself: nobody listens at the other end, and yet it is established.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use rustix::net::AddressFamily;
use tcpstate_common::State;

use crate::{
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, await_fin, await_state, socket, unused_port},
    process::Tcpstate,
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        // The counters of the connection are read from the socket.
        let needs = [attach_needs(mode), &[Need::Btf]].concat();
        trials.push(trial(format!("{mode}::restored"), &needs, move || {
            restored(mode)
        }));
    }
}

fn restored(mode: &str) -> Result<()> {
    let [port, nobody, own] = [unused_port(), unused_port(), unused_port()];
    let of = format!("{port},{nobody}");
    let life = Tcpstate::start(&["life", "--json", "--attach", mode, "-P", &of])?;
    Netns::new()?.run_until_quiet(|| {
        let restored = socket(AddressFamily::INET, None)?;
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one integer, whose size is given.
        let result = unsafe {
            libc::setsockopt(
                restored.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                libc::socklen_t::try_from(size_of_val(&on))?,
            )
        };
        ensure!(
            result == 0,
            "TCP_REPAIR: {}",
            std::io::Error::last_os_error()
        );
        rustix::net::bind(&restored, &SocketAddr::from((Ipv4Addr::LOCALHOST, own)))?;
        rustix::net::connect(&restored, &SocketAddr::from((Ipv4Addr::LOCALHOST, nobody)))?;
        await_state(&restored, State::ESTABLISHED)?;
        drop(restored);
        // A connection with a handshake, beside it.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        let (server, _) = listener.accept()?;
        drop(client);
        await_fin(&server)
    })?;
    let (lines, _) = life.stop()?.json()?;
    let at = |port: u16| {
        let lines = lines.iter();
        lines.filter(move |line| line["rport"] == port || line["lport"] == port)
    };
    let roles = at(port).filter_map(|line| line["role"].as_str());
    let mut roles: Vec<&str> = roles.collect();
    roles.sort_unstable();
    ensure!(roles == ["client", "server"], "{lines:?}");
    let mut restored = at(nobody);
    let only = restored.next();
    ensure!(
        only.is_some_and(|line| {
            line["role"].is_null()
                && line["service_port"].is_null()
                && line["handshake_ns"].is_null()
                && line["owner"]["pid"] == std::process::id()
        }) && restored.next().is_none(),
        "its role is not known: {lines:?}"
    );
    Ok(())
}
