//! Names of processes and cgroups that a terminal or a spreadsheet would execute, or that look like words of ours.

use std::{
    ffi::CString,
    fs,
    net::{Ipv4Addr, TcpListener},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    need::{Need, trial},
    net::{Connection, Netns, await_fin, unused_port},
    process::{BINARY, Output, Tcpstate, run},
    programs::{Identity, Server, client},
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial(
        "faults::names_of_processes",
        &[Need::Btf],
        of_processes,
    ));
    trials.push(trial("faults::names_in_ls", &[], in_ls));
    trials.push(trial("faults::names_of_cgroups", &[Need::Btf], of_cgroups));
}

/// The names, of at most 15 bytes each, which is all that the kernel keeps.
const NAMES: [&[u8]; 13] = [
    b"\x1b[2J\x1b[1;31m",
    b"\x1b]0;title\x07",
    b"=1+1|' /C calc'",
    b"+1",
    b"-2+3",
    b"@SUM(A1)",
    b"\xff\xfe\x80\xc3",
    b"a\nb\r\t\"c\",d",
    "\u{202e}evil\u{9b}".as_bytes(),
    "\u{a0}＝1+\u{e0041}".as_bytes(),
    b"-",
    b"other",
    b"sh ",
];

/// Makes a connection while the process, and before Linux 5.11 the thread, has this name.
fn connect_as(name: &[u8], port: u16) -> Result<()> {
    fs::write(OWN_NAME, name)?;
    let name = CString::new(name)?;
    // The thread's name ends with it.
    std::thread::spawn(move || -> Result<()> {
        rustix::thread::set_name(&name)?;
        let Connection {
            listener: _listener,
            client,
            server,
        } = Connection::new((Ipv4Addr::LOCALHOST, port))?;
        drop(client);
        await_fin(&server)
    })
    .join()
    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Restores the name of this process when dropped.
struct Named(Vec<u8>);

impl Named {
    fn now() -> Result<Self> {
        Ok(Self(fs::read(OWN_NAME)?))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // No other test needs the name, so an error does not matter.
        let _ = fs::write(OWN_NAME, self.0.trim_ascii_end());
    }
}

fn of_processes() -> Result<()> {
    let commands: [&[&str]; 5] = [
        &["trace"],
        &["life", "--live"],
        &["rates", "10s", "--by", "comm"],
        &["hist"],
        &["hist", "--of", "lifetime"],
    ];
    let formats: [&[&str]; 3] = [&[], &["--json"], &["--csv"]];
    let ports = NAMES.map(|_| unused_port());
    let list = ports.map(|port| port.to_string()).join(",");
    let mut started = Vec::new();
    for command in commands {
        for format in formats {
            let arguments = [command, format, &["-P", &list]].concat();
            started.push((arguments.join(" "), format, Tcpstate::start(&arguments)?));
        }
    }
    let _named = Named::now()?;
    for (name, port) in NAMES.into_iter().zip(ports) {
        // The thread inherits the namespace.
        Netns::new()?.run_until_quiet(|| {
            let name = name.to_owned();
            connect_as(&name, port)
        })?;
    }
    for (command, format, tcpstate) in started {
        let output = tcpstate.stop()?;
        ensure!(output.status.success(), "{command}: {output:?}");
        check(&output, format).with_context(|| command.clone())?;
        if command.starts_with("trace") || command.starts_with("life") {
            // In JSON, an invalid UTF-8 byte becomes the replacement character.
            let invalid = if format == ["--json"] {
                "\u{fffd}\u{fffd}"
            } else {
                "\\xff\\xfe"
            };
            let told_apart = if format == ["--csv"] {
                [",'-,", ",other,", ",\"sh \","]
            } else {
                ["\"-\"", "\"other\"", "\"sh \""]
            };
            for name in ["[2J", "title", "1+1|", "SUM(A1)", "evil", invalid]
                .iter()
                .chain(&told_apart)
            {
                ensure!(
                    output.stdout.contains(name),
                    "{command}: no `{name}`: {output:?}"
                );
            }
        }
    }
    Ok(())
}

/// `ls` reads names from /proc.
fn in_ls() -> Result<()> {
    let _named = Named::now()?;
    let netns = Netns::new()?;
    for name in NAMES {
        fs::write(OWN_NAME, name)?;
        netns.run(|| {
            let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, unused_port()))?;
            for format in [&[][..], &["--json"], &["--csv"]] {
                let output = run(BINARY, &[&["ls", "--netns", "self"], format].concat())?;
                ensure!(output.status.success(), "{output:?}");
                check(&output, format)?;
                let pid = std::process::id().to_string();
                ensure!(
                    output.stdout.contains(&pid),
                    "the owner is not named: {output:?}"
                );
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The kernel gives each cgroup's path with an event as it is.
fn of_cgroups() -> Result<()> {
    let port = unused_port();
    let name = format!("tcpstate-test-{port}-\u{202e}\u{ad}\u{301}/\x1b[2J\u{e0041}");
    let outer = name.split_once('/').context("no slash")?.0;
    // The inner one is removed first.
    let outer = Cgroup::new(outer)?;
    let cgroup = Cgroup::new(&name)?;
    let who = Identity::new("server", 54_003, &cgroup);
    let of = port.to_string();
    let commands: [&[&str]; 5] = [
        &["trace", "--json"],
        &["trace", "--csv"],
        &["life", "--csv"],
        &["rates", "10s", "--by", "cgroup"],
        &["trace", "--cgroup", cgroup.path()],
    ];
    let start = |command: &[&str]| Tcpstate::start(&[command, &["-P", &of]].concat());
    let started: Vec<_> = commands
        .iter()
        .map(|command| start(command))
        .collect::<Result<_>>()?;
    Netns::new()?.run_until_quiet(|| {
        let server = Server::start(&who, Ipv4Addr::LOCALHOST, port)?;
        client(&who, Ipv4Addr::LOCALHOST, port, 1)?;
        server.stop()
    })?;
    for (command, tcpstate) in commands.into_iter().zip(started) {
        let output = tcpstate.stop()?;
        ensure!(output.status.success(), "{command:?}: {output:?}");
        check(&output, &command[1..2])?;
        ensure!(
            [&output.stdout, &output.stderr]
                .iter()
                .any(|text| text.contains("[2J")),
            "{command:?}: no name: {output:?}"
        );
    }
    drop(cgroup);
    drop(outer);
    Ok(())
}

/// The name of this process, which is that of its first thread.
const OWN_NAME: &str = "/proc/self/comm";

/// Checks that the output contains nothing that a terminal or a spreadsheet would execute.
fn check(output: &Output, format: &[&str]) -> Result<()> {
    for text in [&output.stdout, &output.stderr] {
        let harmful = text.chars().find(|&c| {
            c != '\n'
                && (c.is_control() || "\u{202e}\u{2028}\u{a0}\u{ad}\u{301}\u{e0041}".contains(c))
        });
        ensure!(harmful.is_none(), "{harmful:?} in {text:?}");
    }
    match format {
        ["--json"] => {
            for line in output.stdout.lines() {
                serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
            }
        }
        ["--csv"] => {
            let mut rows = csv::Reader::from_reader(output.stdout.as_bytes());
            for row in rows.records() {
                for cell in &row? {
                    let first = cell.trim_start().chars().next();
                    ensure!(
                        !first.is_some_and(|c| "=+-@＝＋－＠".contains(c)),
                        "a formula: {cell:?}"
                    );
                }
            }
        }
        _ => {}
    }
    Ok(())
}
