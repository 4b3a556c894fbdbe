//! The head of a report: the machine, and the versions of the compared programs.

use std::{collections::BTreeMap, fmt::Write as _, fs, thread};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// The machine, its kernel, and the versions of the compared programs.
#[derive(Serialize)]
pub struct Head {
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub kernel: String,
    /// The versions, by program.
    pub versions: BTreeMap<String, String>,
}

/// Reads the head from the machine.
pub fn head() -> Result<Head> {
    let field = |path: &str, name: &str| -> Result<String> {
        let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
        let value = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find_map(|(key, value)| (key.trim() == name).then(|| value.trim().to_owned()));
        Ok(value.unwrap_or_else(|| "unknown".to_owned()))
    };
    let kib = field("/proc/meminfo", "MemTotal")?;
    let kib: u64 = kib
        .trim_end_matches(" kB")
        .parse()
        .context("MemTotal in /proc/meminfo")?;
    Ok(Head {
        cpu: field("/proc/cpuinfo", "model name")?,
        cores: thread::available_parallelism()?.get(),
        memory_mib: kib / 1024,
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        versions: BTreeMap::from([("tcpstate".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
    })
}

impl Head {
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{}, {} cores, {} MiB of memory, Linux {}",
            self.cpu, self.cores, self.memory_mib, self.kernel
        );
        for (program, version) in &self.versions {
            // Writing to a string cannot fail.
            let _ = write!(text, "; {program} {version}");
        }
        text.push_str(".\n");
        text
    }
}
