//! The figures of an interval in few bytes: numbers of variable length, a byte for most transitions.

use tcpstate_common::State;
use tcpstate_core::{
    cause::Cause,
    model::{Figures, GroupFigures, GroupKey, Interval},
    service::{Role, ServicePort},
    transition::TransitionCount,
};

/// In place of a transition: its two states follow. No state has the number 15.
const ESCAPE: u8 = u8::MAX;

/// The figures over all, and those of each group by port.
pub(super) fn pack(interval: &Interval) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_figures(&interval.all, &mut bytes);
    for group in &interval.groups {
        // The publisher groups by nothing else.
        if let GroupKey::Port(port, role) = group.key {
            push_key(port, role, &mut bytes);
            push_figures(&group.figures, &mut bytes);
        }
    }
    bytes
}

/// The figures over all, and those of the groups that are wanted.
pub(super) fn unpack(
    bytes: &[u8],
    is_wanted: impl Fn(GroupKey) -> bool,
) -> (Figures, Vec<GroupFigures>) {
    let mut bytes = Bytes(bytes);
    let all = bytes.figures();
    let mut groups = Vec::new();
    while let Some(key) = bytes.key() {
        let figures = bytes.figures();
        if is_wanted(key) {
            groups.push(GroupFigures { key, figures });
        }
    }
    (all, groups)
}

fn push_key(port: ServicePort, role: Role, bytes: &mut Vec<u8>) {
    let (kind, number) = match port {
        ServicePort::Port(port) => (0, Some(port)),
        ServicePort::Other => (1, None),
        ServicePort::Unknown => (2, None),
    };
    let role = match role {
        Role::Unknown => 0,
        Role::Client => 1,
        Role::Server => 2,
    };
    bytes.push(kind << 4 | role);
    if let Some(number) = number {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

fn push_figures(figures: &Figures, bytes: &mut Vec<u8>) {
    push_number(figures.transitions.len() as u64, bytes);
    for &TransitionCount { from, to, count } in &figures.transitions {
        let pair = from.0 << 4 | to.0;
        if from.0 < 15 && to.0 < 16 && pair != ESCAPE {
            bytes.push(pair);
        } else {
            bytes.extend_from_slice(&[ESCAPE, from.0, to.0]);
        }
        push_number(count, bytes);
    }
    push_number(figures.causes.len() as u64, bytes);
    for &(cause, count) in &figures.causes {
        push_number(cause.number().into(), bytes);
        push_number(count, bytes);
    }
    push_number(figures.states.len() as u64, bytes);
    for &(state, count) in &figures.states {
        bytes.push(state.0);
        push_number(count, bytes);
    }
}

/// Seven bits a byte, the lowest first.
#[expect(clippy::cast_possible_truncation, reason = "seven bits, or less")]
fn push_number(mut number: u64, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// The packed bytes that are left. Beyond the end all are zeros.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> u64 {
        let (mut number, mut shift) = (0, 0);
        while let Some(byte) = self.byte() {
            number |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 || shift > 63 {
                break;
            }
        }
        number
    }

    fn state(&mut self) -> State {
        State(self.byte().unwrap_or_default())
    }

    fn key(&mut self) -> Option<GroupKey> {
        let kind = self.byte()?;
        let role = match kind & 0xf {
            0 => Role::Unknown,
            1 => Role::Client,
            _ => Role::Server,
        };
        let port = match kind >> 4 {
            0 => {
                let (low, high) = (self.byte()?, self.byte()?);
                ServicePort::Port(u16::from_le_bytes([low, high]))
            }
            1 => ServicePort::Other,
            _ => ServicePort::Unknown,
        };
        Some(GroupKey::Port(port, role))
    }

    fn figures(&mut self) -> Figures {
        let transitions = (0..self.number()).map(|_| {
            let (from, to) = match self.byte().unwrap_or_default() {
                ESCAPE => (self.state(), self.state()),
                pair => (State(pair >> 4), State(pair & 0xf)),
            };
            let count = self.number();
            TransitionCount { from, to, count }
        });
        let transitions = transitions.collect();
        let causes = (0..self.number()).map(|_| {
            let cause = u32::try_from(self.number()).unwrap_or_default();
            (Cause::of_number(cause), self.number())
        });
        let causes = causes.collect();
        let states = (0..self.number()).map(|_| (self.state(), self.number()));
        let states = states.collect();
        Figures::of(transitions, causes, states)
    }
}
