//! `docs/diagnosis.md`, made from the rules of `tcpstate diagnose`, their thresholds and the situations of its kernel tests.

#[path = "situations.rs"]
pub mod situations;

use std::fmt::Write as _;

use tcpstate_core::{
    diagnosis::{FindingText, LINKS, RULES, Threshold, Thresholds, Unit},
    units::{Count, Span},
};

use self::situations::Situation;

const HEAD: &str = "\
<!-- Made from tcpstate-user/core/src/diagnosis: TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs -->

# Findings

Everything that `tcpstate diagnose` looks for. `tcpstate explain FINDING` shows the same, with the values of the settings \
here. `critical` is a finding where connections fail now, `warning` where some fail or wait, or will, and `note` where \
it is worth knowing and harmless.

The figures that decide are at the [end of the page](#figures-that-decide), and `--rules FILE` changes them.
";

const SITUATIONS: &str = "
## Situations

Each was made on a running kernel, and `diagnose` found what stands here, and nothing else: the kernel tests have it from \
this table. `orphans_near_limit` is about the whole host, on which there may be more, and has a test of its own.

| situation | findings |
|---|---|
";

const THRESHOLDS: &str = "
## Figures that decide

A file for `--rules` has a line for each that it changes, such as `close_wait_age = \"2m\"`; a time stands in quotes.

| name | default | decides | because |
|---|---|---|---|
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for rule in RULES {
        // Writing to a string does not fail.
        let _ = finding(&rule.text, &mut page);
    }
    page.push_str(SITUATIONS);
    for one in situations::SITUATIONS {
        let _ = situation(one, &mut page);
    }
    page.push_str(THRESHOLDS);
    for row in Thresholds::TABLE {
        let _ = threshold(row, &mut page);
    }
    page
}

fn finding(text: &FindingText, page: &mut String) -> std::fmt::Result {
    writeln!(
        page,
        "\n## {}\n\n*{}.* {}\n",
        text.name,
        capital(text.title),
        text.is
    )?;
    writeln!(page, "- *Matters:* {}", text.why)?;
    writeln!(page, "- *Known by:* {}", text.signal)?;
    for advice in text.advice {
        writeln!(page, "- *Do:* {advice}")?;
    }
    for setting in text.settings {
        writeln!(page, "- `{}`: {}", setting.name(), setting.effect)?;
    }
    for other in text.told_from {
        writeln!(page, "- *Not:* {other}")?;
    }
    for link in LINKS.iter().filter(|link| link.finding == text.name) {
        let (name, condition) = (link.because_of, link.condition);
        writeln!(page, "- *Because of:* [{name}](#{name}), where {condition}")?;
    }
    writeln!(page, "\n```sh")?;
    for command in text.commands {
        let command = text.command(command);
        writeln!(page, "{command}")?;
    }
    writeln!(page, "```\n\nSources: {}.", text.sources.join("; "))
}

fn situation(situation: &Situation, page: &mut String) -> std::fmt::Result {
    let found = situation.found.iter();
    let mut found: Vec<_> = found
        .map(|(name, severity)| format!("`{name}` ({severity})"))
        .collect();
    let may_be = situation.may_be.iter();
    found.extend(may_be.map(|name| format!("perhaps `{name}`")));
    if found.is_empty() {
        found.push("nothing".to_owned());
    }
    writeln!(page, "| {} | {} |", situation.words, found.join(", "))
}

fn threshold(row: &Threshold, page: &mut String) -> std::fmt::Result {
    let value = match row.unit {
        Unit::Time => Span(row.default).to_string(),
        Unit::Count => Count(row.default).to_string(),
        Unit::PerSecond => format!("{} a second", Count(row.default)),
        Unit::Percent => format!("{} %", row.default),
    };
    writeln!(
        page,
        "| `{}` | {value} | {} | {} |",
        row.name, row.decides, row.reason
    )
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
