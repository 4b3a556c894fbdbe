//! The files in `deploy/prometheus` and `deploy/grafana`: their rules and queries are about metrics that exist, each alert has
//! its section in `docs/alerts.md`, and promtool sees it fire and not fire. A kernel test gives all queries to a real Prometheus.
//!
//! `TCPSTATE_BLESS=1 cargo test -p tcpstate --test alerts` writes the dashboard anew.

#![cfg(feature = "serve")]

#[path = "support/dashboard.rs"]
mod dashboard;
#[path = "support/queries.rs"]
mod queries;

use std::{collections::BTreeSet, fs, io, path::PathBuf, process::Command};

use self::queries::{ALERTS, RECORDING};
use clap::Parser as _;
use serde_json::Value;
use tcpstate_cli::Cli;
use tcpstate_core::{
    diagnosis::RULES,
    filter::{CauseSet, StateSet},
};
use tcpstate_serve::metrics::{Kind, tables};

const TESTS: &str = include_str!("../../deploy/prometheus/alerts.test.yml");
const PAGE: &str = include_str!("../../docs/alerts.md");

/// Labels that Prometheus adds.
const ADDED: [&str; 3] = ["job", "instance", "le"];

fn workspace(path: &str) -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join(path)
}

#[test]
fn the_dashboard_is_what_its_table_says() {
    let made = dashboard::dashboard();
    if std::env::var_os("TCPSTATE_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&made).unwrap() + "\n";
        fs::write(workspace("deploy/grafana/tcpstate.json"), text).unwrap();
        return;
    }
    let written: Value = serde_json::from_str(queries::DASHBOARD).unwrap();
    assert!(made == written, "TCPSTATE_BLESS=1 writes it anew");
}

/// A rule: what follows `alert` or `record`, its expression in a line, and all of its text.
struct Rule<'a> {
    name: &'a str,
    expression: String,
    text: &'a str,
}

fn rules<'a>(file: &'a str, kind: &str) -> Vec<Rule<'a>> {
    let start = format!("{kind}: ");
    let parts = file.split("\n      - ").skip(1);
    let rules: Vec<_> = parts
        .map(|text| {
            let name = text.strip_prefix(&start).expect("only rules of this kind");
            let (_, rest) = text.split_once("expr: |\n").expect("an expression");
            let lines = rest
                .lines()
                .map_while(|line| line.strip_prefix("          "));
            Rule {
                name: name.lines().next().unwrap(),
                expression: lines.collect::<Vec<_>>().join(" "),
                text,
            }
        })
        .collect();
    assert!(rules.len() > 5, "{}", rules.len());
    rules
}

#[test]
fn queries_are_about_metrics_that_exist() {
    let (alerts, recording) = (rules(ALERTS, "alert"), rules(RECORDING, "record"));
    let recorded: BTreeSet<&str> = recording.iter().map(|rule| rule.name).collect();
    let expressions = alerts.iter().chain(&recording);
    let expressions = expressions.map(|rule| rule.expression.clone());
    let mut asked = BTreeSet::new();
    for query in queries::of_dashboard().into_iter().chain(expressions) {
        let names = names(&query);
        assert!(!names.is_empty(), "{query}");
        for (name, matchers) in names {
            if name.contains(':') {
                assert!(recorded.contains(&*name), "{name} is not recorded: {query}");
                asked.insert(name);
                continue;
            }
            check_metric(&name, &matchers, &query);
        }
    }
    for name in recorded {
        assert!(asked.contains(name), "nobody asks for {name}");
    }
}

/// A metric is one of ours, or of Prometheus itself, and has the labels that are asked for.
fn check_metric(name: &str, matchers: &[(String, String)], query: &str) {
    let of_prometheus = ["up", "scrape_duration_seconds"].contains(&name);
    let metric = tables().find(|metric| match metric.kind {
        Kind::Histogram => {
            let part = name.strip_prefix(&metric.name());
            matches!(part, Some("_bucket" | "_sum" | "_count"))
        }
        _ => metric.name() == name,
    });
    assert!(
        metric.is_some() || of_prometheus,
        "no metric {name}: {query}"
    );
    let labels = metric.map_or(&[][..], |metric| metric.labels);
    for (label, value) in matchers {
        let is_there = labels.contains(&&**label) || ADDED.contains(&&**label);
        assert!(is_there, "{name} has no label {label}: {query}");
        for word in value.split('|').filter(|word| *word != ".*") {
            let is_right = match &**label {
                "state" | "from" | "to" => word.parse::<StateSet>().is_ok(),
                "cause" => word.parse::<CauseSet>().is_ok(),
                "role" => ["client", "server", "unknown"].contains(&word),
                "severity" => ["critical", "warning", "note"].contains(&word),
                "name" => RULES.iter().any(|rule| rule.text.name == word),
                _ => true,
            };
            assert!(is_right, "{label} is never {word}: {query}");
        }
    }
}

/// The metrics in a query, each with its matchers: labels and values.
fn names(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut rest = query;
    while let Some(at) = rest.find(|c: char| is_part(c) || c == '[' || c == '"') {
        rest = &rest[at..];
        // A time, and a string.
        if let Some(end) = [('[', ']'), ('"', '"')].iter().find_map(|&(begin, end)| {
            let inside = rest.strip_prefix(begin)?;
            Some(&inside[inside.find(end)? + 1..])
        }) {
            rest = end;
            continue;
        }
        let length = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(length);
        rest = after;
        let mut matchers = Vec::new();
        if let Some((inside, after)) = rest.strip_prefix('{').and_then(|all| all.split_once('}')) {
            // No value has a comma.
            for matcher in inside.split(',') {
                let (label, rest) = matcher.split_once(['=', '!']).expect("a matcher");
                let value = rest.trim_start_matches(['=', '~']).trim_matches('"');
                matchers.push((label.to_owned(), value.to_owned()));
            }
            rest = after;
        }
        let is_ours = ["tcpstate_", "process_"]
            .iter()
            .any(|start| name.starts_with(start));
        if is_ours || name.contains(':') || !matchers.is_empty() {
            found.push((name.to_owned(), matchers));
        }
    }
    found
}

#[test]
fn names_in_a_query_are_found() {
    let query = "sum by (job) (rate(tcpstate_a{b=\"c_d\",e!~\"f|g\"}[5m])) / tcpstate_x:y + up{job=\"z\"} > 3";
    let found = names(query);
    let names: Vec<&str> = found.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["tcpstate_a", "tcpstate_x:y", "up"]);
    let pair = |label: &str, value: &str| (label.to_owned(), value.to_owned());
    assert_eq!(found[0].1, [pair("b", "c_d"), pair("e", "f|g")]);
}

#[test]
fn each_alert_has_its_runbook() {
    let headings: Vec<&str> = PAGE
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let alerts = rules(ALERTS, "alert");
    let names: Vec<&str> = alerts.iter().map(|rule| rule.name).collect();
    assert_eq!(
        names, headings,
        "docs/alerts.md has a section for each, in order"
    );
    for Rule {
        name,
        text,
        expression,
    } in &alerts
    {
        let link = format!(
            "runbook_url: {}/docs/alerts.md#{}\n",
            env!("CARGO_PKG_REPOSITORY"),
            name.to_lowercase()
        );
        let text = format!("{}\n", text.trim_end());
        assert!(text.ends_with(&link), "{name}: {link}");
        for part in ["severity: ", "summary: ", "description: "] {
            assert!(text.contains(part), "{name} has no {part}");
        }
        queries::compared(expression);
    }
}

/// The tests of promtool have each alert where it fires, and where it does not.
#[test]
fn each_alert_is_tested() {
    let tests = TESTS.split("- alertname: ").skip(1);
    let tests: BTreeSet<(&str, bool)> = tests
        .map(|text| {
            let name = text.lines().next().unwrap();
            (name, text.contains("exp_alerts:"))
        })
        .collect();
    for rule in rules(ALERTS, "alert") {
        for fires in [true, false] {
            assert!(
                tests.contains(&(rule.name, fires)),
                "{}: {fires}",
                rule.name
            );
        }
    }
}

#[test]
fn commands_of_runbooks_are_right() {
    let commands = PAGE.lines().filter(|line| line.starts_with("tcpstate "));
    let commands: Vec<_> = commands
        .map(|line| line.replace("PORT", "80").replace("NAME", "closes_first"))
        .collect();
    assert!(commands.len() > 10);
    for command in commands {
        let parsed = Cli::try_parse_from(command.split(' ')).and_then(Cli::checked);
        assert!(parsed.is_ok(), "{command}: {:?}", parsed.err());
    }
}

/// Runs promtool in `deploy/prometheus`. Without it nothing is checked, but where nothing may be skipped.
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(workspace("deploy/prometheus"))
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let required = std::env::var_os("TCPSTATE_REQUIRE_KERNEL");
            assert!(
                required.is_none_or(|value| value != "1"),
                "there is no promtool, and TCPSTATE_REQUIRE_KERNEL=1 forbids skipping"
            );
            eprintln!("skipped: there is no promtool");
            return;
        }
        output => output.unwrap(),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_accepts_the_configuration() {
    promtool(&["check", "config", "prometheus.yml"]);
}

#[test]
fn promtool_accepts_the_rules() {
    promtool(&["check", "rules", "recording.rules.yml", "alerts.rules.yml"]);
}

#[test]
fn alerts_fire_and_do_not_fire() {
    promtool(&["test", "rules", "alerts.test.yml"]);
}
