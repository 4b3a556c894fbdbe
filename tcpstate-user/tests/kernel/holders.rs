//! Listeners that their opener leaves to other processes: a web server that becomes a daemon and has workers, a
//! daemon that forks twice, a service whose socket was opened for it; each started before and after `tcpstate`.
//!
//! The oracle is `ss -tlnp`, and the test itself, which made the processes.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    cgroup::Cgroup,
    ls::list,
    need::{Need, trial},
    net::{Netns, PATIENCE, await_that, unused_port},
    process::{BINARY, Tcpstate, await_exit, run},
    programs::{Handed, Identity, start_activated, start_daemon},
};

pub fn add(trials: &mut Vec<Trial>) {
    // Listeners are joined with their holders by the cookie, which the other mode lacks.
    let needs = [Need::Btf, Need::Cookie, Need::Program("ss")];
    let nginx = [&needs[..], &[Need::Program("nginx")]].concat();
    let mut add = |name: &str, needs: &[Need], start: Start| {
        trials.push(trial(format!("holders::{name}_after"), needs, move || {
            server_after_tcpstate(start)
        }));
        trials.push(trial(format!("holders::{name}_before"), needs, move || {
            server_before_tcpstate(start)
        }));
    };
    add("nginx", &nginx, start_nginx);
    add("daemon", &needs, |port, cgroup, _| {
        let daemon = start_daemon(&Identity::new("daemon", 54_001, cgroup), port)?;
        Ok(Started::of(daemon, "daemon"))
    });
    add("socket_activation", &needs, |port, cgroup, _| {
        // The name by which a service manager is known.
        let manager = Identity::new("systemd", 0, cgroup);
        let service = start_activated(&manager, "service", port)?;
        Ok(Started::of(service, "service"))
    });
}

type Start = fn(u16, &Cgroup, &Path) -> Result<Started>;

/// A server that listens and accepts.
struct Started {
    /// The process that called `listen`.
    opener: u32,
    /// The process that its connections belong to, and its name.
    owner: u32,
    comm: &'static str,
    /// Bytes after which the server closes.
    request: &'static [u8],
    /// Ends the server.
    _running: Box<dyn Any + Send + Sync>,
}

impl Started {
    fn of(
        Handed {
            opener,
            to,
            running,
        }: Handed,
        comm: &'static str,
    ) -> Self {
        Self {
            opener,
            owner: to,
            comm,
            request: &[1],
            _running: Box::new(running),
        }
    }

    /// Makes a connection, which the server closes.
    fn connect(&self, port: u16) -> Result<()> {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.write_all(self.request)?;
        connection.read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

/// An nginx in the background.
struct Nginx {
    pid_file: PathBuf,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let pid = || -> Option<Pid> {
            let text = fs::read_to_string(&self.pid_file).ok()?;
            Pid::from_raw(text.trim().parse().ok()?)
        };
        if let Some(pid) = pid() {
            // It ends its workers too. Errors cannot be reported here.
            let _ = kill_process(pid, Signal::TERM);
            let _ = await_that("nginx ends", || Ok(!self.pid_file.exists()));
        }
    }
}

/// Starts nginx as a daemon with two workers: the process that listens forks the master and ends.
fn start_nginx(port: u16, _: &Cgroup, folder: &Path) -> Result<Started> {
    let folder = folder.to_str().context("no text")?;
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {folder}/{name};\n"))
        .concat();
    let settings = format!(
        "daemon on;\nworker_processes 2;\nuser root;\npid {folder}/pid;\nerror_log {folder}/error;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off;\n{temporary} server {{ listen 127.0.0.1:{port}; return 204; }} }}\n"
    );
    let file = format!("{folder}/settings");
    fs::write(&file, settings)?;
    let mut command = Command::new("nginx");
    command.args(["-p", folder, "-c", &file, "-e", &format!("{folder}/error")]);
    let null = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut opener = null.spawn().context("nginx")?;
    let opener_pid = opener.id();
    let status = await_exit(&mut opener)?;
    let error = fs::read_to_string(format!("{folder}/error")).unwrap_or_default();
    ensure!(status.success(), "nginx: {status}: {error}");
    let pid_file = PathBuf::from(format!("{folder}/pid"));
    let running = Nginx { pid_file };
    // The master writes it after the opener has ended.
    let mut master = None;
    await_that("nginx has a master", || {
        let text = fs::read_to_string(&running.pid_file).unwrap_or_default();
        master = text.trim().parse::<u32>().ok();
        Ok(master.is_some())
    })?;
    Ok(Started {
        opener: opener_pid,
        owner: master.context("no master")?,
        comm: "nginx",
        request: b"GET / HTTP/1.0\r\n\r\n",
        _running: Box::new(running),
    })
}

/// The processes that hold the listener, by `ss`, once they are as many as wanted.
pub fn holders(port: u16, wanted: usize) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    await_that("all processes hold the listener", || {
        let output = run("ss", &["-HOtlnp", "sport", "=", &format!(":{port}")])?;
        let pids = output.stdout.split("pid=").skip(1);
        found = pids
            .map(|rest| {
                let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
                Ok(digits.context("no pid")?.parse()?)
            })
            .collect::<Result<_>>()?;
        Ok(found.len() >= wanted)
    })?;
    Ok(found)
}

/// The number of processes that hold the listener of a server for good.
fn wanted(server: &Started) -> usize {
    match server.comm {
        "nginx" => 3,
        "service" => 2,
        _ => 1,
    }
}

/// The processes of a line, and what each has to do with the connection.
fn processes(line: &Value) -> Result<BTreeMap<u32, BTreeSet<String>>> {
    let Some(list) = line["processes"].as_array() else {
        ensure!(line["processes"].is_null(), "no list: {line}");
        return Ok(BTreeMap::new());
    };
    list.iter()
        .map(|one| {
            let pid = u32::try_from(one["pid"].as_u64().context("no pid")?)?;
            let how = one["how"].as_array().context("no list")?;
            let how = how.iter().filter_map(Value::as_str).map(str::to_owned);
            Ok((pid, how.collect()))
        })
        .collect()
}

fn that(processes: &BTreeMap<u32, BTreeSet<String>>, what: &str) -> BTreeSet<u32> {
    let those = processes.iter().filter(|(_, how)| how.contains(what));
    those.map(|(&pid, _)| pid).collect()
}

fn is_owned(line: &Value, server: &Started) -> bool {
    line["role"] == "server"
        && line["owner"]["pid"] == server.owner
        && line["owner"]["comm"] == server.comm
}

/// The complete lines of a run so far.
fn parsed(text: &str) -> Result<Vec<Value>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = whole.lines().map(|line| Ok(serde_json::from_str(line)?));
    lines.collect()
}

/// The opener is known from its call, and the others from `/proc`, a moment later; a recording has both.
fn server_after_tcpstate(start: Start) -> Result<()> {
    let port = unused_port();
    let cgroup = Cgroup::new(&format!("tcpstate-test-{port}"))?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("recording");
    let file = file.to_str().context("no text")?;
    let of = port.to_string();
    let netns = Netns::new()?;
    let life = ["life", "--json", "-P", &of, "--until", "close"];
    let record = Tcpstate::start(&["record", "--json", "-w", file, "-P", &of])?;
    let by_name = |comm| Tcpstate::start(&[&life[..], &["--comm", comm]].concat());
    let names = ["nginx", "daemon", "service"]
        .iter()
        .map(|&comm| Ok((comm, by_name(comm)?)))
        .collect::<Result<Vec<_>>>()?;

    let server = netns.run(|| start(port, &cgroup, folder.path()))?;
    let held_by = netns.run(|| holders(port, wanted(&server)))?;
    let read = |more: &[&str]| -> Result<Vec<Value>> {
        let replay = ["life", "--json", "--until", "close", "-r", file];
        parsed(&run(BINARY, &[&replay[..], more].concat())?.stdout)
    };
    await_that("the recording has who holds the listener", || {
        netns.run(|| server.connect(port))?;
        for line in read(&[])? {
            let processes = processes(&line)?;
            if is_owned(&line, &server) && that(&processes, "holds") == held_by {
                let closed = that(&processes, "closed");
                ensure!(
                    that(&processes, "opened") == BTreeSet::from([server.opener])
                        && closed.len() == 1
                        && closed.is_subset(&held_by),
                    "opened by {}, held by {held_by:?}: {line}",
                    server.opener
                );
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    for (comm, tcpstate) in names {
        if comm == server.comm {
            await_that("a connection is shown by the name of its server", || {
                netns.run(|| server.connect(port))?;
                let lines = parsed(&tcpstate.written()?)?;
                Ok(lines.iter().any(|line| is_owned(line, &server)))
            })?;
        } else {
            let (lines, _) = tcpstate.stop()?.json()?;
            ensure!(lines.is_empty(), "{comm}: {lines:?}");
        }
    }
    record.stop()?.json()?;
    for pid in held_by.iter().chain([&server.opener]) {
        let lines = read(&["--pid", &pid.to_string()])?;
        ensure!(
            lines.iter().any(|line| is_owned(line, &server)),
            "--pid {pid}: {lines:?}"
        );
    }
    let own = std::process::id().to_string();
    let others = read(&["--pid", &own, "--role", "server"])?;
    // The summary.
    ensure!(others.len() == 1, "not of this process: {others:?}");
    Ok(())
}

/// The start looks up the sockets that were there before: every process that holds the listener selects it.
fn server_before_tcpstate(start: Start) -> Result<()> {
    let port = unused_port();
    let cgroup = Cgroup::new(&format!("tcpstate-test-{port}"))?;
    let folder = tempfile::tempdir()?;
    let of = port.to_string();
    let netns = Netns::new()?;
    let server = netns.run(|| start(port, &cgroup, folder.path()))?;
    let held_by = netns.run(|| holders(port, wanted(&server)))?;

    let pids: Vec<String> = held_by.iter().map(u32::to_string).collect();
    let filters = pids.iter().map(|pid| ["--pid", pid]);
    let filters = filters.chain([["--comm", server.comm]]);
    let fixed = ["life", "--json", "-P", &of, "--until", "close"];
    let runs = filters
        .map(|filter| {
            let words = [&fixed[..], &filter, &["--role", "server"]].concat();
            Ok((filter, Tcpstate::start(&words)?))
        })
        .collect::<Result<Vec<_>>>()?;
    for (filter, tcpstate) in &runs {
        await_that("a connection is the server's", || {
            netns.run(|| server.connect(port))?;
            Ok(!parsed(&tcpstate.written()?)?.is_empty())
        })
        .with_context(|| filter.join(" "))?;
    }
    for (filter, tcpstate) in runs {
        let (lines, _) = tcpstate.stop()?.json()?;
        for line in &lines {
            let processes = processes(line)?;
            let holds = that(&processes, "holds");
            ensure!(
                is_owned(line, &server)
                    && (holds == held_by || (holds.is_empty() && held_by.len() == 1))
                    && that(&processes, "opened").is_empty(),
                "{filter:?}, held by {held_by:?}: {line}"
            );
        }
    }
    netns.run(|| {
        for pid in &pids {
            let filter = [
                "--resolve-owners",
                "-P",
                &of,
                "--state",
                "LISTEN",
                "--pid",
                pid,
            ];
            let (lines, _) = list(&filter)?;
            let [line] = &lines[..] else {
                anyhow::bail!("not one listener: {lines:?}");
            };
            let holds = that(&processes(line)?, "holds");
            ensure!(
                is_owned(line, &server)
                    && (holds == held_by || (holds.is_empty() && held_by.len() == 1)),
                "held by {held_by:?}: {line}"
            );
        }
        Ok(())
    })
}
