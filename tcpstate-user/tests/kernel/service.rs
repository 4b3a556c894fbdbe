//! `tcpstate serve` as a service: its configuration.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    need::{Need, trial},
    net::await_that,
    process::has_result,
    serve::Served,
};

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial("service::reload", &[Need::Btf], reload));
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
        "serve.toml, line 1: `bukets` is no setting; `buckets` is one",
    ] {
        ensure!(
            output.stderr.contains(message),
            "no `{message}`: {output:?}"
        );
    }
    Ok(())
}
