//! `tcpstate top`: real sockets on its screens, beside `ls` and `ss`; every key of its help, and the mouse; and the
//! terminal as it was, whatever ends it.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Action, Termios, Winsize, tcflow, tcgetattr, tcsetwinsize},
};
use tcpstate_common::State;

use crate::{
    need::{Need, trial},
    net::{Netns, await_fin, joined},
    process::{BINARY, Running, has_result, run},
    ss::{by_state, oracle},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie];
    trials.push(trial("top::keys", &needs, keys));
    trials.push(trial("top::signals", &needs, signals));
}

/// The time after which the screen will not change any more as it should.
const PATIENCE: Duration = Duration::from_mins(1);

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// A `tcpstate top` on a terminal of its own.
struct Top {
    child: Running,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
    emulator: JoinHandle<()>,
    /// The side of the process, which keeps the terminal.
    terminal: OwnedFd,
    before: Termios,
}

/// A new terminal: its other side, and its own.
fn terminal() -> Result<(File, OwnedFd)> {
    // A process that inherited this side would keep its own terminal alive.
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let size = Winsize {
        ws_row: ROWS,
        ws_col: COLUMNS,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&master, size)?;
    let name = ptsname(&master, Vec::new())?;
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NOCTTY);
    let own = options.open(name.to_str()?)?;
    Ok((File::from(master), own.into()))
}

/// Starts it on this terminal.
fn start_on(terminal: &OwnedFd, directory: &Path, words: &[&str]) -> Result<Running> {
    let mut command = Command::new(BINARY);
    command
        .current_dir(directory)
        .arg("top")
        .args(words)
        .env("TERM", "xterm")
        .env("LC_ALL", "C.UTF-8")
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(Stdio::null());
    Running::new(&mut command)
}

impl Top {
    fn start(words: &[&str]) -> Result<Self> {
        Self::start_in(Path::new("/"), words)
    }

    fn start_in(directory: &Path, words: &[&str]) -> Result<Self> {
        let (keys, terminal) = terminal()?;
        let before = tcgetattr(&terminal)?;
        let child = start_on(&terminal, directory, words)?;
        let screen = Arc::new(Mutex::new(vt100::Parser::new(ROWS, COLUMNS, 0)));
        let (mut output, shared) = (keys.try_clone()?, Arc::clone(&screen));
        // Ends when nobody has the other side any more, with all that was written.
        let emulator = thread::spawn(move || {
            let mut bytes = [0; 4_096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let mut screen = shared.lock().unwrap_or_else(PoisonError::into_inner);
                screen.process(bytes.get(..count).unwrap_or_default());
            }
        });
        Ok(Self {
            child,
            keys,
            screen,
            emulator,
            terminal,
            before,
        })
    }

    fn contents(&self) -> String {
        let emulator = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        emulator.screen().contents()
    }

    fn await_text(&self, text: &str) -> Result<()> {
        self.await_screen(text, |screen| screen.contains(text))
    }

    fn await_screen(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let awaited = await_that(what, || Ok(is_so(&self.contents())));
        awaited.with_context(|| format!("the screen:\n{}", self.contents()))
    }

    /// The place of the first line with this text, from 1 on.
    fn row(&self, text: &str) -> Result<usize> {
        let emulator = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows = emulator.screen().rows(0, COLUMNS);
        let at = rows.position(|row| row.contains(text));
        Ok(1 + at.with_context(|| format!("no line with {text}"))?)
    }

    /// Uses the mouse at this line: button 0 is the left one, 64 and 65 are the wheel.
    fn mouse(&mut self, button: u8, row: usize) -> Result<()> {
        self.press(&format!("\x1b[<{button};10;{row}M"))?;
        // A wheel is not released: that would be a second turn.
        if button < 64 {
            self.press(&format!("\x1b[<{button};10;{row}m"))?;
        }
        Ok(())
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// The number of sockets in a state, as the overview has it.
    fn count(&self, state: State) -> Option<usize> {
        let contents = self.contents();
        let name = state.to_string();
        let mut words = contents.lines().filter_map(|line| {
            let mut words = line.trim_start_matches('>').split_whitespace();
            (words.next()? == name).then(|| words.next())?
        });
        words.next()?.replace(',', "").parse().ok()
    }

    fn ensure_modes_of_before(&self) -> Result<()> {
        let after = tcgetattr(&self.terminal)?;
        let modes = |termios: &Termios| {
            (
                termios.input_modes,
                termios.output_modes,
                termios.local_modes,
            )
        };
        ensure!(modes(&after) == modes(&self.before), "{after:?}");
        Ok(())
    }

    /// Waits for the end, after which the terminal is as it was.
    fn end(mut self) -> Result<()> {
        let status = await_exit(&mut self.child)?;
        ensure!(has_result(status), "{status}");
        self.ensure_modes_of_before()?;
        drop(self.terminal);
        await_that("the end of its output", || Ok(self.emulator.is_finished()))?;
        joined(self.emulator.join());
        let emulator = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        let screen = emulator.screen();
        let has_mouse = screen.mouse_protocol_mode() != vt100::MouseProtocolMode::None;
        ensure!(
            !screen.alternate_screen() && !screen.hide_cursor() && !has_mouse,
            "not the screen of before (alternate {}, cursor hidden {}, mouse {has_mouse}):\n{}",
            screen.alternate_screen(),
            screen.hide_cursor(),
            screen.contents()
        );
        Ok(())
    }
}

fn await_that(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_so()? {
        ensure!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain: {what}"
        );
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn await_exit(child: &mut Child) -> Result<ExitStatus> {
    let mut status = None;
    await_that("its end", || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    status.context("no status")
}

/// Whether a process is stopped.
fn is_stopped(pid: u32) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
    Ok(rest.starts_with('T'))
}

/// Keys, each with what is shown then; `PORT` is that of the listener.
const STEPS: [(&str, &str); 57] = [
    ("?", "the next screen"),
    ("G", "this help, quit"),
    ("\x1b", "CHANGE"),
    ("2", "SERVICE "),
    ("s", "▼CLOSE/S"),
    ("S", "▲CLOSE/S"),
    ("l", "EST p99"),
    ("h", "OPEN/S"),
    ("\x1b[C", "EST p99"),
    ("\x1b[D", "OPEN/S"),
    ("\r", "PORT"),
    ("\x1b", "SERVICE "),
    ("3", "by age"),
    ("s", "by state"),
    ("S", "by state, reversed"),
    ("ssss", "by age"),
    ("\r", "[connection]"),
    ("e", "[explanation]"),
    ("\x1b", "[connection]"),
    ("\x1b", "LOCAL"),
    ("\t", "[4 machine]"),
    ("\x1b[Z", "[3 connections]"),
    ("1", ">LISTEN"),
    ("j", ">SYN_SENT"),
    ("k", ">LISTEN"),
    ("G", ">CLOSE  "),
    ("g", ">LISTEN"),
    ("\x1b[B", ">SYN_SENT"),
    ("\x1b[A", ">LISTEN"),
    ("\x1b[6~", ">CLOSE  "),
    ("\x1b[5~", ">LISTEN"),
    ("4", "[4 machine]"),
    ("l", "listen()>"),
    ("j", ">LISTEN 1"),
    ("h", ">SYN_SENT"),
    ("jj", ">SYN_RECV"),
    ("jj", ">ESTABLISHED"),
    ("\r", "in ESTABLISHED"),
    ("4o", "only ESTABLISHED"),
    ("1", "only ESTABLISHED"),
    ("2", "only ESTABLISHED"),
    ("4", "[4 machine]"),
    ("o", "[4 machine]"),
    // The state that is kept replaces the list that was opened.
    ("\r", "in ESTABLISHED"),
    ("5", "time in ESTABLISHED"),
    ("p", "time in ESTABLISHED of "),
    ("P", "time in ESTABLISHED, "),
    ("l", "time in FIN_WAIT1"),
    ("h", "time in ESTABLISHED"),
    // The histograms of another grouping begin anew.
    ("2", "SERVICE "),
    ("b", "by process name since"),
    ("B", "by port and role since"),
    ("1", "CHANGE"),
    ("g", ">LISTEN"),
    ("w", ".json written: "),
    ("W", ".rec written: "),
    (" ", "FROZEN at"),
];

/// Every key of the help has its effect, and the numbers are those of `ss` and of `ls`.
fn keys() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let connected = (0..3).map(|_| {
            let client = TcpStream::connect(address)?;
            Ok((client, listener.accept()?.0))
        });
        let _connected = connected.collect::<Result<Vec<_>>>()?;
        let half_closed = TcpStream::connect(address)?;
        let (leaked, _) = listener.accept()?;
        drop(half_closed);
        await_fin(&leaked)?;
        let directory = tempfile::tempdir()?;
        let words = ["--netns", "self", "--interval", "200ms"];
        let mut top = Top::start_in(directory.path(), &words)?;
        top.await_text("ESTABLISHED")?;
        for (state, count) in by_state(&oracle(&[])?) {
            let what = format!("{count} sockets in {state}");
            top.await_screen(&what, |_| top.count(state) == Some(count))?;
        }
        let ls = run(BINARY, &["ls", "--netns", "self", "--json"])?;
        let listed = ls.stdout.matches("\"state\":\"ESTABLISHED\"").count();
        ensure!(
            top.count(State::ESTABLISHED) == Some(listed),
            "{}",
            ls.stdout
        );
        // A connection more is seen as it comes.
        let mut more = TcpStream::connect(address)?;
        top.await_screen("two more", |_| {
            top.count(State::ESTABLISHED) == Some(listed + 2)
        })?;
        // And a time in ESTABLISHED that ends.
        drop(TcpStream::connect(address)?);
        let port = address.port().to_string();
        for (keys, shown) in STEPS {
            top.press(keys)?;
            top.await_text(&shown.replace("PORT", &port))
                .with_context(|| format!("{keys:?}"))?;
            // An Esc must not be taken for the begin of the next key.
            thread::sleep(Duration::from_millis(if keys == "\x1b" { 300 } else { 0 }));
        }
        written(directory.path(), &port, listed + 2)?;
        top.press(" ")?;
        top.await_screen("it goes on", |screen| !screen.contains("FROZEN"))?;
        filter(&mut top)?;
        columns(&mut top, &mut more, address.port())?;
        mouse(&mut top)?;
        // A stray text on the screen goes.
        lock(&top).process(b"\x1b[2J");
        top.press("\x0c")?;
        top.await_text("CLOSE_WAIT")?;
        // To the shell and back.
        top.press("\x1a")?;
        let pid = top.child.id();
        await_that("it stops", || is_stopped(pid))?;
        await_that("the screen of before", || {
            Ok(!lock(&top).screen().alternate_screen())
        })?;
        kill_process(Pid::from_child(&top.child), Signal::CONT)?;
        await_that("the screen again", || {
            Ok(lock(&top).screen().alternate_screen())
        })?;
        top.await_text("CLOSE_WAIT")?;
        // The directory in which it was started is gone.
        directory.close()?;
        for key in ["w", "W"] {
            top.press(key)?;
            top.await_text("no file written: No such file or directory")?;
            top.press("1")?;
            top.await_text("q quit")?;
        }
        top.press("q")?;
        top.end()
    })
}

/// There are two files that are nobody else's to read: the overview as JSON, and a recording of the last minutes, in which the run
/// is as it was.
fn written(directory: &Path, port: &str, established: usize) -> Result<()> {
    let files = fs::read_dir(directory)?;
    let mut files = files
        .map(|file| Ok(file?.path()))
        .collect::<Result<Vec<_>>>()?;
    for file in &files {
        ensure!(file.metadata()?.permissions().mode() & 0o777 == 0o600);
    }
    files.sort_by_key(|file| file.extension().map(ToOwned::to_owned));
    let [json, recording] = &files[..] else {
        anyhow::bail!("not two files: {files:?}");
    };
    let text = fs::read_to_string(json)?;
    let rates: serde_json::Value = serde_json::from_str(text.lines().next().context("no line")?)?;
    ensure!(rates["states"]["ESTABLISHED"] == established, "{rates}");
    let recording = recording.to_str().context("its name")?;
    let rates = run(BINARY, &["rates", "--json", "-r", recording])?;
    let mut lines = rates
        .stdout
        .lines()
        .filter(|line| line.contains("\"states\""));
    let last: serde_json::Value = serde_json::from_str(lines.next_back().context("no line")?)?;
    ensure!(last["states"]["ESTABLISHED"] == established, "{last}");
    // The connection that came and went while it ran.
    let life = run(BINARY, &["life", "--json", "-r", recording, "-P", port])?;
    let mut lines = life.stdout.lines();
    let has_ended = lines.any(|line| line.contains("\"ended\":true"));
    ensure!(has_ended, "{}", life.stdout);
    Ok(())
}

/// A filter that is typed in lists what `ls` lists with it; its words are completed, and a mistake is shown with its
/// place.
fn filter(top: &mut Top) -> Result<()> {
    // The list of a state was opened before.
    top.press("3")?;
    top.await_text("in ESTABLISHED")?;
    escape(top)?;
    top.await_screen("all connections", |screen| {
        screen.contains("by age") && !screen.contains("in ESTABLISHED")
    })?;
    for (keys, shown) in [
        ("/", "/_"),
        ("dpo\t", "/dport _"),
        ("nowhere\r", "`nowhere` is no port"),
        ("", "      ^^^^^^^"),
        // Ctrl-U.
        ("\x15", "/_"),
        ("state close-w\t", "/state close-wait _"),
        ("\r", "state close-wait, by age"),
    ] {
        top.press(keys)?;
        top.await_text(shown).with_context(|| format!("{keys:?}"))?;
    }
    let ls = run(
        BINARY,
        &["ls", "--netns", "self", "--json", "state", "close-wait"],
    )?;
    let listed = ls.stdout.matches("\"state\":\"CLOSE_WAIT\"").count();
    top.await_screen("as many as ls lists", |screen| {
        screen.matches("CLOSE_WAIT").count() == listed && !screen.contains("ESTABLISHED")
    })?;
    escape(top)?;
    top.await_text("ESTABLISHED")
}

/// Presses Esc, which must not be taken for the begin of the next key.
fn escape(top: &mut Top) -> Result<()> {
    top.press("\x1b")?;
    thread::sleep(Duration::from_millis(300));
    Ok(())
}

/// Columns are chosen while it runs, and the bytes in them are those that `ss` has.
fn columns(top: &mut Top, client: &mut TcpStream, port: u16) -> Result<()> {
    client.write_all(&[0; 3 << 10])?;
    let filter = format!("dport = :{port}");
    let local = client.local_addr()?.port();
    let ss = run("ss", &["-Htin", "state", "established", &filter])?;
    ensure!(ss.stdout.contains("bytes_sent:3072"), "{}", ss.stdout);
    top.press("c")?;
    top.await_text("columns: _")?;
    top.press("local,st\t,bytes_sent\r")?;
    let shown = |screen: &str| {
        let mut lines = screen.lines();
        let line = lines.find(|line| line.contains(&format!(":{local} ")));
        line.is_some_and(|line| line.trim_end().ends_with("3.00 KiB"))
    };
    top.await_screen("the bytes of the connection", shown)?;
    top.press("c\x15\r")?;
    top.await_text("REMOTE")
}

/// A click selects, another one opens, and the wheel moves the selection.
fn mouse(top: &mut Top) -> Result<()> {
    top.press("1")?;
    top.await_text(">LISTEN")?;
    top.mouse(65, 10)?;
    top.await_text(">ESTABLISHED")?;
    top.mouse(64, 10)?;
    top.await_text(">LISTEN")?;
    let row = top.row("CLOSE_WAIT")?;
    top.mouse(0, row)?;
    top.await_text(">CLOSE_WAIT")?;
    top.mouse(0, row)?;
    top.await_text("in CLOSE_WAIT")
}

fn lock(top: &Top) -> std::sync::MutexGuard<'_, vt100::Parser> {
    top.screen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The terminal is as it was after each signal that ends it, and a terminal that is gone ends it.
fn signals() -> Result<()> {
    Netns::new()?.run(|| {
        for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
            let top = Top::start(&["--netns", "self", "--interval", "200ms"])?;
            top.await_text("ESTABLISHED")?;
            kill_process(Pid::from_child(&top.child), signal)?;
            top.end().with_context(|| format!("{signal:?}"))?;
        }
        let top = Top::start(&["--netns", "self", "--interval", "200ms"])?;
        top.await_text("ESTABLISHED")?;
        let pid = top.child.id();
        kill_process(Pid::from_child(&top.child), Signal::TSTP)?;
        await_that("it stops", || is_stopped(pid))?;
        await_that("the screen of before", || {
            Ok(!lock(&top).screen().alternate_screen())
        })?;
        kill_process(Pid::from_child(&top.child), Signal::CONT)?;
        await_that("the screen again", || {
            Ok(lock(&top).screen().alternate_screen())
        })?;
        kill_process(Pid::from_child(&top.child), Signal::TERM)?;
        top.end()?;
        // Stopped as by Ctrl-S, it takes nothing, and who cannot wait presses Ctrl-C again. Its keys work afterwards.
        let mut top = Top::start(&["--netns", "self", "--interval", "200ms"])?;
        top.await_text("ESTABLISHED")?;
        tcflow(&top.terminal, Action::OOff)?;
        await_that("its end", || {
            kill_process(Pid::from_child(&top.child), Signal::INT)?;
            thread::sleep(Duration::from_millis(300));
            Ok(top.child.try_wait()?.is_some())
        })?;
        top.ensure_modes_of_before()?;
        let (mut other_side, terminal) = terminal()?;
        let mut child = start_on(
            &terminal,
            Path::new("/"),
            &["--netns", "self", "--interval", "200ms"],
        )?;
        drop(terminal);
        // The first frame.
        other_side.read_exact(&mut [0; 64])?;
        drop(other_side);
        let status = await_exit(&mut child)?;
        ensure!(has_result(status), "after its terminal has gone: {status}");
        // The number of intervals ends it too.
        Top::start(&["--netns", "self", "--interval", "200ms", "--count", "2"])?.end()
    })
}
