//! The reaction of a run to signals and to its closed output, in a process of its own.
//!
//! The same executable is both the tests and, if [`CHILD`] is set, the process that they watch: a trace of a
//! scripted source. The tests do not need the kernel side.

use std::{
    env, fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    process::{Child, ChildStderr, Command, ExitCode, ExitStatus, Stdio},
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, Signal, kill_process},
    pty::OpenptFlags,
    termios::{Action, tcflow},
};
use tcpstate::run::{self, Outputs, signals, stderr, stdout};
use tcpstate_common::{Record, State, record::AF_INET};
use tcpstate_core::{
    books::Accounting,
    event::Event,
    origin::Origin,
    source::{EventSource, SourceError, Step},
    view::{End, Flow, View},
};

/// The variable that selects the child's source.
const CHILD: &str = "TCPSTATE_TEST_CHILD";

fn main() -> ExitCode {
    if let Ok(kind) = env::var(CHILD) {
        return child(&kind);
    }
    let trials = vec![
        Trial::test(
            "each_of_three_signals_ends_with_the_summary",
            ends_with_the_summary,
        ),
        Trial::test("a_second_sigint_kills", a_second_sigint_kills),
        Trial::test(
            "the_same_sigint_twice_ends_with_the_summary",
            the_same_sigint_twice_ends_with_the_summary,
        ),
        Trial::test(
            "sigint_kills_what_sigterm_could_not_end",
            sigint_after_sigterm,
        ),
        Trial::test(
            "an_ignored_sighup_stays_ignored",
            an_ignored_sighup_stays_ignored,
        ),
        Trial::test("sigusr1_goes_to_the_view", sigusr1_goes_to_the_view),
        Trial::test("a_closed_pipe_ends_a_quiet_run", || {
            a_closed_pipe_ends_a_run("quiet")
        }),
        Trial::test("a_closed_pipe_ends_a_busy_run", || {
            a_closed_pipe_ends_a_run("busy")
        }),
        Trial::test(
            "a_signal_ends_a_run_whose_output_is_not_read",
            output_not_read,
        ),
        Trial::test(
            "a_signal_ends_a_run_whose_standard_error_is_not_read",
            standard_error_not_read,
        ),
        Trial::test("an_input_is_never_overwritten", input_overwritten),
        Trial::test("bad_usage_exits_2_and_says_why", bad_usage),
        Trial::test("help_and_version_exit_0", help_and_version),
        Trial::test("a_zone_that_is_no_file_is_utc", no_zone),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Reports an event on standard error, one word per line.
fn say(word: &str) {
    // In one test the parent does not read it.
    let _ = writeln!(stderr::open(), "{word}");
}

struct Source {
    origin: Origin,
    /// `quiet` has no events, `busy` has one after the other, and `stuck` does not end when it is stopped.
    kind: String,
    settled: bool,
    said_ready: bool,
    stopped: bool,
}

impl EventSource for Source {
    fn poll_step(
        &mut self,
        _cx: &mut Context<'_>,
        batch: &mut Vec<Event>,
    ) -> Poll<Result<Step, SourceError>> {
        if !self.settled {
            self.settled = true;
            return Poll::Ready(Ok(Step::Settled));
        }
        if !self.said_ready {
            self.said_ready = true;
            say("ready");
        }
        if self.stopped && self.kind != "stuck" {
            return Poll::Ready(Ok(Step::End));
        }
        if self.kind == "busy" {
            let record = Record {
                family: AF_INET,
                oldstate: State::CLOSE,
                newstate: State::SYN_SENT,
                ..Record::default()
            };
            batch.push(Event::try_from(record).expect("a valid record"));
            return Poll::Ready(Ok(Step::Events));
        }
        // Only a signal ends this wait.
        Poll::Pending
    }

    fn stop(&mut self) {
        self.stopped = true;
        say("stopping");
    }

    fn accounting(&mut self) -> Result<Accounting, SourceError> {
        Ok(Accounting::default())
    }

    fn origin(&self) -> &Origin {
        &self.origin
    }
}

struct Lines;

impl View for Lines {
    fn start(&mut self, _origin: &Origin, _out: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }

    fn event(&mut self, _event: &Event, out: &mut dyn Write) -> io::Result<Flow> {
        writeln!(out, "event")?;
        Ok(Flow::Continue)
    }

    fn takes_usr1(&self) -> bool {
        true
    }

    fn usr1(
        &mut self,
        _now_ns: u64,
        _out: &mut dyn Write,
        _err: &mut dyn Write,
    ) -> io::Result<Flow> {
        say("usr1");
        Ok(Flow::Continue)
    }

    fn finish(&mut self, _end: &End, _out: &mut dyn Write, _err: &mut dyn Write) -> io::Result<()> {
        say("summary");
        Ok(())
    }
}

fn child(kind: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async {
        let wanted = signals::Wanted {
            usr1: true,
            hangups: false,
        };
        let mut interrupts = signals::Process::install(wanted, stdout::reader_gone()?)?;
        let origin = Origin {
            host: String::new(),
            kernel: String::new(),
            attach: String::new(),
            wall_at_monotonic_zero_ns: 0,
            started_ns: 0,
            filters: String::new(),
            live: true,
            sample_interval_ns: None,
        };
        let mut source = Source {
            origin,
            kind: kind.into(),
            settled: false,
            said_ready: false,
            stopped: false,
        };
        let mut out = stdout::open();
        let outputs = Outputs {
            out: &mut out,
            err: &mut stderr::open(),
        };
        let options = run::Options::default();
        anyhow::Ok(run::drive(&mut source, &mut Lines, outputs, &mut interrupts, &options).await?)
    });
    match result {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The child, as seen by a test.
struct Watched {
    child: Child,
    words: BufReader<ChildStderr>,
}

impl Watched {
    /// Starts a child and waits until it is ready.
    fn start(mut command: Command, kind: &str) -> io::Result<Self> {
        let mut child = command
            .env(CHILD, kind)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let words = BufReader::new(child.stderr.take().expect("standard error is a pipe"));
        let mut watched = Self { child, words };
        assert_eq!(watched.word()?, "ready");
        Ok(watched)
    }

    fn quiet() -> io::Result<Self> {
        // SIGHUP is ignored if the tests run under `nohup`.
        let mut as_usual = Command::new("env");
        as_usual
            .arg("--default-signal=HUP")
            .arg(env::current_exe()?);
        Self::start(as_usual, "quiet")
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// The next word that it writes; empty at its end.
    fn word(&mut self) -> io::Result<String> {
        let mut word = String::new();
        self.words.read_line(&mut word)?;
        Ok(word.trim_end().to_owned())
    }

    /// Waits for its end. Returns its exit status and the rest of its standard error.
    fn end(mut self) -> io::Result<(ExitStatus, String)> {
        let mut rest = String::new();
        self.words.read_to_string(&mut rest)?;
        Ok((self.child.wait()?, rest))
    }
}

fn ends_with_the_summary() -> Result<(), Failed> {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let child = Watched::quiet()?;
        child.signal(signal)?;
        let (status, words) = child.end()?;
        assert_eq!(words, "stopping\nsummary\n", "{signal:?}");
        assert_eq!(status.code(), Some(0), "{signal:?}");
    }
    Ok(())
}

fn dies_of_sigint_after(first: Signal) -> Result<(), Failed> {
    let mut child = Watched::start(Command::new(env::current_exe()?), "stuck")?;
    child.signal(first)?;
    assert_eq!(child.word()?, "stopping");
    // A signal soon after the first one has no effect.
    while child.child.try_wait()?.is_none() {
        child.signal(Signal::INT)?;
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let (status, words) = child.end()?;
    assert_eq!(
        (status.signal(), words.as_str()),
        (Some(Signal::INT.as_raw()), "")
    );
    Ok(())
}

/// `timeout -s INT` sends the signal to the process and to its group.
fn the_same_sigint_twice_ends_with_the_summary() -> Result<(), Failed> {
    for _ in 0..20 {
        let child = Watched::quiet()?;
        child.signal(Signal::INT)?;
        child.signal(Signal::INT)?;
        let (status, words) = child.end()?;
        assert_eq!(
            (status.code(), words.as_str()),
            (Some(0), "stopping\nsummary\n")
        );
    }
    Ok(())
}

fn a_second_sigint_kills() -> Result<(), Failed> {
    dies_of_sigint_after(Signal::INT)
}

fn sigint_after_sigterm() -> Result<(), Failed> {
    dies_of_sigint_after(Signal::TERM)
}

fn an_ignored_sighup_stays_ignored() -> Result<(), Failed> {
    let mut nohup = Command::new("sh");
    nohup
        .args(["-c", "trap '' HUP; exec \"$0\""])
        .arg(env::current_exe()?);
    let mut child = Watched::start(nohup, "quiet")?;
    child.signal(Signal::HUP)?;
    // If it took the first signal, it would stop before it writes this.
    child.signal(Signal::USR1)?;
    assert_eq!(child.word()?, "usr1");
    child.signal(Signal::TERM)?;
    let (status, words) = child.end()?;
    assert_eq!(
        (status.code(), words.as_str()),
        (Some(0), "stopping\nsummary\n")
    );
    Ok(())
}

fn sigusr1_goes_to_the_view() -> Result<(), Failed> {
    let mut child = Watched::quiet()?;
    for _ in 0..3 {
        child.signal(Signal::USR1)?;
        assert_eq!(child.word()?, "usr1");
    }
    child.signal(Signal::INT)?;
    assert_eq!(child.end()?.1, "stopping\nsummary\n");
    Ok(())
}

fn a_closed_pipe_ends_a_run(kind: &str) -> Result<(), Failed> {
    let mut child = Watched::start(Command::new(env::current_exe()?), kind)?;
    drop(child.child.stdout.take());
    let (status, words) = child.end()?;
    assert_eq!((status.code(), words.as_str()), (Some(0), ""));
    Ok(())
}

/// Writes until nothing more fits, so that whoever writes next has to wait.
fn fill(output: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&output)?;
    fcntl_setfl(&output, flags | OFlags::NONBLOCK)?;
    while rustix::io::write(&output, &[b' '; 512]).is_ok() {}
    Ok(fcntl_setfl(&output, flags)?)
}

/// A pseudo-terminal: the side of the user, and the side of the program.
fn terminal_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let person = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::pty::grantpt(&person)?;
    rustix::pty::unlockpt(&person)?;
    let name = rustix::pty::ptsname(&person, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let program = rustix::fs::open(&name, flags, Mode::empty())?;
    Ok((person, program))
}

/// Waits for the end of a process that should not be far: within a second, but for a busy machine.
fn end_of(child: &mut Child) -> io::Result<ExitStatus> {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(30) {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    panic!("it does not end");
}

/// Pairs of a reader, which is kept open, and an output, which takes nothing.
fn outputs_not_read() -> io::Result<Vec<(&'static str, OwnedFd, OwnedFd)>> {
    let (reader, writer) = io::pipe()?;
    fill(&writer)?;
    let pipe = ("a pipe", reader.into(), writer.into());
    let (reader, writer) = UnixStream::pair()?;
    fill(&writer)?;
    let socket = ("a socket", reader.into(), writer.into());
    let (person, program) = terminal_pair()?;
    tcflow(&program, Action::OOff)?;
    let stopped = ("a stopped terminal", person, program);
    Ok(vec![pipe, socket, stopped])
}

fn output_not_read() -> Result<(), Failed> {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        for (what, _reader, output) in outputs_not_read()? {
            let mut as_usual = Command::new("env");
            as_usual
                .args(["--default-signal=HUP"])
                .arg(env::current_exe()?);
            let mut child = as_usual
                .env(CHILD, "busy")
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(Stdio::piped())
                .spawn()?;
            let words = BufReader::new(child.stderr.take().expect("standard error is a pipe"));
            let mut child = Watched { child, words };
            assert_eq!(child.word()?, "ready");
            child.signal(signal)?;
            let status = end_of(&mut child.child)?;
            let (_, words) = child.end()?;
            assert_eq!(status.code(), Some(1), "{what}, {signal:?}: {words}");
            let expected =
                "stopping\nsummary\ncannot write the output: its reader does not read on";
            assert!(words.starts_with(expected), "{what}, {signal:?}: {words}");
        }
    }
    Ok(())
}

fn standard_error_not_read() -> Result<(), Failed> {
    let (_reader, writer) = io::pipe()?;
    fill(&writer)?;
    let mut child = Command::new(env::current_exe()?)
        .env(CHILD, "quiet")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()?;
    // It cannot say that it is ready: it is when it handles the signal.
    let status = format!("/proc/{}/status", child.id());
    let handles = |status: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask >> (Signal::TERM.as_raw() - 1) & 1 == 1)
    };
    while !handles(&fs::read_to_string(&status)?) {
        thread::sleep(Duration::from_millis(5));
    }
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    assert_eq!(end_of(&mut child)?.code(), Some(0));
    Ok(())
}

/// Whatever a rotation would rename, overwrite or remove.
fn input_overwritten() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let [file, older] = ["a.rec", "a.rec.1"].map(|name| folder.path().join(name));
    for path in [&file, &older] {
        fs::write(path, path.as_os_str().as_encoded_bytes())?;
    }
    for (read, more) in [
        (&file, &[][..]),
        (&file, &["--ring", "1m"]),
        (&older, &["--max-bytes", "64M", "--rotate", "2"]),
        (&older, &["--ring", "1m", "--rotate", "2"]),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .arg("record")
            .arg("-r")
            .arg(read)
            .arg("-w")
            .arg(&file)
            .args(more)
            .output()?;
        let err = String::from_utf8(output.stderr)?;
        let expected = format!("{} is what is being read", read.display());
        assert!(
            output.status.code() == Some(1) && err.contains(&expected),
            "{more:?}: {err}"
        );
        for path in [&file, &older] {
            assert_eq!(fs::read(path)?, path.as_os_str().as_encoded_bytes());
        }
        assert_eq!(fs::read_dir(folder.path())?.count(), 2);
    }
    Ok(())
}

fn tcpstate(arguments: &[&str]) -> io::Result<(Option<i32>, String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
        .args(arguments)
        .output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ok((
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    ))
}

fn bad_usage() -> Result<(), Failed> {
    for (arguments, reason) in [
        (&[][..], "Usage: tcpstate <COMMAND>"),
        (&["trase"], "similar subcommands exist: 'rates', 'trace'"),
        (
            &["trace", "--csv", "--json"],
            "'--csv' cannot be used with '--json'",
        ),
        (&["trace", "-L", "80,http"], "`http` is not a port"),
        (&["trace", "--ring-bytes", "5000"], "must be a power of two"),
        (
            &["trace", "--netns", "/etc/passwd"],
            "is not a network namespace",
        ),
    ] {
        let (code, out, err) = tcpstate(arguments)?;
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains(reason), "{arguments:?}: {err}");
    }
    Ok(())
}

/// Reading a device or a FIFO as a time zone would not end.
fn no_zone() -> Result<(), Failed> {
    for zone in ["/dev/zero", ":/dev/zero", "/dev"] {
        let output = Command::new(env!("CARGO_BIN_EXE_tcpstate"))
            .args(["trace", "-r", "/dev/null"])
            .env("TZ", zone)
            .output()?;
        let err = String::from_utf8(output.stderr)?;
        assert!(err.contains("is no time zone file"), "{zone}: {err}");
        assert!(err.contains("is empty"), "{zone}: {err}");
    }
    Ok(())
}

fn help_and_version() -> Result<(), Failed> {
    for (arguments, beginning) in [
        (["--help"].as_slice(), "Shows every TCP state change"),
        (&["trace", "--help"], "Prints a line per TCP state change"),
        (
            &["--version"],
            concat!("tcpstate ", env!("CARGO_PKG_VERSION")),
        ),
        (&["trace", "--columns", "help"], "time\nseconds\n"),
    ] {
        let (code, out, err) = tcpstate(arguments)?;
        assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(out.starts_with(beginning), "{arguments:?}: {out}");
    }
    Ok(())
}
