//! The text of states and times in scenario files.

use libtest_mimic::Failed;
use tcpstate_common::State;

pub fn parse_state(name: &str) -> Result<State, Failed> {
    match (State::from_name(name), name.parse()) {
        (Some(state), _) => Ok(state),
        (None, Ok(number)) => Ok(State(number)),
        (None, Err(_)) => Err(format!("no state is called {name}").into()),
    }
}

/// The units of time in these files, in nanoseconds.
const UNITS: [(&str, u64); 4] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
];

pub fn parse_time(text: &str) -> Result<u64, Failed> {
    let (unit, factor) = UNITS
        .iter()
        .find(|(unit, _)| text.ends_with(unit))
        .ok_or(format!("{text}: no unit"))?;
    let number: u64 = text.trim_end_matches(unit).parse()?;
    Ok(number * factor)
}

/// The largest unit that gives a whole number.
pub fn time(ns: u64) -> String {
    let fits = |&&(_, factor): &&(&str, u64)| ns.is_multiple_of(factor);
    let (unit, factor) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
    format!("{}{unit}", ns / factor)
}

pub fn show<T: ToString>(value: Option<T>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}
