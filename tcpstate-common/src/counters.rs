//! What the BPF programs count, per CPU.

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The books of one CPU. On every CPU, at rest, [`Counters::seen`] is the sum of the others.
        ///
        /// *Layout:* one `u64` a field; the value of the per-CPU array map `COUNTERS`, key 0.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Counters {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Counters {
            /// Adds another CPU's books to these.
            pub const fn add(&mut self, other: &Self) {
                $(self.$field = self.$field.wrapping_add(other.$field);)*
            }
        }
    };
}

counters! {
    /// Times the program ran.
    seen,
    /// Dropped: the protocol is not TCP.
    filtered_protocol,
    /// Dropped: not the address family asked for.
    filtered_family,
    /// Dropped: not one of the ports asked for.
    filtered_port,
    /// Dropped: not the network namespace asked for.
    filtered_netns,
    /// Dropped: not in the cgroup asked for, nor below it.
    filtered_cgroup,
    /// Written to the ring buffer.
    submitted,
    /// Lost: the ring buffer was full.
    lost_ring_full,
}

const _: () = assert!(size_of::<Counters>() == 64 && align_of::<Counters>() == 8);

impl Counters {
    /// All that was dropped by a filter.
    pub const fn filtered(&self) -> u64 {
        self.filtered_protocol
            + self.filtered_family
            + self.filtered_port
            + self.filtered_netns
            + self.filtered_cgroup
    }
}
