//! The traces of a `tcpstate serve` that a script ran and scraped (`scraped.sh`): its privileges, and what it saw.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::CapabilitySet;
use serde_json::Value;

/// The functions of the scripts, and the name of their file.
const FUNCTIONS: &str = include_str!("scraped.sh");
const FUNCTIONS_FILE: &str = "scraped.sh";
/// The port of the connection that was made in another network namespace, before.
const ELSEWHERE: u64 = 8080;

/// Puts a script and the functions that it uses into a folder.
pub fn write_script(folder: &Path, name: &str, script: &str) -> Result<()> {
    fs::write(folder.join(FUNCTIONS_FILE), FUNCTIONS)?;
    fs::write(folder.join(name), script).with_context(|| name.to_owned())
}

/// Checks it: an ordinary user with these capabilities at most, which saw the connection elsewhere, with its owner.
pub fn judge<'a>(folder: &Path, given: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let status = read(folder, "status")?;
    let field = |name: &str| {
        let mut fields = status.lines().filter_map(|line| line.split_once(":\t"));
        let field = fields.find(|(key, _)| *key == name);
        field
            .map(|(_, value)| value.trim())
            .with_context(|| name.to_owned())
    };
    let users = field("Uid")?;
    ensure!(
        users.split('\t').all(|user| user != "0"),
        "its users are {users}"
    );
    for (name, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        let found = field(name)?;
        ensure!(found == expected, "{name}: {found}, not {expected}");
    }
    let all = capabilities(given)?;
    let bounding = u64::from_str_radix(field("CapBnd")?, 16)?;
    ensure!(
        bounding == all,
        "its capabilities are {bounding:x}, not {all:x}"
    );
    let connections: Value = serde_json::from_str(&read(folder, "connections")?)?;
    let list = connections["connections"].as_array();
    let is_elsewhere = |it: &&Value| it["lport"] == ELSEWHERE && it["role"] == "server";
    let elsewhere = list.and_then(|list| list.iter().find(is_elsewhere));
    let elsewhere = elsewhere.with_context(|| format!("none elsewhere: {connections}"))?;
    ensure!(
        elsewhere["owner"]["comm"] == "busybox",
        "the owner elsewhere is not known: {elsewhere}"
    );
    let cgroup = elsewhere["cgroup"].as_str().context("no cgroup")?;
    ensure!(
        !cgroup.starts_with("/.."),
        "not a name on this host: {cgroup}"
    );
    Ok(())
}

/// The content of a file that it left.
pub fn read(folder: &Path, name: &str) -> Result<String> {
    fs::read_to_string(folder.join(name)).with_context(|| name.to_owned())
}

/// The bits of capabilities in the kernel's sets.
pub fn capabilities<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<u64> {
    let mut all = CapabilitySet::empty();
    for name in names {
        let set = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
        all |= set.with_context(|| format!("no capability {name}"))?;
    }
    Ok(all.bits())
}
