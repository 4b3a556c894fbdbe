//! Metrics of findings: those of now, and those that were there.

use std::collections::BTreeMap;

use tcpstate_core::{
    diagnosis::{Finding, Severity},
    present::RunSnapshot,
};

use super::{
    Kind, Metric,
    samples::{FindingPort, Ports},
};

pub(super) static METRICS: &[Metric] = &[Metric {
    stem: "tcpstate_finding",
    kind: Kind::Gauge,
    unit: None,
    labels: &["name", "severity", "port"],
    meaning: "1 while `tcpstate diagnose` would say it, then 0; the port is `none` where a finding is about no port",
    read: |exposed, samples| {
        for (key, is_now) in &exposed.findings.0 {
            let severity = key.severity.name();
            samples.gauge(&[&key.name, &severity, &key.port], u64::from(*is_now))?;
        }
        Ok(())
    },
}];

/// The findings that there were in this run, and whether they are there now. Bounded as its labels are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings(BTreeMap<Key, bool>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: &'static str,
    severity: Severity,
    port: FindingPort,
}

impl Findings {
    /// Takes those of a new snapshot.
    pub(crate) fn take(&mut self, snapshot: &RunSnapshot, ports: &Ports) {
        // Where nobody looks, none is over.
        let Some(now) = &snapshot.findings else {
            return;
        };
        for is_now in self.0.values_mut() {
            *is_now = false;
        }
        let keys = now.iter().map(|finding: &Finding| Key {
            name: finding.text.name,
            severity: finding.severity,
            port: FindingPort(finding.place.port.map(|port| ports.label(Some(port)))),
        });
        self.0.extend(keys.map(|key| (key, true)));
    }
}
