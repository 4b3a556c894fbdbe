//! The files of `deploy/`: they ask for the privileges that SECURITY.md states, and what reads them accepts them.

#![cfg(feature = "serve")]

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

/// The exposure that `systemd-analyze security` may find at most, in tenths.
const MOST_EXPOSURE: u32 = 19;

fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The output of a command; `None`: it is not installed, and the test is skipped with words.
fn output(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            eprintln!(
                "skipped: {} is not installed",
                command.get_program().display()
            );
            None
        }
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The names of capabilities in a text, without `CAP_`.
fn capabilities(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let names = words.filter_map(|word| word.strip_prefix("CAP_"));
    names.map(str::to_owned).collect()
}

/// Those that SECURITY.md states for `serve`: to start, and in the columns of the table of threads. Those of older kernels are
/// among the first.
fn stated() -> BTreeSet<String> {
    let page = read("SECURITY.md");
    let row = |begins: &str| {
        let line = page.lines().find(|line| line.starts_with(begins));
        capabilities(line.unwrap_or_else(|| panic!("no row {begins}")))
    };
    let start = row("| `trace`, `life`, `rates`, `hist`, `record`, `serve` with `--attach btf` |");
    assert!(!start.is_empty());
    let threads = ["| `tcpstate` |", "| `tcpstate-ring`,"].map(row);
    threads.into_iter().fold(start, |all, these| &all | &these)
}

/// The values of a setting of the unit.
fn settings(unit: &str, name: &str) -> Vec<String> {
    let lines = unit.lines().filter_map(|line| line.split_once('='));
    let values = lines.filter(|(key, _)| *key == name);
    values.map(|(_, value)| value.to_owned()).collect()
}

#[test]
fn the_unit_has_the_stated_capabilities() {
    let unit = read("deploy/systemd/tcpstate.service");
    for set in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        let values = settings(&unit, set);
        assert_eq!(values.len(), 1, "{set}");
        assert_eq!(capabilities(&values[0]), stated(), "{set}");
    }
}

/// The files of the unit in a folder, with this build in the place of the installed program.
fn units() -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["tcpstate.service", "tcpstate.socket"] {
        let unit = read(&format!("deploy/systemd/{name}"));
        let unit = unit.replace("/usr/bin/tcpstate", env!("CARGO_BIN_EXE_tcpstate"));
        fs::write(folder.path().join(name), unit).unwrap();
    }
    folder
}

#[test]
fn the_unit_exposes_little() {
    let units = units();
    let mut analyze = Command::new("systemd-analyze");
    analyze
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={MOST_EXPOSURE}"))
        .arg(units.path().join("tcpstate.service"));
    let Some(output) = output(&mut analyze) else {
        return;
    };
    let (found, said) = (text(&output.stdout), text(&output.stderr));
    // A setting that it cannot read would not count, and it says so.
    assert!(output.status.success() && said.is_empty(), "{said}{found}");
    assert!(found.contains("Overall exposure level"), "{found}");
}

#[test]
fn the_units_are_valid() {
    let units = units();
    let files = ["tcpstate.service", "tcpstate.socket"].map(|name| units.path().join(name));
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["verify", "--man=no"]).args(files);
    let Some(output) = output(&mut analyze) else {
        return;
    };
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    // It warns of settings that it does not know, of any unit here.
    let about: Vec<_> = said
        .lines()
        .filter(|line| line.contains("tcpstate"))
        .collect();
    assert!(about.is_empty(), "{about:?}");
}

/// The example, as it is and with all that it comments out.
#[test]
fn the_example_of_settings_is_right() {
    let example = read("deploy/systemd/serve.toml");
    let settings = example.lines().filter_map(|line| {
        let setting = line.strip_prefix('#')?;
        (setting.contains(" = ") && !setting.starts_with(' ')).then_some(setting)
    });
    let all: Vec<_> = settings.collect();
    assert!(all.len() >= 4, "{all:?}");
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("serve.toml");
    for example in [example.clone(), all.join("\n")] {
        fs::write(&path, &example).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(["serve", "--check-config", "--config"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(output.status.success(), "{example}{output:?}");
    }
}
