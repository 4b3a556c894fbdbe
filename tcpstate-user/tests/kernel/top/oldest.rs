//! The time of the oldest socket of each state, where it is a minisocket, beside the clock of the test.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tcpstate_common::State;

use super::terminal::{Top, await_that};
use crate::{
    net::{Netns, await_fin},
    ss::await_states,
};

/// The kernel's timers are exact to a tick, and a time has three digits.
const TOLERANCE: Duration = Duration::from_millis(60);

/// The oldest in a state, as the overview has it.
#[derive(Debug)]
struct Oldest {
    age: Duration,
    /// Whether it is at least so old.
    is_bound: bool,
}

fn oldest(top: &Top, state: State) -> Result<Option<Oldest>> {
    let contents = top.contents();
    let header = contents.lines().find(|line| line.contains("CHANGE"));
    let row = contents.lines().find(|line| {
        let name = line.trim_start_matches(['>', ' ']);
        name.split_whitespace().next() == Some(&state.to_string())
    });
    let (Some(header), Some(row)) = (header, row) else {
        return Ok(None);
    };
    let column = |name| header.find(name).map(|at| at + str::len(name));
    let (begin, end) = (column("CHANGE"), column("OLDEST"));
    let text = row.get(begin.context("CHANGE")?..end.context("OLDEST")?);
    let text = text.context("no text in ASCII")?.trim();
    if text == "-" {
        return Ok(None);
    }
    let number = text.trim_start_matches('>');
    let (number, unit) = number.split_once(' ').with_context(|| text.to_owned())?;
    let unit = match unit {
        "ns" => 1e-9,
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => bail!("no unit in `{text}`"),
    };
    Ok(Some(Oldest {
        age: Duration::try_from_secs_f64(number.parse::<f64>()? * unit)?,
        is_bound: text.starts_with('>'),
    }))
}

/// Waits until the oldest in this state is older than a second, and returns it.
fn await_oldest(top: &Top, state: State) -> Result<Oldest> {
    let mut found = None;
    await_that("the oldest in a state", || {
        found = oldest(top, state)?;
        Ok(found.as_ref().is_some_and(|one| one.age.as_secs() >= 1))
    })
    .with_context(|| format!("{state}: {found:?}, the screen:\n{}", top.contents()))?;
    found.context("nothing")
}

/// Minisockets of before the capture are at least as old as their timers show, or as the capture; the time of those that it
/// saw is known.
pub fn minisockets() -> Result<()> {
    Netns::new()?.run(|| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let begin = Instant::now();
        // The client closes first.
        drop((TcpStream::connect(address)?, listener.accept()?.0));
        await_states("TIME_WAIT", |states| states.contains_key(&State::TIME_WAIT))?;
        let in_state = Instant::now();
        thread::sleep(Duration::from_secs(1));
        let of_before = in_state.elapsed();
        let mut top = Top::start(&["--netns", "self", "--interval", "200ms"])?;
        let shown = await_oldest(&top, State::TIME_WAIT)?;
        let least = of_before.saturating_sub(TOLERANCE);
        ensure!(
            shown.is_bound && (least..=begin.elapsed() + TOLERANCE).contains(&shown.age),
            "TIME_WAIT: {shown:?}, {:?}",
            begin.elapsed()
        );
        let begin = Instant::now();
        let half_closed = TcpStream::connect(address)?;
        let (leaked, _) = listener.accept()?;
        drop(half_closed);
        await_fin(&leaked)?;
        let shown = await_oldest(&top, State::FIN_WAIT2)?;
        ensure!(
            !shown.is_bound && shown.age <= begin.elapsed() + TOLERANCE,
            "FIN_WAIT2: {shown:?}, {:?}",
            begin.elapsed()
        );
        top.press("q")?;
        top.end()
    })
}
