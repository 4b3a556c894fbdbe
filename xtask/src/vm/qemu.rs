//! One guest: QEMU with a kernel, from its start to its end.
//!
//! Knows nothing of what runs in it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

const QEMU: &str = "qemu-system-x86_64";
/// What the first script says in a guest that is started only to see whether it starts.
const ALIVE: &str = "tcpstate: alive";
/// With hardware virtualization a kernel is there in two seconds, where it is there at all.
const KVM_STARTS_WITHIN: Duration = Duration::from_secs(20);

/// What executes a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// The processor
    Kvm,
    /// Software emulation
    Tcg,
}

impl Accelerator {
    /// The fastest that boots a kernel here. That `/dev/kvm` can be opened does not say that it does:
    /// in a machine that is virtual itself, QEMU may refuse it, or the guest hang before its first word.
    pub fn try_out(guest: &Guest) -> Result<Self> {
        if fs::File::open("/dev/kvm").is_err() {
            return Ok(Self::Tcg);
        }
        eprint!("trying hardware virtualization: ");
        let mut qemu = guest.start(Self::Kvm, "tcpstate_probe")?;
        let start = Instant::now();
        let mut ended = false;
        while !ended && start.elapsed() < KVM_STARTS_WITHIN {
            thread::sleep(Duration::from_millis(50));
            ended = qemu.ended()?;
        }
        drop(qemu);
        if ended && guest.console().contains(ALIVE) {
            eprintln!("a guest boots with it");
            Ok(Self::Kvm)
        } else {
            eprintln!("no guest boots with it; emulating");
            Ok(Self::Tcg)
        }
    }

    const fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            // One thread for both processors: with two, one may still run the old translation of an
            // instruction that the other has replaced, and a kernel that switches a tracepoint on or off
            // meanwhile dies of a breakpoint that is not there any more (seen on Linux 7.3).
            Self::Tcg => &["-accel", "tcg,thread=single", "-cpu", "max"],
        }
    }
}

/// What a guest is made of.
pub struct Guest {
    /// The kernel image.
    pub image: PathBuf,
    /// The archive that it starts from.
    pub initramfs: PathBuf,
    /// The folder that the guest and this process share.
    pub exchange: PathBuf,
    /// Where its console is kept.
    pub console: PathBuf,
    /// Its memory, MiB.
    pub memory_mib: u32,
}

impl Guest {
    /// Starts it.
    pub fn start(&self, accelerator: Accelerator, boot: &str) -> Result<Qemu> {
        let share = |id: &str, path: &Path, more: &str| {
            let path = option(path)?;
            anyhow::Ok([
                "-fsdev".to_owned(),
                format!("local,id={id},path={path},security_model=none{more}"),
                "-device".to_owned(),
                format!("virtio-9p-pci,fsdev={id},mount_tag={id}"),
            ])
        };
        let log = self.console.with_extension("qemu.log");
        let stderr = fs::File::create(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(QEMU);
        command
            .args(accelerator.arguments())
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-smp", "2", "-m"])
            .arg(format!("{}M", self.memory_mib))
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 panic=-1 {boot}"))
            .arg("-serial")
            .arg(format!("file:{}", option(&self.console)?))
            .args(share(
                "host",
                Path::new("/"),
                ",readonly=on,multidevs=remap",
            )?)
            .args(share("exchange", &self.exchange, "")?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let child = command
            .spawn()
            .with_context(|| format!("{QEMU}: install the package qemu-system-x86"))?;
        Ok(Qemu { child, log })
    }

    /// What it wrote to its console.
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A path in an option of QEMU's, where a comma is written twice.
fn option(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| path.display().to_string())?;
    Ok(text.replace(',', ",,"))
}

/// A running QEMU. It does not outlive this handle.
pub struct Qemu {
    child: Child,
    log: PathBuf,
}

impl Qemu {
    /// Whether it has ended, as it does when its guest powers off.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end; an end in disorder is an error.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        ensure!(status.success(), "QEMU: {status}: {log}");
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both do nothing where it has ended and has been waited for; there is nobody to tell if not.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
