//! The files of `deploy/`: they ask for the privileges that SECURITY.md states, and what reads them accepts them.

#![cfg(feature = "serve")]

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// The exposure that `systemd-analyze security` may find at most, in tenths.
const MOST_EXPOSURE: u32 = 19;

fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The output of a command; `None`: it is not installed, and the test is skipped with words, but where nothing may be skipped.
fn output(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let program = command.get_program().display();
            let required = std::env::var_os("TCPSTATE_REQUIRE_KERNEL");
            assert!(
                required.is_none_or(|value| value != "1"),
                "there is no {program}, and TCPSTATE_REQUIRE_KERNEL=1 forbids skipping"
            );
            eprintln!("skipped: {program} is not installed");
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

/// Those of a container: root becomes another user in it.
fn stated_in_a_container() -> BTreeSet<String> {
    &stated() | &BTreeSet::from(["SETUID", "SETGID"].map(str::to_owned))
}

#[test]
fn the_bundle_has_the_stated_capabilities() {
    let config: Value = serde_json::from_str(&read("deploy/oci/config.json")).unwrap();
    let sets = config["process"]["capabilities"].as_object().unwrap();
    assert_eq!(sets.len(), 3, "{sets:?}");
    for (set, names) in sets {
        assert_eq!(
            capabilities(&names.to_string()),
            stated_in_a_container(),
            "{set}"
        );
    }
}

#[test]
fn the_daemon_set_is_that_of_this_version() {
    let manifest = read("deploy/kubernetes/daemonset.yaml");
    let values = |key: &str| -> Vec<_> {
        let lines = manifest.lines().map(str::trim);
        lines.filter_map(|line| line.strip_prefix(key)).collect()
    };
    let added = values("add: [");
    let names: BTreeSet<_> = added[0].trim_end_matches(']').split(", ").collect();
    let stated = stated_in_a_container();
    assert_eq!(names, stated.iter().map(String::as_str).collect());
    assert_eq!(added.len(), 1);
    assert_eq!(values("drop: "), ["[ALL]"]);
    // The arguments are understood, with an address in the place of the node's.
    let arguments = values("- --").into_iter().map(|option| {
        let option = option.replace("$(HOST_IP)", "192.0.2.1");
        let option = option.replace("/etc/tcpstate/", "deploy/kubernetes/");
        format!("--{option}")
    });
    let arguments: Vec<_> = arguments.collect();
    assert_eq!(arguments.len(), 3, "{arguments:?}");
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(["serve", "--check-config"])
        .args(arguments)
        .current_dir(workspace(""))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let tag = format!("newTag: {}", env!("CARGO_PKG_VERSION"));
    assert!(
        read("deploy/kubernetes/kustomization.yaml").contains(&tag),
        "{tag}"
    );
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
