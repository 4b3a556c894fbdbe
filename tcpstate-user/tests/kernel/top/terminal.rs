//! A `tcpstate top` on a terminal of its own, and an emulator that says what is on the screen.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};
use tcpstate_common::State;

use crate::{
    net::joined,
    process::{BINARY, Running, has_result},
};

/// The time after which the screen will not change any more as it should.
pub const PATIENCE: Duration = Duration::from_mins(1);

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// A `tcpstate top` on a terminal of its own.
pub struct Top {
    pub child: Running,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
    emulator: JoinHandle<()>,
    /// The side of the process, which keeps the terminal.
    pub terminal: OwnedFd,
    before: Termios,
    /// All that was pressed, each time as it was.
    pub pressed: Vec<String>,
}

/// A new terminal: its other side, and its own.
pub fn terminal() -> Result<(File, OwnedFd)> {
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
pub fn start_on(terminal: &OwnedFd, directory: &Path, words: &[&str]) -> Result<Running> {
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
    pub fn start(words: &[&str]) -> Result<Self> {
        Self::start_in(Path::new("/"), words)
    }

    pub fn start_in(directory: &Path, words: &[&str]) -> Result<Self> {
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
            pressed: Vec::new(),
        })
    }

    pub fn contents(&self) -> String {
        let emulator = self.lock();
        emulator.screen().contents()
    }

    pub fn await_text(&self, text: &str) -> Result<()> {
        self.await_screen(text, |screen| screen.contains(text))
    }

    pub fn await_screen(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let awaited = await_that(what, || Ok(is_so(&self.contents())));
        awaited.with_context(|| format!("the screen:\n{}", self.contents()))
    }

    /// The place of the first line with this text, from 1 on.
    pub fn row(&self, text: &str) -> Result<usize> {
        let emulator = self.lock();
        let mut rows = emulator.screen().rows(0, COLUMNS);
        let at = rows.position(|row| row.contains(text));
        Ok(1 + at.with_context(|| format!("no line with {text}"))?)
    }

    /// Uses the mouse at this line: button 0 is the left one, 64 and 65 are the wheel.
    pub fn mouse(&mut self, button: u8, row: usize) -> Result<()> {
        self.press(&format!("\x1b[<{button};10;{row}M"))?;
        // A wheel is not released: that would be a second turn.
        if button < 64 {
            self.press(&format!("\x1b[<{button};10;{row}m"))?;
        }
        Ok(())
    }

    pub fn press(&mut self, keys: &str) -> Result<()> {
        self.pressed.push(keys.to_owned());
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Presses Esc, which must not be taken for the begin of the next key.
    pub fn escape(&mut self) -> Result<()> {
        self.press("\x1b")?;
        thread::sleep(Duration::from_millis(300));
        Ok(())
    }

    /// The emulator, which draws nothing meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of sockets in a state, as the overview has it.
    pub fn count(&self, state: State) -> Option<usize> {
        let contents = self.contents();
        let name = state.to_string();
        let mut words = contents.lines().filter_map(|line| {
            let mut words = line.trim_start_matches('>').split_whitespace();
            (words.next()? == name).then(|| words.next())?
        });
        words.next()?.replace(',', "").parse().ok()
    }

    pub fn ensure_modes_of_before(&self) -> Result<()> {
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
    pub fn end(mut self) -> Result<()> {
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

pub fn await_that(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
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

pub fn await_exit(child: &mut Child) -> Result<ExitStatus> {
    let mut status = None;
    await_that("its end", || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    status.context("no status")
}
