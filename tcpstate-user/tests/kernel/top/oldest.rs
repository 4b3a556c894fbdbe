//! The time of the oldest socket of each state, where it is a minisocket, beside the clock of the test.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tcpstate_common::State;

use super::terminal::{Top, await_that};
use crate::{
    net::{Netns, await_fin},
    ss::await_states,
};

/// The kernel's timers are exact to a tick, and a time has three digits.
const TOLERANCE: Duration = Duration::from_millis(60);
/// What a busy machine adds between the kernel's answer and the time that it is taken for.
const DELAY: Duration = Duration::from_millis(500);

/// The oldest in a state, as the overview has it.
#[derive(Debug)]
struct Oldest {
    age: Duration,
    /// Whether it is at least so old.
    is_bound: bool,
}

impl Oldest {
    /// `None`: there is none, or the frame is being drawn.
    fn read(screen: &str, state: State) -> Option<Self> {
        let header = screen.lines().find(|line| line.contains("CHANGE"))?;
        let row = screen.lines().find(|line| {
            let name = line.trim_start_matches(['>', ' ']);
            name.split_whitespace().next() == Some(&state.to_string())
        })?;
        let end = |name: &str| Some(header.find(name)? + name.len());
        let text = row.get(end("CHANGE")?..end("OLDEST")?)?.trim();
        let (number, unit) = text.trim_start_matches('>').split_once(' ')?;
        let unit = match unit {
            "ms" => 1e-3,
            "s" => 1.0,
            _ => return None,
        };
        Some(Self {
            age: Duration::try_from_secs_f64(number.parse::<f64>().ok()? * unit).ok()?,
            is_bound: text.starts_with('>'),
        })
    }
}

/// Waits until the oldest in this state is older than a second. Returns it, and the oldest listener of the same frame.
fn await_oldest(top: &Top, state: State) -> Result<(Oldest, Oldest)> {
    let mut found = None;
    await_that("the oldest in a state", || {
        let screen = top.contents();
        found = Oldest::read(&screen, state).zip(Oldest::read(&screen, State::LISTEN));
        Ok(matches!(&found, Some((oldest, _)) if oldest.age.as_secs() >= 1))
    })
    .with_context(|| format!("{state}, the screen:\n{}", top.contents()))?;
    found.context("nothing")
}

/// A minisocket of before the capture is at least as old as its timer shows; the age of one that the capture saw begin is exact.
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
        let before = in_state.elapsed();
        let mut top = Top::start(&["--netns", "self", "--interval", "200ms"])?;
        // A listener of before is at least as old as the capture.
        let (shown, capture) = await_oldest(&top, State::TIME_WAIT)?;
        let least = (capture.age + before).saturating_sub(TOLERANCE);
        ensure!(
            shown.is_bound && (least..=begin.elapsed() + DELAY).contains(&shown.age),
            "TIME_WAIT: {shown:?}, the capture {capture:?}, {before:?} before it, {:?} in all",
            begin.elapsed()
        );
        let begin = Instant::now();
        let half_closed = TcpStream::connect(address)?;
        let (leaked, _) = listener.accept()?;
        drop(half_closed);
        await_fin(&leaked)?;
        let (shown, _) = await_oldest(&top, State::FIN_WAIT2)?;
        ensure!(
            !shown.is_bound && shown.age <= begin.elapsed() + DELAY,
            "FIN_WAIT2: {shown:?}, {:?}",
            begin.elapsed()
        );
        top.press("q")?;
        top.end()
    })
}
