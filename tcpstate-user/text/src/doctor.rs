//! `tcpstate doctor`: what this host allows, and what is missing.
//!
//! Shows a [`Report`]; `tcpstate-capture` makes it.

use std::io::{self, Write};

use serde::Serialize;
use tcpstate_core::{
    outlet::{GREEN, OFF, RED, YELLOW},
    report::{Check, Report, Status},
};

use crate::format::{json::Lines, text::write_wrapped};

/// Columns of text after which a line is broken at most, where words allow: longer ones are hard to read.
const WIDTH: usize = 100;

/// Writes the report for people. `colour`: mark what is not well in colour. `width`: the terminal's.
pub fn write_text(
    report: &Report,
    colour: bool,
    width: Option<usize>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let width = width.map_or(WIDTH, |width| width.min(WIDTH));
    writeln!(
        out,
        "tcpstate {} on {}",
        env!("CARGO_PKG_VERSION"),
        report.host
    )?;
    writeln!(out)?;
    let names: Vec<_> = report
        .checks
        .iter()
        .map(|check| check.name.replace('_', " "))
        .collect();
    let name_width = names.iter().map(String::len).max().unwrap_or(0);
    let status_width = Status::Degraded.name().len();
    let indent = status_width + name_width + 4;
    for (at, (check, name)) in report.checks.iter().zip(&names).enumerate() {
        let (on, off) = if colour {
            (colour_of(check.status), OFF)
        } else {
            ("", "")
        };
        let status = check.status.name();
        write!(out, "{on}{status:status_width$}{off}  {name:name_width$}  ")?;
        write_wrapped(out, width, indent, "", &check.detail)?;
        if let Some(costs) = &check.costs {
            write!(out, "{:indent$}", "")?;
            write_wrapped(out, width, indent, "costs: ", costs)?;
        }
        if let Some(remedy) = &check.remedy {
            let said = |earlier: &Check| earlier.remedy.as_ref() == Some(remedy);
            let again = report.checks.iter().take(at).find(|earlier| said(earlier));
            write!(out, "{:indent$}", "")?;
            match again {
                Some(earlier) => {
                    writeln!(out, "to do: see {}", earlier.name.replace('_', " "))?;
                }
                None => write_wrapped(out, width, indent, "to do: ", remedy)?,
            }
        }
    }
    writeln!(out)?;
    match report.attach {
        Some(mode) => writeln!(out, "`tcpstate trace` works here, with --attach {mode}."),
        None => writeln!(
            out,
            "`tcpstate trace` cannot run here. Recordings (-r FILE) can be read."
        ),
    }
}

const fn colour_of(status: Status) -> &'static str {
    match status {
        Status::Ok => GREEN,
        Status::Degraded => YELLOW,
        Status::Missing => RED,
    }
}

/// Writes the report as one JSON object a line: a `check` for each, then the `doctor` line.
pub fn write_json(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let mut lines = Lines::default();
    for check in &report.checks {
        let Check {
            name,
            status,
            detail,
            costs,
            remedy,
        } = check;
        let line = Line::Check {
            name,
            status: status.name(),
            detail,
            costs: costs.as_deref(),
            remedy: remedy.as_deref(),
        };
        lines.write(&line, out)?;
    }
    let attach = report.attach.map(|mode| mode.to_string());
    let line = Line::Doctor {
        ok: attach.is_some(),
        attach: attach.as_deref(),
        version: env!("CARGO_PKG_VERSION"),
        host: &report.host,
        kernel: &report.kernel,
    };
    lines.write(&line, out)
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Check {
        name: &'a str,
        status: &'a str,
        detail: &'a str,
        costs: Option<&'a str>,
        remedy: Option<&'a str>,
    },
    Doctor {
        ok: bool,
        attach: Option<&'a str>,
        version: &'a str,
        host: &'a str,
        kernel: &'a str,
    },
}

#[cfg(test)]
mod tests {
    use tcpstate_core::mode::Mode;

    use super::*;

    fn report() -> Report {
        let check = |name, status, detail: &str, costs: Option<&str>, remedy: Option<&str>| Check {
            name,
            status,
            detail: detail.to_owned(),
            costs: costs.map(str::to_owned),
            remedy: remedy.map(str::to_owned),
        };
        let remedy =
            Some("Give them:\n  sudo setcap cap_bpf,cap_perfmon=ep /usr/local/bin/tcpstate");
        Report {
            host: "web1".into(),
            kernel: "6.1.0-49-amd64".into(),
            checks: vec![
                check("kernel", Status::Ok, "6.1.0-49-amd64", None, None),
                check(
                    "attach_btf",
                    Status::Missing,
                    "not permitted",
                    Some("everything"),
                    remedy,
                ),
                check(
                    "bpf_stats",
                    Status::Degraded,
                    &"word ".repeat(20),
                    None,
                    remedy,
                ),
            ],
            attach: None,
        }
    }

    fn text(report: &Report, colour: bool) -> String {
        let mut out = Vec::new();
        write_text(report, colour, None, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_aligned_wrapped_and_says_a_remedy_once() {
        let expected = format!(
            "tcpstate {} on web1

ok        kernel      6.1.0-49-amd64
missing   attach btf  not permitted
                      costs: everything
                      to do: Give them:
                               sudo setcap cap_bpf,cap_perfmon=ep /usr/local/bin/tcpstate
degraded  bpf stats   word word word word word word word word word word word word word word word
                      word word word word word\x20
                      to do: see attach btf

`tcpstate trace` cannot run here. Recordings (-r FILE) can be read.
",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(text(&report(), false), expected);
    }

    #[test]
    fn colour_changes_nothing_else() {
        let coloured = text(&report(), true);
        assert!(coloured.contains("\x1b[31mmissing \x1b[0m  attach btf"));
        let plain = ["\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"]
            .iter()
            .fold(coloured, |text, code| text.replace(code, ""));
        assert_eq!(plain, text(&report(), false));
    }

    #[test]
    fn json_has_an_object_for_each_check_and_the_verdict_last() {
        let report = Report {
            attach: Some(Mode::Tracepoint),
            ..report()
        };
        let mut out = Vec::new();
        write_json(&report, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<serde_json::Value> = out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[0],
            serde_json::json!({
                "type": "check", "name": "kernel", "status": "ok", "detail": "6.1.0-49-amd64",
                "costs": null, "remedy": null,
            })
        );
        assert_eq!(lines[1]["costs"], "everything");
        assert_eq!(
            lines[3],
            serde_json::json!({
                "type": "doctor", "ok": true, "attach": "tracepoint",
                "version": env!("CARGO_PKG_VERSION"), "host": "web1", "kernel": "6.1.0-49-amd64",
            })
        );
    }
}
