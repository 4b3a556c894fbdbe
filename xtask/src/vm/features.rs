//! Which kernels the tests run on, in which set-ups, and what each of them has: the table that `doctor`
//! and the tests are judged against, and that `docs/kernels.md` shows.
//!
//! What a guest has must work, and what it lacks must be said to be missing: either way round, a
//! difference from this table fails the run.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// A kernel of Debian's.
pub struct Kernel {
    /// As it is asked for: its series, or that it is the newest.
    pub name: &'static str,
    /// Which Debian has it.
    pub debian: &'static str,
    /// Where apt finds it.
    pub suites: &'static [&'static str],
    /// The features that it has not.
    lacks: &'static [&'static str],
}

/// Every kernel, the oldest first.
pub const KERNELS: &[Kernel] = &[
    Kernel {
        name: "5.10",
        debian: "Debian 11",
        suites: &["bullseye", "bullseye-security"],
        // Debian switched MPTCP on later.
        lacks: &["cookie", "task_btf", "mptcp", "nested"],
    },
    Kernel {
        name: "6.1",
        debian: "Debian 12",
        suites: &["bookworm", "bookworm-security"],
        lacks: &["nested"],
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

/// How a guest is set up.
pub struct Variant {
    /// As it is asked for.
    pub name: &'static str,
    /// What is different, in the words of the documentation.
    pub what: &'static str,
    /// What the kernel is told at boot.
    pub boot: &'static str,
    /// The features that are lost by it.
    lacks: &'static [&'static str],
    /// What `doctor` says of the lockdown.
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
        lacks: &["btf", "cookie", "task_btf", "cgroup", "nested"],
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

/// Something that a kernel may have or lack.
pub struct Feature {
    /// The name by which the tests declare that they need it, where they do.
    pub name: &'static str,
    /// What it gives, in the words of the documentation.
    pub gives: &'static str,
    seen: Seen,
}

/// By what a feature is seen from outside.
enum Seen {
    /// The check of `doctor` of this name does not say `missing`.
    Check(&'static str),
    /// The check of `doctor` of this name says neither `missing` nor that this is lacking.
    Part(&'static str, &'static str),
    /// Only by the tests that need it.
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
        gives: "a count of what the kernel skips, in `tracepoint` mode too",
        seen: Seen::Part("attach_tracepoint", "`nested` is unknown"),
    },
    Feature {
        name: "cookie",
        gives: "socket cookies as identities",
        seen: Seen::Part("kernel_types", "socket cookies"),
    },
    Feature {
        name: "task_btf",
        gives: "PID and name without a helper",
        seen: Seen::Part("kernel_types", "bpf_get_current_task_btf"),
    },
    Feature {
        name: "cgroup",
        gives: "the socket's cgroup",
        seen: Seen::Part("kernel_types", "the socket's cgroup"),
    },
    Feature {
        name: "sock_diag",
        gives: "`ls`, and the sockets that were there before",
        seen: Seen::Check("sock_diag"),
    },
    Feature {
        name: "bpf_stats",
        gives: "the program's own cost",
        seen: Seen::Check("bpf_stats"),
    },
    Feature {
        name: "mptcp",
        gives: "MPTCP told from TCP, tried",
        seen: Seen::Tests,
    },
    Feature {
        name: "netem",
        gives: "dwell times under delay, loss and reordering, tried",
        seen: Seen::Tests,
    },
];

/// The features that a kernel set up so has not.
pub fn lacks(kernel: &Kernel, variant: &Variant) -> BTreeSet<&'static str> {
    kernel.lacks.iter().chain(variant.lacks).copied().collect()
}

/// Compares the output of `doctor --json` with what the table says; each difference is a line.
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
                    "{}: it is lacking, and nothing is said of what that costs",
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
    let end = lines.last().context("doctor said nothing")?;
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
{"type":"check","name":"kernel_types","status":"degraded","detail":"","costs":"not there yet: socket cookies (Linux 5.12); bpf_get_current_task_btf (Linux 5.11)"}
{"type":"check","name":"attach_btf","status":"ok","detail":"","costs":null}
{"type":"check","name":"attach_tracepoint","status":"degraded","detail":"","costs":"`nested` is unknown"}
{"type":"check","name":"sock_diag","status":"ok","detail":"","costs":null}
{"type":"check","name":"bpf_stats","status":"ok","detail":"","costs":null}
{"type":"doctor","attach":"btf"}"#;

    fn kernel(name: &str) -> &'static Kernel {
        KERNELS.iter().find(|kernel| kernel.name == name).unwrap()
    }

    #[test]
    fn what_a_kernel_lacks_may_be_missing() {
        assert_eq!(
            judge(kernel("5.10"), &VARIANTS[0], DOCTOR).unwrap(),
            [""; 0]
        );
    }

    #[test]
    fn what_a_kernel_has_may_not_be_missing() {
        let differences = judge(kernel("6.1"), &VARIANTS[0], DOCTOR).unwrap();
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(differences[0].starts_with("cookie:"), "{differences:?}");
        assert!(differences[1].starts_with("task_btf:"), "{differences:?}");
    }

    #[test]
    fn what_a_variant_takes_away_may_not_be_there() {
        let confidentiality = VARIANTS.iter().find(|it| it.name == "confidentiality");
        let differences = judge(kernel("5.10"), confidentiality.unwrap(), DOCTOR).unwrap();
        assert_eq!(differences.len(), 2, "{differences:?}");
        assert!(differences[0].starts_with("tracepoint:"), "{differences:?}");
        assert!(differences[1].starts_with("lockdown"), "{differences:?}");
    }

    #[test]
    fn what_is_lacking_is_in_the_table() {
        let lists = KERNELS.iter().map(|kernel| kernel.lacks);
        for name in lists.chain(VARIANTS.iter().map(|it| it.lacks)).flatten() {
            assert!(FEATURES.iter().any(|it| it.name == *name), "{name}");
        }
    }
}
