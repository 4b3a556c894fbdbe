//! `tcpstate diagnose`: each finding is provoked for real, and named with its service port and its process; what looks
//! alike is not taken for it. `tcpstate top` runs beside it, and its frame has the same findings.

#[path = "../support/situations.rs"]
mod situations;

mod closing;
mod connects;
mod ends;
mod frame;
mod healthy;
mod opening;
mod queues;
mod services;
mod tables;

use std::{collections::BTreeSet, fs};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::NamedTempFile;

use self::{
    frame::{Frame, Watching},
    situations::SITUATIONS,
};
use crate::process::{Output, Tcpstate, add_skipped, check_books, has_result, nested};

pub fn add(trials: &mut Vec<Trial>) {
    queues::add(trials);
    closing::add(trials);
    opening::add(trials);
    tables::add(trials);
    connects::add(trials);
    ends::add(trials);
    services::add(trials);
    healthy::add(trials);
}

/// A run of `tcpstate diagnose --json` in the namespace of the calling thread, and one of `tcpstate top --once` that
/// began a moment before and ended a moment after.
pub struct Diagnosis {
    /// The findings, the worst first.
    pub findings: Vec<Value>,
    /// The last line.
    pub summary: Value,
    frame: Frame,
}

impl Diagnosis {
    /// Runs it for a time such as `2s`, with a file of thresholds that has these lines. `while_it_runs` is called when it
    /// watches: what it does is seen as events.
    pub fn of(
        duration: &str,
        thresholds: &str,
        while_it_runs: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        Self::beside_top(duration, thresholds, while_it_runs, Tcpstate::finish)
    }

    /// The same until `while_it_runs` is done, however long that takes.
    pub fn during(thresholds: &str, while_it_runs: impl FnOnce() -> Result<()>) -> Result<Self> {
        Self::beside_top("1h", thresholds, while_it_runs, Tcpstate::stop)
    }

    fn beside_top(
        duration: &str,
        thresholds: &str,
        while_they_run: impl FnOnce() -> Result<()>,
        end: impl FnOnce(Tcpstate) -> Result<Output>,
    ) -> Result<Self> {
        let rules = rules(thresholds)?;
        // It sees whatever `diagnose` sees.
        let top = Watching::start(path(&rules)?)?;
        let started = start(duration, &rules, &["--json"])?;
        while_they_run()?;
        let output = end(started)?;
        Self::read(&output, top.stop()?)
    }

    fn read(output: &Output, frame: Frame) -> Result<Self> {
        ensure!(
            has_result(output.status),
            "{}: {}",
            output.status,
            output.stderr
        );
        let lines = output.stdout.lines().map(serde_json::from_str);
        let mut findings = lines.collect::<Result<Vec<Value>, _>>()?;
        let summary = findings.pop().context("no output at all")?;
        check_books(&summary)?;
        add_skipped(nested(&summary)?);
        let is_bad = |finding: &Value| finding["severity"] != "note";
        let is_three = summary["complete"] == false || findings.iter().any(is_bad);
        ensure!(
            output.status.code() == Some(if is_three { 3 } else { 0 }),
            "{}: {findings:?}",
            output.status
        );
        Ok(Self {
            findings,
            summary,
            frame,
        })
    }

    /// The finding of this name at this service port.
    pub fn at(&self, name: &str, port: u16) -> Result<&Value> {
        let mut found = self.findings.iter();
        let found =
            found.find(|finding| finding["name"] == name && finding["service_port"] == port);
        found.with_context(|| format!("no {name} at {port}: {}", self.words()))
    }

    /// The one finding of this name.
    pub fn only(&self, name: &str) -> Result<&Value> {
        let mut found = self
            .findings
            .iter()
            .filter(|finding| finding["name"] == name);
        let first = found
            .next()
            .with_context(|| format!("no {name}: {}", self.words()))?;
        ensure!(
            found.next().is_none(),
            "several of {name}: {}",
            self.words()
        );
        Ok(first)
    }

    /// All findings of this name.
    pub fn all(&self, name: &str) -> Vec<&Value> {
        let all = self.findings.iter();
        all.filter(|finding| finding["name"] == name).collect()
    }

    /// That `top` shows the findings of this name too.
    pub fn ensure_on_top(&self, name: &str) -> Result<()> {
        let mut all = self.all(name).into_iter();
        all.try_for_each(|finding| self.frame.ensure_shows(finding))
    }

    /// That the findings are those of this situation, and no others; and that `top` shows them, each with its owner.
    pub fn is(&self, name: &str) -> Result<()> {
        let mut all = SITUATIONS.iter();
        let situation = all.find(|situation| situation.name == name);
        let situation = situation.with_context(|| format!("no situation {name}"))?;
        let word =
            |finding: &'_ Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let findings = self.findings.iter();
        let found: BTreeSet<(String, String)> = findings
            .map(|finding| (word(finding, "name"), word(finding, "severity")))
            .collect();
        let expected = situation.found.iter();
        let expected: BTreeSet<_> = expected
            .map(|&(name, severity)| (name.to_owned(), severity.to_owned()))
            .collect();
        for (by, mut found) in [("diagnose", found), ("top", self.frame.found())] {
            found.retain(|(name, _)| !situation.may_be.contains(&name.as_str()));
            ensure!(
                found == expected,
                "{} ({}): {by} has {found:?}: {}",
                situation.name,
                situation.words,
                self.words()
            );
        }
        let mut names = situation.found.iter();
        names.try_for_each(|(name, _)| self.ensure_on_top(name))
    }

    /// The findings in short.
    pub fn words(&self) -> String {
        let words = self.findings.iter().map(|finding| {
            let word = |name: &str| finding[name].to_string();
            let [severity, name, port, summary] =
                ["severity", "name", "service_port", "summary"].map(word);
            format!("{severity} {name} at {port}: {summary}")
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

/// A file of thresholds that has these lines.
fn rules(thresholds: &str) -> Result<NamedTempFile> {
    let rules = NamedTempFile::new()?;
    fs::write(&rules, thresholds)?;
    Ok(rules)
}

fn path(file: &NamedTempFile) -> Result<&str> {
    file.path().to_str().context("a path that is no text")
}

/// Starts `tcpstate diagnose` in the namespace of the calling thread, for a time such as `2s`, with a file of thresholds.
fn start(duration: &str, rules: &NamedTempFile, arguments: &[&str]) -> Result<Tcpstate> {
    let all = ["diagnose", "--netns", "self", "--duration", duration];
    Tcpstate::start(&[&all[..], &["--rules", path(rules)?], arguments].concat())
}

/// The first words of a run, in text: what it says before it has seen an event or a second look.
pub fn first_words(thresholds: &str) -> Result<String> {
    let rules = rules(thresholds)?;
    let started = start("1h", &rules, &[])?;
    let words = started.written()?;
    let output = started.stop()?;
    ensure!(
        has_result(output.status),
        "{}: {}",
        output.status,
        output.stderr
    );
    Ok(words)
}

/// Changes a setting below `/proc/sys/net`, of the namespace of the calling thread.
pub fn set(setting: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{setting}");
    fs::write(&path, value).with_context(|| path)
}

/// That a finding names this port on this side.
pub fn ensure_at(finding: &Value, role: &str, port: u16) -> Result<()> {
    ensure!(
        finding["role"] == role && finding["service_port"] == port,
        "not of the {role} at {port}: {finding}"
    );
    Ok(())
}

/// That a finding names this process.
pub fn ensure_owner(finding: &Value, pid: u32) -> Result<()> {
    let mut owners = finding["owners"]
        .as_array()
        .context("no list of owners")?
        .iter();
    ensure!(
        owners.any(|owner| owner["pid"] == pid),
        "not of process {pid}: {finding}"
    );
    Ok(())
}
