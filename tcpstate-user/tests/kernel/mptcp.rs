//! Owners of MPTCP connections. The process calls `connect` on a socket of its own protocol; the kernel opens the
//! TCP socket below it during that call.
//!
//! The oracle is the test itself, which made the processes.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    process::ChildStdout,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::{
    cgroup::Cgroup,
    need::{ATTACH_MODES, Need, attach_needs, trial},
    net::{Netns, await_that, unused_port},
    process::{BINARY, Running, Tcpstate, await_exit, run},
    programs::{Identity, start_mptcp},
};

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        let needs = [attach_needs(mode), &[Need::Btf, Need::Mptcp]].concat();
        trials.push(trial(
            format!("{mode}::mptcp_after_tcpstate"),
            &needs,
            move || owners(mode, Started::AfterTcpstate),
        ));
    }
    // Sockets that were there are known again by their cookies.
    let needs = [Need::Btf, Need::Cookie, Need::Mptcp];
    trials.push(trial("btf::mptcp_before_tcpstate", &needs, || {
        owners("btf", Started::BeforeTcpstate)
    }));
}

/// When the connection is opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Started {
    BeforeTcpstate,
    AfterTcpstate,
}

fn owners(mode: &str, started: Started) -> Result<()> {
    let port = unused_port();
    let cgroup = Cgroup::new(&format!("tcpstate-test-{port}"))?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording");
    let file = file.to_str().context("no text")?;
    let of = port.to_string();
    let start = || {
        let words = ["record", "--json", "-w", file, "-P", &of, "--attach", mode];
        Tcpstate::start(&words)
    };
    let read = |more: &[&str]| -> Result<Vec<Value>> {
        let replay = ["life", "--json", "--until", "close", "-r", file];
        let output = run(BINARY, &[&replay[..], more].concat())?;
        let lines = output.stdout.lines().map(serde_json::from_str);
        let mut lines = lines.collect::<Result<Vec<Value>, _>>()?;
        lines.retain(|line| line["type"] == "connection");
        Ok(lines)
    };

    let netns = Netns::new()?;
    let record = (started == Started::AfterTcpstate)
        .then(start)
        .transpose()?;
    let (mut server, mut client) = netns.run(|| {
        let start =
            |program, comm, uid| Partner::start(program, &Identity::new(comm, uid, &cgroup), port);
        let server = start("mptcp_server", "mpserver", 54_004)?;
        Ok((server, start("mptcp_client", "mpclient", 54_005)?))
    })?;
    client.go()?;
    let record = match record {
        Some(record) => record,
        None => start()?,
    };
    await_that("the recording has the connections", || {
        Ok(read(&["--live"])?.len() == 2)
    })?;
    let (client, server) = (client.end()?, server.end()?);
    await_that("the recording has their ends", || Ok(read(&[])?.len() == 2))?;
    record.stop()?.json()?;

    let lines = read(&[])?;
    let how = match started {
        Started::BeforeTcpstate => "seeded",
        Started::AfterTcpstate => "exact",
    };
    for line in &lines {
        let owner = &line["owner"];
        let is_right = if line["lport"] == port {
            owner["pid"] == server && owner["comm"] == "mpserver"
        } else {
            *owner == json!({"pid": client, "comm": "mpclient", "how": how})
        };
        ensure!(is_right, "client {client}, server {server}: {line}");
    }
    for (filter, value, pid) in [
        ("--pid", client.to_string(), client),
        ("--comm", "mpclient".to_owned(), client),
        ("--pid", server.to_string(), server),
        ("--comm", "mpserver".to_owned(), server),
    ] {
        let kept = read(&[filter, &value])?;
        let wanted: Vec<&Value> = lines
            .iter()
            .filter(|line| line["owner"]["pid"] == pid)
            .collect();
        ensure!(
            kept.len() == 1 && kept.iter().collect::<Vec<_>>() == wanted,
            "{filter} {value}: {kept:?}"
        );
    }
    Ok(())
}

/// A program on one side.
struct Partner {
    running: Running,
    stdout: BufReader<ChildStdout>,
}

impl Partner {
    /// Starts it in the namespace of the calling thread; returns when it is ready.
    fn start(program: &str, who: &Identity, port: u16) -> Result<Self> {
        let mut running = start_mptcp(program, who, Ipv4Addr::LOCALHOST, port)?;
        let stdout = BufReader::new(running.stdout.take().context("no stdout")?);
        let mut partner = Self { running, stdout };
        partner.expect("ready\n")?;
        Ok(partner)
    }

    /// Has the client connect; returns when it has exchanged data.
    fn go(&mut self) -> Result<()> {
        let stdin = self.running.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"go\n")?;
        self.expect("done\n")
    }

    fn expect(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line == wanted, "it printed {line:?}");
        Ok(())
    }

    /// Has it close its sockets and end; returns its process id.
    fn end(&mut self) -> Result<u32> {
        drop(self.running.stdin.take());
        let status = await_exit(&mut self.running)?;
        ensure!(status.success(), "{status}");
        Ok(self.running.id())
    }
}
