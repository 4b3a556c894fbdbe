//! One guest for another command, with a script of that command.

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    CONSOLE_SHOWN, System,
    features::KERNELS,
    fetch,
    machine::Machine,
    prepare,
    qemu::{Accelerator, Guest},
    quoted, report,
};
use crate::workspace;

/// A guest that can be started.
pub struct Single {
    guest: Guest,
}

impl Single {
    /// Writes its files into `target/vm/run/NAME`, and fetches its kernel if that is not there. The first process runs `script`, which finds
    /// the folder of its modules in `settings`.
    ///
    /// *Errors:* [`Unfetched`](super::packages::Unfetched), among others.
    pub fn new(kernel: &str, name: &str, script: &str) -> Result<Self> {
        let found = KERNELS.iter().find(|it| it.name == kernel);
        let machine = Machine::X86_64;
        let unpacked = fetch(machine, found.context("no such kernel")?, false)?;
        let settings = format!("MODULES={}\n", quoted(&unpacked.modules())?);
        let folder = machine.folder(&workspace().join("target/vm"));
        let system = System {
            machine,
            root: PathBuf::from("/"),
            workspace: None,
        };
        let guest = prepare(
            &folder.join("run").join(name),
            &unpacked,
            system,
            (script, &settings),
        )?;
        Ok(Self { guest })
    }

    /// The folder that it shares with this process.
    pub fn exchange(&self) -> &Path {
        &self.guest.exchange
    }

    /// Runs it until it powers off, and checks it by `judge`. Returns the time that it ran.
    ///
    /// *Errors:* it did not end in time, or those of `judge`; then the end of its console is shown.
    pub fn run(
        &self,
        boot: &str,
        within: Duration,
        judge: impl FnOnce() -> Result<()>,
    ) -> Result<Duration> {
        let accelerator = Accelerator::try_out(&self.guest)?;
        let start = Instant::now();
        let result = self
            .await_end(accelerator, boot, within)
            .and_then(|()| judge());
        if result.is_err() {
            report::show_failure(&self.guest.console(), self.exchange(), CONSOLE_SHOWN);
        }
        result.with_context(|| format!("see {}", self.exchange().display()))?;
        Ok(start.elapsed())
    }

    fn await_end(&self, accelerator: Accelerator, boot: &str, within: Duration) -> Result<()> {
        let mut qemu = self.guest.start(accelerator, boot)?;
        let start = Instant::now();
        while !qemu.ended()? {
            ensure!(
                start.elapsed() < within,
                "the guest did not end within {within:?}"
            );
            thread::sleep(Duration::from_millis(200));
        }
        qemu.wait()
    }
}
