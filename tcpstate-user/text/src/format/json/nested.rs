//! Values with a structure of their own.

use std::io;

use serde::Serialize;
use tcpstate_common::State;
use tcpstate_core::{
    cause::Cause, histogram::Histogram, model::Stay, owner::Holder, packet::Notes,
    transition::TransitionCount,
};

use super::write::{push_name, push_word};
use crate::format::{
    units::PerSecond,
    value::{self, push_number},
};

/// Appends a list.
fn push_list<T>(
    line: &mut Vec<u8>,
    items: impl IntoIterator<Item = T>,
    mut push: impl FnMut(&mut Vec<u8>, T) -> io::Result<()>,
) -> io::Result<()> {
    line.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            line.push(b',');
        }
        push(line, item)?;
    }
    line.push(b']');
    Ok(())
}

/// Appends an object whose keys are words of ours.
fn push_map<K: AsRef<str>, V: Serialize>(
    line: &mut Vec<u8>,
    entries: impl IntoIterator<Item = (K, V)>,
) -> io::Result<()> {
    line.push(b'{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            line.push(b',');
        }
        push_word(line, key.as_ref());
        line.push(b':');
        serde_json::to_writer(&mut *line, &value)?;
    }
    line.push(b'}');
    Ok(())
}

/// Appends a state: its name, or its number where it has none.
pub(super) fn push_state(line: &mut Vec<u8>, state: State) {
    match state.name() {
        Some(name) => push_word(line, name),
        None => value::push_state(line, state),
    }
}

fn push_optional(line: &mut Vec<u8>, number: Option<u64>) {
    match number {
        Some(number) => push_number(line, number),
        None => line.extend_from_slice(b"null"),
    }
}

pub(super) fn push_stays<'a>(
    line: &mut Vec<u8>,
    stays: impl IntoIterator<Item = &'a Stay>,
) -> io::Result<()> {
    push_list(line, stays, |line, stay| {
        line.extend_from_slice(b"{\"state\":");
        push_state(line, stay.state);
        line.extend_from_slice(b",\"dwell_ns\":");
        push_optional(line, stay.dwell_ns);
        if let Some(at_least_ns) = stay.at_least_ns {
            line.extend_from_slice(b",\"dwell_at_least_ns\":");
            push_number(line, at_least_ns);
        }
        line.extend_from_slice(b",\"sampled\":");
        line.extend_from_slice(if stay.sampled { b"true" } else { b"false" });
        if let Some(interval_ns) = stay.interval_ns {
            line.extend_from_slice(b",\"interval_ns\":");
            push_number(line, interval_ns);
        }
        line.push(b'}');
        Ok(())
    })
}

/// Each with what it has to do with the socket.
pub(super) fn push_processes(line: &mut Vec<u8>, processes: &[Holder]) -> io::Result<()> {
    push_list(line, processes, |line, holder| {
        line.extend_from_slice(b"{\"pid\":");
        push_number(line, holder.pid.into());
        line.extend_from_slice(b",\"comm\":");
        match &holder.comm {
            Some(comm) => push_name(line, comm.as_bytes())?,
            None => line.extend_from_slice(b"null"),
        }
        line.extend_from_slice(b",\"how\":");
        let how = [
            (holder.opened, "opened"),
            (holder.holds, "holds"),
            (holder.closed, "closed"),
        ];
        let how = how.into_iter().filter(|&(is_so, _)| is_so);
        push_list(line, how, |line, (_, word)| {
            push_word(line, word);
            Ok(())
        })?;
        line.push(b'}');
        Ok(())
    })
}

/// With a rate where they were counted in an interval.
pub(super) fn push_transitions(
    line: &mut Vec<u8>,
    transitions: &[TransitionCount],
    interval_ns: Option<u64>,
) -> io::Result<()> {
    push_list(
        line,
        transitions,
        |line, &TransitionCount { from, to, count }| {
            line.extend_from_slice(b"{\"from\":");
            push_state(line, from);
            line.extend_from_slice(b",\"to\":");
            push_state(line, to);
            line.extend_from_slice(b",\"count\":");
            push_number(line, count);
            if let Some(interval_ns) = interval_ns {
                line.extend_from_slice(b",\"rate\":");
                serde_json::to_writer(&mut *line, &PerSecond { count, interval_ns }.value())?;
            }
            line.push(b'}');
            Ok(())
        },
    )
}

/// All 11 states, and others that occur, by their number.
pub(super) fn push_states(
    line: &mut Vec<u8>,
    now: &[(State, u64)],
    sampled: bool,
) -> io::Result<()> {
    /// The count of a state that no socket is known to be in; `None`: unknown.
    const fn least(state: State, sampled: bool) -> Option<u64> {
        match state {
            // A socket that enters it is a connection no more.
            State::CLOSE => None,
            State::TIME_WAIT | State::FIN_WAIT2 | State::SYN_RECV if !sampled => None,
            _ => Some(0),
        }
    }
    let known = State::ALL.into_iter().map(|wanted| {
        let found = now.iter().find(|&&(state, _)| state == wanted);
        let count = found.map(|&(_, count)| count);
        (wanted, count.or(least(wanted, sampled)))
    });
    let others = now.iter().filter(|(state, _)| !State::ALL.contains(state));
    let others = others.map(|&(state, count)| (state, Some(count)));
    push_map(
        line,
        known
            .chain(others)
            .map(|(state, count)| (state.to_string(), count)),
    )
}

pub(super) fn push_causes(line: &mut Vec<u8>, causes: &[(Cause, u64)]) -> io::Result<()> {
    push_map(
        line,
        causes.iter().map(|&(cause, count)| (cause.name(), count)),
    )
}

/// The notes about a packet.
pub(super) fn push_notes(line: &mut Vec<u8>, notes: Notes) -> io::Result<()> {
    push_list(line, notes.iter(), |line, note| {
        push_word(line, note.name());
        Ok(())
    })
}

/// The count and the quantiles of the times in each state.
pub(super) fn push_dwell(line: &mut Vec<u8>, dwell: &[(State, Histogram)]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Quantiles {
        count: u64,
        p50_ns: Option<u64>,
        p90_ns: Option<u64>,
        p99_ns: Option<u64>,
    }
    push_map(
        line,
        dwell.iter().map(|(state, times)| {
            let quantiles = Quantiles {
                count: times.count(),
                p50_ns: times.quantile(0.5),
                p90_ns: times.quantile(0.9),
                p99_ns: times.quantile(0.99),
            };
            (state.to_string(), quantiles)
        }),
    )
}

/// The buckets that are not empty. The first and the last one are widened to the shortest and the longest
/// duration: they hold what is too short or too long for any bucket.
pub(super) fn push_buckets(line: &mut Vec<u8>, histogram: &Histogram) -> io::Result<()> {
    let mut buckets: Vec<_> = histogram.buckets().collect();
    if let (Some(first), Some(min_ns)) = (buckets.first_mut(), histogram.min_ns()) {
        first.lower_ns = first.lower_ns.min(min_ns);
    }
    if let (Some(last), Some(max_ns)) = (buckets.last_mut(), histogram.max_ns()) {
        last.upper_ns = last.upper_ns.max(max_ns.saturating_add(1));
    }
    push_list(line, buckets, |line, bucket| {
        line.extend_from_slice(b"{\"lower_ns\":");
        push_number(line, bucket.lower_ns);
        line.extend_from_slice(b",\"upper_ns\":");
        push_number(line, bucket.upper_ns);
        line.extend_from_slice(b",\"count\":");
        push_number(line, bucket.count);
        line.push(b'}');
        Ok(())
    })
}
