//! `tcpstate top`: a frame as text, of real sockets.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use crate::{
    need::{Need, trial},
    net::{Netns, await_fin},
    process::{Tcpstate, has_result},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie];
    trials.push(trial("top::finding", &needs, finding));
}

/// A frame as text has a finding with its service and its process.
fn finding() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let leaked = (0..5).map(|_| -> Result<TcpStream> {
            let client = TcpStream::connect(listener.local_addr()?)?;
            let (server, _) = listener.accept()?;
            drop(client);
            await_fin(&server)?;
            Ok(server)
        });
        let _leaked = leaked.collect::<Result<Vec<_>>>()?;
        thread::sleep(Duration::from_millis(1_500));
        let rules = tempfile::NamedTempFile::new()?;
        fs::write(&rules, "close_wait_age = \"1s\"")?;
        let path = rules.path().to_str().context("a path that is no text")?;
        let output = Tcpstate::start(&["top", "--once", "--netns", "self", "--rules", path])?;
        let output = output.finish()?;
        ensure!(
            has_result(output.status),
            "{}: {}",
            output.status,
            output.stderr
        );
        // It is broken between words.
        let words: Vec<&str> = output.stdout.split_whitespace().collect();
        let text = words.join(" ");
        let name = fs::read_to_string("/proc/self/comm")?;
        let whose = format!("{} {}, server port {port}:", name.trim(), process::id());
        ensure!(
            text.contains(&format!("close_wait_leak: {whose}")),
            "{}",
            output.stdout
        );
        let in_close_wait = words
            .iter()
            .skip_while(|word| **word != "CLOSE_WAIT")
            .nth(1);
        ensure!(in_close_wait == Some(&"5"), "{}", output.stdout);
        Ok(())
    })
}
