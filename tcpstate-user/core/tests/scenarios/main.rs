//! The model, specified by example: each `tests/scenarios/*.toml` has events and the whole snapshot
//! that they make. The README.md there explains the files.

#![allow(
    clippy::disallowed_methods,
    reason = "scenarios are files; the core reads none"
)]

mod census;
mod event;
mod expected;
mod text;

use std::{collections::BTreeMap, env, fs, path::Path, sync::Arc};

use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use tcpstate_core::{
    model::{By, Limits, Tracker},
    names::{NameBook, Names},
};

use self::{
    census::CensusSpec,
    event::EventSpec,
    expected::{Expected, show_exit},
};

fn main() -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut trials = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .replace('-', "_");
            trials.push(Trial::test(name, move || check(&path)));
        }
    }
    anyhow::ensure!(!trials.is_empty(), "there are no scenarios");
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// A file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    /// The story, and its point.
    #[expect(dead_code, reason = "for the reader")]
    about: String,
    #[serde(default)]
    limits: LimitsSpec,
    /// The grouping of rates: port, role, comm, unit and so on.
    by: Option<String>,
    /// The paths of cgroups, by their ids.
    #[serde(default)]
    cgroups: BTreeMap<String, String>,
    /// Whether the process that closes each connection is noted.
    #[serde(default)]
    closers: bool,
    /// The values of each event that has no others.
    #[serde(default)]
    defaults: EventSpec,
    #[serde(default)]
    event: Vec<EventSpec>,
    /// The dumps between the events.
    #[serde(default)]
    census: Vec<CensusSpec>,
    expect: Expected,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names of `Limits`")]
struct LimitsSpec {
    max_connections: Option<usize>,
    max_ports: Option<usize>,
    max_listeners: Option<usize>,
    max_embryos: Option<usize>,
}

fn check(path: &Path) -> Result<(), Failed> {
    let scenario: Scenario = toml::from_str(&fs::read_to_string(path)?)?;
    let default = Limits::default();
    let spec = &scenario.limits;
    let limits = Limits {
        max_connections: spec.max_connections.unwrap_or(default.max_connections),
        max_ports: spec.max_ports.unwrap_or(default.max_ports),
        max_listeners: spec.max_listeners.unwrap_or(default.max_listeners),
        max_embryos: spec.max_embryos.unwrap_or(default.max_embryos),
        ..default
    };
    let by = match scenario.by.as_deref() {
        None | Some("port") => By::Port,
        Some("role") => By::Role,
        Some("comm") => By::Comm,
        Some("pid") => By::Pid,
        Some("cgroup") => By::Cgroup,
        Some("unit") => By::Unit,
        Some("container") => By::Container,
        Some("pod") => By::Pod,
        Some("netns") => By::Netns,
        Some("raddr") => By::Raddr,
        Some("prefix") => By::Prefix,
        Some("cause") => By::Cause,
        Some(other) => return Err(format!("by {other}?").into()),
    };
    let mut tracker = Tracker::new(limits).by(by);
    let book = NameBook::default();
    for (id, path) in scenario.cgroups {
        book.add_paths([(id.parse()?, path)]);
    }
    tracker.set_names(Names::new(Arc::new(book)));
    if scenario.closers {
        tracker = tracker.with_closers();
    }
    if !scenario.census.is_empty() {
        tracker.follow();
    }
    let (mut ended, mut left) = (Vec::new(), Vec::new());
    let mut censuses = scenario.census.iter().peekable();
    let mut take_in = |tracker: &mut Tracker, before_ns| -> Result<(), Failed> {
        while let Some(spec) = censuses.peek()
            && spec.at_ns()? <= before_ns
        {
            tracker.census(&spec.census()?, |one| left.push(show_exit(one)));
            censuses.next();
        }
        Ok(())
    };
    for spec in &scenario.event {
        let event = spec.event(&scenario.defaults)?;
        take_in(&mut tracker, event.ts_ns())?;
        ended.extend(tracker.apply(&event).ended());
    }
    take_in(&mut tracker, u64::MAX)?;
    let snapshot = tracker.snapshot();
    let actual = Expected::of(&snapshot, &ended, left);
    if actual == scenario.expect {
        return Ok(());
    }
    let text = toml::to_string(&BTreeMap::from([("expect", &actual)]))?;
    Err(format!(
        "expected {:#?}\n\nbut it is, as the file would have it:\n\n{text}",
        scenario.expect
    )
    .into())
}
