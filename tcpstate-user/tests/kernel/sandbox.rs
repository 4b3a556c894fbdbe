//! The privileges that `tcpstate serve` gives up: those that are left, and what is refused inside.

mod pushes;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsRawFd as _, unix::process::parent_id},
    path::Path,
    process::Command,
    ptr, thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use rustix::{
    process::{Pid, Signal, kill_process},
    thread::CapabilitySet,
};
use tcpstate::sandbox::{self, Sampling, Sockets, User};

pub use self::pushes::{BY_ADDRESS, BY_NAME, attempt_pushing};
use crate::{
    need::{Need, trial},
    net::{Netns, PATIENCE, await_that},
    process::{Running, await_exit, bpf_ids, has_result},
    programs::VARIABLE,
    serve::{Scrape, Served},
};

/// The program that tries what is forbidden.
pub const SANDBOXED: &str = "sandboxed";

/// `nobody`.
const USER: &str = "65534:65534";

pub fn add(trials: &mut Vec<Trial>) {
    trials.push(trial("sandbox::privileges", &[Need::Btf], privileges));
    trials.push(trial("sandbox::forbids", &[Need::Root], forbids));
    trials.push(trial("sandbox::pushes", &[Need::Root], pushes::pushes));
    trials.push(trial("sandbox::killed", &[Need::Btf], killed));
    trials.push(trial("sandbox::terminated", &[Need::Btf], terminated));
}

/// Each thread has the capabilities that SECURITY.md states, and it works with them.
fn privileges() -> Result<()> {
    for (arguments, columns) in [
        (&["--resolve-owners=no"][..], &["always"][..]),
        // Nobody listens there.
        (
            &["--resolve-owners=no", "--otlp=http://localhost:9"],
            &["always"],
        ),
        (&[], &["always", "owners"]),
        (
            &["--netns", "all"],
            &["always", "owners", "other namespaces"],
        ),
    ] {
        let served = Served::start(&[arguments, &["--user", USER]].concat())?;
        served.connect()?;
        looks(&served, columns.contains(&"other namespaces"))?;
        let states = threads(served.tcpstate.id())?;
        let pushes = arguments.iter().any(|argument| argument.contains("otlp"));
        for thread in [
            "tcpstate",
            "tcpstate-ring",
            "tcpstate-sample",
            "looks",
            "http",
            "api",
        ]
        .into_iter()
        .chain(pushes.then_some("otlp"))
        {
            let state = states
                .get(thread)
                .with_context(|| format!("no {thread}: {states:?}"))?;
            let expected = stated(thread, columns)?;
            let of = |key: &str| state.get(key).map_or("", String::as_str);
            let set = |key: &str| u64::from_str_radix(of(key), 16).context(key.to_owned());
            ensure!(
                set("CapEff")? == expected && set("CapPrm")? == expected,
                "{arguments:?}: {thread} should have {expected:x}: {state:?}"
            );
            for key in ["CapInh", "CapBnd", "CapAmb"] {
                ensure!(set(key)? == 0, "{thread}: {state:?}");
            }
            for (key, expected) in [
                ("Uid", "65534 65534 65534 65534"),
                ("Gid", "65534 65534 65534 65534"),
                ("Groups", ""),
                ("NoNewPrivs", "1"),
                ("Seccomp", "2"),
            ] {
                let found: Vec<&str> = of(key).split_whitespace().collect();
                ensure!(found.join(" ") == expected, "{thread}: {key}: {state:?}");
            }
        }
        kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
        let output = served.tcpstate.finish()?;
        ensure!(has_result(output.status), "{output:?}");
        for refusal in [
            "cannot enter",
            "hidden",
            "not permitted",
            "ermission denied",
        ] {
            ensure!(
                !output.stderr.contains(refusal),
                "{arguments:?}: {output:?}"
            );
        }
    }
    Ok(())
}

/// Inside, the API answers, and later looks at the host find a listener that was not there before.
fn looks(served: &Served, elsewhere: bool) -> Result<()> {
    let other = Netns::new()?;
    let netns = if elsewhere { &other } else { &served.netns };
    // Namespaces are found by their processes.
    let (_process, _listener, _client) = netns.run(|| {
        let process = Running::new(Command::new("sleep").arg("infinity"))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, served.port))?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        Ok((process, listener, client))
    })?;
    // A name takes /etc/services, where there is one.
    let filter = if Path::new("/etc/services").exists() {
        "?filter=not%20sport%20=%20:https"
    } else {
        ""
    };
    let port = format!("port=\"{}\"", served.port);
    await_that("a look found the listener", || {
        // Whoever asks for connections has them looked at.
        let (status, body) = served.get(&format!("/api/v1/connections{filter}"))?;
        ensure!(status == 200, "{status}: {body}");
        let (_, metrics) = served.get("/metrics")?;
        Ok(Scrape(metrics).sum("tcpstate_accept_queue_limit", &[&port]) > 0)
    })
}

/// The fields of `/proc/PID/task/TID/status` of each thread, by its name.
fn threads(pid: u32) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut threads = BTreeMap::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // Those that enter a namespace end soon.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        let fields = status.lines().filter_map(|line| {
            let (key, value) = line.split_once(':')?;
            Some((key.to_owned(), value.trim().to_owned()))
        });
        let fields: BTreeMap<_, _> = fields.collect();
        let name = fields.get("Name").cloned().unwrap_or_default();
        threads.insert(name, fields);
    }
    Ok(threads)
}

/// The capabilities of a thread in the table of SECURITY.md, in these columns and what this kernel takes besides.
fn stated(thread: &str, columns: &[&str]) -> Result<u64> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../SECURITY.md"))?;
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = page
        .lines()
        .skip_while(|line| !line.starts_with("| thread |"));
    let head = cells(lines.next().context("no table of threads")?);
    let name = format!("`{thread}`");
    let row = lines
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .find(|row| row[0].split(", ").any(|one| one == name))
        .with_context(|| format!("no {thread} in the table"))?;
    let mut columns = columns.to_vec();
    if tcpstate_capture::host::maps_take_bpf() {
        columns.push("Linux before 5.19");
    }
    let mut stated = CapabilitySet::empty();
    for column in columns {
        let at = head.iter().position(|cell| cell == column);
        let cell = &row[at.with_context(|| format!("no column {column}"))?];
        for name in cell.split(", ").filter(|name| !name.is_empty()) {
            let name = name.strip_prefix("CAP_").context("no capability")?;
            stated |= CapabilitySet::from_name(name).with_context(|| name.to_owned())?;
        }
    }
    Ok(stated.bits())
}

fn forbids() -> Result<()> {
    run(SANDBOXED)
}

/// Runs this program.
fn run(program: &str) -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.env(VARIABLE, program);
    let mut child = Running::new(&mut command)?;
    let status = await_exit(&mut child)?;
    ensure!(status.success(), "{status}: its reason is above");
    Ok(())
}

/// After SIGKILL nothing of a sandboxed run is left in the kernel, though clients are connected.
fn killed() -> Result<()> {
    let mut served = Served::start(&["--user", USER])?;
    let _clients = clients(&served)?;
    let held = |key: &str| bpf_ids(served.tcpstate.id(), key);
    let (programs, maps, links) = (held("prog_id:")?, held("map_id:")?, held("link_id:")?);
    ensure!(
        !programs.is_empty() && !maps.is_empty() && !links.is_empty(),
        "it is attached, but holds {programs:?}, {maps:?} and {links:?}"
    );
    served.tcpstate.child.kill()?;
    served.tcpstate.child.wait()?;
    await_that("the programs, maps and links are gone", || {
        let now = aya::programs::loaded_programs().filter_map(|one| Some(one.ok()?.id()));
        let no_program = is_free_of(now, &programs);
        let now = aya::maps::loaded_maps().filter_map(|one| Some(one.ok()?.id()));
        let no_map = is_free_of(now, &maps);
        let now = aya::programs::loaded_links().filter_map(|one| Some(one.ok()?.id()));
        let no_link = is_free_of(now, &links);
        Ok(no_program && no_map && no_link)
    })
}

fn is_free_of(now: impl Iterator<Item = u32>, held: &BTreeSet<String>) -> bool {
    let now: BTreeSet<String> = now.map(|id| id.to_string()).collect();
    now.is_disjoint(held)
}

/// SIGTERM ends it from inside the sandbox, beside clients that follow the events and that do not finish, with the summary.
fn terminated() -> Result<()> {
    let served = Served::start(&["--user", USER, "--json"])?;
    served.connect()?;
    let mut clients = clients(&served)?;
    kill_process(Pid::from_child(&served.tcpstate.child), Signal::TERM)?;
    let output = served.tcpstate.finish()?;
    let (_, summary) = output.json()?;
    ensure!(
        summary["snapshots"]
            .as_u64()
            .is_some_and(|number| number > 0),
        "{summary}"
    );
    // Those that follow the events are told.
    let mut rest = String::new();
    clients.streams[0].read_to_string(&mut rest)?;
    ensure!(rest.contains("event: end\n"), "{rest}");
    Ok(())
}

/// Clients that do not finish by themselves.
struct Clients {
    /// They follow the events.
    streams: Vec<TcpStream>,
    /// They have sent half a request, or nothing.
    _halves: Vec<TcpStream>,
}

fn clients(served: &Served) -> Result<Clients> {
    let connect = |request: &str| {
        let mut stream = TcpStream::connect(served.http)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        anyhow::Ok(stream)
    };
    served.netns.run(|| {
        let follow = "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n";
        let mut streams: Vec<TcpStream> = (0..8).map(|_| connect(follow)).collect::<Result<_>>()?;
        for stream in &mut streams {
            // The answer has begun.
            stream.read_exact(&mut [0; 12])?;
        }
        let halves = (0..40).map(|at| connect(["", "GET /metrics HTTP/1.1\r\nHost: "][at % 2]));
        Ok(Clients {
            streams,
            _halves: halves.collect::<Result<_>>()?,
        })
    })
}

/// A system call, and whether it did its work.
type Attempt = (&'static str, Box<dyn Fn() -> io::Result<()>>);

/// System calls that do no harm here. Each works, or fails for a reason of its own.
fn attempts() -> Result<Vec<Attempt>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let namespace = File::open("/proc/self/ns/uts")?;
    Ok(vec![
        (
            "exec",
            Box::new(|| Command::new("/bin/true").status().map(drop)),
        ),
        (
            "connect",
            Box::new(move || TcpStream::connect(listener.local_addr()?).map(drop)),
        ),
        (
            "a datagram",
            Box::new(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map(drop)),
        ),
        (
            "write a file",
            Box::new(|| File::options().write(true).open("/dev/null").map(drop)),
        ),
        (
            "setns",
            Box::new(move || {
                // SAFETY: the descriptor is open, and it is the namespace that this process is in.
                done(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWUTS) }.into())
            }),
        ),
        (
            "unshare",
            Box::new(|| {
                // SAFETY: nothing is separated.
                done(unsafe { libc::unshare(0) }.into())
            }),
        ),
        (
            "setuid",
            Box::new(|| {
                // SAFETY: this user, which it is already.
                let uid = unsafe { libc::getuid() };
                // SAFETY: the same.
                done(unsafe { libc::syscall(libc::SYS_setuid, uid) })
            }),
        ),
        ("make memory executable", Box::new(executable)),
        ("make a BPF map", Box::new(bpf_map)),
        (
            "mount",
            Box::new(|| {
                let nothing: *const libc::c_char = ptr::null();
                // SAFETY: the strings end with a NUL, and null is allowed for the others.
                let mounted =
                    unsafe { libc::mount(nothing, c"/".as_ptr(), nothing, 0, ptr::null()) };
                expected(done(mounted.into()), libc::EINVAL)
            }),
        ),
        (
            "ptrace",
            Box::new(|| {
                // SAFETY: it reads nothing: there is no process of that number.
                let traced = unsafe { libc::ptrace(libc::PTRACE_PEEKUSER, -1, 0, 0) };
                expected(done(traced), libc::ESRCH)
            }),
        ),
    ])
}

/// Tries what is forbidden inside, in this process, which is the caller's own. Before, nothing of it is.
pub fn attempt() -> Result<()> {
    let attempts = attempts()?;
    for (name, attempt) in &attempts {
        attempt().with_context(|| format!("{name}, before"))?;
    }
    let parent = parent_id();
    let sampling = Sampling {
        other_netns: true,
        owners: true,
        maps_take_bpf: true,
    };
    let user = User {
        uid: 65_534,
        gid: 65_534,
    };
    ensure!(
        sandbox::enter(Some(user), sampling.capabilities(), Sockets::OfNetlink)?,
        "this kernel has no seccomp"
    );
    let all_are_refused = |place: &str| {
        for (name, attempt) in &attempts {
            match attempt() {
                Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
                other => bail!("{name} {place}: {other:?}"),
            }
        }
        Ok(())
    };
    all_are_refused("inside")?;
    // Sampling goes on: it looks at the process that started this one.
    let of_parent = format!("/proc/{parent}/ns/net");
    fs::metadata(&of_parent).context("the namespace of another process, inside")?;
    fs::read_dir(format!("/proc/{parent}/fd")).context("its files, inside")?;
    File::open("/etc/passwd").context("a file, inside")?;
    thread::spawn(|| ()).join().ok().context("a thread")?;

    if sandbox::confine(sampling, &["/proc".into()])? {
        for path in ["/etc/passwd", "/etc/shadow", &of_parent] {
            let opened = File::open(path);
            let is_denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            ensure!(opened.as_ref().is_err_and(is_denied), "{path}: {opened:?}");
        }
        fs::read_to_string("/proc/self/status").context("what it reads itself")?;
    }
    all_are_refused("confined")?;
    let refused = sandbox::enter(Some(user), CapabilitySet::empty(), Sockets::OfNetlink);
    ensure!(refused.is_err(), "it entered twice");
    sandbox::drop_capabilities()?;
    let left = rustix::thread::capabilities(None)?;
    ensure!(
        left.permitted.is_empty() && left.effective.is_empty(),
        "{left:?}"
    );
    Ok(())
}

/// The result of a system call.
fn done(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// An error that shows that the call was made.
fn expected(result: io::Result<()>, errno: i32) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(errno) => Ok(()),
        other => other,
    }
}

fn executable() -> io::Result<()> {
    let (protection, flags) = (
        libc::PROT_READ | libc::PROT_EXEC,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
    );
    // SAFETY: new memory, which nothing refers to.
    let memory = unsafe { libc::mmap(ptr::null_mut(), 4_096, protection, flags, -1, 0) };
    if memory == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: that memory.
    done(unsafe { libc::munmap(memory, 4_096) }.into())
}

/// Makes an array of one number, and closes it.
fn bpf_map() -> io::Result<()> {
    /// *Source:* `enum bpf_cmd`.
    const MAP_CREATE: libc::c_long = 0;
    // The type, the sizes of a key and a value, and their number. *Source:* `union bpf_attr`.
    let attributes: [u32; 4] = [2, 4, 4, 1];
    let length = size_of_val(&attributes);
    // SAFETY: the kernel reads that many bytes there.
    let map = unsafe { libc::syscall(libc::SYS_bpf, MAP_CREATE, attributes.as_ptr(), length) };
    done(map)?;
    // SAFETY: the descriptor was just opened, and nothing else has it.
    done(unsafe { libc::syscall(libc::SYS_close, map) })
}
