//! The maps and the read-only globals that user space fills before it loads the programs.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_NOEXIST},
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap, Queue, RingBuf},
};
use tcpstate_common::{
    Config, Counters,
    config::{Listener, MAX_LISTENERS, PORT_WORDS, PortBitmap, SCRATCH_BYTES, Span},
    tally::{Failure, PlaceSet, Row, RowsByPort, Times},
};

/// The records. User space sets the size.
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// The books, key 0.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Key 0 is 1 while the reader sleeps until it is woken.
#[map]
pub(crate) static READER_SLEEPS: Array<u32> = Array::with_max_entries(1, 0);

/// SYN-ACKs sent again, by listener.
#[map]
pub(crate) static SYNACK_RETRANSMITS: PerCpuHashMap<Listener, u64> =
    PerCpuHashMap::with_max_entries(MAX_LISTENERS, 0);

/// Room for a copy of a socket's members, or for its address, key 0. No two runs share it: the kernel does not
/// run a program of the classic tracepoint inside another one on the same CPU, nor since Linux 6.1 one of a BTF
/// tracepoint.
#[map]
pub(crate) static SCRATCH: PerCpuArray<[u64; SCRATCH_BYTES / 8]> =
    PerCpuArray::with_max_entries(1, 0);

// What `tally` keeps. User space sets the sizes, and the smallest ones where it does not run. These are no
// per-CPU maps: a value of those cannot be as large, nor be mapped, which spares the reader a system call for
// each; every CPU has its own values all the same.

/// The sockets, by hash value.
#[map]
pub(crate) static PLACES: Array<PlaceSet> = Array::with_max_entries(1, 0);

/// Where the ports of each side are counted.
#[map]
pub(crate) static ROWS_BY_PORT: Array<RowsByPort> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// Numbers of rows that nobody has yet.
#[map]
pub(crate) static FREE_ROWS: Queue<u32> = Queue::with_max_entries(1, 0);

/// Whose a row is.
#[map]
pub(crate) static SERVICES: Array<u32> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The counts: all rows of the first CPU, then those of the next.
#[map]
pub(crate) static ROWS: Array<Row> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The times: all states of the first CPU, then those of the next.
#[map]
pub(crate) static TIMES: Array<Times> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Ends with an error.
#[map]
pub(crate) static ERRORS: PerCpuHashMap<Failure, u64> = PerCpuHashMap::with_max_entries(1, 0);

/// Adds one to the count of a key, if it has an entry.
#[inline(always)]
pub(crate) fn add<K>(map: &PerCpuHashMap<K, u64>, key: &K) -> bool {
    let Some(count) = map.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: the map lookup gave a valid pointer to this CPU's value.
    unsafe { *count += 1 };
    true
}

/// Adds one to the count of a key, and makes an entry for it if it has none. Returns false if there is no room.
#[inline(always)]
pub(crate) fn add_or_insert<K>(map: &PerCpuHashMap<K, u64>, key: &K) -> bool {
    if add(map, key) {
        return true;
    }
    // Another CPU may have made the entry meanwhile.
    let _ = map.insert(key, 0, u64::from(BPF_NOEXIST));
    add(map, key)
}

/// A global that user space sets before the load and nobody changes after it.
///
/// Reads are volatile: the value is not the one that the compiler sees.
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

/// Reads one field of [`CONFIG`], by its path.
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
    // SAFETY: `config!`, the only caller, gives the offset of a field of this type, an integer; the
    // static is never written.
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

impl ReadOnly<PortBitmap> {
    #[inline(always)]
    pub(crate) fn contains(&self, port: u16) -> bool {
        let word = usize::from(port >> 6);
        // The verifier wants to see the bound; the compiler knows that it holds.
        let word = word & (PORT_WORDS - 1);
        // SAFETY: `word` is below `PORT_WORDS`, and the static is never written.
        let bits = unsafe { core::ptr::read_volatile(self.as_ptr().cast::<u64>().add(word)) };
        bits & (1 << (port & 63)) != 0
    }
}
