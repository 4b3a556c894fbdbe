//! A recording that is played on a terminal: the keys that only it has.

use std::path::Path;

use anyhow::{Context as _, Result};
use tcpstate_common::State;

use super::{help, terminal::Top};

/// Keys, each with what the first line says then.
const STEPS: [(&str, &str); 14] = [
    // At its own speed a short recording might be over by now.
    ("[[[", "0.1x, "),
    ("<", "playing 0.1x, "),
    (" ", "PAUSED 0.1x, "),
    ("]", "PAUSED 0.2x, "),
    ("t", "go to: _"),
    ("-30m\r", "PAUSED 0.2x, 0 % of "),
    ("t", "go to: _"),
    ("+30m\r", "at the end 0.2x, 100 % of "),
    ("<", "PAUSED 0.2x, "),
    (">>", "at the end 0.2x, 100 % of "),
    ("t", "go to: _"),
    ("-30m\r", "PAUSED 0.2x, 0 % of "),
    (" ", "playing 0.2x, "),
    (" ", "PAUSED 0.2x, "),
];

/// Plays a recording of a run that began with `before` in `ESTABLISHED`, to which others came while it ran. Returns the keys of
/// its help, and those that were pressed.
pub fn keys(recording: &Path, before: usize) -> Result<(Vec<String>, Vec<String>)> {
    let directory = recording.parent().context("its directory")?;
    let recording = recording.to_str().context("its name")?;
    let mut top = Top::start_in(directory, &["-r", recording, "--interval", "200ms"])?;
    top.await_text("CLOSE_WAIT")?;
    for (keys, shown) in STEPS {
        top.press(keys)?;
        top.await_text(shown).with_context(|| format!("{keys:?}"))?;
    }
    // An event, then its whole interval, by either key that goes on by intervals.
    for key in [",", "n"] {
        to_begin(&mut top)?;
        // The sockets of before come with the first of what is in it.
        top.await_screen("the begin", |_| top.count(State::ESTABLISHED) == Some(0))?;
        top.press(".")?;
        top.await_screen("the first change", |_| {
            top.count(State::SYN_SENT) == Some(1)
        })?;
        top.press(key)?;
        top.await_screen("the end of its interval", |_| {
            top.count(State::SYN_SENT) == Some(0) && top.count(State::ESTABLISHED) > Some(before)
        })
        .with_context(|| format!("{key:?}"))?;
    }
    let listed = help::read(&mut top, "as fast as possible")?;
    top.press("q")?;
    let pressed = top.pressed.clone();
    top.end()?;
    Ok((listed, pressed))
}

/// Goes to the begin.
fn to_begin(top: &mut Top) -> Result<()> {
    top.press("t")?;
    top.await_text("go to: _")?;
    top.press("-30m\r")?;
    top.await_text("PAUSED 0.2x, 0 % of ")
}
