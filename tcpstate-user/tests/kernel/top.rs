//! `tcpstate top`: real sockets on its screens, beside `ls`, `rates` and `ss`; every key of its help, and the mouse; and the
//! terminal as it was, whatever ends it.

mod groups;
mod help;
mod oldest;
mod played;
mod terminal;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use rustix::{
    process::{Pid, Signal, kill_process},
    termios::{Action, tcflow},
};
use tcpstate_common::State;

use self::terminal::{Top, await_exit, await_that, start_on, terminal};
use crate::{
    need::{Need, trial},
    net::{Netns, await_fin},
    process::{BINARY, has_result, run},
    ss::{by_state, oracle},
};

pub fn add(trials: &mut Vec<Trial>) {
    let needs = [Need::Btf, Need::Cookie];
    trials.push(trial("top::keys", &needs, keys));
    trials.push(trial("top::signals", &needs, signals));
    trials.push(trial("top::resized", &needs, resized));
    trials.push(trial("top::oldest", &needs, oldest::minisockets));
}

/// Whether a process is stopped.
fn is_stopped(pid: u32) -> Result<bool> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
    Ok(rest.starts_with('T'))
}

/// Keys, each with what is shown then; `PORT` is that of the listener.
const STEPS: [(&str, &str); 55] = [
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
    ("4", "[4 machine]"),
    ("o", "only ESTABLISHED"),
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

/// Every key of the help has its effect, and the numbers are those of `ss`, `rates` and `ls`.
fn keys() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let address = (Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
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
        groups::ensure_states(&top)?;
        let help = help::read(&mut top, "selects text")?;
        // A connection more is seen as it comes.
        let mut more = TcpStream::connect(address)?;
        top.await_screen("two more", |_| {
            top.count(State::ESTABLISHED) == Some(listed + 2)
        })?;
        // And a time in ESTABLISHED that ends.
        drop(TcpStream::connect(address)?);
        let (_, port) = address;
        let port_name = port.to_string();
        for (keys, shown) in STEPS {
            top.press(keys)?;
            top.await_text(&shown.replace("PORT", &port_name))
                .with_context(|| format!("{keys:?}"))?;
            // An Esc must not be taken for the begin of the next key.
            thread::sleep(Duration::from_millis(if keys == "\x1b" { 300 } else { 0 }));
        }
        let recording = written(directory.path(), &port_name, listed + 2)?;
        top.press(" ")?;
        top.await_screen("it goes on", |screen| !screen.contains("FROZEN"))?;
        filter(&mut top)?;
        columns(&mut top, &mut more, port)?;
        groups::ensure_groups(&mut top, port)?;
        mouse(&mut top)?;
        let (help_of_played, pressed_in_played) = played::keys(&recording, listed)?;
        // A stray text on the screen goes.
        top.lock().process(b"\x1b[2J");
        top.press("\x0c")?;
        top.await_text("CLOSE_WAIT")?;
        // To the shell and back.
        top.press("\x1a")?;
        let pid = top.child.id();
        await_that("it stops", || is_stopped(pid))?;
        await_that("the screen of before", || {
            Ok(!top.lock().screen().alternate_screen())
        })?;
        kill_process(Pid::from_child(&top.child), Signal::CONT)?;
        await_that("the screen again", || {
            Ok(top.lock().screen().alternate_screen())
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
        help::ensure_pressed(&help, &top.pressed)?;
        let pressed = [top.pressed.clone(), pressed_in_played].concat();
        help::ensure_pressed(&help_of_played, &pressed)?;
        top.end()
    })
}

/// There are two files that are nobody else's to read: the overview as JSON, and a recording of the last minutes, in which the run
/// is as it was. Returns the latter.
fn written(directory: &Path, port: &str, established: usize) -> Result<PathBuf> {
    let files = fs::read_dir(directory)?;
    let mut files = files
        .map(|file| Ok(file?.path()))
        .collect::<Result<Vec<_>>>()?;
    for file in &files {
        ensure!(file.metadata()?.permissions().mode() & 0o777 == 0o600);
    }
    files.sort_by_key(|file| file.extension().map(ToOwned::to_owned));
    let [json, file] = &files[..] else {
        anyhow::bail!("not two files: {files:?}");
    };
    let text = fs::read_to_string(json)?;
    let rates: serde_json::Value = serde_json::from_str(text.lines().next().context("no line")?)?;
    ensure!(rates["states"]["ESTABLISHED"] == established, "{rates}");
    let recording = file.to_str().context("its name")?;
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
    Ok(file.clone())
}

/// A filter that is typed in lists what `ls` lists with it; its words are completed, and a mistake is shown with its
/// place.
fn filter(top: &mut Top) -> Result<()> {
    // The list of a state was opened before.
    top.press("3")?;
    top.await_text("in ESTABLISHED")?;
    top.escape()?;
    top.await_screen("all connections", |screen| {
        screen.contains("by age") && !screen.contains("in ESTABLISHED")
    })?;
    for (keys, shown) in [
        ("/", "/_"),
        ("dpo\t", "/dport _"),
        ("nowhere\r", "`nowhere` is no port"),
        ("", "      ^^^^^^^"),
        // Ctrl-W, Ctrl-U.
        ("\x17", "/dport _"),
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
    top.escape()?;
    top.await_text("ESTABLISHED")
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

/// A key that comes together with a change of size is taken at once.
fn resized() -> Result<()> {
    Netns::new()?.run(|| {
        let mut top = Top::start(&["--netns", "self"])?;
        top.await_text("[1 overview]")?;
        for _ in 0..10 {
            for (key, screen) in [("2", "[2 services]"), ("1", "[1 overview]")] {
                kill_process(Pid::from_child(&top.child), Signal::WINCH)?;
                top.press(key)?;
                top.await_text(screen)?;
            }
        }
        top.press("q")?;
        top.end()
    })
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
            Ok(!top.lock().screen().alternate_screen())
        })?;
        kill_process(Pid::from_child(&top.child), Signal::CONT)?;
        await_that("the screen again", || {
            Ok(top.lock().screen().alternate_screen())
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
