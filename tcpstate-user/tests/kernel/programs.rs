//! Programs that tests start: this binary again, with an environment variable that selects the program.
//!
//! A thread of the test cannot have a process, a user, a cgroup or a name of its own.

use std::{
    env,
    ffi::CString,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::AddressFamily,
    process::{
        Pid, Signal, Uid, WaitOptions, kill_process, set_parent_process_death_signal, waitpid,
    },
};

use crate::{
    cgroup::Cgroup,
    faults::forgery::{FORGER, forge},
    net::{PATIENCE, await_fin, joined, mptcp_protocol, socket},
    process::{Running, await_exit},
    sandbox::{BY_ADDRESS, BY_NAME, SANDBOXED, attempt, attempt_pushing},
};

/// The variable that selects the program.
pub const VARIABLE: &str = "TCPSTATE_TEST_PROGRAM";

/// The variable with the name of a service that another program starts.
const SERVICE: &str = "TCPSTATE_TEST_SERVICE";

/// The thread of a threaded client that connects.
pub const THREAD: &str = "pool-1-thread-1";

/// Number of processes that accept on one listener.
const CHILDREN: usize = 4;

/// The identity of a program.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name, as in `/proc/PID/comm`.
    pub comm: &'static str,
    pub uid: u32,
    /// The file that moves a process into its cgroup.
    pub cgroup_processes: PathBuf,
}

impl Identity {
    pub fn new(comm: &'static str, uid: u32, cgroup: &Cgroup) -> Self {
        Self {
            comm,
            uid,
            cgroup_processes: cgroup.processes(),
        }
    }
}

/// Runs the program that the environment selects; returns `false` if it selects none.
pub fn run_if_asked() -> Result<bool> {
    let Ok(program) = env::var(VARIABLE) else {
        return Ok(false);
    };
    // The caller has chosen its user and namespaces.
    if program == FORGER {
        return forge().map(|()| true);
    }
    if program == SANDBOXED {
        return attempt().map(|()| true);
    }
    if [BY_ADDRESS, BY_NAME].contains(&&*program) {
        return attempt_pushing(program == BY_NAME).map(|()| true);
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [comm, uid, cgroup, address, port, count] = &arguments[..] else {
        bail!("not six arguments: {arguments:?}")
    };
    // There is only one thread yet, so that these settings apply to the whole process.
    fs::write(cgroup, "0").context("enter the cgroup")?;
    rustix::thread::set_thread_uid(Uid::from_raw(uid.parse()?)).context("setuid")?;
    rustix::thread::set_name(&CString::new(comm.as_str())?)?;
    let (address, port) = (address.parse::<IpAddr>()?, port.parse()?);
    match program.as_str() {
        "server" => serve(address, port)?,
        "client" => connect(address, port, count.parse()?)?,
        "threaded" => {
            let count = count.parse()?;
            let thread = thread::Builder::new().name(THREAD.to_owned());
            let thread = thread.spawn(move || connect(address, port, count))?;
            joined(thread.join())?;
        }
        "flood" => flood()?,
        "daemon" => become_daemon(address, port)?,
        "activator" => activate(address, port)?,
        "activated" => serve_activated()?,
        "mptcp_server" => serve_mptcp((address, port).into())?,
        "mptcp_client" => connect_mptcp((address, port).into())?,
        other => bail!("no program {other}"),
    }
    Ok(true)
}

fn command(program: &str, who: &Identity, address: Ipv4Addr, port: u16, count: u32) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command
        .env(VARIABLE, program)
        .args([who.comm, &who.uid.to_string()])
        .arg(&who.cgroup_processes)
        .args([address.to_string(), port.to_string(), count.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A server that listens in one process and accepts in others.
pub struct Server(Running);

impl Server {
    /// Starts it in the namespace of the calling thread; returns when it listens.
    pub fn start(who: &Identity, address: Ipv4Addr, port: u16) -> Result<Self> {
        let mut child = Running::new(&mut command("server", who, address, port, 0))?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "the server printed {line:?}");
        Ok(Self(child))
    }

    /// The process that listens.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it, and waits until it has ended.
    pub fn stop(mut self) -> Result<()> {
        drop(self.0.stdin.take());
        let status = await_exit(&mut self.0)?;
        ensure!(status.success(), "the server: {status}");
        Ok(())
    }
}

/// The results of a client.
pub struct Client {
    pub pid: u32,
    /// The local port of each of its connections.
    pub ports: Vec<u16>,
}

/// Runs a client in the namespace of the calling thread: it makes this number of connections, one after the
/// other, every other one closed by the server first.
pub fn client(who: &Identity, address: Ipv4Addr, port: u16, count: u32) -> Result<Client> {
    run_client("client", who, address, port, count)
}

/// The same from a thread called [`THREAD`] of the client.
pub fn threaded_client(who: &Identity, address: Ipv4Addr, port: u16, count: u32) -> Result<Client> {
    run_client("threaded", who, address, port, count)
}

fn run_client(
    program: &str,
    who: &Identity,
    address: Ipv4Addr,
    port: u16,
    count: u32,
) -> Result<Client> {
    let mut child = Running::new(&mut command(program, who, address, port, count))?;
    let pid = child.id();
    let stdout = child.stdout.take().context("no stdout")?;
    let lines = BufReader::new(stdout).lines();
    let ports = lines
        .map(|line| Ok(line?.parse()?))
        .collect::<Result<_>>()?;
    let status = await_exit(&mut child)?;
    ensure!(status.success(), "the client: {status}");
    Ok(Client { pid, ports })
}

/// Keeps a CPU busy with packets in softirq, until this is dropped.
pub fn start_flood(who: &Identity) -> Result<Running> {
    Running::new(&mut command("flood", who, Ipv4Addr::LOCALHOST, 0, 0))
}

/// A listener that was handed on.
pub struct Handed {
    /// The process that called `listen`.
    pub opener: u32,
    /// The process that has it now.
    pub to: u32,
    /// As long as it is there, the server runs.
    pub running: Running,
}

/// Starts a daemon in the namespace of the calling thread: a process listens, forks, and its child forks again;
/// both end, and the grandchild accepts.
pub fn start_daemon(who: &Identity, port: u16) -> Result<Handed> {
    let mut handed = start_handing(&mut command("daemon", who, Ipv4Addr::LOCALHOST, port, 0))?;
    let status = await_exit(&mut handed.running)?;
    ensure!(status.success(), "the daemon: {status}");
    Ok(handed)
}

/// Starts a service in the same way, whose listener another process opens and keeps, as a service manager does.
pub fn start_activated(manager: &Identity, service: &str, port: u16) -> Result<Handed> {
    let mut command = command("activator", manager, Ipv4Addr::LOCALHOST, port, 0);
    command.env(SERVICE, service);
    start_handing(&mut command)
}

/// Starts a program that prints the number of the process that has the listener in the end.
fn start_handing(command: &mut Command) -> Result<Handed> {
    let mut child = Running::new(command)?;
    let mut line = String::new();
    let stdout = child.stdout.take().context("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    Ok(Handed {
        opener: child.id(),
        to: line.trim().parse().with_context(|| line.clone())?,
        running: child,
    })
}

/// Starts one side of an MPTCP connection in the namespace of the calling thread. It prints `ready`; the client
/// connects at a line on its standard input, exchanges data, and prints `done`. Both close when that input ends.
pub fn start_mptcp(program: &str, who: &Identity, address: Ipv4Addr, port: u16) -> Result<Running> {
    Running::new(&mut command(program, who, address, port, 0))
}

fn serve_mptcp(address: SocketAddr) -> Result<()> {
    let listener = socket(AddressFamily::INET, Some(mptcp_protocol()))?;
    rustix::net::bind(&listener, &address)?;
    rustix::net::listen(&listener, 8)?;
    println!("ready");
    let listener = TcpListener::from(listener);
    let (mut connection, _) = listener.accept()?;
    let mut byte = [0];
    connection.read_exact(&mut byte)?;
    connection.write_all(&byte)?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn connect_mptcp(address: SocketAddr) -> Result<()> {
    println!("ready");
    io::stdin().read_line(&mut String::new())?;
    let client = socket(AddressFamily::INET, Some(mptcp_protocol()))?;
    rustix::net::connect(&client, &address)?;
    let mut client = TcpStream::from(client);
    // The connection is complete, and gets its further subflows, when data has come back.
    client.write_all(b"a")?;
    client.read_exact(&mut [0])?;
    println!("done");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn become_daemon(address: IpAddr, port: u16) -> Result<()> {
    let listener = TcpListener::bind((address, port)).context("listen")?;
    for generation in 0..2 {
        // SAFETY: this process has one thread, so the copy has no inconsistent state of another thread.
        match unsafe { libc::fork() } {
            0 if generation == 0 => drop(rustix::process::setsid()?),
            0 => {}
            -1 => return Err(io::Error::last_os_error()).context("fork"),
            _ => std::process::exit(0),
        }
    }
    end_with_stdin();
    println!("{}", std::process::id());
    accept_all(&listener)
}

/// Ends this process when the test closes its standard input, or ends.
fn end_with_stdin() {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
}

/// Opens the listener for a service, keeps it, and gives it to the service as standard input.
fn activate(address: IpAddr, port: u16) -> Result<()> {
    let listener = TcpListener::bind((address, port)).context("listen")?;
    let mut arguments: Vec<String> = env::args().skip(1).collect();
    let comm = arguments.first_mut().context("no name")?;
    *comm = env::var(SERVICE)?;
    let mut service = Command::new("/proc/self/exe")
        .env(VARIABLE, "activated")
        .args(arguments)
        .stdin(OwnedFd::from(listener.try_clone()?))
        .spawn()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    service.kill()?;
    service.wait()?;
    Ok(())
}

fn serve_activated() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    println!("{}", std::process::id());
    accept_all(&listener)
}

fn serve(address: IpAddr, port: u16) -> Result<()> {
    let listener = TcpListener::bind((address, port)).context("listen")?;
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        // SAFETY: this process has one thread, so the copy has no inconsistent state of another thread.
        let pid = unsafe { libc::fork() };
        match pid {
            0 => {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                accept_all(&listener)?;
            }
            pid => children.push(Pid::from_raw(pid).context("fork")?),
        }
    }
    println!("ready");
    io::stdin().read_to_end(&mut Vec::new())?;
    for &child in &children {
        kill_process(child, Signal::KILL)?;
    }
    for child in children {
        waitpid(Some(child), WaitOptions::empty())?;
    }
    Ok(())
}

/// Accepts until it is killed.
fn accept_all(listener: &TcpListener) -> Result<()> {
    loop {
        let (mut connection, _) = listener.accept()?;
        let mut close_first = [0];
        connection.read_exact(&mut close_first)?;
        if close_first == [0] {
            await_fin(&connection)?;
        }
    }
}

fn connect(address: IpAddr, port: u16, count: u32) -> Result<()> {
    for number in 0..count {
        let mut connection = TcpStream::connect((address, port)).context("connect")?;
        println!("{}", connection.local_addr()?.port());
        let server_first = number % 2 == 1;
        connection.write_all(&[u8::from(server_first)])?;
        if server_first {
            await_fin(&connection)?;
        }
    }
    Ok(())
}

fn flood() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    socket.set_nonblocking(true)?;
    let stdin = io::stdin();
    let start = Instant::now();
    let at_once = Timespec::try_from(Duration::ZERO)?;
    while start.elapsed() < PATIENCE {
        for _ in 0..256 {
            // A full queue keeps the CPU busy too.
            let _ = socket.send(&[0; 64]);
            let _ = socket.recv(&mut [0; 64]);
        }
        if poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&at_once))? > 0 {
            break;
        }
    }
    Ok(())
}
