//! The per-CPU counters of the BPF programs.

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The counters of one CPU. While no program runs there, [`Counters::seen`] is the sum of the others.
        ///
        /// *Layout:* one `u64` per field; the value of the per-CPU array map `COUNTERS`, key 0.
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
    /// Dropped: the protocol is not TCP.
    filtered_protocol,
    /// Dropped: not the selected address family.
    filtered_family,
    /// Dropped: not one of the selected ports.
    filtered_port,
    /// Dropped: not the selected network namespace.
    filtered_netns,
    /// Dropped: not in the selected cgroup or below it.
    filtered_cgroup,
    /// Written to the ring buffer.
    submitted,
    /// Lost: the ring buffer was full.
    lost_ring_full,
}

const _: () = assert!(size_of::<Counters>() == 64 && align_of::<Counters>() == 8);

impl Counters {
    /// Transitions dropped by any filter.
    pub const fn filtered(&self) -> u64 {
        self.filtered_protocol
            + self.filtered_family
            + self.filtered_port
            + self.filtered_netns
            + self.filtered_cgroup
    }
}
