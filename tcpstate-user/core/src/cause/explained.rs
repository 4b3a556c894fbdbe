//! The causes as a table for people: the documentation and the help are made from it.

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Explained {
    /// The name, or a description of several.
    pub name: &'static str,
    /// The event, in a few words.
    pub what: &'static str,
    /// The evidence.
    pub known: &'static str,
    /// Since which kernel, and what the capture needs for it.
    pub since: &'static str,
}

const SOCKET: &str = "5.10; the socket";
const NOTHING: &str = "5.10";

/// Every cause.
pub const EXPLAINED: [Explained; 10] = [
    Explained {
        name: "fin",
        what: "closed in order, by both sides, or by this one before the peer",
        known: "No error, out of `LAST_ACK` or `CLOSING`, or out of `FIN_WAIT2` when the peer's FIN has come or the \
                kernel hands an orphan to a minisocket.",
        since: SOCKET,
    },
    Explained {
        name: "reset_by_peer",
        what: "the peer reset it",
        known: "ECONNRESET, or EPIPE in `CLOSE_WAIT`. Where both directions were shut down here, data that arrives \
                gives the same error: then only if this kernel sent no RST.",
        since: "5.10; the socket; after a close here, the resets",
    },
    Explained {
        name: "reset_locally",
        what: "this side reset it",
        known: "This kernel sent a RST: the application closed with `SO_LINGER` 0 or with unread data, or \
                disconnected; its listener closed before it accepted; data came after it had closed; \
                `TCP_LINGER2` is negative; there is no memory. Where the resets are not seen: no error, out of \
                `ESTABLISHED`, `CLOSE_WAIT` or `FIN_WAIT1`, or out of `FIN_WAIT2` before a close.",
        since: "5.10; the socket; after a close here, the resets",
    },
    Explained {
        name: "refused",
        what: "nothing listens there, or a firewall says so",
        known: "ECONNREFUSED: the answer to the SYN was a RST, or ICMP says that the port cannot be reached.",
        since: SOCKET,
    },
    Explained {
        name: "timed_out",
        what: "no answer in time",
        known: "ETIMEDOUT: to a SYN, to data, to keepalive probes, or to the last FIN.",
        since: SOCKET,
    },
    Explained {
        name: "unreachable",
        what: "no way to the host or the network",
        known: "EHOSTUNREACH or ENETUNREACH, mostly from ICMP, also where the application closed a socket that it did \
                not wait for.",
        since: "5.10; where it did not wait, 6.0; the socket",
    },
    Explained {
        name: "abandoned",
        what: "the application gave up connecting",
        known: "No error, out of `SYN_SENT`: it closed, shut down or disconnected the socket after its SYN. It sent no \
                RST.",
        since: SOCKET,
    },
    Explained {
        name: "no_port",
        what: "connect found no local port (EADDRNOTAVAIL)",
        known: "Out of `SYN_SENT` without a local port: none is free. Or no SYN was sent and no sequence number \
                chosen: the port that it is bound to is in use to the same peer.",
        since: "5.10; the socket, if a port was bound",
    },
    Explained {
        name: "another error",
        what: "such as ECONNABORTED (ss -K) or EACCES (ICMP)",
        known: "The socket's error, by its name, or as `errno_N`.",
        since: SOCKET,
    },
    Explained {
        name: "unknown",
        what: "nothing proves any of these",
        known: "Shown as `-`, `null` in JSON. `--cause unknown` selects it.",
        since: NOTHING,
    },
];
