//! The transitions that an interrupt makes while a program runs for another one on that CPU.
//!
//! The kernel does not run a BTF tracepoint program inside itself: for a transition in softirq, on top of a run
//! for a transition in a process, it skips the program. So each has a second one with the same body, attached to the
//! same tracepoint, which acts where the first has been skipped: while the first is inside.
//!
//! The kernel calls both for every transition, the first one first (in the order in which they were attached). On one
//! CPU, calls on top of each other begin and end like brackets while preemption is off. So at an instruction of the outer
//! call there can be any number of whole inner calls, and no half one. The first program sets `inside` when
//! it begins and clears it when it ends; the second acts if it is set. When an inner call comes
//!
//! - *before the first program has set it, or after it has cleared it, but inside the kernel's guard*: the first
//!   is skipped, the second sees 0. The transition is lost. The kernel counts it as skipped, nobody as caught:
//!   `nested`.
//! - *while it is set*: the first is skipped, the second sees 1 and acts. It is called for each of a batch of inner
//!   calls; none of them changes `inside`.
//! - *between the two programs, before them or after them*: the first runs, sets and clears; the second, behind it,
//!   sees 0.
//! - *while the second runs*: the first runs, sets and clears; the second is skipped and nothing is lost. What
//!   it returns to sees 0 if it reads `inside` afterwards, as it would have before.
//!
//! The second program of the outer call sees 0, since every call in between has cleared what it set. So no
//! transition is handled twice, and `nested` is what the kernel skipped of the first program less what the second
//! caught. If an interrupt could interrupt the second while it acts, both would be skipped, and the same sum
//! says so. The tests of `tcpstate_common::counters` go through all of this.
//!
//! Before Linux 6.1 nothing is skipped: the first runs inside itself. A call on top of it sets and clears,
//! so the second program sees 0 behind it, and every later one too: nothing is handled twice either. That is why the
//! second has to come second; since 6.1 their order makes no difference.
//!
//! Since Linux 7.0 the programs can be preempted, so that calls on one CPU no longer begin and end like brackets: a task
//! may come back between its two programs while the first of another is at work. So `inside` names the task on top of
//! which the first runs, which an interrupt leaves as it is, and the second acts for this one only. A transition of
//! a task that preempts the first program is skipped and not caught: `nested`.
//!
//! A classic tracepoint program has no second one: the kernel then runs no classic program at all
//! (`bpf_prog_active`).
//!
//! *Source:* `__bpf_trace_run` in `kernel/trace/bpf_trace.c`, Linux commit 05b24ff9b2cf ("bpf: Prevent bpf
//! program recursion for raw tracepoint probes"), and a46023d5616e for preemption; `func_add` in `kernel/tracepoint.c` (a probe goes behind those
//! of its priority); `trace_call_bpf`.

use aya_ebpf::helpers::generated::bpf_get_current_task;
use tcpstate_common::{Counters, PerCpu};

use crate::maps::COUNTERS;

/// Which of the two programs runs. Whatever a run adds to, or keeps between two instructions, each has for itself: the
/// second runs while the first is inside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    First,
    Second,
}

/// The task on top of which this runs, a kernel address.
#[inline(always)]
fn task() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_get_current_task() }
}

/// Calls the body of the first program with its counters.
#[inline(always)]
pub(crate) fn first(body: impl FnOnce(*mut Counters)) {
    let Some(cpu): Option<*mut PerCpu> = COUNTERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map lookup returned a valid pointer to this CPU's value.
    unsafe { (&mut *cpu).set_inside(task()) };
    // SAFETY: as above.
    body(unsafe { &raw mut (*cpu).first });
    // SAFETY: as above.
    unsafe { (&mut *cpu).set_inside(0) };
}

/// Calls the body of the second program with its counters, if the first is inside.
#[inline(always)]
pub(crate) fn second(body: impl FnOnce(*mut Counters)) {
    let Some(cpu): Option<*mut PerCpu> = COUNTERS.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map lookup returned a valid pointer to this CPU's value.
    if unsafe { (&*cpu).is_inside(task) } {
        // SAFETY: as above.
        body(unsafe { &raw mut (*cpu).nested });
    }
}
