//! Faults: the promises for when something goes wrong, with a test for each.
//!
//! `docs/reliability.md` has the table of them; [`are_documented`] compares the two. The books are right
//! in all cases: [`Output::json`] checks them in every test here that gets a summary.
//!
//! [`Output::json`]: crate::process::Output::json

mod blocked;
mod clock;
mod descriptors;
pub(crate) mod forgery;
mod lists;
mod losses;
mod memory;
mod names;
mod neighbours;
mod outputs;
mod signals;

use std::{collections::BTreeSet, env, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tcpstate_common::{
    Record, State,
    record::{AF_INET, flags},
};
use tcpstate_core::{books::Accounting, event::Event, origin::Origin};
use tcpstate_recording::{Options, Writer};

pub fn add(trials: &mut Vec<Trial>) {
    // This is set in the guests of `cargo xtask vm`, which are slow. The reaction of user space to faults is
    // the same on every kernel; only the clock may be set there and not elsewhere.
    if env::var_os("TCPSTATE_KERNEL_LACKS").is_some() {
        clock::add(trials);
        return;
    }
    let mut faults = Vec::new();
    losses::add(&mut faults);
    signals::add(&mut faults);
    outputs::add(&mut faults);
    blocked::add(&mut faults);
    memory::add(&mut faults);
    descriptors::add(&mut faults);
    lists::add(&mut faults);
    forgery::add(&mut faults);
    neighbours::add(&mut faults);
    clock::add(&mut faults);
    names::add(&mut faults);
    let names = faults.iter().map(|trial| trial.name().to_owned());
    let names = names.collect::<BTreeSet<_>>();
    trials.append(&mut faults);
    trials.push(Trial::test("faults::are_documented", move || {
        are_documented(&names).map_err(|error| Failed::from(format!("{error:#}")))
    }));
}

/// Checks that the table names exactly these tests.
fn are_documented(tests: &BTreeSet<String>) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reliability.md");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let named: BTreeSet<_> = rows
        .flat_map(|row| row.split('`'))
        .filter(|word| word.starts_with("faults::"))
        .map(str::to_owned)
        .collect();
    ensure!(
        &named == tests,
        "only in docs/reliability.md: {:?}; missing in it: {:?}",
        named.difference(tests).collect::<Vec<_>>(),
        tests.difference(&named).collect::<Vec<_>>()
    );
    Ok(())
}

/// The number at this path in a JSON line.
fn number(line: &Value, path: &[&str]) -> Result<u64> {
    let mut value = line;
    for key in path {
        value = &value[*key];
    }
    value
        .as_u64()
        .with_context(|| format!("no number {path:?} in {line}"))
}

/// Writes a recording in which this number of connections begin, one after the other, and none ends;
/// `change` edits each event before it is written.
fn write_recording(
    file: &Path,
    connections: u64,
    mut change: impl FnMut(&mut Record),
) -> Result<()> {
    let origin = Origin {
        host: "host".into(),
        kernel: "6.18".into(),
        attach: "btf".into(),
        wall_at_monotonic_zero_ns: 0,
        started_ns: 0,
        filters: String::new(),
        live: true,
        sample_interval_ns: None,
    };
    let mut writer = Writer::create(file, &origin, Options::default())?;
    for cookie in 1..=connections {
        let mut record = Record {
            ts_ns: cookie,
            cookie,
            skaddr: cookie << 12,
            rport: 443,
            family: AF_INET,
            flags: flags::SOCKET | flags::COOKIE | flags::TCP,
            oldstate: State::CLOSE,
            newstate: State::SYN_SENT,
            ..Record::default()
        };
        change(&mut record);
        writer.append(&[Event::try_from(record)?], cookie)?;
    }
    let books = Accounting {
        seen: connections,
        submitted: connections,
        received: connections,
        ..Accounting::default()
    };
    writer.finish(Some(&books), None)?;
    Ok(())
}

/// Pseudo-random numbers from a seed (xorshift64*), so that a failure can be reproduced.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
