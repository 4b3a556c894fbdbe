//! The tests in two processes at once: most of their time tests wait. They are processes and not threads, because a program
//! that a test starts holds, until its `exec`, a copy of every socket of its process.
//!
//! The first process has all tests, on two threads. Each takes the next one, and hands it to the second process if that is free, so
//! that neither is done long before the other, however long each test takes. Only one thread runs tests of its own at a time.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    process::{self, Child, Command},
    sync::{Mutex, OnceLock, PoisonError, TryLockError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use serde_json::{Value, json};

/// Set in the environment of the second process, to the path of the socket that the first one listens on.
const SECOND: &str = "TCPSTATE_TEST_SECOND";

/// The time that the second process takes at most until it has listed its tests: it tries what the machine has.
const STARTS: Duration = Duration::from_mins(5);

/// A test that the second process can run.
type Test = Box<dyn FnOnce() -> Result<()> + Send>;

/// Those of the second process.
static TESTS: Mutex<BTreeMap<String, Test>> = Mutex::new(BTreeMap::new());

/// The way to the second process, locked while that runs a test. Empty: there is none.
static WAY: OnceLock<Mutex<BufReader<UnixStream>>> = OnceLock::new();

/// A test that either process runs.
pub fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    if env::var_os(SECOND).is_some() {
        let mut tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
        tests.insert(name.clone(), Box::new(test));
        // Nobody runs this one.
        return Trial::test(name, || Ok(()));
    }
    let asked = name.clone();
    Trial::test(name, move || {
        let result = match WAY.get().map(Mutex::try_lock) {
            Some(Ok(mut way)) => run_there(&mut way, &asked),
            Some(Err(TryLockError::Poisoned(way))) => run_there(&mut way.into_inner(), &asked),
            // The other thread has it.
            Some(Err(TryLockError::WouldBlock)) | None => test(),
        };
        result.map_err(|error| Failed::from(format!("{error:#}")))
    })
}

/// Runs all tests: here if some are selected or there is one processor, else in both processes.
///
/// # Errors
///
/// The second process cannot be started, or does not end well.
pub fn run(arguments: &mut Arguments, trials: Vec<Trial>) -> Result<Conclusion> {
    if let Some(path) = env::var_os(SECOND) {
        serve(UnixStream::connect(path)?)?;
        process::exit(0);
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads = Some(1);
    if processors == 1 || arguments.list || arguments.filter.is_some() {
        return Ok(libtest_mimic::run(arguments, trials));
    }
    let (mut second, stream) = start().context("the second process")?;
    let end = stream.try_clone()?;
    // It is called once.
    let _ = WAY.set(Mutex::new(BufReader::new(stream)));
    arguments.test_threads = Some(2);
    let conclusion = libtest_mimic::run(arguments, trials);
    end.shutdown(Shutdown::Both)?;
    let status = second.wait()?;
    ensure!(status.success(), "the second process: {status}");
    Ok(conclusion)
}

/// Starts the second process, and returns when it is there.
fn start() -> Result<(Child, UnixStream)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let mut second = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(SECOND, &path)
        .spawn()?;
    let begin = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false)?;
            return Ok((second, stream));
        }
        if let Some(status) = second.try_wait()? {
            bail!("it ended: {status}");
        }
        ensure!(begin.elapsed() < STARTS, "it does not connect");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Has the second process run a test.
fn run_there(way: &mut BufReader<UnixStream>, name: &str) -> Result<()> {
    writeln!(way.get_mut(), "{name}")?;
    let mut line = String::new();
    way.read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).context("the second process has ended")?;
    match answer["error"].as_str() {
        None => Ok(()),
        Some(error) => bail!("{error}"),
    }
}

/// Runs each test that the first process names, until that ends.
fn serve(stream: UnixStream) -> Result<()> {
    let mut answers = stream.try_clone()?;
    for name in BufReader::new(stream).lines() {
        let name = name?;
        let mut tests = TESTS.lock().unwrap_or_else(PoisonError::into_inner);
        let test = tests.remove(&name);
        drop(tests);
        let result = test.with_context(|| format!("no test is {name}"))?();
        let error = result.err().map(|error| format!("{error:#}"));
        writeln!(answers, "{}", json!({"error": error}))?;
    }
    Ok(())
}
