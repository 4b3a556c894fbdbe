//! The results of the guests: reads and checks them, and writes the tables of `docs/kernels.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result, ensure};

use super::features::{self, FEATURES, KERNELS, Kernel, VARIANTS, Variant};
use crate::workspace;

const DOCUMENT: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- begin: cargo xtask vm --write-docs -->\n";
const END: &str = "<!-- end -->\n";

/// The exit code of the test binary if a test has failed.
const FAILED_EXIT: &str = "101";

/// The tests of a guest, by result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tests {
    /// Number of tests that passed, in the first run or when repeated.
    pub passed: usize,
    /// Of these, the tests that failed first, and their messages.
    pub passed_again: Vec<(String, String)>,
    /// Number of skipped tests; the tests themselves allow that only where the table of features does.
    pub skipped: usize,
    /// The names of the tests that failed.
    pub failed: Vec<String>,
    /// The number of tests that the binary announces at its start; `None` before.
    pub announced: Option<usize>,
}

impl Tests {
    /// Reads the test binary's output so far.
    pub fn read(log: &str) -> Self {
        let mut tests = Self::default();
        for line in log.lines() {
            if let Some(count) = line.strip_prefix("running ") {
                tests.announced = count.split(' ').next().and_then(|count| count.parse().ok());
            }
            let Some((name, result)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.split_once(" ... "))
            else {
                continue;
            };
            match result.trim() {
                "ok" => tests.passed += 1,
                "ignored" => tests.skipped += 1,
                "FAILED" => tests.failed.push(name.trim().to_owned()),
                _ => {}
            }
        }
        tests
    }

    /// Adds the results of the repetitions (`log`) to those of the first run, whose output was `first`.
    fn repeat(&mut self, first: &str, log: &str) {
        let passes = |name: &str| {
            log.lines().any(|line| {
                let result = line
                    .strip_prefix("test ")
                    .and_then(|rest| rest.split_once(" ... "));
                result.is_some_and(|(it, result)| it.trim() == name && result.trim() == "ok")
            })
        };
        let failed = std::mem::take(&mut self.failed);
        let (passed_again, failed) = failed.into_iter().partition(|name| passes(name));
        self.failed = failed;
        let with_why = |name: String| {
            let why = failure(first, &name).to_owned();
            (name, why)
        };
        self.passed_again = Vec::into_iter(passed_again).map(with_why).collect();
        self.passed += self.passed_again.len();
    }

    /// The number of tests that have ended.
    pub fn ended(&self) -> usize {
        self.passed + self.skipped + self.failed.len()
    }
}

/// The message of a failed test, from the output of all tests.
fn failure<'a>(log: &'a str, name: &str) -> &'a str {
    let rest = log.split_once(&format!("\n---- {name} ----\n"));
    let message = rest.map_or("", |(_, rest)| rest);
    // The message of the next test follows, or the list of all that failed.
    let end = message
        .find("\n---- ")
        .or_else(|| message.find("\nfailures:\n"));
    end.map_or(message, |end| &message[..end]).trim()
}

/// Reads and checks the results of a guest. Returns its tests and its errors.
pub fn judge(kernel: &Kernel, variant: &Variant, exchange: &Path) -> Result<(Tests, Vec<String>)> {
    let read = |name: &str| {
        let path = exchange.join(name);
        fs::read(&path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .with_context(|| format!("the guest ended before it wrote {name}"))
    };
    let doctor = read("doctor.json")?;
    let mut wrong = features::judge(kernel, variant, &doctor)?;
    let log = read("tests.log")?;
    let mut tests = Tests::read(&log);
    let exit = read("exit")?;
    let explained = exit.trim() == "0" || exit.trim() == FAILED_EXIT && !tests.failed.is_empty();
    // There is no such file if no test was repeated.
    tests.repeat(&log, &read("again.log").unwrap_or_default());
    wrong.extend(tests.failed.iter().map(|name| format!("{name} failed")));
    if !explained {
        wrong.push(format!("the tests ended with exit code {}", exit.trim()));
    }
    if tests.announced != Some(tests.ended()) {
        wrong.push(format!(
            "{} tests ended, {:?} were announced",
            tests.ended(),
            tests.announced
        ));
    }
    // Not the number that passed: the table may let a kernel skip all tests of the filter.
    if tests.ended() == 0 {
        wrong.push("no test matches the arguments".to_owned());
    }
    Ok((tests, wrong))
}

/// The reasons for which tests of a guest were skipped, and the number of tests for each.
pub fn skipped(exchange: &Path) -> BTreeMap<String, usize> {
    let read = |name: &str| fs::read(exchange.join(name)).unwrap_or_default();
    let (log, err) = (read("tests.log"), read("tests.err"));
    reasons(
        &String::from_utf8_lossy(&log),
        &String::from_utf8_lossy(&err),
    )
}

/// The binary says for each of its tests why it would skip it, chosen by the arguments or not; in the log, if it ran in
/// the second process.
fn reasons(log: &str, err: &str) -> BTreeMap<String, usize> {
    let ignored: BTreeSet<_> = log
        .lines()
        .filter_map(|line| line.strip_prefix("test ")?.split_once(" ... "))
        .filter(|(_, result)| result.trim() == "ignored")
        .map(|(name, _)| name.trim())
        .collect();
    let mut named = BTreeMap::new();
    for line in log.lines().chain(err.lines()) {
        if let Some((name, why)) = line.split_once(": skipped: ")
            && ignored.contains(name)
        {
            named.insert(name, why);
        }
    }
    let mut reasons = BTreeMap::new();
    for why in named.into_values() {
        *reasons.entry(why.to_owned()).or_default() += 1;
    }
    reasons
}

/// Prints the messages of the failed tests and the end of the console, because in CI the files are gone
/// afterwards.
pub fn show_failure(console: &str, exchange: &Path, lines: usize) {
    let log = fs::read(exchange.join("tests.log")).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    if let Some((_, failures)) = log.split_once("\nfailures:\n") {
        eprintln!("failures:\n{failures}");
    }
    if let Ok(again) = fs::read(exchange.join("again.log")) {
        eprintln!("repetitions:\n{}", String::from_utf8_lossy(&again));
    }
    let all: Vec<_> = console.lines().collect();
    let shown = &all[all.len().saturating_sub(lines)..];
    eprintln!("end of the console:\n{}", shown.join("\n"));
}

/// Writes the tables into the document. The caller has checked that the run agrees with them.
pub fn write_document() -> Result<()> {
    let path = workspace().join(DOCUMENT);
    let text = fs::read_to_string(&path).with_context(|| DOCUMENT.to_owned())?;
    let (before, _, after) = parts(&text)?;
    fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", tables()))
        .with_context(|| DOCUMENT.to_owned())
}

fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let parts = text.split_once(BEGIN).and_then(|(before, rest)| {
        let (tables, after) = rest.split_once(END)?;
        Some((before, tables, after))
    });
    parts.with_context(|| format!("{DOCUMENT} has no place for the tables"))
}

/// The tables of features, by kernel and by set-up.
fn tables() -> String {
    let row = |first: &str, cells: &mut dyn Iterator<Item = String>| {
        format!("| {first} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let mut text = row(
        "feature",
        &mut KERNELS
            .iter()
            .map(|kernel| format!("{}, {}", kernel.name, kernel.debian)),
    );
    text += &row("---", &mut KERNELS.iter().map(|_| "---".to_owned()));
    for feature in FEATURES {
        let first = format!("{} (`{}`)", feature.gives, feature.name);
        let cells = KERNELS.iter().map(|kernel| {
            let lacks = features::lacks(kernel, &VARIANTS[0]);
            let there = !lacks.contains(feature.name);
            if there { "yes" } else { "no" }.to_owned()
        });
        text += &row(&first, &mut { cells });
    }
    text += "\n| set-up | removes |\n|---|---|\n";
    let newest = &KERNELS[KERNELS.len() - 1];
    for variant in VARIANTS {
        let lacks = features::lacks(newest, variant);
        let names: Vec<_> = lacks.iter().map(|name| format!("`{name}`")).collect();
        let names = if names.is_empty() {
            "nothing".to_owned()
        } else {
            names.join(", ")
        };
        let first = format!("{} (`{}`)", variant.what, variant.name);
        text += &row(&first, &mut std::iter::once(names));
    }
    text
}

/// Prints the errors of each guest, and fails if there are any.
pub fn summarize(wrong: &BTreeMap<String, Vec<String>>) -> Result<()> {
    for (guest, lines) in wrong {
        eprintln!("\n{guest}:");
        for line in lines {
            eprintln!("  {line}");
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} guests failed: {}",
        wrong.len(),
        wrong.keys().cloned().collect::<Vec<_>>().join(", ")
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_shows_the_table_that_guests_are_compared_with() {
        let text = fs::read_to_string(workspace().join(DOCUMENT)).unwrap();
        let (_, shown, _) = parts(&text).unwrap();
        assert_eq!(
            shown,
            tables(),
            "{DOCUMENT} is out of date: cargo xtask vm --write-docs"
        );
    }

    #[test]
    fn results_are_read_from_the_log() {
        let log = "\nrunning 4 tests\n\
                   test a::a   ... ok\n\
                   test a::b   ... ignored\n\
                   test c      ... ok\n\
                   test d      ... FAILED\n\
                   test result: FAILED. 2 passed\n";
        let tests = Tests::read(log);
        assert_eq!(
            tests,
            Tests {
                passed: 2,
                passed_again: vec![],
                skipped: 1,
                failed: vec!["d".to_owned()],
                announced: Some(4)
            }
        );
        assert_eq!(tests.ended(), 4);
    }

    #[test]
    fn reasons_are_counted_for_the_tests_that_were_chosen() {
        let err = "a: skipped: nft: not found\nb: skipped: nft: not found\nc: skipped: no BTF\n";
        let log = "running 3 tests\ntest a ... ignored\ntest d ... ok\n\nb: skipped: nft: not found\n\
                   test b   ... ignored\n";
        assert_eq!(
            reasons(log, err),
            BTreeMap::from([("nft: not found".to_owned(), 2)])
        );
    }

    #[test]
    fn a_failed_test_may_pass_when_repeated() {
        let log = "running 3 tests\ntest a ... FAILED\ntest ab ... FAILED\ntest c ... ok\n\nfailures:\n\n\
                   ---- a ----\nthis\n\n---- ab ----\nthat\n\n\nfailures:\n    a\n    ab\n";
        let mut tests = Tests::read(log);
        tests.repeat(
            log,
            "test a  ... FAILED\n\nrunning 1 test\ntest ab ... ok\n",
        );
        assert_eq!(tests.passed, 2);
        assert_eq!(tests.passed_again, [("ab".to_owned(), "that".to_owned())]);
        assert_eq!(tests.failed, ["a"]);
        assert_eq!(tests.ended(), 3);
    }
}
