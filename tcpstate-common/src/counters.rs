//! The per-CPU counters of the BPF programs.

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The counters of one CPU. While no program runs there, [`Counters::seen`] is the sum of the others.
        ///
        /// *Layout:* one `u64` per field.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counters {
            /// Adds another CPU's counters to these.
            pub const fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }
        }
    };
}

counters! {
    /// Runs of the program.
    seen,
    /// Written to the ring buffer.
    submitted,
    /// Lost: the ring buffer was full.
    lost_ring_full,
    /// Dropped: the protocol is not TCP.
    filtered_protocol,
    /// Dropped: not the selected address family.
    filtered_family,
    /// Dropped: not one of the selected ports.
    filtered_port,
    /// Dropped: not the selected network namespace.
    filtered_netns,
    /// Dropped: its addresses do not have the selected prefixes.
    filtered_address,
    /// Dropped: not in the selected cgroup or below it.
    filtered_cgroup,
}

/// The data that the programs keep for one CPU.
///
/// *Layout:* the value of the per-CPU array map `COUNTERS`, key 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PerCpu {
    /// The runs of the second program that found the first one at work: the transitions it has caught.
    pub nested: Counters,
    /// The task on top of which the first program is at work, a kernel address; 0: it is not at work. Beside `first.seen`,
    /// which is written at the same moment.
    pub inside: u64,
    /// The runs of the first program.
    pub first: Counters,
}

impl PerCpu {
    /// The first program begins on top of this task, or ends: 0.
    #[inline]
    pub fn set_inside(&mut self, task: u64) {
        // Volatile: the second program reads it in between.
        // SAFETY: a reference is valid.
        unsafe { (&raw mut self.inside).write_volatile(task) }
    }

    /// Whether the first program is at work on top of the present task, so that the second acts.
    #[inline]
    pub fn is_inside(&self, task: impl FnOnce() -> u64) -> bool {
        // SAFETY: a reference is valid.
        let inside = unsafe { (&raw const self.inside).read_volatile() };
        // Nearly always 0: then the task need not be asked for.
        inside != 0 && inside == task()
    }
}

const _: () = {
    assert!(size_of::<Counters>() == 72 && align_of::<Counters>() == 8);
    assert!(size_of::<PerCpu>() == 152 && align_of::<PerCpu>() == 8);
};

impl Counters {
    /// Transitions dropped by any filter.
    pub const fn filtered(&self) -> u64 {
        self.filtered_protocol
            + self.filtered_family
            + self.filtered_port
            + self.filtered_netns
            + self.filtered_address
            + self.filtered_cgroup
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One CPU, as the kernel calls the two programs on it.
    struct Cpu {
        /// Whether the kernel skips a program inside itself, as since Linux 6.1.
        guards: bool,
        /// The places in the outer call at which inner calls come, and their number at each, in base three.
        interrupts: u32,
        is_inner: bool,
        data: PerCpu,
        /// Whether the kernel takes the first and the second program for running.
        active: [bool; 2],
        /// Runs of the first that the kernel has skipped.
        skipped: u64,
        /// For each inner call, how often it was handled.
        inner: [u32; 2 * PLACES as usize],
        inner_calls: usize,
        outer: u32,
    }

    /// An interrupt runs on top of the task that it interrupts.
    const TASK: u64 = 0xffff_8880_0000_1000;

    /// Between any two steps of the outer call.
    const PLACES: u32 = 9;

    impl Cpu {
        /// A place at which an interrupt may come: it makes whole calls.
        fn place(&mut self) {
            if self.is_inner {
                return;
            }
            let count = self.interrupts % 3;
            self.interrupts /= 3;
            self.is_inner = true;
            for _ in 0..count {
                self.call();
                self.inner_calls += 1;
            }
            self.is_inner = false;
        }

        fn handle(&mut self, nested: bool) {
            let data = &mut self.data;
            let counters = if nested {
                &mut data.nested
            } else {
                &mut data.first
            };
            counters.seen += 1;
            if self.is_inner {
                self.inner[self.inner_calls] += 1;
            } else {
                self.outer += 1;
            }
        }

        /// One call of the tracepoint.
        fn call(&mut self) {
            self.place();
            if self.guards && self.active[0] {
                self.skipped += 1;
            } else {
                let before = core::mem::replace(&mut self.active[0], true);
                self.place();
                self.data.set_inside(TASK);
                self.place();
                self.handle(false);
                self.place();
                self.data.set_inside(0);
                self.place();
                self.active[0] = before;
            }
            self.place();
            if !(self.guards && self.active[1]) {
                let before = core::mem::replace(&mut self.active[1], true);
                self.place();
                if self.data.is_inside(|| TASK) {
                    self.handle(true);
                }
                self.place();
                self.active[1] = before;
            }
            self.place();
        }
    }

    /// Where a program can be preempted (Linux 7.0): the second one of a task whose first one has ended finds that of
    /// another task at work.
    #[test]
    fn another_task_is_not_taken_for_an_interrupt() {
        let mut data = PerCpu::default();
        assert!(!data.is_inside(|| TASK));
        data.set_inside(TASK);
        assert!(data.is_inside(|| TASK));
        assert!(!data.is_inside(|| TASK + 0x1000));
        data.set_inside(0);
        assert!(!data.is_inside(|| TASK));
    }

    /// Up to two inner calls at every place, in every combination.
    #[test]
    fn each_transition_is_handled_once_or_counted_as_skipped() {
        for guards in [true, false] {
            for interrupts in 0..3u32.pow(PLACES) {
                let mut cpu = Cpu {
                    guards,
                    interrupts,
                    is_inner: false,
                    data: PerCpu::default(),
                    active: [false; 2],
                    skipped: 0,
                    inner: [0; 2 * PLACES as usize],
                    inner_calls: 0,
                    outer: 0,
                };
                cpu.call();
                assert_eq!(cpu.interrupts, 0, "a place too few");
                assert_eq!(cpu.outer, 1, "{guards} {interrupts}");
                let inner = &cpu.inner[..cpu.inner_calls];
                assert!(
                    inner.iter().all(|&times| times <= 1),
                    "{guards} {interrupts}"
                );
                let lost = inner.iter().filter(|&&times| times == 0).count() as u64;
                assert_eq!(lost, cpu.skipped - cpu.data.nested.seen);
                // Inside the guard of the first, but outside its own marks.
                let unmarked = |place| u64::from(interrupts / 3u32.pow(place) % 3);
                let unseen = if guards { unmarked(1) + unmarked(4) } else { 0 };
                assert_eq!(lost, unseen, "{guards} {interrupts}");
                assert_eq!(cpu.data.inside, 0);
            }
        }
    }
}
