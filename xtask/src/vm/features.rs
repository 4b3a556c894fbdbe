//! The kernels that the tests run on, their set-ups, and the features of each: the table that `doctor`
//! and the tests are compared with, and that `docs/kernels.md` shows.
//!
//! A feature that a guest has must work, and one that it lacks must be reported as missing. Any
//! difference from this table fails the run.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A Debian kernel.
pub struct Kernel {
    /// Its name on the command line: its series, or `newest`.
    pub name: &'static str,
    /// The Debian release that has it.
    pub debian: &'static str,
    /// The suites in which apt finds it.
    pub suites: &'static [&'static str],
    /// The features that it lacks.
    lacks: &'static [&'static str],
}

/// Every kernel, the oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        debian: "Debian 11",
        suites: &["bullseye", "bullseye-security"],
        // Debian enabled MPTCP later.
        lacks: &["cookie", "task_btf", "mptcp", "nested", "reset_reason"],
    },
    Kernel {
        name: "6.1",
        debian: "Debian 12",
        suites: &["bookworm", "bookworm-security"],
        lacks: &["nested", "reset_reason"],
    },
    Kernel {
        name: "6.12",
        debian: "Debian 13",
        suites: &["trixie", "trixie-security"],
        lacks: &[],
    },
    Kernel {
        name: "newest",
        debian: "Debian 13 backports or unstable",
        suites: &["trixie-backports", "sid"],
        lacks: &[],
    },
];

/// A set-up of a guest.
pub struct Variant {
    /// Its name on the command line.
    pub name: &'static str,
    /// The difference from the plain set-up, in the words of the documentation.
    pub what: &'static str,
    /// Parameters of the kernel at boot.
    pub boot: &'static str,
    /// The features that it removes.
    lacks: &'static [&'static str],
    /// The lockdown that `doctor` reports.
    lockdown: &'static str,
}

/// Every variant, the plain one first.
pub const VARIANTS: &[Variant] = &[
    Variant {
        name: "plain",
        what: "as Debian boots it",
        boot: "",
        lacks: &[],
        lockdown: "none",
    },
    Variant {
        name: "integrity",
        what: "`lockdown=integrity`",
        boot: "lockdown=integrity",
        lacks: &[],
        lockdown: "integrity",
    },
    Variant {
        name: "confidentiality",
        what: "`lockdown=confidentiality`",
        boot: "lockdown=confidentiality",
        lacks: &["tracepoint", "nested"],
        lockdown: "confidentiality",
    },
    Variant {
        name: "no-btf",
        what: "`/sys/kernel/btf` hidden",
        boot: "",
        lacks: &[
            "btf",
            "cookie",
            "task_btf",
            "cgroup",
            "nested",
            "resets",
            "reset_reason",
        ],
        lockdown: "none",
    },
    Variant {
        name: "no-tracefs",
        what: "tracefs not mounted",
        boot: "",
        lacks: &["tracepoint", "nested"],
        lockdown: "none",
    },
];

/// A feature that a kernel may have or lack.
pub struct Feature {
    /// The name by which tests declare that they need it.
    pub name: &'static str,
    /// The benefit for the user, in the words of the documentation.
    pub gives: &'static str,
    seen: Seen,
}

/// The visible effect of a feature.
enum Seen {
    /// The `doctor` check of this name does not report `missing`.
    Check(&'static str),
    /// The `doctor` check of this name reports neither `missing` nor that this part is missing.
    Part(&'static str, &'static str),
    /// Only the tests that need it show it.
    Tests,
}

/// Every feature.
pub const FEATURES: &[Feature] = &[
    Feature {
        name: "btf",
        gives: "`--attach btf`",
        seen: Seen::Check("attach_btf"),
    },
    Feature {
        name: "tracepoint",
        gives: "`--attach tracepoint`",
        seen: Seen::Check("attach_tracepoint"),
    },
    Feature {
        name: "nested",
        gives: "a count of skipped transitions in `tracepoint` mode",
        seen: Seen::Part("attach_tracepoint", "`nested` is unknown"),
    },
    Feature {
        name: "cookie",
        gives: "socket cookies as identities",
        seen: Seen::Part("kernel_types", "socket cookies"),
    },
    Feature {
        name: "task_btf",
        gives: "process ID and name without a helper call",
        seen: Seen::Part("kernel_types", "bpf_get_current_task_btf"),
    },
    Feature {
        name: "cgroup",
        gives: "the socket's cgroup",
        seen: Seen::Part("kernel_types", "the socket's cgroup"),
    },
    Feature {
        name: "resets",
        gives: "the causes that the kernel's own resets decide",
        seen: Seen::Part("resets", "the cause is unknown"),
    },
    Feature {
        name: "reset_reason",
        gives: "the reasons of the kernel's own resets",
        seen: Seen::Part("resets", "no `reset_reason`"),
    },
    Feature {
        name: "sock_diag",
        gives: "`ls`, and seeding with the sockets that exist at the start",
        seen: Seen::Check("sock_diag"),
    },
    Feature {
        name: "bpf_stats",
        gives: "measuring the cost of the BPF programs",
        seen: Seen::Check("bpf_stats"),
    },
    Feature {
        name: "mptcp",
        gives: "MPTCP distinguished from TCP, tested",
        seen: Seen::Tests,
    },
    Feature {
        name: "netem",
        gives: "dwell times under delay, loss and reordering, tested",
        seen: Seen::Tests,
    },
];

/// The features that a kernel lacks in this set-up.
pub fn lacks(kernel: &Kernel, variant: &Variant) -> BTreeSet<&'static str> {
    kernel.lacks.iter().chain(variant.lacks).copied().collect()
}

/// Compares the output of `doctor --json` with the table. Returns a line for each difference.
pub fn judge(kernel: &Kernel, variant: &Variant, doctor: &str) -> Result<Vec<String>> {
    let lines = doctor
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("doctor: {line}")));
    let lines: Vec<Value> = lines.collect::<Result<_>>()?;
    let check = |name: &str| {
        let mut checks = lines.iter().filter(|line| line["type"] == "check");
        let check = checks.find(|line| line["name"] == name);
        check.with_context(|| format!("doctor has no check {name}"))
    };
    let lacks = lacks(kernel, variant);
    let mut differences = Vec::new();
    for feature in FEATURES {
        let (name, lacking) = match feature.seen {
            Seen::Check(name) => (name, check(name)?["status"] == "missing"),
            Seen::Part(name, words) => {
                let check = check(name)?;
                let costs = check["costs"].as_str().unwrap_or_default();
                (name, check["status"] == "missing" || costs.contains(words))
            }
            Seen::Tests => continue,
        };
        if lacking != lacks.contains(feature.name) {
            let says = if lacking { "lacking" } else { "there" };
            differences.push(format!(
                "{}: doctor says that it is {says}, the table says otherwise: {}",
                feature.name,
                check(name)?
            ));
        }
        if lacking {
            let reason = &check(name)?["costs"];
            if reason.as_str().is_none_or(str::is_empty) {
                differences.push(format!(
                    "{}: it is missing, and doctor does not report the consequences",
                    feature.name
                ));
            }
        }
    }
    let lockdown = check("lockdown")?;
    if lockdown["detail"] != variant.lockdown {
        differences.push(format!("lockdown is not {}: {lockdown}", variant.lockdown));
    }
    let attach = if lacks.contains("btf") {
        "tracepoint"
    } else {
        "btf"
    };
    let end = lines.last().context("doctor printed nothing")?;
    ensure!(end["type"] == "doctor", "doctor did not end well: {end}");
    if end["attach"] != attach {
        differences.push(format!("`auto` should take {attach}: {end}"));
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCTOR: &str = r#"{"type":"check","name":"lockdown","status":"ok","detail":"none","costs":null}
{"type":"check","name":"kernel_types","status":"degraded","detail":"","costs":"missing: socket cookies (Linux 5.12); bpf_get_current_task_btf (Linux 5.11)"}
{"type":"check","name":"attach_btf","status":"ok","detail":"","costs":null}
{"type":"check","name":"attach_tracepoint","status":"degraded","detail":"","costs":"`nested` is unknown"}
{"type":"check","name":"resets","status":"degraded","detail":"","costs":"there is no `reset_reason`"}
{"type":"check","name":"sock_diag","status":"ok","detail":"","costs":null}
{"type":"check","name":"bpf_stats","status":"ok","detail":"","costs":null}
{"type":"doctor","attach":"btf"}"#;

    fn kernel(name: &str) -> &'static Kernel {
        KERNELS.iter().find(|kernel| kernel.name == name).unwrap()
    }

    #[test]
    fn a_feature_that_a_kernel_lacks_may_be_missing() {
        assert_eq!(
            judge(kernel("5.10"), &VARIANTS[0], DOCTOR).unwrap(),
            [""; 0]
        );
    }

    #[test]
    fn a_feature_that_a_kernel_has_may_not_be_missing() {
        let differences = judge(kernel("6.1"), &VARIANTS[0], DOCTOR).unwrap();
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(differences[0].starts_with("cookie:"), "{differences:?}");
        assert!(differences[1].starts_with("task_btf:"), "{differences:?}");
    }

    #[test]
    fn a_feature_that_a_variant_removes_may_not_be_there() {
        let confidentiality = VARIANTS.iter().find(|it| it.name == "confidentiality");
        let differences = judge(kernel("5.10"), confidentiality.unwrap(), DOCTOR).unwrap();
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(differences[0].starts_with("tracepoint:"), "{differences:?}");
        assert!(differences[1].starts_with("lockdown"), "{differences:?}");
    }

    #[test]
    fn every_missing_feature_is_in_the_table() {
        let lists = KERNELS.iter().map(|kernel| kernel.lacks);
        for name in lists.chain(VARIANTS.iter().map(|it| it.lacks)).flatten() {
            assert!(FEATURES.iter().any(|it| it.name == *name), "{name}");
        }
    }
}
