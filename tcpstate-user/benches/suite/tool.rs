//! The compared tools: tcpstate's views, and the peers as Debian packages them.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{
    generator::{PER_CONNECTION, PORTS},
    process::{Ended, Ready, TCPSTATE},
};

/// The case without any tool, to which the others are compared.
pub const UNTRACED: &str = "untraced";

/// A program, and its use here.
#[derive(Clone)]
pub struct Tool {
    /// Its name in the tables.
    pub name: &'static str,
    program: &'static str,
    arguments: Vec<String>,
    /// The Debian package of a peer; `None` for tcpstate.
    package: Option<&'static str>,
    pub ready: Ready,
    /// Number of lines, or counts, that it reports for one connection of the churn.
    pub per_connection: u64,
    count: fn(&Ended) -> Result<Counted>,
}

/// The report of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Number of lines, or counts, for the churn's ports.
    pub reported: u64,
    /// Number of events that it reports as lost.
    pub reported_lost: u64,
}

impl Tool {
    pub fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(&self.arguments);
        command
    }

    /// Counts its report of the churn.
    pub fn count(&self, ended: &Ended) -> Result<Counted> {
        (self.count)(ended).with_context(|| {
            format!(
                "the report of {}: {:.500} {:.500}",
                self.name, ended.output, ended.errors
            )
        })
    }

    /// The reason why it cannot be measured here, if there is one.
    pub fn missing(&self) -> Option<String> {
        let package = self.package?;
        let found = Command::new(self.program).arg("--version").output();
        found
            .is_err()
            .then(|| format!("not installed (Debian: {package})"))
    }

    pub const fn is_ours(&self) -> bool {
        self.package.is_none()
    }
}

fn ours(
    name: &'static str,
    arguments: &str,
    per_connection: u64,
    count: fn(&Ended) -> Result<Counted>,
) -> Tool {
    Tool {
        name,
        program: TCPSTATE,
        arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        package: None,
        ready: Ready::Runs,
        per_connection,
        count,
    }
}

/// A command of tcpstate, filtered to the churn's ports so that its counts are exact whatever else happens on
/// the host. The filter passes every transition of the churn.
fn filtered(
    name: &'static str,
    arguments: &str,
    per_connection: u64,
    count: fn(&Ended) -> Result<Counted>,
) -> Tool {
    let ports = format!("{arguments} -P {}-{}", PORTS.start(), PORTS.end());
    ours(name, &ports, per_connection, count)
}

const RATES: &str = "tcpstate rates";

fn rates() -> Tool {
    filtered(RATES, "rates --json", PER_CONNECTION, count_passed)
}

/// The case of a server that is scraped.
#[cfg(feature = "serve")]
pub const SERVED: &str = "tcpstate serve, scraped each second";

/// `rates`, and `serve` at this address, by the same filter.
#[cfg(feature = "serve")]
pub fn served(address: std::net::SocketAddr) -> [Tool; 2] {
    let arguments = format!("serve --json --listen {address}");
    let serve = filtered(SERVED, &arguments, PER_CONNECTION, count_passed);
    [rates(), serve]
}

/// tcpstate's views, filtered.
pub fn views() -> Vec<Tool> {
    let ours = filtered;
    vec![
        ours("tcpstate trace", "trace", PER_CONNECTION, count_lines),
        ours("tcpstate life", "life", 2, count_lines),
        rates(),
        ours(
            "tcpstate rates --in-kernel",
            "rates --in-kernel --json",
            PER_CONNECTION,
            count_passed,
        ),
        ours("tcpstate hist", "hist --json", PER_CONNECTION, count_passed),
        ours(
            "tcpstate record",
            "record --json -w /dev/null",
            PER_CONNECTION,
            count_passed,
        ),
        ours(
            "tcpstate diagnose --follow",
            "diagnose --follow --json",
            PER_CONNECTION,
            count_passed,
        ),
    ]
}

/// tcpstate's streaming views as they are used, without a filter.
pub fn unfiltered() -> Vec<Tool> {
    [
        (RATES, "rates --json"),
        ("tcpstate trace --json", "trace --json"),
        ("tcpstate record", "record --json -w /dev/null"),
        (
            "tcpstate rates --attach tracepoint",
            "rates --json --attach tracepoint",
        ),
    ]
    .map(|(name, arguments)| ours(name, arguments, PER_CONNECTION, count_passed))
    .into()
}

/// Other tools that answer the same question.
pub fn peers() -> Vec<Tool> {
    const EACH: &str = "tracepoint:sock:inet_sock_set_state /args->protocol == 6/ { \
        printf(\"%llu %d %d %d %d %d %s\\n\", nsecs, args->sport, args->dport, args->oldstate, \
        args->newstate, pid, comm) }";
    let count = format!(
        "tracepoint:sock:inet_sock_set_state /args->protocol == 6 && \
         ((args->sport >= {0} && args->sport <= {1}) || (args->dport >= {0} && args->dport <= {1}))/ \
         {{ @ = count() }}",
        PORTS.start(),
        PORTS.end()
    );
    let peer = |name, package, program, arguments: &[&str], ready, per_connection, count| Tool {
        name,
        program,
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        package: Some(package),
        ready,
        per_connection,
        count,
    };
    vec![
        peer(
            "tcpstates",
            "libbpf-tools",
            "tcpstates",
            &[],
            Ready::Runs,
            PER_CONNECTION,
            |ended| count_columns(ended, [4, 6]),
        ),
        peer(
            "tcplife",
            "libbpf-tools",
            "tcplife",
            &[],
            Ready::Runs,
            2,
            |ended| count_columns(ended, [3, 5]),
        ),
        peer(
            "bpftrace, a line per event",
            "bpftrace",
            "bpftrace",
            &["-e", EACH],
            Ready::Runs,
            PER_CONNECTION,
            count_bpftrace_lines,
        ),
        peer(
            BPFTRACE_COUNT,
            "bpftrace",
            "bpftrace",
            &["-e", &count],
            Ready::Runs,
            PER_CONNECTION,
            count_bpftrace_count,
        ),
        peer(
            "tcpdump of SYN, FIN, RST",
            "tcpdump",
            "tcpdump",
            &[
                "-i",
                "lo",
                "-n",
                "-w",
                "/dev/null",
                "(tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0) or (ip6[6] = 6 and ip6[53] & 7 != 0)",
            ],
            Ready::Says("listening on"),
            4,
            count_tcpdump,
        ),
    ]
}

/// The tool that counts in the kernel and loses nothing: its count also checks the generator's.
pub const BPFTRACE_COUNT: &str = "bpftrace, count() in the kernel";

/// The packages of the peers that watch the kernel.
pub const PACKAGES: [&str; 4] = ["libbpf-tools", "bpftrace", "tcpdump", "iproute2"];

/// The version of each of these packages of Debian.
pub fn versions(packages: &[&str]) -> Vec<(String, String)> {
    let query = |package: &str| {
        let output = Command::new("dpkg-query")
            .args(["--show", "--showformat=${Version}", package])
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    packages
        .iter()
        .map(|&package| {
            let version = query(package).unwrap_or_else(|| "not installed".to_owned());
            (package.to_owned(), version)
        })
        .collect()
}

/// Counts a line per event after the header; the summary is on standard error.
fn count_lines(ended: &Ended) -> Result<Counted> {
    let mut lines = ended.errors.lines();
    // The books are shown where something is missing.
    let lost = match lines.clone().find_map(|line| line.strip_prefix("seen ")) {
        Some(books) => books.rsplit_once(" lost ").map(|(_, lost)| lost),
        None => lines.any(|line| line.contains(", none ")).then_some("0"),
    };
    let lost = lost.context("no losses in the summary")?;
    Ok(Counted {
        reported: ended.output.lines().skip(1).count() as u64,
        reported_lost: lost.replace(',', "").parse()?,
    })
}

/// Reads the count from the summary in JSON.
fn count_passed(ended: &Ended) -> Result<Counted> {
    let summary = summary(&ended.output)?;
    let number = |pointer| summary.pointer(pointer).and_then(serde_json::Value::as_u64);
    Ok(Counted {
        reported: number("/selection/passed").context("selection.passed")?,
        reported_lost: number("/accounting/lost").context("accounting.lost")?,
    })
}

/// Reads the summary of a run with `--json`; its books must balance.
pub fn summary(output: &str) -> Result<serde_json::Value> {
    let last = output.lines().last().context("no output")?;
    let summary: serde_json::Value = serde_json::from_str(last)?;
    let books = &summary["accounting"];
    let number = |name: &str| books[name].as_u64().context(name.to_owned());
    ensure!(
        number("seen")? == number("filtered")? + number("submitted")? + number("lost")?
            && number("submitted")? == number("received")? + number("rejected")?,
        "the books do not balance: {books}"
    );
    Ok(summary)
}

fn is_churn_port(field: &str) -> bool {
    field.parse().is_ok_and(|port: u16| PORTS.contains(&port))
}

/// Counts the lines with a port of the churn in one of these columns, numbered from the right because
/// the columns left of them can contain blanks.
fn count_columns(ended: &Ended, columns: [usize; 2]) -> Result<Counted> {
    ensure!(ended.output.contains("LPORT"), "no header");
    let of_churn = |line: &&str| {
        columns.iter().any(|&column| {
            let field = line.split_ascii_whitespace().rev().nth(column);
            field.is_some_and(is_churn_port)
        })
    };
    let lost = ended.errors.lines().filter_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("lost ")?
            .split(' ')
            .next()?
            .parse::<u64>()
            .ok()
    });
    Ok(Counted {
        reported: ended.output.lines().filter(of_churn).count() as u64,
        reported_lost: lost.sum(),
    })
}

fn count_bpftrace_lines(ended: &Ended) -> Result<Counted> {
    ensure!(
        ended.output.contains("Attaching"),
        "it did not report that it attaches"
    );
    let of_churn = |line: &&str| line.split(' ').skip(1).take(2).any(is_churn_port);
    Ok(Counted {
        reported: ended.output.lines().filter(of_churn).count() as u64,
        reported_lost: bpftrace_lost(ended),
    })
}

fn count_bpftrace_count(ended: &Ended) -> Result<Counted> {
    let count = ended
        .output
        .lines()
        .find_map(|line| line.strip_prefix("@: "));
    Ok(Counted {
        reported: count.context("no `@: `")?.trim().parse()?,
        reported_lost: bpftrace_lost(ended),
    })
}

/// Sums the lines `Lost 123 events`, which bpftrace prints among its output.
fn bpftrace_lost(ended: &Ended) -> u64 {
    let said = ended.output.lines().chain(ended.errors.lines());
    said.filter_map(|line| {
        line.strip_prefix("Lost ")?
            .split(' ')
            .next()?
            .parse::<u64>()
            .ok()
    })
    .sum()
}

fn count_tcpdump(ended: &Ended) -> Result<Counted> {
    let number = |what: &str| {
        ended
            .errors
            .lines()
            .find_map(|line| line.strip_suffix(what)?.trim().parse::<u64>().ok())
            .with_context(|| format!("no `{what}`"))
    };
    Ok(Counted {
        reported: number(" packets captured")?,
        reported_lost: number(" packets dropped by kernel")?,
    })
}
