//! The crowds of `scale`: very many listeners, cgroups or network namespaces, made for real and given back.
//!
//! A process of its own makes and holds them. It gives them back when its input ends, so also where the benchmark
//! breaks off. Nobody else on the host is to have them in his way: the names of the namespaces are in a mount
//! namespace that only the benchmark is in, and the ports are such as tests do not use.

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    ptr, thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::UnshareFlags,
};

/// Addresses of each port of the listeners in one namespace.
const ADDRESSES: u8 = 4;
/// Their first port: above those of tests, and above the ephemeral ones, at which clients could be taken for servers.
const FIRST_PORT: u16 = 61_000;
/// The cgroups in one folder.
const IN_A_FOLDER: usize = 1_000;
/// The directory below which `ip netns` has its names.
const RUN: &str = "/run";
/// That directory.
const NAMES: &str = "/run/netns";
/// Namespaces that are given back at once: the kernel holds a lock of all namespaces while it takes some apart.
const AT_ONCE: usize = 100;

/// Written by the process when its crowd is there.
const READY: &[u8; 5] = b"ready";

/// Which crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Listeners in one namespace.
    Listeners,
    /// Cgroups, and in the first of them as many listeners, each in one of its own.
    Cgroups,
    /// Network namespaces with a listener each.
    Namespaces,
}

/// A crowd, while this lives.
pub struct Crowd(Child);

impl Crowd {
    /// Makes one, and waits until it is there. `listeners`: the number of those that are made beside cgroups.
    pub fn start(kind: Kind, number: usize, listeners: usize) -> Result<Self> {
        let name = kind.to_possible_value().context("its name")?;
        let child = Command::new(env::current_exe()?)
            .args(["--hold-crowd", name.get_name()])
            .args(["--crowd-size", &number.to_string()])
            .args(["--crowd-listeners", &listeners.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start a process that holds a crowd")?;
        let mut crowd = Self(child);
        let mut pipe = crowd.0.stdout.take().context("its output")?;
        pipe.read_exact(&mut [0; READY.len()])
            .with_context(|| format!("there is no room for {number} {}", name.get_name()))?;
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // It says itself what it could not give back.
        let _ = self.0.wait();
    }
}

/// The main function of that process.
pub fn hold_here(kind: Kind, number: usize, listeners: usize) -> Result<()> {
    // Whoever interrupts the benchmark ends it, and so the input; what is here has to be given back first.
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?;
    match kind {
        Kind::Listeners => {
            let addresses = addresses(number)?;
            let _all = addresses
                .map(|address| TcpListener::bind(address).with_context(|| address.to_string()))
                .collect::<Result<Vec<_>>>()?;
            hold()
        }
        Kind::Cgroups => {
            let cgroups = Cgroups::make(number)?;
            for (address, folder) in addresses(listeners)?.zip(cgroups.folders()) {
                listen_from(&folder, address)?;
            }
            hold()
        }
        Kind::Namespaces => {
            let mut namespaces = Namespaces::default();
            // A thread of its own, which leaves the last one when it ends.
            thread::scope(|scope| {
                let made = scope.spawn(|| namespaces.make(number));
                made.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            hold()
        }
    }
}

/// Reports that everything is there, and waits for the end of the input.
fn hold() -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "only the suite reads it")]
    let mut output = io::stdout();
    output.write_all(READY)?;
    output.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The addresses of so many listeners in one namespace.
fn addresses(number: usize) -> Result<impl Iterator<Item = SocketAddr>> {
    let ports = u16::try_from(number.div_ceil(usize::from(ADDRESSES)))?;
    let last = FIRST_PORT.checked_add(ports).context("too many ports")?;
    let all = (FIRST_PORT..last).flat_map(|port| {
        let address = move |host| SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), port));
        (1..=ADDRESSES).map(address)
    });
    Ok(all.take(number))
}

/// Folders of cgroups, removed when this is dropped.
struct Cgroups {
    root: PathBuf,
    number: usize,
}

impl Cgroups {
    fn make(number: usize) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mount = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            (fields.next()? == "cgroup2").then_some(point)
        });
        let root = Path::new(mount.context("no cgroup2 is mounted")?).join("tcpstate-bench");
        let all = Self { root, number };
        // Of a benchmark whose process was killed.
        all.remove();
        fs::create_dir(&all.root)?;
        for at in 0..number {
            let folder = all.folder(at);
            if at % IN_A_FOLDER == 0 {
                fs::create_dir(folder.parent().context("its folder")?)?;
            }
            fs::create_dir(&folder)
                .with_context(|| format!("the kernel gives {at} cgroups, not {number}"))?;
        }
        Ok(all)
    }

    fn folder(&self, at: usize) -> PathBuf {
        let folder = format!("part-{}.slice/unit-{at}.service", at / IN_A_FOLDER);
        self.root.join(folder)
    }

    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.number).map(|at| self.folder(at))
    }

    fn remove(&self) {
        for part in folders_in(&self.root) {
            for folder in folders_in(&part) {
                // What is left shows below.
                let _ = fs::remove_dir(folder);
            }
            let _ = fs::remove_dir(part);
        }
        if let Err(error) = fs::remove_dir(&self.root)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The folders in a folder, at most one level deep.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

/// Opens a listener from a process in that cgroup, and keeps it open in this one. To move a process there takes the
/// kernel much longer than to make one there, which shares the open files with this process.
///
/// *Source:* `struct clone_args` in `include/uapi/linux/sched.h`.
///
/// *Since:* Linux 5.7.
fn listen_from(cgroup: &Path, address: SocketAddr) -> Result<()> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    #[derive(Default)]
    #[repr(C)]
    struct CloneArgs {
        flags: u64,
        pidfd: u64,
        child_tid: u64,
        parent_tid: u64,
        exit_signal: u64,
        stack: u64,
        stack_size: u64,
        tls: u64,
        set_tid: u64,
        set_tid_size: u64,
        cgroup: u64,
    }
    let folder = File::open(cgroup)?;
    let arguments = CloneArgs {
        flags: CLONE_INTO_CGROUP | libc::CLONE_FILES as u64,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: std::os::fd::AsRawFd::as_raw_fd(&folder) as u64,
        ..CloneArgs::default()
    };
    // SAFETY: the structure has the size that is given, and the kernel reads it during the call only. This process has no
    // other thread that could hold a lock in the child's copy of the memory.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<CloneArgs>(),
        )
    };
    if pid == 0 {
        let opened = TcpListener::bind(address);
        let failed = opened.is_err();
        std::mem::forget(opened);
        // SAFETY: it ends this process, without what the parent has to do at its end.
        unsafe { libc::_exit(failed.into()) }
    }
    ensure!(
        pid > 0,
        "make a process in a cgroup: {}",
        io::Error::last_os_error()
    );
    let mut status = 0;
    // SAFETY: the kernel writes the status to a variable of its type.
    let reaped = unsafe { libc::waitpid(libc::pid_t::try_from(pid)?, &raw mut status, 0) };
    ensure!(reaped > 0 && status == 0, "cannot listen on {address}");
    Ok(())
}

/// Network namespaces with names, given back when this is dropped.
#[derive(Default)]
struct Namespaces {
    names: Vec<PathBuf>,
    listeners: Vec<TcpListener>,
}

impl Namespaces {
    /// Makes them; this thread ends up in the last one.
    fn make(&mut self, number: usize) -> Result<()> {
        for at in 0..number {
            // SAFETY: as in `net::enter_own_namespace`.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
                .with_context(|| format!("the kernel gives {at} namespaces, not {number}"))?;
            let name = Path::new(NAMES).join(format!("bench-{at}"));
            File::create(&name)?;
            mount(
                Some(Path::new("/proc/thread-self/ns/net")),
                &name,
                None,
                libc::MS_BIND,
            )?;
            self.names.push(name);
            let address = (Ipv4Addr::UNSPECIFIED, FIRST_PORT);
            self.listeners.push(TcpListener::bind(address)?);
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.listeners.clear();
        for names in self.names.chunks(AT_ONCE) {
            for name in names {
                let unmounted = c_path(name).map(|name| {
                    // SAFETY: the path ends with a zero byte, and lives as long as the call.
                    unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) }
                });
                if !matches!(unmounted, Ok(0)) {
                    eprintln!("{}: {}", name.display(), io::Error::last_os_error());
                }
            }
            // The kernel takes them apart later.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Calls a function in a thread that has mounts of its own, with no name of a network namespace. Processes that it starts
/// have the same.
pub fn in_own_mounts<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            // SAFETY: NEWNS separates the mounts, the root and the working directory of this thread from those of others. The
            // call could separate file descriptors (NEWFILES), but does not.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }
                .context("make a mount namespace (requires root)")?;
            mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)?;
            mount(None, Path::new(RUN), Some("tmpfs"), 0)?;
            fs::create_dir(NAMES)?;
            f()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn c_path(path: &Path) -> Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn mount(from: Option<&Path>, to: &Path, kind: Option<&str>, flags: libc::c_ulong) -> Result<()> {
    let source = from.map(c_path).transpose()?;
    let target = c_path(to)?;
    let kind = kind.map(CString::new).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: each pointer is null or to a text that ends with a zero byte, and all of them live as long as the call.
    let result = unsafe {
        libc::mount(
            pointer(&source),
            target.as_ptr(),
            pointer(&kind),
            flags,
            ptr::null(),
        )
    };
    if result != 0 {
        bail!("mount {}: {}", to.display(), io::Error::last_os_error());
    }
    Ok(())
}
