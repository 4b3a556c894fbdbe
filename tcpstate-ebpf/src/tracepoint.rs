//! The classic tracepoint: only what its record carries, for hosts without BTF.
//!
//! The verifier refuses a load from a tracepoint's context at an offset that stands in a register,
//! even a constant one ("dereference of modified ctx ptr"), so the layouts that exist are compiled
//! in, one program each, and user space picks the one that the host's `format` file describes.

use core::mem::offset_of;

use aya_ebpf::{EbpfContext, macros::tracepoint, programs::TracePointContext};
use tcpstate_common::{
    Record, State,
    config::{TP_BASE, TP_BASE_LAZY, TracepointRecord},
};

use crate::{
    emit::{self, Transition},
    filter::Key,
};

/// The program for the layout of nearly every kernel.
#[tracepoint]
pub(crate) fn tcpstate_tp(ctx: TracePointContext) -> u32 {
    emit::handle(&ctx, &Call::<TP_BASE>(&ctx));
    0
}

/// The program for kernels whose common header is 8 bytes longer.
#[tracepoint]
pub(crate) fn tcpstate_tp_lazy(ctx: TracePointContext) -> u32 {
    emit::handle(&ctx, &Call::<TP_BASE_LAZY>(&ctx));
    0
}

/// Nothing: the floor that the cost of the others is measured against.
#[tracepoint]
pub(crate) fn empty_tp(_ctx: TracePointContext) -> u32 {
    0
}

struct Call<'a, const BASE: u32>(&'a TracePointContext);

/// Reads a field of the tracepoint's record, at an offset that is an immediate.
macro_rules! field {
    ($call:ident.$field:ident as $type:ty) => {
        field!($call.$field as $type, 0)
    };
    ($call:ident.$field:ident as $type:ty, $more:literal) => {{
        let record = $call.0.as_ptr().cast::<u8>().cast_const();
        let offset = BASE as usize + offset_of!(TracepointRecord, $field) + $more;
        // SAFETY: user space compared the layout with the kernel's before it chose this program.
        unsafe { core::ptr::read_volatile(record.add(offset).cast::<$type>()) }
    }};
}

impl<const BASE: u32> Transition for Call<'_, BASE> {
    #[inline(always)]
    fn protocol(&self) -> u16 {
        field!(self.protocol as u16)
    }

    #[inline(always)]
    fn keeps_netns(&self) -> bool {
        true
    }

    #[inline(always)]
    fn key(&self) -> Key {
        Key {
            family: field!(self.family as u16) as u8,
            lport: field!(self.sport as u16),
            rport: field!(self.dport as u16),
            oldstate: State(field!(self.oldstate as i32) as u8),
            newstate: State(field!(self.newstate as i32) as u8),
        }
    }

    #[inline(always)]
    fn addresses(&self, _family: u8) -> ([u64; 2], [u64; 2]) {
        // The kernel fills these for IPv4 too, as v4-mapped.
        (
            [
                field!(self.saddr_v6 as u64),
                field!(self.saddr_v6 as u64, 8),
            ],
            [
                field!(self.daddr_v6 as u64),
                field!(self.daddr_v6 as u64, 8),
            ],
        )
    }

    #[inline(always)]
    fn skaddr(&self) -> u64 {
        field!(self.skaddr as u64)
    }

    #[inline(always)]
    unsafe fn fill(&self, _key: &Key, record: *mut Record) -> u8 {
        // SAFETY: the caller vouches for `record`.
        unsafe {
            (*record).cookie = 0;
            (*record).cgroup = 0;
            (*record).bytes_sent = 0;
            (*record).bytes_received = 0;
            (*record).netns = 0;
            (*record).uid = 0;
            (*record).srtt_us = 0;
            (*record).retransmits = 0;
            (*record).error = 0;
        }
        0
    }
}
