//! `tcpstate top --once` beside `diagnose`, on the same situation.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;
use tcpstate_core::diagnosis::{RULES, Severity};

use crate::process::{Tcpstate, has_result};

/// A run whose one frame is printed when it is told to end.
pub struct Watching(Tcpstate);

impl Watching {
    /// Starts it in the namespace of the calling thread, with this file of thresholds.
    pub fn start(rules: &str) -> Result<Self> {
        let all = ["top", "--once", "--netns", "self", "--interval", "1h"];
        Tcpstate::start(&[&all[..], &["--rules", rules]].concat()).map(Self)
    }

    /// Ends it: the frame.
    pub fn stop(self) -> Result<Frame> {
        let output = self.0.stop()?;
        ensure!(
            has_result(output.status),
            "top: {}: {}",
            output.status,
            output.stderr
        );
        // Lines are broken between words.
        let words: Vec<&str> = output.stdout.split_whitespace().collect();
        Ok(Frame(words.join(" ")))
    }
}

/// A frame of `top --once`, as one line.
pub struct Frame(String);

impl Frame {
    /// The findings that it shows, by name and severity.
    pub fn found(&self) -> BTreeSet<(String, String)> {
        let severities = [Severity::Note, Severity::Warning, Severity::Critical];
        let all = RULES.iter().flat_map(|rule| {
            severities.map(|severity| (rule.text.name.to_owned(), severity.name().to_owned()))
        });
        all.filter(|(name, severity)| self.0.contains(&format!("{severity} {name}: ")))
            .collect()
    }

    /// That it shows this finding, which `diagnose` printed as JSON, with its place and, where they are known, one of
    /// its processes.
    pub fn ensure_shows(&self, finding: &Value) -> Result<()> {
        let word = |name: &str| finding[name].as_str().unwrap_or_default();
        let begin = format!("{} {}: ", word("severity"), word("name"));
        let place = match (word("role"), finding["service_port"].as_u64()) {
            ("unknown", Some(port)) => format!("port {port}: "),
            (role, Some(port)) => format!("{role} port {port}: "),
            ("unknown", None) => finding["netns"].as_u64().map_or_else(
                || "this host: ".to_owned(),
                |netns| format!("netns {netns}: "),
            ),
            (role, None) => format!("{role}s: "),
        };
        let owners = finding["owners"].as_array().into_iter().flatten();
        let owners: Vec<String> = owners
            .map(|owner| {
                let comm = owner["comm"].as_str().unwrap_or_default();
                format!("{comm} {}, ", owner["pid"])
            })
            .collect();
        let shown = self.0.match_indices(&begin).any(|(at, _)| {
            let rest = self.0.get(at + begin.len()..).unwrap_or_default();
            let whose = rest.split_once(&place).map(|(whose, _)| whose);
            // The owners stand right before the place.
            whose.is_some_and(|whose| {
                !whose.contains(": ")
                    && (owners.is_empty() || owners.iter().any(|owner| whose.contains(owner)))
            })
        });
        ensure!(shown, "top does not show {finding}: {}", self.0);
        Ok(())
    }
}
