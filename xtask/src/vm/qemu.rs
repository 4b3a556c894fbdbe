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

use super::machine::Machine;

/// The message of the first script in a guest that is booted only to test the accelerator.
const ALIVE: &str = "tcpstate: alive";
/// The options of a shared folder with the files of several file systems, which the guest must not change.
const READ_ONLY: &str = ",readonly=on,multidevs=remap";
/// With hardware virtualization a kernel is there in two seconds, where it is there at all.
const KVM_STARTS_WITHIN: Duration = Duration::from_secs(20);

/// The way in which a guest's instructions are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// Hardware virtualization
    Kvm,
    /// Software emulation
    Tcg,
}

impl Accelerator {
    /// The fastest accelerator that boots a kernel here. It is not enough that `/dev/kvm` can be opened: in
    /// a virtual machine QEMU may refuse to use it, or the guest may hang before its first message.
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
            eprintln!("works");
            Ok(Self::Kvm)
        } else {
            eprintln!("no guest boots with it; using emulation");
            Ok(Self::Tcg)
        }
    }
}

/// The files and the memory of a guest.
pub struct Guest {
    pub machine: Machine,
    /// The kernel image.
    pub image: PathBuf,
    /// The archive that it boots from.
    pub initramfs: PathBuf,
    /// Its root file system, which it only reads.
    pub root: PathBuf,
    /// Another folder that it only reads.
    pub workspace: Option<PathBuf>,
    /// The folder that the guest and this process share.
    pub exchange: PathBuf,
    /// The file with its console output.
    pub console: PathBuf,
    /// Its memory in MiB.
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
        let [program, package] = self.machine.qemu();
        let mut command = Command::new(program);
        command
            .args(self.machine.qemu_arguments(accelerator))
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-smp", "2", "-m"])
            .arg(format!("{}M", self.memory_mib))
            .arg("-kernel")
            .arg(&self.image)
            .arg("-initrd")
            .arg(&self.initramfs)
            .arg("-append")
            .arg(format!(
                "console={} panic=-1 {boot}",
                self.machine.console()
            ))
            .arg("-serial")
            .arg(format!("file:{}", option(&self.console)?))
            .args(share("host", &self.root, READ_ONLY)?)
            .args(share("exchange", &self.exchange, "")?)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        if let Some(workspace) = &self.workspace {
            command.args(share("workspace", workspace, READ_ONLY)?);
        }
        let child = command
            .spawn()
            .with_context(|| format!("{program}: install the package {package}"))?;
        Ok(Qemu { child, log })
    }

    /// The output on its console.
    pub fn console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A path for an option of QEMU, where a comma is written twice.
fn option(path: &Path) -> Result<String> {
    let text = path.to_str().with_context(|| path.display().to_string())?;
    Ok(text.replace(',', ",,"))
}

/// A running QEMU, which is killed when this handle is dropped.
pub struct Qemu {
    child: Child,
    log: PathBuf,
}

impl Qemu {
    /// Whether it has ended; it ends when its guest powers off.
    pub fn ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits for its end. An exit status other than 0 is an error.
    pub fn wait(mut self) -> Result<()> {
        let status = self.child.wait()?;
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        ensure!(status.success(), "QEMU: {status}: {log}");
        Ok(())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both do nothing if it has ended and was waited for. Other errors cannot be reported here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
