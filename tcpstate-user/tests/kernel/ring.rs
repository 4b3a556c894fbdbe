//! A ring buffer that is far too small loses transitions, and reports their exact number.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use crate::{
    need::{ATTACH_MODES, attach_needs, trial},
    net::unused_port,
    process::Tcpstate,
    traffic::{on_loopback, storm},
};

/// Number of rounds CLOSE -> LISTEN -> CLOSE.
const ROUNDS: u32 = 200_000;

pub fn add(trials: &mut Vec<Trial>) {
    for mode in ATTACH_MODES {
        trials.push(trial(
            format!("{mode}::ring_of_one_page"),
            attach_needs(mode),
            move || ring_of_one_page(mode),
        ));
    }
}

fn ring_of_one_page(mode: &str) -> Result<()> {
    let port = unused_port();
    let page = rustix::param::page_size().to_string();
    let tcpstate = Tcpstate::start(&[
        "trace",
        "--json",
        "--attach",
        mode,
        "--port",
        &port.to_string(),
        "--ring-bytes",
        &page,
    ])?;
    on_loopback(|| storm(port, ROUNDS))?;
    let (lines, summary) = tcpstate.stop()?.transitions()?;
    let books = &summary["accounting"];
    let of = |name: &str| {
        books[name]
            .as_u64()
            .with_context(|| format!("{name} in {books}"))
    };
    ensure!(
        of("lost")? > 0,
        "nothing was lost, so this was no storm: {books}"
    );
    // At least, because unrelated sockets without a local port pass this filter too, until user space can
    // decide.
    let ours = u64::from(ROUNDS) * 2;
    ensure!(
        of("submitted")? + of("lost")? >= ours,
        "{ROUNDS} rounds: {books}"
    );
    let shown = u64::try_from(lines.len())?;
    ensure!(
        shown < ours && summary["selection"]["passed"] == shown,
        "{shown} lines: {summary}"
    );
    Ok(())
}
