//! The states of a TCP socket, numbered as the kernel numbers them.

/// A TCP state as the kernel numbers it.
///
/// A newtype, not an `enum`: a number that this version does not know is kept and shown as a number, neither
/// refused nor mapped to another state.
///
/// *Source:* `include/net/tcp_states.h`; the eleven states of RFC 9293, section 3.3.2, and the
/// kernel's own `NEW_SYN_RECV` and `BOUND_INACTIVE`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct State(pub u8);

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl State {
            $($(#[$doc])* pub const $name: Self = Self($number);)*

            /// The kernel's name without the prefix `TCP_`; `None` for a number that this version does not
            /// know.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(stringify!($name)),)*
                    _ => None,
                }
            }

            /// The state with this [name](State::name), in upper or lower case.
            pub fn from_name(name: &str) -> Option<Self> {
                $(if name.eq_ignore_ascii_case(stringify!($name)) {
                    return Some(Self::$name);
                })*
                None
            }
        }
    };
}

states! {
    /// Both sides may send.
    ESTABLISHED = 1;
    /// Active open: the SYN is sent, and not answered yet.
    SYN_SENT = 2;
    /// Passive open: the handshake is in progress.
    SYN_RECV = 3;
    /// We closed first; our FIN is not acknowledged yet.
    FIN_WAIT1 = 4;
    /// Our FIN is acknowledged; the peer has not closed yet.
    FIN_WAIT2 = 5;
    /// Both sides closed; waiting for segments still in flight (60 s on Linux).
    TIME_WAIT = 6;
    /// No connection.
    CLOSE = 7;
    /// The peer closed; our application has not.
    CLOSE_WAIT = 8;
    /// The peer closed first, then we did; our FIN is not acknowledged yet.
    LAST_ACK = 9;
    /// Waiting for connections.
    LISTEN = 10;
    /// Both sides closed at once; our FIN is not acknowledged yet.
    CLOSING = 11;
    /// A request socket: a handshake that has no full socket yet. Counts as `SYN_RECV`.
    NEW_SYN_RECV = 12;
    /// Bound, not connected, not listening. *Since:* Linux 6.8, in `sock_diag` only.
    BOUND_INACTIVE = 13;
}

impl State {
    /// The eleven states of RFC 9293 in the kernel's order.
    pub const ALL: [Self; 11] = [
        Self::ESTABLISHED,
        Self::SYN_SENT,
        Self::SYN_RECV,
        Self::FIN_WAIT1,
        Self::FIN_WAIT2,
        Self::TIME_WAIT,
        Self::CLOSE,
        Self::CLOSE_WAIT,
        Self::LAST_ACK,
        Self::LISTEN,
        Self::CLOSING,
    ];

    /// The state as users know it: a request socket is in `SYN_RECV`.
    #[must_use]
    pub const fn folded(self) -> Self {
        match self {
            Self::NEW_SYN_RECV => Self::SYN_RECV,
            other => other,
        }
    }
}

impl core::fmt::Display for State {
    /// The name, or the number if it has none.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => core::fmt::Display::fmt(&self.0, f),
        }
    }
}

impl core::fmt::Debug for State {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
