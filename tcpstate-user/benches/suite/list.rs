//! `list`: the time of `tcpstate ls` where there are many sockets: of all, and of those that a filter selects.
//!
//! A filter is decided by the kernel, or by user space where the expression has an alternative that the kernel does not
//! know and that is never true. The sockets that it selects are the same.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Options,
    holder::{EACH, Holder},
    process::TCPSTATE,
    report::{Row, ratios},
};

/// One of the hosts that the holders are.
const FILTER: &str = "dst 127.0.1.1";
/// The same sockets.
const IN_USER_SPACE: &str = "dst 127.0.1.1 or retransmits > 4000000000";

pub fn run(options: &Options) -> Result<Vec<Row>> {
    let sockets: usize = options.pick(100_000, 10_000);
    let rounds = options.rounds(15);
    eprintln!("list: {sockets} sockets");
    let holders = (1..=sockets / EACH).map(|number| Holder::start(u8::try_from(number)?));
    let _holders = holders.collect::<Result<Vec<_>>>()?;
    // A listener each.
    let all = sockets + sockets / EACH;
    let cases: [(&str, &[&str], usize); 5] = [
        ("all", &["--resolve-owners=no"], all),
        (
            "decided in user space",
            &["--resolve-owners=no", IN_USER_SPACE],
            EACH / 2,
        ),
        (
            "decided in the kernel",
            &["--resolve-owners=no", FILTER],
            EACH / 2,
        ),
        (
            "with owners, decided in user space",
            &[IN_USER_SPACE],
            EACH / 2,
        ),
        ("with owners, decided in the kernel", &[FILTER], EACH / 2),
    ];
    let mut took = cases.map(|_| Vec::new());
    for _ in 0..rounds {
        for ((_, words, expected), took) in cases.iter().zip(&mut took) {
            took.push(list(words, *expected)?);
        }
    }
    let [_, user, _, owned_by_user, _] = &took;
    let rows = cases.iter().zip(&took).enumerate();
    Ok(rows
        .map(|(number, ((what, words, expected), ms))| {
            let words = words.join(" ");
            let row = Row::new(format!("`ls {words}`, {sockets} sockets"), "ms", ms)
                .note(format!("{what}; {expected} sockets listed"));
            match number {
                2 => row.ratio("user space", &ratios(ms, user)),
                4 => row.ratio("user space", &ratios(ms, owned_by_user)),
                _ => row,
            }
        })
        .collect())
}

/// Returns the milliseconds that the list takes.
fn list(words: &[&str], expected: usize) -> Result<f64> {
    let start = Instant::now();
    let output = Command::new(TCPSTATE)
        .args(["ls", "--csv", "--netns", "self"])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .context("start tcpstate")?;
    let took = start.elapsed();
    ensure!(output.status.success(), "tcpstate ls: {}", output.status);
    // After the titles; there is nothing behind the last line feed.
    let listed = output.stdout.split(|&byte| byte == b'\n').count() - 2;
    ensure!(
        listed == expected,
        "{listed} sockets listed, not {expected}"
    );
    Ok(took.as_secs_f64() * 1e3)
}
