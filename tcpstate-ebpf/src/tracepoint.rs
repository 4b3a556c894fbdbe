//! The classic tracepoint: the fields of its record and, where the kernel's BTF gives the offsets, the members of
//! the socket that the record points to.
//!
//! To the verifier the address in the record is a scalar, so the socket is read with the helper
//! `bpf_probe_read_kernel`. A call costs more than the bytes that it copies, so members near each other are
//! copied together, in spans that user space chooses (`SocketCopy`). There is no cookie in this mode: a socket
//! has none until it is requested, no helper can make one from a scalar, and an identity that appears in the
//! middle of a connection is useless.
//!
//! The verifier rejects a load from a tracepoint's context at an offset held in a register, even a constant
//! one ("dereference of modified ctx ptr"). So each existing layout has a program of its own, and user space
//! picks the one that matches the host's `format` file.

use core::mem::{MaybeUninit, offset_of};

use aya_ebpf::{
    EbpfContext, helpers::generated::bpf_probe_read_kernel, macros::tracepoint,
    programs::TracePointContext,
};
use tcpstate_common::{
    Record, State,
    config::{MAX_SPANS, TP_BASE, TP_BASE_LAZY, TracepointRecord},
    filter::{Ends, Key},
    record::{end, flags},
};

use crate::{
    emit::{self, Transition, load},
    maps::{SCRATCH, config, span},
    nested,
};

/// The program for the layout of nearly every kernel.
#[tracepoint]
pub(crate) fn tcpstate_tp(ctx: TracePointContext) -> u32 {
    nested::first(|counters| emit::handle(&ctx, &Call::<TP_BASE>(&ctx), counters));
    0
}

/// The program for kernels whose common header is 8 bytes longer.
#[tracepoint]
pub(crate) fn tcpstate_tp_lazy(ctx: TracePointContext) -> u32 {
    nested::first(|counters| emit::handle(&ctx, &Call::<TP_BASE_LAZY>(&ctx), counters));
    0
}

/// Does nothing: the floor against which the cost of the other programs is measured.
#[tracepoint]
pub(crate) fn empty_tp(_ctx: TracePointContext) -> u32 {
    0
}

struct Call<'a, const BASE: u32>(&'a TracePointContext);

/// Reads a field of the tracepoint's record at an immediate offset.
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
        let wanted = config!(filter.netns);
        if wanted == 0 || config!(reads_socket) == 0 {
            return true;
        }
        let net: u64 = read(self.skaddr(), config!(offsets.sk_net)).unwrap_or(0);
        // A namespace that cannot be read is kept, like everything that is not known yet.
        read(net, config!(offsets.net_inum)).is_none_or(|netns: u32| netns == wanted)
    }

    #[inline(always)]
    fn keeps_cgroup(&self) -> bool {
        // Four helper calls per level cost more than a record that user space drops.
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
    fn ends(&self, _family: u8) -> Ends {
        // The kernel sets these for IPv4 too, as v4-mapped addresses.
        Ends {
            local: [
                field!(self.saddr_v6 as u64),
                field!(self.saddr_v6 as u64, 8),
            ],
            remote: [
                field!(self.daddr_v6 as u64),
                field!(self.daddr_v6 as u64, 8),
            ],
        }
    }

    #[inline(always)]
    fn skaddr(&self) -> u64 {
        field!(self.skaddr as u64)
    }

    #[inline(always)]
    unsafe fn fill(&self, _key: &Key, record: *mut Record) -> u8 {
        // SAFETY: `record` is valid for writes, as the caller guarantees.
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
        if config!(reads_socket) == 0 {
            return 0;
        }
        // SAFETY: `record` is valid for writes, as the caller guarantees.
        unsafe { copy_socket(self.skaddr(), record) }.unwrap_or(0)
    }

    #[inline(always)]
    fn connecting(&self, key: &Key) -> u32 {
        let Some(copy) = SCRATCH.get_ptr_mut(0) else {
            return 0;
        };
        let copy: *const u8 = copy.cast();
        // SAFETY: the offsets are inside the copy, which the verifier checks.
        let (segs_out, write_seq) = unsafe {
            (
                load(copy, config!(copy.tcp_segs_out)),
                load(copy, config!(copy.tcp_write_seq)),
            )
        };
        end::of_connecting(key.lport, segs_out, write_seq)
    }

    #[inline(always)]
    fn reported(&self) -> u16 {
        let sk = self.skaddr();
        let soft: u32 = read(sk, config!(offsets.sk_err_soft)).unwrap_or(0);
        if soft != 0
            || config!(offsets.skb_errno) == 0
            || read(sk, config!(offsets.sk_error_qlen)).is_none_or(|packets: u32| packets == 0)
        {
            return soft as u16;
        }
        let packet: u64 = read(sk, config!(offsets.sk_error_first)).unwrap_or(0);
        read(packet, config!(offsets.skb_errno)).map_or(0, |errno: u32| errno as u16)
    }
}

/// Fills the fields that come from the socket. Returns the [`flags`] that say which of them are valid; `None` if
/// the socket cannot be read.
///
/// # Safety
///
/// `record` is valid for writes.
#[inline(always)]
unsafe fn copy_socket(sk: u64, record: *mut Record) -> Option<u8> {
    let copy: *const u8 = SCRATCH.get_ptr_mut(0)?.cast::<u8>();
    for index in 0..MAX_SPANS {
        let span = span(index);
        if span.bytes != 0 {
            // SAFETY: user space chose spans that fit into the copy, and the verifier checks it.
            let failed = unsafe {
                bpf_probe_read_kernel(
                    copy.add(span.to as usize).cast_mut().cast(),
                    span.bytes,
                    (sk + u64::from(span.from)) as *const _,
                )
            };
            if failed != 0 {
                return None;
            }
        }
    }
    // SAFETY: the offsets are inside the copy, which the verifier checks; `record` is valid for writes,
    // as the caller guarantees.
    unsafe {
        (*record).netns = read(load(copy, config!(copy.sk_net)), config!(offsets.net_inum))?;
        (*record).uid = load(copy, config!(copy.sk_uid));
        (*record).error = load::<u32>(copy, config!(copy.sk_err)) as u16;
        if config!(has_cgroup) != 0 {
            let kn = read(
                load(copy, config!(copy.sk_cgroup)),
                config!(offsets.cgroup_kn),
            );
            (*record).cgroup = read(kn.unwrap_or(0), config!(offsets.kn_id)).unwrap_or(0);
        }
        (*record).bytes_sent = load(copy, config!(copy.tcp_bytes_sent));
        (*record).bytes_received = load(copy, config!(copy.tcp_bytes_received));
        // The kernel stores eight times the value.
        (*record).srtt_us = load::<u32>(copy, config!(copy.tcp_srtt_us)) >> 3;
        (*record).retransmits = load(copy, config!(copy.tcp_total_retrans));
        let own = flags::of_socket(
            load(copy, config!(copy.sk_flags)),
            load(copy, config!(copy.sk_shutdown)),
        );
        Some(flags::SOCKET | flags::TCP | own)
    }
}

/// Reads a `T` from a kernel structure at an address that is a scalar to the verifier; `None` on a fault.
#[inline(always)]
fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes all of `value`, zeros if it fails.
    unsafe {
        let source = (base + u64::from(offset)) as *const _;
        let failed =
            bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, source);
        (failed == 0).then(|| value.assume_init())
    }
}
