//! The body that both attach modes share: count, filter, fill, submit. `tally` shares the first two
//! steps.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns, generated},
};
use aya_log_ebpf::debug;
use tcpstate_common::{
    Counters, Record, State,
    filter::{Ends, Key, Truth},
    record::flags,
    transition::in_process,
};

use crate::{
    filter,
    maps::{READER_SLEEPS, RING, config},
};

/// `IPPROTO_TCP`.
const TCP: u16 = 6;

/// One call of the tracepoint, as one attach mode sees it.
pub(crate) trait Transition {
    /// `sk_protocol`.
    fn protocol(&self) -> u16;
    /// Whether the network namespace is the selected one; true if it cannot be read.
    fn keeps_netns(&self) -> bool;
    /// Whether the socket is in the selected cgroup or below it; true if that cannot be decided.
    fn keeps_cgroup(&self) -> bool;
    /// Ports, family and states.
    fn key(&self) -> Key;
    /// Local and remote address.
    fn ends(&self, family: u8) -> Ends;
    /// Kernel address of the socket.
    fn skaddr(&self) -> u64;
    /// Fills the fields that depend on the attach mode: `cookie` to `bytes_received`, `netns`, `uid`,
    /// `srtt_us`, `retransmits`, `error`. Returns the [`flags`] that say which of them are valid.
    ///
    /// # Safety
    ///
    /// `record` is valid for writes.
    unsafe fn fill(&self, key: &Key, record: *mut Record) -> u8;
    /// The facts about a connection that ends in `SYN_SENT` ([`end`]). Called after [`Transition::fill`], and only if
    /// that gave [`flags::TCP`].
    fn connecting(&self, key: &Key) -> u32;
    /// The error that ICMP reported to a socket that still connects: the application can know it, and it ends nothing.
    /// 0: none. Called as [`Transition::connecting`].
    ///
    /// *Source:* `tcp_v4_err`, where the socket is in use; `SO_ERROR` takes it away (`sk_err_soft`), but not the
    /// packet in the error queue, which is there since Linux 6.0.
    fn reported(&self) -> u16;
}

/// Increments a per-CPU counter. Since Linux 6.1 the kernel does not run a program inside itself, and the second
/// program (`nested`) has counters of its own, so a plain add loses nothing. Before 6.1, a run nested between
/// the load and the store would lose one count; the target has no atomic add to use.
macro_rules! count {
    ($counters:ident.$field:ident) => {
        // SAFETY: the map lookup returned a valid pointer to this CPU's value.
        unsafe { (*$counters).$field += 1 }
    };
}
pub(crate) use count;

/// Counts the run. Returns whether the socket is a TCP socket.
#[inline(always)]
pub(crate) fn begin<T: Transition>(transition: &T, counters: *mut Counters) -> bool {
    count!(counters.seen);
    if transition.protocol() != TCP {
        count!(counters.filtered_protocol);
        return false;
    }
    true
}

/// Counts the run and reads the clock, as the other bodies do.
#[inline(always)]
pub(crate) fn read_clock<T: Transition>(transition: &T, counters: *mut Counters) {
    if begin(transition, counters) {
        // SAFETY: the helper has no preconditions.
        let _ = unsafe { bpf_ktime_get_ns() };
        count!(counters.submitted);
    }
}

/// The truth of the filters for the transition; counts it as filtered if they do not keep it.
#[inline(always)]
pub(crate) fn judge<T: Transition>(transition: &T, key: &Key, counters: *mut Counters) -> Truth {
    if !transition.keeps_netns() {
        count!(counters.filtered_netns);
        return Truth::NO;
    }
    let mut all = filter::ports(key);
    if !all.may {
        count!(counters.filtered_port);
        return Truth::NO;
    }
    if filter::reads_addresses() {
        let ends = transition.ends(key.family);
        let family = filter::family(key, &ends);
        if !family.may {
            count!(counters.filtered_family);
            return Truth::NO;
        }
        let addresses = filter::addresses(key, &ends);
        if !addresses.may {
            count!(counters.filtered_address);
            return Truth::NO;
        }
        all = all.and(family).and(addresses);
    }
    if !transition.keeps_cgroup() {
        count!(counters.filtered_cgroup);
        return Truth::NO;
    }
    all
}

/// Counts the run, applies the filters, and submits a record of the transition.
#[inline(always)]
pub(crate) fn handle<C: EbpfContext, T: Transition>(
    ctx: &C,
    transition: &T,
    counters: *mut Counters,
) {
    if !begin(transition, counters) {
        return;
    }
    let key = transition.key();
    if config!(has_filter) != 0 && !judge(transition, &key, counters).may {
        return;
    }
    // Before the reservation, so that a wait for the ring's lock does not delay the timestamp.
    // SAFETY: the helper has no preconditions.
    let ts_ns = unsafe { bpf_ktime_get_ns() };
    let Some(mut entry) = RING.reserve::<Record>(0) else {
        count!(counters.lost_ring_full);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: `record` points to the reserved `Record`, ours until it is submitted; every field is written.
    unsafe {
        (*record).ts_ns = ts_ns;
        (*record).skaddr = transition.skaddr();
        (*record).lport = key.lport;
        (*record).rport = key.rport;
        (*record).cpu = bpf_get_smp_processor_id() as u16;
        (*record).oldstate = key.oldstate;
        (*record).newstate = key.newstate;
        (*record).family = key.family;
        let Ends { local, remote } = transition.ends(key.family);
        (&raw mut (*record).laddr).cast::<[u64; 2]>().write(local);
        (&raw mut (*record).raddr).cast::<[u64; 2]>().write(remote);
        let known = transition.fill(&key, record);
        (*record).flags = known | fill_process(key.oldstate, key.newstate, record);
        if matches!(
            (key.oldstate, key.newstate),
            (State::SYN_SENT, State::CLOSE)
        ) && known & flags::TCP != 0
        {
            (*record).pid = transition.connecting(&key);
            if (*record).error == 0 {
                (*record).error = transition.reported();
            }
        }
    }
    // Copies: a reference into the key would keep it in memory, packed, at every transition.
    let (oldstate, newstate) = (key.oldstate.0, key.newstate.0);
    let (lport, rport) = (key.lport, key.rport);
    debug!(
        ctx,
        "{} -> {} lport {} rport {}", oldstate, newstate, lport, rport
    );
    // SAFETY: the map lookup returned a valid pointer to this CPU's value.
    let submitted = unsafe { (*counters).submitted };
    entry.submit(wakeup(submitted));
    count!(counters.submitted);
}

/// `PF_KTHREAD` of `task_struct.flags`: the task is a kernel thread, such as a kernel worker.
///
/// *Source:* `include/linux/sched.h`.
const KERNEL_THREAD: u32 = 0x0020_0000;

/// Fills `pid` and `comm` if the running task is the one that acts on the socket: `comm` is the name of
/// its thread group's leader, as `/proc/PID/comm` has it.
///
/// A kernel worker acts for another task: it opens MPTCP subflows, and closes sockets that only unreachable Unix
/// sockets hold.
///
/// # Safety
///
/// `record` is valid for writes.
#[inline(always)]
unsafe fn fill_process(oldstate: State, newstate: State, record: *mut Record) -> u8 {
    // SAFETY: `record` is valid for writes, as the caller guarantees.
    let comm = unsafe { &raw mut (*record).comm }.cast::<[u64; 2]>();
    if !in_process(oldstate, newstate) {
        // SAFETY: as above.
        unsafe { no_process(record) };
        return 0;
    }
    if config!(has_task_btf) != 0 {
        // One helper call and direct loads, cheaper than more helper calls.
        // SAFETY: the verifier checks these loads against the type of the task.
        unsafe {
            let task = generated::bpf_get_current_task_btf().cast::<u8>();
            if load::<u32>(task, config!(offsets.task_flags)) & KERNEL_THREAD != 0 {
                no_process(record);
                return 0;
            }
            (*record).pid = load(task, config!(offsets.task_tgid));
            let leader: *const u8 = load(task, config!(offsets.task_group_leader));
            comm.write(load(leader, config!(offsets.task_comm)));
        }
    } else {
        // SAFETY: `comm` is 16 bytes long; the helper always NUL-terminates it.
        unsafe {
            (*record).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
            comm.write([0; 2]);
            generated::bpf_get_current_comm(comm.cast(), 16);
        }
    }
    flags::PROCESS
}

/// Fills `pid` and `comm` with zeros.
///
/// # Safety
///
/// `record` is valid for writes.
#[inline(always)]
unsafe fn no_process(record: *mut Record) {
    // SAFETY: the caller vouches for `record`.
    unsafe {
        (*record).pid = 0;
        (&raw mut (*record).comm).cast::<[u64; 2]>().write([0; 2]);
    }
}

/// Reads a `T` at a constant offset in a kernel structure by a direct load.
///
/// # Safety
///
/// The verifier checks the load against the structure's type; where the pointer may be invalid, the kernel
/// turns a fault into zeros.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, offset: u32) -> T {
    // SAFETY: see above.
    unsafe { core::ptr::read_volatile(base.add(offset as usize).cast::<T>()) }
}

/// The flags for submitting a record: whether it wakes the reader.
///
/// A wakeup costs twenty times as much as a record. So there is none while the reader polls the ring every few
/// milliseconds; one when the reader sleeps because nothing happened; and one each time that another
/// `wake_bytes` have accumulated, so that a burst does not wait for the reader's next poll.
#[inline(always)]
fn wakeup(submitted: u64) -> u64 {
    if let Some(sleeps) = READER_SLEEPS.get_ptr_mut(0) {
        // SAFETY: the map lookup returned a valid pointer. Two CPUs may both read the 1; the reader is
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
