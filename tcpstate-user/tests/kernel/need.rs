//! The requirements of a test on the machine, and the result if one is missing.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        LazyLock, Mutex, PoisonError,
        mpsc::{RecvTimeoutError, channel},
    },
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};

use crate::{
    ftrace::Hidden,
    halves,
    net::{joined, mptcp_protocol, socket},
    netem::missing_netem,
    privileges::as_user,
    process::take_skipped,
};

/// The attach modes of `tcpstate`.
pub const ATTACH_MODES: [&str; 2] = ["btf", "tracepoint"];

/// The requirements of an attach mode.
pub fn attach_needs(mode: &str) -> &'static [Need] {
    if mode == "btf" {
        &[Need::Btf]
    } else {
        &[Need::Tracefs]
    }
}

/// A requirement that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// User ID 0, in a container perhaps without all its capabilities.
    Root,
    /// The kernel's BTF, for `--attach btf`.
    Btf,
    /// `bpf_get_socket_cookie` in tracing programs (Linux 5.12).
    Cookie,
    /// The kernel says why it sends a RST (Linux 6.10).
    ResetReason,
    /// tracefs, for `--attach tracepoint` and for bpftrace.
    Tracefs,
    /// A program on the PATH.
    Program(&'static str),
    /// `/dev/net/tun`, for a wire between namespaces.
    Tun,
    /// `CONFIG_MPTCP`, enabled.
    Mptcp,
    /// `sch_netem`, and veth devices for it.
    Netem,
    /// `CONFIG_TIME_NS`.
    TimeNamespace,
    /// A user namespace for an ordinary user.
    UserNamespace,
    /// A memory controller of cgroups, of either version.
    MemoryLimit,
    /// The network namespace that the kernel began with, which alone has the settings of the whole host.
    FirstNetns,
}

impl Need {
    /// Its name in `TCPSTATE_KERNEL_LACKS`: of a feature, or of a program; `None` if it depends on the machine's set-up
    /// and not on the kernel.
    const fn feature(self) -> Option<&'static str> {
        match self {
            Self::Btf => Some("btf"),
            Self::Cookie => Some("cookie"),
            Self::ResetReason => Some("reset_reason"),
            Self::Tracefs => Some("tracepoint"),
            Self::Mptcp => Some("mptcp"),
            Self::Netem => Some("netem"),
            Self::Program(name) => Some(name),
            Self::Root
            | Self::Tun
            | Self::TimeNamespace
            | Self::UserNamespace
            | Self::MemoryLimit
            | Self::FirstNetns => None,
        }
    }

    /// The reason why it is not met; `None` if it is.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Btf => unreadable("/sys/kernel/btf/vmlinux", "the kernel has no BTF"),
            Self::Cookie => missing_cookie(),
            Self::ResetReason => missing_reset_reason(),
            Self::Tracefs => unreadable(
                "/sys/kernel/tracing/events/sock/inet_sock_set_state/format",
                "tracefs is not mounted or lacks the tracepoint",
            ),
            Self::Program(name) => missing_program(name),
            Self::Tun => fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/net/tun")
                .err()
                .map(|error| format!("/dev/net/tun: {error}")),
            Self::Mptcp => socket(rustix::net::AddressFamily::INET, Some(mptcp_protocol()))
                .err()
                .map(|error| format!("no MPTCP sockets: {error}")),
            Self::Netem => missing_netem(),
            Self::TimeNamespace => {
                unreadable("/proc/self/ns/time", "the kernel has no time namespaces")
            }
            Self::UserNamespace => missing_user_namespace(),
            Self::FirstNetns => unreadable(
                "/proc/sys/net/ipv4/tcp_max_orphans",
                "this network namespace is not the first one",
            ),
            Self::MemoryLimit => Self::memory_cgroups()
                .is_none()
                .then(|| "no memory controller of cgroups is mounted".to_owned()),
        }
    }

    /// The folder for cgroups with a memory limit, and the name of the file that sets the limit.
    pub fn memory_cgroups() -> Option<(PathBuf, &'static str)> {
        const FIRST: &str = "/sys/fs/cgroup/memory";
        let first = Path::new(FIRST).join("memory.limit_in_bytes").exists();
        if first {
            return Some((FIRST.into(), "memory.limit_in_bytes"));
        }
        let second = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
        let folder = second.into_iter().find(|folder| {
            let handed_down = fs::read_to_string(Path::new(folder).join("cgroup.subtree_control"));
            handed_down.is_ok_and(|list| list.split_whitespace().any(|word| word == "memory"))
        })?;
        Some((folder.into(), "memory.max"))
    }
}

fn unreadable(path: &str, meaning: &str) -> Option<String> {
    let error = fs::File::open(Path::new(path)).err()?;
    Some(format!("{meaning} ({path}: {error})"))
}

/// Checks each program once: some take a second to start on a slow machine, and most tests need them.
fn missing_program(name: &'static str) -> Option<String> {
    static TRIED: Mutex<BTreeMap<&str, Option<String>>> = Mutex::new(BTreeMap::new());
    let mut tried = TRIED.lock().unwrap_or_else(PoisonError::into_inner);
    let missing = tried.entry(name).or_insert_with(|| {
        // Any exit code shows that it is installed.
        let output = Command::new(name).arg("--version").output();
        output.err().map(|error| format!("{name}: {error}"))
    });
    missing.clone()
}

fn missing_user_namespace() -> Option<String> {
    let output = as_user("unshare".as_ref())
        .args(["--user", "--map-root-user", "--net", "true"])
        .output();
    let why = match output {
        Ok(output) if output.status.success() => return None,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => format!("setpriv: {error}"),
    };
    Some(format!("an ordinary user may have no namespaces ({why})"))
}

/// The program may call the helper if the kernel has the function that was added with it.
fn missing_cookie() -> Option<String> {
    static MISSING: LazyLock<Option<String>> = LazyLock::new(|| {
        missing_name(
            b"bpf_get_socket_ptr_cookie",
            "no socket cookies in tracing programs before Linux 5.12",
        )
    });
    MISSING.clone()
}

fn missing_reset_reason() -> Option<String> {
    static MISSING: LazyLock<Option<String>> =
        LazyLock::new(|| missing_name(b"sk_rst_reason", "no reset reasons before Linux 6.10"));
    MISSING.clone()
}

/// Looks for a name among the strings of the kernel's BTF.
pub fn missing_name(name: &[u8], meaning: &str) -> Option<String> {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match fs::read(PATH) {
        Ok(btf) if btf.split(|byte| *byte == 0).any(|part| part == name) => None,
        Ok(_) => Some(meaning.to_owned()),
        Err(error) => Some(format!("the kernel has no BTF ({PATH}: {error})")),
    }
}

/// Programs that a machine may lack, even where everything else is required.
const REAL: &[&str] = &[
    "nginx",
    "haproxy",
    "prometheus",
    "promtool",
    "python3",
    "redis-server",
    "wrk",
];

/// The settings of the environment.
struct Known {
    /// `TCPSTATE_REQUIRE_KERNEL=1`: every requirement not listed as missing must be met.
    required: bool,
    /// `TCPSTATE_KERNEL_LACKS`: the features that the kernel lacks, and the programs that the guest lacks. If it is set,
    /// the list is complete, and a listed one that exists is a failure too.
    lacks: Option<String>,
}

impl Known {
    fn read() -> Self {
        Self {
            required: env::var_os("TCPSTATE_REQUIRE_KERNEL").is_some_and(|value| value == "1"),
            lacks: env::var("TCPSTATE_KERNEL_LACKS").ok(),
        }
    }

    fn is_lacking(&self, feature: &str) -> bool {
        let lacks = self.lacks.iter().flat_map(|list| list.split(','));
        lacks.into_iter().any(|lacking| lacking == feature)
    }

    /// Whether a test may be skipped because of this requirement.
    fn allows_to_miss(&self, need: Need) -> bool {
        match need.feature() {
            _ if !self.required => true,
            // Many kernels are built without it, so it is required only if the missing features are
            // listed.
            Some("netem") if self.lacks.is_none() => true,
            // Real servers and their clients, beside programs of the tests that do the same.
            Some(program) if REAL.contains(&program) => true,
            Some(feature) => self.is_lacking(feature),
            // Many distributions do not allow it.
            None if need == Need::UserNamespace => true,
            None => false,
        }
    }
}

/// How often a test is tried while the kernel skips runs of BPF programs. On an emulated processor a program takes so
/// long that interrupts often occur during its run.
pub const ATTEMPTS: u32 = 20;

/// A test that runs if the machine meets its requirements, and otherwise prints `skipped: REASON`. With
/// `TCPSTATE_REQUIRE_KERNEL=1` a skip is a failure, except for the features in `TCPSTATE_KERNEL_LACKS`; and a
/// test that could run although it requires one of those is a failure too.
pub fn trial(
    name: impl Into<String>,
    needs: &[Need],
    test: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    trial_within(HANGS, name, needs, test)
}

/// A [`trial`] with a time limit of its own.
pub fn trial_within(
    limit: Duration,
    name: impl Into<String>,
    needs: &[Need],
    test: impl Fn() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let name = name.into();
    let known = Known::read();
    let needs = [Need::Root].into_iter().chain(needs.iter().copied());
    let mut skipped = None;
    for need in needs {
        let missing = need.missing();
        let lacking = need.feature().is_some_and(|it| known.is_lacking(it));
        match missing {
            None if lacking => {
                return failing(
                    name,
                    format!("{need:?} is available, but TCPSTATE_KERNEL_LACKS lists it"),
                );
            }
            Some(why) if !known.allows_to_miss(need) => {
                return failing(
                    name,
                    format!("skipped: {why}, and TCPSTATE_REQUIRE_KERNEL=1 forbids skipping"),
                );
            }
            missing => skipped = skipped.or(missing),
        }
    }
    if let Some(why) = skipped {
        eprintln!("{name}: skipped: {why}");
        return Trial::test(name, || Ok(())).with_ignored_flag(true);
    }
    halves::trial(name, move || watched(limit, || unless_skipped(test)))
}

/// Runs a test again if it fails and the kernel has counted that it skipped runs of a BPF program meanwhile, because
/// one was already running on that CPU, or because a BPF map was being changed there (`bpf_prog_active`). Other traffic
/// and other tools on the machine make that likelier. The count is of the whole host: the skipped runs may all have been
/// for other traffic, so the test is tried as if there were none. The same where connections of the test prove that a
/// transition was shown to no program (`process::shown_to_nobody`), and where ftrace saw some that no program is shown
/// (`ftrace::Hidden`).
///
/// Nothing else causes a repetition.
fn unless_skipped(test: impl Fn() -> anyhow::Result<()>) -> anyhow::Result<()> {
    for _ in 1..ATTEMPTS {
        take_skipped();
        let hidden = Hidden::watch();
        let result = test();
        let hidden = hidden.map_or(0, |hidden| hidden.count());
        match (result, take_skipped().saturating_add(hidden)) {
            (Err(error), skipped) if skipped > 0 => {
                let error = format!("{error:#}");
                let what = error.lines().next().unwrap_or_default();
                eprintln!("the kernel did not show {skipped} transitions to the programs: {what}");
            }
            (result, _) => return result,
        }
    }
    test()
}

fn failing(name: String, why: String) -> Trial {
    Trial::test(name, move || Err(Failed::from(why)))
}

/// The default time limit, which no test reaches on any machine, however much else it does.
pub const HANGS: Duration = Duration::from_mins(15);

/// Runs a test on a thread of its own, so that a test that hangs fails and reports where it hangs.
fn watched(
    limit: Duration,
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> anyhow::Result<()> {
    let (sender, ended) = channel();
    let thread = thread::spawn(move || {
        let result = test();
        // The receiver is gone if the test was given up.
        let _ = sender.send(());
        result
    });
    match ended.recv_timeout(limit) {
        Ok(()) | Err(RecvTimeoutError::Disconnected) => joined(thread.join()),
        Err(RecvTimeoutError::Timeout) => {
            anyhow::bail!("it hangs; the threads wait in: {}", waits().join(", "))
        }
    }
}

/// The kernel functions in which this process's threads wait.
fn waits() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("wchan")).ok())
        .collect()
}
