//! `vm`: runs the unchanged kernel tests on Debian's kernels in virtual machines.
//!
//! A guest boots a kernel from its package (`packages`) with a small archive (`initramfs`) that mounts
//! this machine's own root file system, read-only and under a layer in memory: so the tests find
//! everything that they call. A guest of another kind of machine (`machine`) has one made of Debian's packages
//! instead, and the tests are built for it. The results of a guest are compared with a table of the features of each
//! kernel (`features`).

mod features;
mod initramfs;
mod machine;
pub mod packages;
mod qemu;
mod report;
pub mod single;

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::IsTerminal as _,
    path::{Path, PathBuf},
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{
    features::{KERNELS, Kernel, VARIANTS, Variant},
    machine::Machine,
    packages::{Source, Unfetched, Unpacked},
    qemu::{Accelerator, Guest, Qemu},
    report::Tests,
};
use crate::{cargo, workspace};

/// The memory of a guest: the tests hold some tens of thousands of sockets, and their files are in memory.
const MEMORY_MIB: u32 = 3072;
/// The limit for booting. An emulated kernel on a busy machine takes 20 seconds.
const BOOTS_WITHIN: Duration = Duration::from_mins(4);
/// The limit for a guest that hangs. Each test has a limit of its own. An emulated guest takes ten minutes
/// on an idle machine.
const ENDS_WITHIN: Duration = Duration::from_mins(40);
/// The limit of failures above which no test is repeated.
const REPEATED_TESTS: u32 = 5;
/// The limit for each repetition: the same as for a test in the first run.
const REPETITION: Duration = Duration::from_mins(4);
/// The number of lines shown of the console of a guest that failed.
const CONSOLE_SHOWN: usize = 60;
/// The interval of the progress lines where standard error is not a terminal.
const PROGRESS_EVERY: Duration = Duration::from_mins(1);

/// Arguments of `vm`.
#[derive(clap::Args)]
pub struct Vm {
    /// Kind of machine
    #[arg(long, value_enum, default_value_t = Machine::X86_64)]
    arch: Machine,
    /// Kernels to run [default: all, and the variants on the oldest and the newest]
    #[arg(value_parser = named(KERNELS.iter().map(|kernel| kernel.name)))]
    kernels: Vec<String>,
    /// Set-ups of the guests, separated by commas [default with KERNELS: plain]
    #[arg(long, value_delimiter = ',', value_parser = named(VARIANTS.iter().map(|it| it.name)))]
    variant: Vec<String>,
    /// Number of guests that run at the same time [default: as processors and memory allow]
    #[arg(long)]
    jobs: Option<usize>,
    /// How the guests are executed [default: hardware virtualization where it works]
    #[arg(long, value_enum)]
    accelerator: Option<Accelerator>,
    /// Fetch the newest kernels instead of using those fetched before
    #[arg(long)]
    refresh: bool,
    /// Repeat a failed test up to N times, and name the tests that passed only then
    #[arg(long, value_name = "N", default_value_t = 0)]
    repeat: u32,
    /// Skip kernels that cannot be fetched, with a message, instead of failing
    #[arg(long)]
    skip_unfetched: bool,
    /// Write the tables of features into docs/kernels.md if the guests agree with them
    #[arg(long, conflicts_with_all = ["kernels", "variant", "skip_unfetched", "arguments"])]
    write_docs: bool,
    /// Arguments of the test binary, such as a part of a test's name
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

fn named(names: impl Iterator<Item = &'static str>) -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(names)
}

/// Runs the guests; fails if one of them differs from the table of features.
pub fn run(vm: &Vm) -> Result<()> {
    let matrix = vm.matrix();
    let folder = vm.arch.folder(&workspace().join("target/vm"));
    if let Some(missing) = vm.arch.missing() {
        bail!("{}: {missing}", vm.arch.name());
    }
    let root = match vm.arch.root(&folder, vm.refresh) {
        Err(error) if vm.skip_unfetched && error.is::<Unfetched>() => {
            eprintln!("skipped: the root file system of the guests: {error:#}");
            return Ok(());
        }
        root => root.context("get the root file system of the guests")?,
    };
    let mut kernels = BTreeMap::new();
    for kernel in KERNELS {
        if !matrix.iter().any(|(wanted, _)| wanted.name == kernel.name) {
            continue;
        }
        match fetch(vm.arch, kernel, vm.refresh) {
            Ok(unpacked) => {
                kernels.insert(kernel.name, unpacked);
            }
            Err(error) if vm.skip_unfetched && error.is::<Unfetched>() => {
                eprintln!("{}: skipped: {error:#}", kernel.name);
            }
            Err(error) => {
                return Err(error.context(format!("get the kernel {}", kernel.name)));
            }
        }
    }
    if kernels.is_empty() {
        eprintln!("skipped: no kernel could be fetched");
        return Ok(());
    }
    let build = Build::new(vm.arch)?;
    let mut waiting = VecDeque::new();
    for (kernel, variant) in matrix {
        let Some(unpacked) = kernels.get(kernel.name) else {
            continue;
        };
        let name = guest_name(vm.arch, kernel, variant);
        waiting.push_back(Prepared::new(
            &folder.join("run").join(name),
            (kernel, variant),
            unpacked,
            &root,
            &build,
            vm,
        )?);
    }
    let accelerator = match (vm.accelerator, waiting.front()) {
        (Some(accelerator), _) => accelerator,
        (None, _) if !vm.arch.target().is_native() => Accelerator::Tcg,
        (None, Some(first)) => Accelerator::try_out(&first.guest)?,
        (None, None) => bail!("no guest to run"),
    };
    let jobs = vm.jobs.map_or_else(room, Ok)?.max(1);
    let wrong = run_all(waiting, accelerator, jobs)?;
    report::summarize(&wrong)?;
    if vm.write_docs {
        report::write_document()?;
    }
    Ok(())
}

/// The kernel for this kind of machine: fetched if it is not there, or if `refresh` is set.
///
/// *Errors:* [`Unfetched`], among others.
fn fetch(machine: Machine, kernel: &Kernel, refresh: bool) -> Result<Unpacked> {
    let source = Source {
        name: kernel.name,
        suites: kernel.suites,
        architecture: machine.target().debian(),
    };
    let folder = machine.folder(&workspace().join("target/vm"));
    packages::kernel(
        &source,
        &machine.metapackage(),
        &folder.join(kernel.name),
        refresh,
    )
}

/// The requirement for guests of aarch64 that is missing here, and how to install it.
pub fn missing_for_aarch64() -> Option<String> {
    Machine::Aarch64.missing()
}

impl Vm {
    /// The guests: every kernel in the plain set-up, and the oldest and the newest in every set-up.
    fn matrix(&self) -> Vec<(&'static Kernel, &'static Variant)> {
        let asked = |list: &[String], name: &str| list.iter().any(|it| it == name);
        let (oldest, newest) = (KERNELS[0].name, KERNELS[KERNELS.len() - 1].name);
        let mut matrix = Vec::new();
        for (variant_index, variant) in VARIANTS.iter().enumerate() {
            for kernel in KERNELS {
                let ends = [oldest, newest].contains(&kernel.name);
                let by_kernel = if self.kernels.is_empty() {
                    variant_index == 0 || ends
                } else {
                    asked(&self.kernels, kernel.name)
                };
                let by_variant = if self.variant.is_empty() {
                    variant_index == 0 || self.kernels.is_empty()
                } else {
                    asked(&self.variant, variant.name)
                };
                if by_kernel && by_variant {
                    matrix.push((kernel, variant));
                }
            }
        }
        matrix
    }
}

fn guest_name(machine: Machine, kernel: &Kernel, variant: &Variant) -> String {
    let name = format!("{}-{}", kernel.name, variant.name);
    match machine {
        Machine::X86_64 => name,
        Machine::Aarch64 => format!("{}-{name}", machine.name()),
    }
}

/// The number of guests that this machine can run at the same time.
fn room() -> Result<usize> {
    let meminfo = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    let available_kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<usize>().ok())
        .context("no MemAvailable in /proc/meminfo")?;
    let each_kib = usize::try_from(MEMORY_MIB)? * 1024;
    Ok(thread::available_parallelism()?
        .get()
        .min(available_kib / each_kib))
}

/// The built tests, and the built program that they test.
struct Build {
    tests: PathBuf,
    tcpstate: PathBuf,
}

impl Build {
    fn new(machine: Machine) -> Result<Self> {
        let (target, root) = (machine.target(), workspace());
        eprintln!("building the tests");
        let mut cargo = cargo();
        cargo
            .current_dir(&root)
            // Of the whole workspace, which decides about the features of what is shared: so it is what `test` has built.
            .args(["test", "--locked", "--no-run", "--test", "kernel"])
            .args(["--message-format", "json-render-diagnostics"])
            .stderr(Stdio::inherit());
        if !target.is_native() {
            // The guest sees this folder, and has another C library.
            cargo
                .args(["--target", &target.to_string(), "--target-dir"])
                .arg(root.join("target"))
                .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
            target.select_linker(&mut cargo);
        }
        let output = cargo.output().context("cargo")?;
        ensure!(output.status.success(), "the tests do not build");
        let text = String::from_utf8(output.stdout)?;
        let executable = |kind: &str, name: &str| {
            text.lines()
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
                .filter(|message| message["target"]["name"] == name)
                .filter(|message| message["target"]["kind"][0] == kind)
                .find_map(|message| message["executable"].as_str().map(PathBuf::from))
                .with_context(|| format!("cargo built no {name}"))
        };
        Ok(Self {
            tests: executable("test", "kernel")?,
            tcpstate: executable("bin", "tcpstate")?,
        })
    }
}

/// A guest that can be started.
struct Prepared {
    kernel: &'static Kernel,
    variant: &'static Variant,
    guest: Guest,
    /// The limit for its run.
    ends_within: Duration,
}

impl Prepared {
    fn new(
        folder: &Path,
        (kernel, variant): (&'static Kernel, &'static Variant),
        unpacked: &Unpacked,
        root: &Path,
        build: &Build,
        vm: &Vm,
    ) -> Result<Self> {
        let mut lacks = features::lacks(kernel, variant);
        lacks.extend(vm.arch.lacks());
        let lacks: Vec<_> = lacks.into_iter().collect();
        let foreign = !vm.arch.target().is_native();
        let workspace = foreign.then(workspace);
        let words = vm.arguments.iter().map(|it| quoted(Path::new(it)));
        let words = words.collect::<Result<Vec<_>>>()?.join(" ");
        let settings = format!(
            "VARIANT={}\nLACKS={}\nWORKSPACE={}\nMODULES={}\nDIRECTORY={}\nTCPSTATE={}\nTESTS={}\nARGUMENTS={}\n\
             REPEAT={}\nREPEATED_TESTS={REPEATED_TESTS}\nREPETITION={}\n",
            variant.name,
            lacks.join(","),
            quoted(workspace.as_deref().unwrap_or(Path::new("")))?,
            quoted(&unpacked.modules())?,
            quoted(&crate::workspace().join("tcpstate-user"))?,
            quoted(&build.tcpstate)?,
            quoted(&build.tests)?,
            quoted(Path::new(&words))?,
            vm.repeat,
            REPETITION.as_secs(),
        );
        let system = System {
            machine: vm.arch,
            root: root.to_owned(),
            workspace,
        };
        Ok(Self {
            kernel,
            variant,
            guest: prepare(
                folder,
                unpacked,
                system,
                (include_str!("vm/guest.sh"), &settings),
            )?,
            ends_within: ENDS_WITHIN + REPETITION * REPEATED_TESTS * vm.repeat,
        })
    }
}

/// The machine of a guest, and the folders that it sees.
struct System {
    machine: Machine,
    /// Its root file system.
    root: PathBuf,
    /// This project, where the root file system does not have it.
    workspace: Option<PathBuf>,
}

/// Writes the files of a guest. Its first process runs `script`, which finds `settings`, shell variables, in the folder that it shares.
fn prepare(
    folder: &Path,
    unpacked: &Unpacked,
    system: System,
    (script, settings): (&str, &str),
) -> Result<Guest> {
    // The files of an earlier run must not be taken for those of this one.
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let exchange = folder.join("exchange");
    fs::create_dir_all(&exchange)?;
    let initramfs = folder.join("initramfs");
    fs::write(&initramfs, initramfs::build(unpacked, &system.root)?)?;
    fs::write(exchange.join("guest.sh"), script)?;
    fs::write(exchange.join("settings"), settings)?;
    Ok(Guest {
        machine: system.machine,
        root: system.root,
        workspace: system.workspace,
        image: unpacked.image.clone(),
        initramfs,
        // A dot in a name does not begin an extension.
        console: PathBuf::from(format!("{}.log", folder.display())),
        exchange,
        memory_mib: MEMORY_MIB,
    })
}

/// Quotes a word for the shell.
fn quoted(word: &Path) -> Result<String> {
    let text = word.to_str().with_context(|| word.display().to_string())?;
    Ok(format!("'{}'", text.replace('\'', r"'\''")))
}

/// A running guest.
struct Running {
    prepared: Prepared,
    qemu: Qemu,
    since: Instant,
}

impl Running {
    fn name(&self) -> String {
        let machine = self.prepared.guest.machine;
        guest_name(machine, self.prepared.kernel, self.prepared.variant)
    }

    fn progress(&self) -> String {
        let tests = self.tests();
        match (self.has_booted(), tests.announced) {
            (false, _) => "booting".to_owned(),
            (true, None) => "booted".to_owned(),
            (true, Some(all)) => format!("{} of {all} tests", tests.ended()),
        }
    }

    fn has_booted(&self) -> bool {
        self.prepared.guest.exchange.join("booted").exists()
    }

    fn tests(&self) -> Tests {
        let log = fs::read(self.prepared.guest.exchange.join("tests.log")).unwrap_or_default();
        Tests::read(&String::from_utf8_lossy(&log))
    }

    /// The reason to abandon it, if there is one.
    fn lost(&self) -> Option<String> {
        let elapsed = self.since.elapsed();
        if !self.has_booted() && elapsed > BOOTS_WITHIN {
            return Some(format!("did not boot within {BOOTS_WITHIN:?}"));
        }
        let within = self.prepared.ends_within;
        (elapsed > within).then(|| format!("did not end within {within:?}"))
    }
}

/// Runs all guests, `jobs` at a time. Returns the errors, by guest.
fn run_all(
    mut waiting: VecDeque<Prepared>,
    accelerator: Accelerator,
    jobs: usize,
) -> Result<BTreeMap<String, Vec<String>>> {
    let mut wrong = BTreeMap::new();
    let mut running: Vec<Running> = Vec::new();
    let mut progress = Progress::default();
    while !(waiting.is_empty() && running.is_empty()) {
        while running.len() < jobs
            && let Some(prepared) = waiting.pop_front()
        {
            let qemu = prepared.guest.start(accelerator, prepared.variant.boot)?;
            running.push(Running {
                prepared,
                qemu,
                since: Instant::now(),
            });
        }
        let mut still = Vec::new();
        for mut guest in running {
            let lost = guest.lost();
            if lost.is_none() && !guest.qemu.ended()? {
                still.push(guest);
                continue;
            }
            progress.clear();
            let (name, errors) = end(guest, lost);
            if !errors.is_empty() {
                wrong.insert(name, errors);
            }
        }
        running = still;
        progress.show(&running, waiting.len());
        thread::sleep(Duration::from_millis(200));
    }
    progress.clear();
    Ok(wrong)
}

/// Checks a guest that has ended or was abandoned, and prints its result. Returns its errors; if there are
/// any, their last line names the files to read.
fn end(guest: Running, lost: Option<String>) -> (String, Vec<String>) {
    let name = guest.name();
    let seconds = guest.since.elapsed().as_secs();
    let Running { prepared, qemu, .. } = guest;
    let ended = match lost {
        Some(why) => {
            drop(qemu);
            Err(anyhow::anyhow!(why))
        }
        None => qemu.wait(),
    };
    let exchange = &prepared.guest.exchange;
    let judged = report::judge(prepared.kernel, prepared.variant, exchange);
    let mut wrong: Vec<_> = ended
        .err()
        .map(|error| format!("{error:#}"))
        .into_iter()
        .collect();
    let tests = match judged {
        Ok((tests, more)) => {
            wrong.extend(more);
            tests
        }
        Err(error) => {
            wrong.push(format!("{error:#}"));
            Tests::default()
        }
    };
    let release = fs::read_to_string(exchange.join("booted")).unwrap_or_default();
    eprintln!(
        "{name}: {}: {}: {} passed, {} failed, {} skipped, in {seconds} s",
        release.trim(),
        if wrong.is_empty() { "ok" } else { "FAILED" },
        tests.passed,
        tests.failed.len(),
        tests.skipped,
    );
    for (why, count) in report::skipped(exchange) {
        eprintln!("{name}: {count} skipped: {why}");
    }
    for (test, why) in &tests.passed_again {
        eprintln!("{name}: {test} failed, and passed when it ran again: {why}");
    }
    if !wrong.is_empty() {
        report::show_failure(&prepared.guest.console(), exchange, CONSOLE_SHOWN);
        wrong.push(format!(
            "see {} and {}",
            prepared.guest.console.display(),
            exchange.display()
        ));
    }
    (name, wrong)
}

/// The progress line of the guests.
#[derive(Default)]
struct Progress {
    shown: Option<Instant>,
}

impl Progress {
    fn show(&mut self, running: &[Running], waiting: usize) {
        let terminal = std::io::stderr().is_terminal();
        let due = self.shown.is_none_or(|at| at.elapsed() > PROGRESS_EVERY);
        if running.is_empty() || !(terminal || due) {
            return;
        }
        self.shown = Some(Instant::now());
        let mut line = String::new();
        for guest in running {
            // Writing to a string cannot fail.
            let _ = write!(line, "{}: {}; ", guest.name(), guest.progress());
        }
        let _ = write!(line, "{waiting} waiting");
        if terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    /// Clears the line, before another one is printed.
    fn clear(&mut self) {
        if self.shown.is_some() && std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K");
        }
    }
}
