//! The maps, and the read-only globals that user space sets before it loads the programs.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap, Queue, RingBuf},
};
use tcpstate_common::{
    Config, PerCpu,
    config::{Listener, MAX_LISTENERS, PORT_WORDS, PortBitmap, SCRATCH_BYTES, Span},
    tally::{Failure, NOTES as NOTE_COUNT, Note, PlaceSet, Row, RowsByPort, Times},
};

/// The ring buffer of records. User space sets its size.
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// The per-CPU counters, at key 0.
#[map]
pub(crate) static COUNTERS: PerCpuArray<PerCpu> = PerCpuArray::with_max_entries(1, 0);

/// Key 0 holds 1 while the reader sleeps and waits for a wakeup.
#[map]
pub(crate) static READER_SLEEPS: Array<u32> = Array::with_max_entries(1, 0);

/// Retransmitted SYN-ACKs, by listener.
#[map]
pub(crate) static SYNACK_RETRANSMITS: PerCpuHashMap<Listener, u64> =
    PerCpuHashMap::with_max_entries(MAX_LISTENERS, 0);

/// A buffer for a copy of a socket's members, at key 0. No two runs share it: on one CPU the kernel does not nest runs
/// of classic tracepoint programs.
#[map]
pub(crate) static SCRATCH: PerCpuArray<[u64; SCRATCH_BYTES / 8]> =
    PerCpuArray::with_max_entries(1, 0);

/// A socket's address, for each program that counts, by [`address`]: one can run inside another, but since
/// Linux 6.1 none inside itself.
#[map]
pub(crate) static ADDRESS: PerCpuArray<u64> = PerCpuArray::with_max_entries(3, 0);

/// The keys of [`ADDRESS`].
pub(crate) mod address {
    pub(crate) const FIRST: u32 = 0;
    pub(crate) const SECOND: u32 = 1;
    pub(crate) const RESET: u32 = 2;
}

// The maps of `tally`. User space sets their sizes; where `tally` does not run they stay minimal. They are not
// per-CPU maps: per-CPU values can be neither that large nor mapped into memory, and a mapping saves the reader
// a system call per value. Each CPU has values of its own nevertheless.

/// The remembered sockets, by hash value.
#[map]
pub(crate) static PLACES: Array<PlaceSet> = Array::with_max_entries(1, 0);

/// The rows in which the ports of each side are counted.
#[map]
pub(crate) static ROWS_BY_PORT: Array<RowsByPort> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// The numbers of the free rows.
#[map]
pub(crate) static FREE_ROWS: Queue<u32> = Queue::with_max_entries(1, 0);

/// The service of each row.
#[map]
pub(crate) static SERVICES: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The counts: all rows of one of the `tally::parts`, then those of the next.
#[map]
pub(crate) static ROWS: Array<Row> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The dwell times: all states of one of the `tally::parts`, then those of the next.
#[map]
pub(crate) static TIMES: Array<Times> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Connections that ended with an error.
#[map]
pub(crate) static ERRORS: PerCpuHashMap<Failure, u64> = PerCpuHashMap::with_max_entries(1, 0);

/// Ends whose cause a RST decides, at the hash of the socket's address.
#[map]
pub(crate) static NOTES: Array<Note> = Array::with_max_entries(NOTE_COUNT, 0);

/// Increments the count of a key. Returns false if the key has no entry.
#[inline(always)]
pub(crate) fn add<K>(map: &PerCpuHashMap<K, u64>, key: &K) -> bool {
    let Some(count) = map.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the map lookup returned a valid pointer to this CPU's value.
    unsafe { *count += 1 };
    true
}

/// Increments the count of a key, inserting an entry if it has none. Returns false if the map is full.
#[inline(always)]
pub(crate) fn add_or_insert<K>(map: &PerCpuHashMap<K, u64>, key: &K) -> bool {
    if add(map, key) {
        return true;
    }
    // Another CPU may have inserted the entry in the meantime.
    let _ = map.insert(key, 0, u64::from(BPF_NOEXIST));
    add(map, key)
}

/// A read-only global (`.rodata`): user space sets it before the load, and it never changes afterwards.
///
/// Reads are volatile: the value at run time is not the one that the compiler sees.
#[repr(transparent)]
pub(crate) struct ReadOnly<T>(MaybeUninit<T>);

impl<T> ReadOnly<T> {
    const fn zeroed() -> Self {
        Self(MaybeUninit::zeroed())
    }

    #[inline(always)]
    pub(crate) const fn as_ptr(&self) -> *const T {
        self.0.as_ptr()
    }
}

#[unsafe(no_mangle)]
pub(crate) static CONFIG: ReadOnly<Config> = ReadOnly::zeroed();
#[unsafe(no_mangle)]
pub(crate) static LOCAL_PORTS: ReadOnly<PortBitmap> = ReadOnly::zeroed();
#[unsafe(no_mangle)]
pub(crate) static REMOTE_PORTS: ReadOnly<PortBitmap> = ReadOnly::zeroed();
#[unsafe(no_mangle)]
pub(crate) static PORTS: ReadOnly<PortBitmap> = ReadOnly::zeroed();

/// Reads one field of [`CONFIG`], given by its path.
macro_rules! config {
    ($($path:ident).+) => {
        $crate::maps::config_at(
            core::mem::offset_of!(tcpstate_common::Config, $($path).+),
            |config| config.$($path).+,
        )
    };
}
pub(crate) use config;

/// Reads the field of [`CONFIG`] at `offset`; `_field` only names its type.
#[inline(always)]
pub(crate) fn config_at<T: Copy>(offset: usize, _field: fn(&Config) -> T) -> T {
    // SAFETY: the callers, `config!`, `span` and `prefix_field!`, pass the offset of a field of this type, made of
    // integers; the static is never written.
    unsafe { core::ptr::read_volatile(CONFIG.as_ptr().cast::<u8>().add(offset).cast::<T>()) }
}

/// Reads one span of [`Config::copy`].
#[inline(always)]
pub(crate) fn span(index: usize) -> Span {
    let at = core::mem::offset_of!(Config, copy.spans) + index * size_of::<Span>();
    Span {
        from: config_at(at + core::mem::offset_of!(Span, from), |config| {
            config.copy.spans[0].from
        }),
        to: config_at(at + core::mem::offset_of!(Span, to), |config| {
            config.copy.spans[0].to
        }),
        bytes: config_at(at + core::mem::offset_of!(Span, bytes), |config| {
            config.copy.spans[0].bytes
        }),
    }
}

/// Reads a field of one of the prefixes of [`Config::filter`].
macro_rules! prefix_field {
    ($index:expr, $field:ident) => {
        $crate::maps::config_at(
            core::mem::offset_of!(tcpstate_common::Config, filter.prefixes)
                + $index * size_of::<tcpstate_common::config::Prefix>()
                + core::mem::offset_of!(tcpstate_common::config::Prefix, $field),
            |config| config.filter.prefixes[0].$field,
        )
    };
}
pub(crate) use prefix_field;

impl ReadOnly<PortBitmap> {
    #[inline(always)]
    pub(crate) fn contains(&self, port: u16) -> bool {
        // The compiler knows the bounds of a port; the verifier of Linux 5.10 forgets them on the stack, and has to see them here.
        let port = (core::hint::black_box(u32::from(port)) & 0xffff) as u16;
        let word = usize::from(port >> 6);
        // Shows the verifier the bound, which always holds.
        let word = word & (PORT_WORDS - 1);
        // SAFETY: `word` is below `PORT_WORDS`, and the static is never written.
        let bits = unsafe { core::ptr::read_volatile(self.as_ptr().cast::<u64>().add(word)) };
        bits & (1 << (port & 63)) != 0
    }
}
