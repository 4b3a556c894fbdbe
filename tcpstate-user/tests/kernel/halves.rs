//! The tests in two processes at once, each with every second one: most of their time tests wait. They are processes
//! and not threads, because a program that a test starts holds, until its `exec`, a copy of every socket of its process.

use std::{
    env,
    io::{Read as _, Seek as _},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};
use libtest_mimic::{Arguments, Conclusion, Trial};

/// Set in the environment of the second process.
const SECOND: &str = "TCPSTATE_TEST_SECOND_HALF";

/// Runs the tests: all here if some are selected or there is one processor, else half of them in a second process, whose
/// lines follow at the end.
///
/// # Errors
///
/// The second process cannot be started, or one of its tests failed.
pub fn run(arguments: &Arguments, mut trials: Vec<Trial>) -> Result<Conclusion> {
    let here = |trials| libtest_mimic::run(arguments, trials);
    if env::var_os(SECOND).is_some() {
        keep_every_second(&mut trials, 1);
        return Ok(here(trials));
    }
    let processors = thread::available_parallelism().map_or(1, usize::from);
    if processors == 1 || arguments.list || arguments.filter.is_some() {
        return Ok(here(trials));
    }
    let mut output = tempfile::tempfile().context("a file for the lines of the second process")?;
    let mut second = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(SECOND, "1")
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .context("the second process")?;
    keep_every_second(&mut trials, 0);
    let conclusion = here(trials);
    let status = second.wait()?;
    output.rewind()?;
    let mut lines = Vec::new();
    output.read_to_end(&mut lines)?;
    print!("{}", String::from_utf8_lossy(&lines));
    anyhow::ensure!(status.success(), "the second process: {status}");
    Ok(conclusion)
}

fn keep_every_second(trials: &mut Vec<Trial>, first: usize) {
    let mut index = first;
    trials.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}
