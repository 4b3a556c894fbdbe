//! The classic format.
//!
//! *Source:* draft-ietf-opsawg-pcap; the modified format: Alexey Kuznetsov's patches to libpcap (`sf-pcap.c` there).

use std::io::{self, Read};

use super::{MAX_BLOCK, Next, Place, cut};
use crate::{
    bytes::{Order, array},
    window::Window,
};

/// Length of the file's header.
pub(super) const HEADER: usize = 24;

/// The facts that the magic gives.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    order: Order,
    /// Nanoseconds of a unit of the second number of a time.
    unit_ns: u32,
    /// Length of a record's header.
    record: usize,
}

impl Layout {
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        let (order, unit_ns, record) = match array::<4>(first, 0)? {
            [0xd4, 0xc3, 0xb2, 0xa1] => (Order::Little, 1000, 16),
            [0xa1, 0xb2, 0xc3, 0xd4] => (Order::Big, 1000, 16),
            [0x4d, 0x3c, 0xb2, 0xa1] => (Order::Little, 1, 16),
            [0xa1, 0xb2, 0x3c, 0x4d] => (Order::Big, 1, 16),
            [0x34, 0xcd, 0xb2, 0xa1] => (Order::Little, 1000, 24),
            [0xa1, 0xb2, 0xcd, 0x34] => (Order::Big, 1000, 24),
            _ => return None,
        };
        Some(Self {
            order,
            unit_ns,
            record,
        })
    }
}

/// The file's header.
pub(super) struct Header {
    layout: Layout,
    link: u16,
}

impl Header {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the upper bits say whether there is a frame check sequence"
    )]
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let layout = Layout::of(bytes)?;
        let link = layout.order.u32(bytes, 20)? as u16;
        Some(Self { layout, link })
    }

    /// Length of the record that begins here, if that is known.
    #[inline]
    fn captured(&self, bytes: &[u8]) -> Option<usize> {
        let captured = self.layout.order.u32(bytes, 8)?;
        usize::try_from(captured).ok()
    }

    /// Whether these bytes begin with a whole record.
    #[inline]
    pub(super) fn is_whole(&self, bytes: &[u8]) -> bool {
        self.captured(bytes)
            .and_then(|captured| captured.checked_add(self.layout.record))
            .is_some_and(|length| length <= bytes.len())
    }

    #[inline]
    pub(super) fn next<R: Read>(&mut self, window: &mut Window<R>) -> io::Result<Next> {
        let Layout {
            order,
            unit_ns,
            record,
        } = self.layout;
        if !window.fill(record)? {
            return Ok(if window.bytes().is_empty() {
                Next::End
            } else {
                Next::Stop(cut(window.offset()))
            });
        }
        let Some(captured) = self
            .captured(window.bytes())
            .filter(|&captured| captured <= MAX_BLOCK)
        else {
            return Ok(Next::Stop(format!(
                "damaged at byte {}: no packet is that long; it and the rest are left out",
                window.offset()
            )));
        };
        let length = record.saturating_add(captured);
        if !window.fill(length)? {
            return Ok(Next::Stop(cut(window.offset())));
        }
        let bytes = window.bytes();
        let number = |at| order.u32(bytes, at).unwrap_or(0);
        let time_ns = u64::from(number(0))
            .saturating_mul(1_000_000_000)
            .saturating_add(u64::from(number(4)).saturating_mul(unit_ns.into()));
        let captured_len = u32::try_from(captured).unwrap_or(u32::MAX);
        Ok(Next::Packet(Place {
            time_ns,
            link: self.link,
            wire_len: number(12).max(captured_len),
            skip: record,
            captured,
            record: length,
        }))
    }
}
