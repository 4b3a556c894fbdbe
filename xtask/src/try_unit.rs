//! `try-unit`: runs the units of the Debian package under systemd, in a guest.
//!
//! The guest's first process becomes this machine's systemd, which starts of this machine's units only those that every boot takes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    dist, scraped,
    vm::{packages::Unfetched, single::Single},
    workspace,
};

const SYSTEMD: &str = "/lib/systemd/systemd";
/// The kernel of Debian's stable release.
const KERNEL: &str = "6.12";
/// The limit for a guest that hangs.
const ENDS_WITHIN: Duration = Duration::from_mins(15);
/// Without disks and devices of this machine, which the guest does not have.
const BOOT: &str =
    "fstab=no systemd.mask=systemd-udevd.service systemd.mask=systemd-udev-trigger.service";
/// The threads that are there as long as it serves.
const THREADS: [&str; 5] = [
    "tcpstate",
    "tcpstate-ring",
    "tcpstate-sample",
    "looks",
    "http",
];

/// Arguments of `try-unit`.
#[derive(clap::Args)]
pub struct TryUnit {
    /// The Debian package [default: made from the sources, as by `cargo xtask dist`]
    package: Option<PathBuf>,
    /// Skip it, with a message, if the kernel cannot be fetched
    #[arg(long)]
    skip_unfetched: bool,
}

/// Makes the package, runs the guest, and checks what it left.
pub fn run(arguments: &TryUnit) -> Result<()> {
    ensure!(
        Path::new(SYSTEMD).exists(),
        "there is no {SYSTEMD}: apt-get install systemd"
    );
    let guest = match Single::new(KERNEL, "unit", include_str!("try_unit/boot.sh")) {
        Err(error) if arguments.skip_unfetched && error.is::<Unfetched>() => {
            eprintln!("{KERNEL}: skipped: {error:#}");
            return Ok(());
        }
        guest => guest?,
    };
    let exchange = guest.exchange();
    scraped::write_script(exchange, "try.sh", include_str!("try_unit/try.sh"))?;
    if let Some(package) = &arguments.package {
        fs::copy(package, exchange.join("given.deb"))
            .with_context(|| package.display().to_string())?;
    } else {
        dist::package(exchange)?;
    }
    let took = guest.run(BOOT, ENDS_WITHIN, || judge(exchange))?;
    eprintln!("the units run under systemd, in {} s", took.as_secs());
    Ok(())
}

/// Checks what the guest left.
fn judge(exchange: &Path) -> Result<()> {
    let log = scraped::read(exchange, "log").unwrap_or_default();
    let exit = scraped::read(exchange, "exit");
    let exit = exit.with_context(|| format!("it did not come to its end: {log}"))?;
    ensure!(exit.trim() == "0", "exit status {}: {log}", exit.trim());
    let unit = workspace().join("deploy/systemd/tcpstate.service");
    let unit = fs::read_to_string(&unit).with_context(|| unit.display().to_string())?;
    let mut lines = unit.lines();
    let given = lines.find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    scraped::judge(exchange, given.context("no capabilities")?.split(' '))?;
    judge_threads(&scraped::read(exchange, "threads")?)
}

/// Checks that each thread has the capabilities that SECURITY.md states for it.
fn judge_threads(states: &str) -> Result<()> {
    let page = fs::read_to_string(workspace().join("SECURITY.md")).context("SECURITY.md")?;
    let mut seen = BTreeSet::new();
    for state in states.split("Name:\t").skip(1) {
        let name = state.lines().next().unwrap_or_default();
        // Those that enter a namespace for a moment are not in the table.
        let Some(expected) = stated(&page, name)? else {
            continue;
        };
        for set in ["CapPrm:\t", "CapEff:\t"] {
            let found = state.lines().find_map(|line| line.strip_prefix(set));
            let found = u64::from_str_radix(found.context(set)?, 16)?;
            ensure!(
                found == expected,
                "{name}: {set}{found:x}, not {expected:x} as SECURITY.md has it"
            );
        }
        seen.insert(name);
    }
    let missing: Vec<_> = THREADS
        .into_iter()
        .filter(|name| !seen.contains(name))
        .collect();
    ensure!(missing.is_empty(), "no thread {missing:?}: {states}");
    Ok(())
}

/// The capabilities of a thread in the table of SECURITY.md, without those for old kernels; `None`: it has no row.
fn stated(page: &str, thread: &str) -> Result<Option<u64>> {
    let table = page
        .lines()
        .skip_while(|line| !line.starts_with("| thread |"))
        .take_while(|line| line.starts_with('|'));
    let name = format!("`{thread}`");
    for row in table {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, threads, always, owners, namespaces, ..] = cells[..] else {
            continue;
        };
        if !threads.split(", ").any(|one| one == name) {
            continue;
        }
        let names = [always, owners, namespaces].map(|cell| cell.split(", "));
        let names = names.into_iter().flatten().filter(|name| !name.is_empty());
        return scraped::capabilities(names).map(Some);
    }
    Ok(None)
}
