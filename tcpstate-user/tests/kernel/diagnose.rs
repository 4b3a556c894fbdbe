//! `tcpstate diagnose`: each finding is provoked for real, and named with its service port and its process; what looks
//! alike is not taken for it.

#[path = "../support/situations.rs"]
mod situations;

mod closing;
mod connects;
mod ends;
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

use self::situations::SITUATIONS;
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

/// A run of `tcpstate diagnose --json` in the namespace of the calling thread.
pub struct Diagnosis {
    /// The findings, the worst first.
    pub findings: Vec<Value>,
    /// The last line.
    pub summary: Value,
}

impl Diagnosis {
    /// Runs it for a time such as `2s`, with a file of thresholds that has these lines. `while_it_runs` is called when it
    /// watches: what it does is seen as events.
    pub fn of(
        duration: &str,
        thresholds: &str,
        while_it_runs: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let (started, _rules) = start(duration, thresholds, &["--json"])?;
        while_it_runs()?;
        Self::read(&started.finish()?)
    }

    /// The same until `while_it_runs` is done, however long that takes.
    pub fn during(thresholds: &str, while_it_runs: impl FnOnce() -> Result<()>) -> Result<Self> {
        let (started, _rules) = start("1h", thresholds, &["--json"])?;
        while_it_runs()?;
        Self::read(&started.stop()?)
    }

    fn read(output: &Output) -> Result<Self> {
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
        Ok(Self { findings, summary })
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

    /// That the findings are those of this situation, and no others.
    pub fn is(&self, name: &str) -> Result<()> {
        let mut all = SITUATIONS.iter();
        let situation = all.find(|situation| situation.name == name);
        let situation = situation.with_context(|| format!("no situation {name}"))?;
        let word =
            |finding: &'_ Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        let findings = self.findings.iter();
        let found: BTreeSet<(String, String)> = findings
            .map(|finding| (word(finding, "name"), word(finding, "severity")))
            .filter(|(name, _)| !situation.may_be.contains(&name.as_str()))
            .collect();
        let expected = situation.found.iter();
        let expected: BTreeSet<_> = expected
            .map(|&(name, severity)| (name.to_owned(), severity.to_owned()))
            .collect();
        ensure!(
            found == expected,
            "{} ({}): {}",
            situation.name,
            situation.words,
            self.words()
        );
        Ok(())
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

/// Starts `tcpstate diagnose` in the namespace of the calling thread, for a time such as `2s`, with a file of thresholds
/// that has these lines. The file is returned.
fn start(
    duration: &str,
    thresholds: &str,
    arguments: &[&str],
) -> Result<(Tcpstate, NamedTempFile)> {
    let rules = NamedTempFile::new()?;
    fs::write(&rules, thresholds)?;
    let path = rules.path().to_str().context("a path that is no text")?;
    let all = ["diagnose", "--netns", "self", "--duration", duration];
    let started = Tcpstate::start(&[&all[..], &["--rules", path], arguments].concat())?;
    Ok((started, rules))
}

/// The first words of a run, in text: what it says before it has seen an event or a second look.
pub fn first_words(thresholds: &str) -> Result<String> {
    let (started, _rules) = start("1h", thresholds, &[])?;
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
