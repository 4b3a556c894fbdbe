//! The terminal: the thread that draws, the thread that reads keys, and the way back to what was there before.

use std::{
    fmt,
    io::{self, BufWriter, Stdout},
    panic,
    path::Path,
    sync::{
        Arc, Once, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use crossterm::{
    cursor,
    event::{self, DisableMouseCapture, EnableMouseCapture, Event},
    execute,
    terminal::{
        self, Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode,
        enable_raw_mode,
    },
};
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    stdio,
    termios::{OptionalActions, Termios, tcgetattr, tcsetattr},
};
use signal_hook::{
    consts::{SIGCONT, SIGTSTP},
    low_level::emulate_default_handler,
};
use tcpstate_core::{
    play::Controls,
    present::{Asker, Subscriber},
    units::Counted,
};

use crate::{
    app::{App, Input, Then},
    file,
    written::Written,
};

/// The time in which crossterm finds what is there already. Without any it does not look; for less than a millisecond it
/// looks again and again.
const GLANCE: Duration = Duration::from_micros(20);

/// The time after which the thread that reads keys looks whether there is something else to do.
const LOOK: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// The time for which a terminal may take nothing at the end.
const PATIENCE: Duration = Duration::from_millis(750);

/// Whether the terminal shows our screen.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The modes that the terminal had before.
static BEFORE: OnceLock<Termios> = OnceLock::new();

/// What [`leave`] writes.
const LEAVE: &[u8] = b"\x1b[?1006l\x1b[?1015l\x1b[?1003l\x1b[?1002l\x1b[?1000l\x1b[?1049l\x1b[?25h";

/// The bytes of a frame that are written at once.
const BUFFER: usize = 64 << 10;

/// Standard output. Nothing harmful goes there: all names of others are escaped where lines are made.
#[expect(
    clippy::disallowed_methods,
    reason = "the frames have escape sequences of ours, and names are escaped before"
)]
fn stdout() -> Stdout {
    io::stdout()
}

/// Gets the terminal ready: what was there comes back afterwards, and keys come one by one.
fn enter() -> io::Result<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            leave();
            before(info);
        }));
    });
    if BEFORE.get().is_none() {
        let _ = BEFORE.set(tcgetattr(stdio::stdin())?);
    }
    enable_raw_mode()?;
    ENTERED.store(true, Ordering::Release);
    execute!(
        stdout(),
        EnterAlternateScreen,
        EnableMouseCapture,
        cursor::Hide
    )
}

/// A screen of which nothing is known, in the size that the terminal has now.
///
/// Its size is fixed: to follow the terminal's, ratatui asks for the place of the cursor, and not every terminal answers.
fn fresh() -> io::Result<Terminal<CrosstermBackend<BufWriter<Stdout>>>> {
    let (columns, rows) = terminal::size()?;
    let backend = CrosstermBackend::new(BufWriter::with_capacity(BUFFER, stdout()));
    let viewport = Viewport::Fixed(Rect::new(0, 0, columns.max(1), rows.max(1)));
    Terminal::with_options(backend, TerminalOptions { viewport })
}

/// Gives the terminal back as it was. More than once has no effect.
fn leave() {
    if !ENTERED.swap(false, Ordering::AcqRel) {
        return;
    }
    // A terminal that is gone needs nothing.
    let _ = execute!(
        stdout(),
        DisableMouseCapture,
        LeaveAlternateScreen,
        cursor::Show
    );
    let _ = disable_raw_mode();
}

/// Gives the terminal back without waiting for anything, for the process that is about to be killed. A signal handler
/// may call it: it takes no lock and allocates nothing. Without a screen it has no effect.
pub fn leave_at_once() {
    let Some(before) = BEFORE.get() else {
        return;
    };
    // Errors have nobody to be told to.
    if ENTERED.swap(false, Ordering::AcqRel) && takes_output() {
        let _ = rustix::io::write(stdio::stdout(), LEAVE);
    }
    let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, before);
}

/// Whether the terminal takes output, or an error comes at once.
fn takes_output() -> bool {
    let out = stdio::stdout();
    let mut polled = [PollFd::new(&out, PollFlags::OUT)];
    poll(&mut polled, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Gives the terminal back when a thread ends, however it ends.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        leave();
    }
}

/// The things that the thread that draws waits for.
enum Message {
    Event(Event),
    /// There may be a snapshot, or the end.
    News,
    /// The process was told to stop for a while.
    Suspend,
    /// It has been continued by somebody else than us.
    Continued,
    /// The recording that was asked for is there, or cannot be.
    Recorded(Result<String, String>),
    /// The keys cannot be read any more.
    Gone,
}

/// Wakes the thread that draws when there is a snapshot.
struct Bell(Sender<Message>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Whoever does not listen any more has ended.
        let _ = self.0.send(Message::News);
    }
}

/// A wish for a recording of the last minutes.
pub struct Wish {
    /// The name of the file, without an ending.
    pub stem: String,
    /// Takes the answer: the name of the file and what it holds, or why there is none.
    pub answer: Box<dyn FnOnce(Result<String, String>) + Send>,
}

impl fmt::Debug for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Wish").field(&self.stem).finish()
    }
}

/// Keeps the last minutes of a run.
pub trait Keeper: fmt::Debug + Send {
    /// Asks for a recording of them in the current directory. It returns at once.
    fn record(&self, wish: Wish);
}

/// The run that a screen shows.
#[derive(Debug)]
pub struct Run {
    /// Its snapshots.
    pub subscriber: Subscriber,
    /// The way to other ones.
    pub asker: Asker,
    /// Those of a recording that is played.
    pub controls: Option<Controls>,
    /// The one who has the last minutes of it; `None`: nobody keeps them.
    pub keeper: Option<Box<dyn Keeper>>,
}

/// The threads of a screen.
#[derive(Debug)]
pub struct Running {
    ended: Receiver<()>,
}

impl Running {
    /// Takes the terminal, and shows `app` with the snapshots of `run` until they end. `quit` is called when
    /// the user has seen enough, or the terminal is gone; the terminal is given back by then.
    ///
    /// *Errors:* the terminal does not do what is needed, or there are no more threads.
    pub fn start(app: App, run: Run, quit: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let suspended = Arc::new(AtomicBool::new(false));
        let continued = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGTSTP, Arc::clone(&suspended))?;
        signal_hook::flag::register(SIGCONT, Arc::clone(&continued))?;
        let (send, receive) = mpsc::channel();
        let (say_ended, ended) = mpsc::sync_channel(1);
        enter()?;
        let guard = Guard;
        let terminal = fresh()?;
        let has_ended = Arc::new(AtomicBool::new(false));
        let keys = Keys {
            send: send.clone(),
            asks: run.controls.is_some(),
            has_ended: Arc::clone(&has_ended),
            suspended,
            continued: Arc::clone(&continued),
        };
        let screen = Screen {
            app,
            terminal,
            run,
            bell: Waker::from(Arc::new(Bell(send.clone()))),
            send,
            continued,
        };
        thread::Builder::new()
            .name("screen".to_owned())
            .spawn(move || {
                let _guard = guard;
                screen.show(&receive);
                has_ended.store(true, Ordering::Release);
                leave();
                // Whoever does not wait has ended.
                let _ = say_ended.send(());
                quit();
            })?;
        // It ends by itself soon after the other one, or with the process: nobody waits for a key.
        thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || keys.run())?;
        Ok(Self { ended })
    }

    /// Waits until the terminal has been given back. The snapshots must have ended.
    ///
    /// A terminal that takes nothing, as after Ctrl-S, is not waited for: it keeps our screen, but its keys work as
    /// before.
    pub fn join(&self) {
        while self.ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            // On a busy machine the thread may just not have had its turn yet.
            if !takes_output() {
                let _ = disable_raw_mode();
                return;
            }
        }
    }
}

/// The thread that reads keys.
struct Keys {
    send: Sender<Message>,
    /// Whether the one who draws is to ask now and then where a recording is: its position wakes nobody.
    asks: bool,
    has_ended: Arc<AtomicBool>,
    suspended: Arc<AtomicBool>,
    continued: Arc<AtomicBool>,
}

impl Keys {
    fn run(self) {
        while !self.has_ended.load(Ordering::Acquire) {
            let message = match event::poll(GLANCE) {
                Ok(true) => event::read().map(Message::Event),
                Ok(false) => await_input().map(|()| Message::News),
                Err(error) => Err(error),
            };
            let message = message.unwrap_or(Message::Gone);
            let is_gone = matches!(message, Message::Gone);
            let flags = [
                (&self.suspended, Message::Suspend),
                (&self.continued, Message::Continued),
            ];
            let raised = flags
                .into_iter()
                .filter(|(flag, _)| flag.swap(false, Ordering::AcqRel))
                .map(|(_, message)| message);
            let is_news = matches!(message, Message::News);
            for message in raised.chain((!is_news || self.asks).then_some(message)) {
                if self.send.send(message).is_err() {
                    return;
                }
            }
            if is_gone {
                return;
            }
        }
    }
}

/// Waits until there may be a key or something else to do. Crossterm cannot wait: it reads a terminal that is gone again
/// and again.
///
/// *Errors:* the terminal is gone.
fn await_input() -> io::Result<()> {
    let input = stdio::stdin();
    let mut polled = [PollFd::new(&input, PollFlags::IN)];
    match poll(&mut polled, Some(&LOOK)) {
        // A signal: there may be something to do.
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let is_gone = polled.iter().any(|input| {
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL;
        input.revents().intersects(gone)
    });
    if is_gone {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// The thread that draws.
struct Screen {
    app: App,
    terminal: Terminal<CrosstermBackend<BufWriter<Stdout>>>,
    run: Run,
    bell: Waker,
    send: Sender<Message>,
    continued: Arc<AtomicBool>,
}

/// Why a screen ends.
struct Ended;

impl Screen {
    fn show(mut self, messages: &Receiver<Message>) {
        // Whatever ends it ends it in the same way: a terminal that cannot be drawn on is gone.
        let _ = self.follow(messages);
    }

    fn follow(&mut self, messages: &Receiver<Message>) -> Result<(), Ended> {
        self.draw()?;
        self.news()?;
        while let Ok(message) = messages.recv() {
            match message {
                Message::Event(Event::Key(key)) => self.input(Input::Key(key))?,
                Message::Event(Event::Mouse(mouse)) => self.input(Input::Mouse(mouse))?,
                Message::Event(Event::Resize(..)) => self.redraw()?,
                Message::Event(_) => {}
                Message::News => self.news()?,
                Message::Suspend => self.suspend()?,
                Message::Continued => {
                    enter().map_err(|_| Ended)?;
                    self.redraw()?;
                }
                Message::Recorded(result) => self.input(Input::Written(result))?,
                Message::Gone => return Err(Ended),
            }
        }
        Ok(())
    }

    /// Takes the snapshots that there are, and waits for the next.
    fn news(&mut self) -> Result<(), Ended> {
        loop {
            let mut context = Context::from_waker(&self.bell);
            match self.run.subscriber.poll_next(&mut context) {
                Poll::Ready(Some(snapshot)) => {
                    self.position()?;
                    self.input(Input::Snapshot(snapshot))?;
                }
                Poll::Ready(None) => return Err(Ended),
                Poll::Pending => return self.position(),
            }
        }
    }

    /// Takes the position of a recording that is played.
    fn position(&mut self) -> Result<(), Ended> {
        match self.run.controls.as_ref().and_then(Controls::position) {
            Some(position) => self.input(Input::Position(position)),
            None => Ok(()),
        }
    }

    fn input(&mut self, input: Input) -> Result<(), Ended> {
        match self.app.update(input) {
            Then::Nothing => Ok(()),
            Then::Draw => self.draw(),
            Then::Redraw => self.redraw(),
            Then::Play(command) => {
                if let Some(controls) = &self.run.controls {
                    controls.send(command);
                }
                self.draw()
            }
            Then::GroupBy(by) => {
                self.run.asker.group_by(by);
                self.draw()
            }
            Then::Write => self.write(),
            Then::Record => {
                self.record();
                // The message of before is gone.
                self.draw()
            }
            Then::Suspend => self.suspend(),
            Then::Quit => Err(Ended),
        }
    }

    fn draw(&mut self) -> Result<(), Ended> {
        let app = &mut self.app;
        let drawn = self.terminal.draw(|frame| app.draw(frame));
        drawn.map(|_| ()).map_err(|_| Ended)
    }

    /// Writes the content of the screen to a file in the current directory.
    fn write(&mut self) -> Result<(), Ended> {
        let Some(Written { stem, text }) = self.app.written() else {
            return Ok(());
        };
        let created = file::create(Path::new("."), &stem, "json", |path| {
            file::write(path, &text)
        });
        let lines = text.split(|&byte| byte == b'\n').skip(1).count() as u64;
        let told = match created {
            Ok((name, ())) => Ok(format!("{name} written: {}", Counted(lines, "line"))),
            Err(error) => Err(error.to_string()),
        };
        self.input(Input::Written(told))
    }

    /// Asks for a recording of the last minutes.
    fn record(&self) {
        if let (Some(keeper), Some(stem)) = (&self.run.keeper, self.app.stem_of_recording()) {
            let send = self.send.clone();
            let answer = Box::new(move |result| {
                // Whoever does not listen any more has ended.
                let _ = send.send(Message::Recorded(result));
            });
            keeper.record(Wish { stem, answer });
        }
    }

    fn redraw(&mut self) -> Result<(), Ended> {
        self.terminal = fresh().map_err(|_| Ended)?;
        execute!(stdout(), Clear(ClearType::All)).map_err(|_| Ended)?;
        self.draw()
    }

    /// Gives the terminal to the shell, stops the process, and takes it again when it is continued.
    fn suspend(&mut self) -> Result<(), Ended> {
        leave();
        emulate_default_handler(SIGTSTP).map_err(|_| Ended)?;
        // That was us.
        self.continued.store(false, Ordering::Release);
        enter().map_err(|_| Ended)?;
        self.redraw()
    }
}
