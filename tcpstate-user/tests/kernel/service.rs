//! `tcpstate serve` as a service: its configuration, and its service manager.

use std::{
    fs, io,
    net::{Ipv4Addr, TcpListener},
    os::{
        fd::AsRawFd as _,
        unix::{net::UnixDatagram, process::CommandExt as _},
    },
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    need::{Need, trial},
    net::{Netns, PATIENCE, await_that, unused_port},
    process::{BINARY, Tcpstate, has_result, run},
    serve::Served,
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial("service::reload", &[Need::Btf], reload));
    trials.push(trial("service::notifies", &[Need::Btf], notifies));
    trials.push(trial("service::passed_socket", &[Need::Btf], passed_socket));
}

/// SIGHUP changes what can change; the rest, and a mistake, change nothing, and the run goes on.
fn reload() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().join("serve.toml");
    let write = |text: &str| fs::write(&path, text);
    write("buckets = \"1ms,1s\"\nmax-ports = 7\n")?;
    let config = path.to_str().context("a path in UTF-8")?;
    let served = Served::start(&["--config", config])?;
    let hang_up = || kill_process(Pid::from_child(&served.tcpstate.child), Signal::HUP);
    let has_bucket = |bound: &str| -> Result<bool> {
        let (status, text) = served.get("/metrics")?;
        ensure!(status == 200, "/metrics: {status}: {text}");
        Ok(text.contains(&format!("le=\"{bound}\"")))
    };
    served.connect()?;
    await_that("there is a histogram", || has_bucket("0.001"))?;
    ensure!(!has_bucket("0.002")?);

    write("buckets = \"2ms,1s\"\nmax-ports = 8\n")?;
    hang_up()?;
    await_that("the buckets have changed", || has_bucket("0.002"))?;
    ensure!(!has_bucket("0.001")?);

    write("bukets = \"3ms\"\n")?;
    hang_up()?;
    // Signals are not counted: the next one must come after this one was handled, and there is nothing else to see.
    served.connect()?;
    let (status, _) = served.get("/healthz")?;
    ensure!(status == 200 && has_bucket("0.002")?);

    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let output = served.tcpstate.finish()?;
    ensure!(has_result(output.status), "{output:?}");
    for message in [
        "now in force: buckets",
        "`max-ports` stays as it was until a restart: ",
        "the configuration stays as it was: ",
        "serve.toml, line 1: unknown setting `bukets`; did you mean `buckets`?",
    ] {
        ensure!(
            output.stderr.contains(message),
            "no `{message}`: {output:?}"
        );
    }
    Ok(())
}

/// A service manager hears of each stage of its life.
fn notifies() -> Result<()> {
    let folder = TempDir::new()?;
    let socket = folder.path().join("notify");
    let manager = UnixDatagram::bind(&socket)?;
    manager.set_read_timeout(Some(PATIENCE))?;
    let await_message = |begins: &str| loop {
        let mut text = [0; 400];
        let length = manager.recv(&mut text).context(begins.to_owned())?;
        let text = str::from_utf8(&text[..length])?;
        if text.starts_with(begins) {
            return anyhow::Ok(text.to_owned());
        }
        // Others come in between, as often as it is busy.
        ensure!(
            ["WATCHDOG=", "STATUS="]
                .iter()
                .any(|other| text.starts_with(other)),
            "{text}"
        );
    };
    let config = folder.path().join("serve.toml");
    fs::write(&config, "")?;
    let config = config.to_str().context("a path in UTF-8")?;
    let served = Served::start_as(&["--config", config], |arguments| {
        let mut command = Command::new(BINARY);
        command
            .args(arguments)
            .env("NOTIFY_SOCKET", &socket)
            .env("WATCHDOG_USEC", "60000000");
        command
    })?;
    let ready = await_message("READY=1\nSTATUS=serving on http://127.0.0.1:")?;
    ensure!(ready.ends_with("/metrics"), "{ready}");
    for _ in 0..2 {
        await_message("WATCHDOG=1")?;
    }
    let status = await_message("STATUS=")?;
    ensure!(
        status.contains(" read, ") && status.ends_with(" missed"),
        "{status}"
    );
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::HUP)?;
    await_message("RELOADING=1\nMONOTONIC_USEC=")?;
    await_message("READY=1\n")?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    await_message("STOPPING=1")?;
    let output = served.tcpstate.finish()?;
    ensure!(has_result(output.status), "{output:?}");
    Ok(())
}

/// It serves on the socket that was passed to it, and on no other.
fn passed_socket() -> Result<()> {
    let netns = Netns::new()?;
    let port = unused_port();
    let (listener, tcpstate) = netns.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let passed = listener.as_raw_fd();
        // As a service manager does: the process that becomes tcpstate is the one that is named.
        let mut command = Command::new("sh");
        let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\"";
        command.args(["-c", script, BINARY, "serve", "--netns", "self", "--ports"]);
        command.arg(port.to_string());
        let pass = move || {
            // SAFETY: nothing in the child, which is about to become another program, owns that number.
            match unsafe { libc::dup2(passed, 3) } {
                3 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // SAFETY: between fork and exec, it makes one system call and allocates nothing.
        unsafe { command.pre_exec(pass) };
        Ok((listener, Tcpstate::start_command(command)?))
    })?;
    let http = listener.local_addr()?;
    // The process has it too, and alone from here on.
    drop(listener);
    let served = Served::await_ready(netns, tcpstate, http, port)?;
    let (status, text) = served.get("/metrics")?;
    ensure!(
        status == 200 && text.contains("tcpstate_transitions"),
        "{status}: {text}"
    );
    let listeners = served.listening_ports()?;
    ensure!(
        listeners == [http.port()],
        "it listens at {listeners:?}, and was passed {http}"
    );
    let output = served.tcpstate.stop()?;
    ensure!(has_result(output.status), "{output:?}");

    // Two are one too many.
    let own = run(
        "sh",
        &[
            "-c",
            "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$0\" serve --duration 1",
            BINARY,
        ],
    )?;
    ensure!(
        own.status.code() == Some(1) && own.stderr.contains("passed 2 sockets"),
        "{own:?}"
    );
    Ok(())
}
