//! The body that both attach modes share: count, filter, fill, submit. Its first half is also that of
//! `tally`.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, generated},
};
use aya_log_ebpf::debug;
use tcpstate_common::{
    Counters, Record, State, filter::Key, record::flags, transition::in_process,
};

use crate::{
    filter,
    maps::{COUNTERS, READER_SLEEPS, RING, config},
};

/// `IPPROTO_TCP`.
const TCP: u16 = 6;

/// One call of the tracepoint, as an attach mode sees it.
pub(crate) trait Transition {
    /// `sk_protocol`.
    fn protocol(&self) -> u16;
    /// Whether the network namespace is the one asked for; true where it cannot be known.
    fn keeps_netns(&self) -> bool;
    /// Whether the socket is in the cgroup asked for, or below; true where it cannot be known.
    fn keeps_cgroup(&self) -> bool;
    /// Ports, family and states.
    fn key(&self) -> Key;
    /// Local and remote address, IPv4 as v4-mapped, each as two words in memory order.
    fn addresses(&self, family: u8) -> ([u64; 2], [u64; 2]);
    /// Kernel address of the socket.
    fn skaddr(&self) -> u64;
    /// Fills what only this attach mode knows: `cookie` to `bytes_received`, `netns`, `uid`,
    /// `srtt_us`, `retransmits`, `error`; returns the [`flags`] that say so.
    ///
    /// # Safety
    ///
    /// `record` is valid for writes.
    unsafe fn fill(&self, key: &Key, record: *mut Record) -> u8;
}

/// Adds one. Since Linux 6.1 the program does not run twice at once on a CPU (the kernel skips the inner
/// run and counts it as a recursion miss), so a plain add on a per-CPU value loses nothing. Before, a
/// run inside this very instruction pair would lose one count; the target has no atomic add to use.
macro_rules! count {
    ($counters:ident.$field:ident) => {
        // SAFETY: the map lookup gave a valid pointer to this CPU's value.
        unsafe { (*$counters).$field += 1 }
    };
}
pub(crate) use count;

/// Counts the run: the books of this CPU, if the transition is one of TCP.
#[inline(always)]
pub(crate) fn begin<T: Transition>(transition: &T) -> Option<*mut Counters> {
    let counters: *mut Counters = COUNTERS.get_ptr_mut(0)?;
    count!(counters.seen);
    if transition.protocol() != TCP {
        count!(counters.filtered_protocol);
        return None;
    }
    Some(counters)
}

/// Counts the run, and reads the clock as the other bodies do.
#[inline(always)]
pub(crate) fn read_clock<T: Transition>(transition: &T) {
    if let Some(counters) = begin(transition) {
        // SAFETY: the helper has no preconditions.
        let _ = unsafe { bpf_ktime_get_ns() };
        count!(counters.submitted);
    }
}

/// Whether the filters keep the transition; if not, it is counted.
#[inline(always)]
pub(crate) fn keeps<T: Transition>(transition: &T, key: &Key, counters: *mut Counters) -> bool {
    if !transition.keeps_netns() {
        count!(counters.filtered_netns);
        return false;
    }
    if !filter::keeps_ports(key) {
        count!(counters.filtered_port);
        return false;
    }
    if !filter::keeps_family(key, || transition.addresses(key.family)) {
        count!(counters.filtered_family);
        return false;
    }
    if !transition.keeps_cgroup() {
        count!(counters.filtered_cgroup);
        return false;
    }
    true
}

#[inline(always)]
pub(crate) fn handle<C: EbpfContext, T: Transition>(ctx: &C, transition: &T) {
    let Some(counters) = begin(transition) else {
        return;
    };
    let key = transition.key();
    if config!(has_filter) != 0 && !keeps(transition, &key, counters) {
        return;
    }
    // The time of the transition, not of the moment in which the ring gave us room.
    // SAFETY: the helper has no preconditions.
    let ts_ns = unsafe { bpf_ktime_get_ns() };
    let Some(mut entry) = RING.reserve::<Record>(0) else {
        count!(counters.lost_ring_full);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` points at the reserved entry, which is as large as a `Record` and ours until
    // it is submitted; all of it is written.
    unsafe {
        (*record).ts_ns = ts_ns;
        (*record).skaddr = transition.skaddr();
        (*record).lport = key.lport;
        (*record).rport = key.rport;
        (*record).cpu = bpf_get_smp_processor_id() as u16;
        (*record).oldstate = key.oldstate;
        (*record).newstate = key.newstate;
        (*record).family = key.family;
        let (laddr, raddr) = transition.addresses(key.family);
        (&raw mut (*record).laddr).cast::<[u64; 2]>().write(laddr);
        (&raw mut (*record).raddr).cast::<[u64; 2]>().write(raddr);
        let known = transition.fill(&key, record);
        (*record).flags = known | process(key.oldstate, key.newstate, record);
    }
    debug!(
        ctx,
        "{} -> {} lport {} rport {}", key.oldstate.0, key.newstate.0, key.lport, key.rport
    );
    // SAFETY: the map lookup gave a valid pointer to this CPU's value.
    let submitted = unsafe { (*counters).submitted };
    entry.submit(wakeup(submitted));
    count!(counters.submitted);
}

/// Fills `pid` and `comm` where the running task is the one that acts on the socket.
///
/// # Safety
///
/// `record` is valid for writes.
#[inline(always)]
unsafe fn process(oldstate: State, newstate: State, record: *mut Record) -> u8 {
    // SAFETY: the caller vouches for `record`.
    let comm = unsafe { &raw mut (*record).comm }.cast::<[u64; 2]>();
    if !in_process(oldstate, newstate) {
        // SAFETY: as above; the task is not read.
        unsafe {
            (*record).pid = 0;
            comm.write([0; 2]);
        }
        return 0;
    }
    if config!(has_task_btf) != 0 {
        // Two direct loads instead of two helpers.
        // SAFETY: the verifier checks these loads against the type of the task.
        unsafe {
            let task = generated::bpf_get_current_task_btf().cast::<u8>();
            (*record).pid = load(task, config!(offsets.task_tgid));
            comm.write(load(task, config!(offsets.task_comm)));
        }
    } else {
        // SAFETY: `comm` is 16 bytes long; the helper always ends it with a NUL.
        unsafe {
            (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            comm.write([0; 2]);
            generated::bpf_get_current_comm(comm.cast(), 16);
        }
    }
    flags::PROCESS
}

/// Reads a `T` at a constant offset of a kernel structure.
///
/// # Safety
///
/// The verifier checks the load against the structure's type; where it may not hold an address, the
/// kernel turns a fault into zeros.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: see above.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}

/// Whether this record is the one that wakes the reader.
///
/// A wakeup at every record costs twenty times the record. So: none while the reader looks by itself
/// every few milliseconds; one when it has gone to sleep because nothing happened; and one each time
/// that another `wake_bytes` have piled up, so that a storm does not wait for the reader's tick.
#[inline(always)]
fn wakeup(submitted: u64) -> u64 {
    if let Some(sleeps) = READER_SLEEPS.get_ptr_mut(0) {
        // SAFETY: the map lookup gave a valid pointer. Two CPUs may both see the 1: the reader is
        // then woken twice.
        unsafe {
            if sleeps.read_volatile() != 0 {
                sleeps.write_volatile(0);
                return u64::from(BPF_RB_FORCE_WAKEUP);
            }
        }
    }
    if submitted & u64::from(config!(look_mask)) == 0
        && RING.query(u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(config!(wake_bytes))
    {
        u64::from(BPF_RB_FORCE_WAKEUP)
    } else {
        u64::from(BPF_RB_NO_WAKEUP)
    }
}
