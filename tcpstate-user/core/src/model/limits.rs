//! The bounds of the tracker.

/// The bounds of everything that a [`Tracker`](super::Tracker) keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; those longest without an event are evicted first, roughly.
    pub max_connections: usize,
    /// Service ports with figures of their own, or commands or cgroups; the rest is `other`.
    pub max_ports: usize,
    /// Listeners.
    pub max_listeners: usize,
    /// Connections between a listener's first event for them and their next one. That takes
    /// microseconds, so only lost events, or many handshakes with TCP Fast Open, make many.
    pub max_embryos: usize,
    /// Bytes of all histograms; later ports go into the histograms of `other`.
    pub max_histogram_bytes: usize,
    /// Groups with histograms of their own, a port in two roles being two; later ones go into those of `other`. A group
    /// has all of its histograms or none, as far as `max_histogram_bytes` allows.
    pub max_histogram_groups: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1_000_000,
            max_ports: 1_024,
            max_listeners: 65_536,
            max_embryos: 16_384,
            max_histogram_bytes: 64 << 20,
            max_histogram_groups: usize::MAX,
        }
    }
}
