//! The block format.
//!
//! *Source:* draft-ietf-opsawg-pcapng.

use std::io::{self, Read};

use super::{MAX_BLOCK, Next, Place, cut};
use crate::{
    bytes::{Order, array, byte},
    window::Window,
};

const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
const INTERFACE: u32 = 1;
/// Obsolete, but in files.
const PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Interfaces of a section. More than any host has.
const MAX_INTERFACES: usize = 1 << 16;

/// Whether these bytes begin a section.
pub(super) fn is_section(first: &[u8]) -> bool {
    first.starts_with(&SECTION)
}

/// The unit of the times of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// So many nanoseconds.
    Of(u64),
    /// So many of it are a nanosecond.
    Finer(u64),
    /// Two to the power of this are a second.
    Binary(u8),
}

impl Resolution {
    /// The meaning of `if_tsresol`; `None`: no unit that a time in 64 bits can have.
    fn new(option: u8) -> Option<Self> {
        let exponent = option & 0x7f;
        if option & 0x80 != 0 {
            return (exponent < 64).then_some(Self::Binary(exponent));
        }
        let power = |exponent: u8| 10_u64.checked_pow(exponent.into());
        match exponent {
            0..=9 => power(9 - exponent).map(Self::Of),
            _ => power(exponent - 9).map(Self::Finer),
        }
    }

    #[inline]
    fn nanoseconds(self, ticks: u64) -> u64 {
        match self {
            Self::Of(unit) => ticks.saturating_mul(unit),
            Self::Finer(units) => ticks / units.max(1),
            Self::Binary(exponent) => {
                let ns = (u128::from(ticks) * 1_000_000_000) >> exponent;
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Interface {
    link: u16,
    /// 0 is no limit.
    snap: u32,
    /// `None`: no unit that is known.
    resolution: Option<Resolution>,
    /// Seconds to add.
    offset_s: i64,
    /// Packets dropped so far, by its last statistics.
    dropped: u64,
}

/// The section that is being read.
pub(super) struct Section {
    order: Order,
    interfaces: Vec<Interface>,
    /// Packets dropped in earlier sections.
    dropped_before: u64,
}

impl Default for Section {
    fn default() -> Self {
        Self {
            order: Order::Little,
            interfaces: Vec::new(),
            dropped_before: 0,
        }
    }
}

impl Section {
    /// Packets that were dropped while capturing, where the capture says so.
    pub(super) fn dropped(&self) -> u64 {
        let here = self.interfaces.iter().map(|interface| interface.dropped);
        here.fold(self.dropped_before, u64::saturating_add)
    }

    /// Whether these bytes begin with a whole block.
    #[inline]
    pub(super) fn is_whole(&self, bytes: &[u8]) -> bool {
        let length = self.order.u32(bytes, 4);
        length.is_some_and(|length| u64::from(length) <= bytes.len() as u64)
    }

    #[inline]
    pub(super) fn next<R: Read>(
        &mut self,
        window: &mut Window<R>,
        last_ns: u64,
    ) -> io::Result<Next> {
        if !window.fill(12)? {
            return Ok(if window.bytes().is_empty() {
                Next::End
            } else {
                Next::Stop(cut(window.offset()))
            });
        }
        if is_section(window.bytes()) {
            let order = match array(window.bytes(), 8) {
                Some([0x4d, 0x3c, 0x2b, 0x1a]) => Order::Little,
                Some([0x1a, 0x2b, 0x3c, 0x4d]) => Order::Big,
                _ => return Ok(damaged_from(window.offset(), "a section of no byte order")),
            };
            self.dropped_before = self.dropped();
            self.interfaces.clear();
            self.order = order;
        }
        let order = self.order;
        let word = |at| order.u32(window.bytes(), at).unwrap_or(0);
        let (kind, length) = (word(0), word(4));
        if length < 12 || length % 4 != 0 {
            let reason = format!("a block of {length} bytes");
            return Ok(damaged_from(window.offset(), &reason));
        }
        let has_packet = matches!(kind, ENHANCED_PACKET | SIMPLE_PACKET | PACKET);
        if !has_packet && !matches!(kind, INTERFACE | STATISTICS) {
            return Ok(Next::Skip(length.into()));
        }
        let Some(record) = usize::try_from(length)
            .ok()
            .filter(|&length| length <= MAX_BLOCK)
        else {
            return Ok(Next::Damaged("no such block is that long", length.into()));
        };
        if !window.fill(record)? {
            return Ok(Next::Stop(cut(window.offset())));
        }
        let body = window.bytes().get(8..record - 4).unwrap_or_default();
        if order.u32(window.bytes(), record - 4) != Some(length) {
            return Ok(damaged_from(
                window.offset(),
                "a block whose two lengths differ",
            ));
        }
        let parsed = match kind {
            ENHANCED_PACKET => self.enhanced(body, record),
            SIMPLE_PACKET => self.simple(body, record, last_ns),
            PACKET => self.obsolete(body, record),
            INTERFACE => self.interface(body).map(|()| Next::Skip(length.into())),
            _ => self.statistics(body).map(|()| Next::Skip(length.into())),
        };
        Ok(parsed.unwrap_or_else(|reason| Next::Damaged(reason, length.into())))
    }

    #[inline]
    fn enhanced(&self, body: &[u8], record: usize) -> Result<Next, &'static str> {
        let words = [0, 4, 8, 12, 16].map(|at| self.order.u32(body, at));
        let [Some(id), Some(high), Some(low), Some(captured), Some(wire)] = words else {
            return Err(SHORT);
        };
        self.timed(body, record, (id, high, low, captured, wire))
    }

    fn obsolete(&self, body: &[u8], record: usize) -> Result<Next, &'static str> {
        let words = [4, 8, 12, 16].map(|at| self.order.u32(body, at));
        let (Some(id), [Some(high), Some(low), Some(captured), Some(wire)]) =
            (self.order.u16(body, 0), words)
        else {
            return Err(SHORT);
        };
        self.timed(body, record, (id.into(), high, low, captured, wire))
    }

    #[inline]
    fn timed(
        &self,
        body: &[u8],
        record: usize,
        (id, high, low, captured, wire): (u32, u32, u32, u32, u32),
    ) -> Result<Next, &'static str> {
        let interface = self.at(id)?;
        let captured_len = usize::try_from(captured).unwrap_or(usize::MAX);
        if body.len().saturating_sub(20) < captured_len {
            return Err("a packet longer than its block");
        }
        let resolution = interface
            .resolution
            .ok_or("of an interface whose times have no unit")?;
        let ticks = u64::from(high) << 32 | u64::from(low);
        let offset_ns = interface.offset_s.saturating_mul(1_000_000_000);
        Ok(Next::Packet(Place {
            time_ns: resolution
                .nanoseconds(ticks)
                .saturating_add_signed(offset_ns),
            link: interface.link,
            wire_len: wire.max(captured),
            skip: 8 + 20,
            captured: captured_len,
            record,
        }))
    }

    fn simple(&self, body: &[u8], record: usize, last_ns: u64) -> Result<Next, &'static str> {
        let wire = self.order.u32(body, 0).ok_or(SHORT)?;
        let interface = self.at(0)?;
        let snapped = if interface.snap == 0 {
            wire
        } else {
            wire.min(interface.snap)
        };
        let captured = usize::try_from(snapped).unwrap_or(usize::MAX);
        Ok(Next::Packet(Place {
            time_ns: last_ns,
            link: interface.link,
            wire_len: wire,
            skip: 8 + 4,
            captured: captured.min(body.len().saturating_sub(4)),
            record,
        }))
    }

    #[inline]
    fn at(&self, id: u32) -> Result<&Interface, &'static str> {
        usize::try_from(id)
            .ok()
            .and_then(|id| self.interfaces.get(id))
            .ok_or("of an interface that is not described")
    }

    fn interface(&mut self, body: &[u8]) -> Result<(), &'static str> {
        let (Some(link), Some(snap)) = (self.order.u16(body, 0), self.order.u32(body, 4)) else {
            return Err(SHORT);
        };
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err("one interface too many");
        }
        let mut interface = Interface {
            link,
            snap,
            resolution: Some(Resolution::Of(1000)),
            offset_s: 0,
            dropped: 0,
        };
        options(
            self.order,
            body.get(8..).unwrap_or_default(),
            |code, value| match code {
                9 => interface.resolution = byte(value, 0).and_then(Resolution::new),
                14 => interface.offset_s = self.order.i64(value, 0).unwrap_or(0),
                _ => {}
            },
        );
        self.interfaces.push(interface);
        Ok(())
    }

    fn statistics(&mut self, body: &[u8]) -> Result<(), &'static str> {
        let id = self.order.u32(body, 0).ok_or(SHORT)?;
        self.at(id)?;
        let mut dropped = 0_u64;
        let order = self.order;
        options(order, body.get(12..).unwrap_or_default(), |code, value| {
            // isb_ifdrop, isb_osdrop
            if matches!(code, 5 | 7) {
                let count = order.i64(value, 0).map_or(0, i64::cast_unsigned);
                dropped = dropped.saturating_add(count);
            }
        });
        if let Some(interface) = usize::try_from(id)
            .ok()
            .and_then(|id| self.interfaces.get_mut(id))
        {
            interface.dropped = dropped;
        }
        Ok(())
    }
}

const SHORT: &str = "a block that is too short";

fn damaged_from(offset: u64, reason: &str) -> Next {
    Next::Stop(format!(
        "damaged at byte {offset}: {reason}; it and the rest are left out"
    ))
}

/// Calls `found` with the code and the value of each option.
fn options(order: Order, mut bytes: &[u8], mut found: impl FnMut(u16, &[u8])) {
    while let (Some(code @ 1..), Some(length)) = (order.u16(bytes, 0), order.u16(bytes, 2)) {
        let length = usize::from(length);
        let Some(value) = bytes.get(4..4 + length) else {
            return;
        };
        found(code, value);
        bytes = bytes
            .get(4 + length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolution_is_a_power_of_ten_or_of_two() {
        for (option, ticks, ns) in [
            (0, 3, Some(3_000_000_000)),
            (3, 5, Some(5_000_000)),
            (6, 7, Some(7_000)),
            (9, 11, Some(11)),
            (12, 13_000, Some(13)),
            (19, 10_000_000_000, Some(1)),
            (28, u64::MAX, Some(1)),
            (29, 1, None),
            (0x80, 2, Some(2_000_000_000)),
            (0x88, 128, Some(500_000_000)),
            (0xbf, 1 << 63, Some(1_000_000_000)),
            (0xc0, 1, None),
            (6, u64::MAX, Some(u64::MAX)),
        ] {
            let found = Resolution::new(option).map(|unit| unit.nanoseconds(ticks));
            assert_eq!(found, ns, "{option:#x}");
        }
    }
}
