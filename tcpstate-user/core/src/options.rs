//! The choices that a command line offers and a view or a source follows.

/// An output format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Columns for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header line.
    Csv,
}

/// The form of local times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeForm {
    /// `12:34:56`.
    #[default]
    Seconds,
    /// `12:34:56.789`.
    Milliseconds,
    /// `12:34:56.789012`.
    Microseconds,
    /// `2026-01-31 12:34:56`.
    Date,
    /// `2026-01-31 12:34:56.789012`.
    Full,
}

/// The moment at which a connection is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// At its transition to CLOSE.
    #[default]
    Close,
    /// Once the kernel keeps nothing of it: with its whole time in `FIN_WAIT2` and `TIME_WAIT`.
    Gone,
}

/// A label of metrics that tells what a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadLabel {
    /// The systemd unit.
    Unit,
    /// The container: its name, or the first 12 digits of its id.
    Container,
    /// The Kubernetes pod: its name in its namespace, or its UID.
    Pod,
    /// The namespace of the pod.
    Namespace,
    /// The owner's name.
    Comm,
}

impl WorkloadLabel {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Unit,
        Self::Container,
        Self::Pod,
        Self::Namespace,
        Self::Comm,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::Comm => "comm",
        }
    }
}

/// The order in which packets are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketOrder {
    /// One connection after the other.
    ByConnection,
    /// As they were captured.
    Interleaved,
}

/// The subject of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HistogramOf {
    /// The time in each state.
    #[default]
    Dwell,
    /// The time from the first transition of a connection to its last.
    Lifetime,
    /// The time until it is established; of a server, the first round trip.
    Handshake,
    /// No time, but the count of each transition.
    Transitions,
}

/// Whether to look up the processes that hold sockets for which no event names one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolveOwners {
    /// As far as this process may see others, without a notice about the rest.
    #[default]
    Auto,
    /// The same, with a notice if processes are hidden.
    Yes,
    /// Do not look.
    No,
}
