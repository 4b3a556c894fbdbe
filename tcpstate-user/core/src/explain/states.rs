//! The table itself, in the order of a connection's life: the client's side, the server's, and what both share.

use tcpstate_common::State;

use super::{Lore, Setting, StateText, Way};

const fn way(state: State, by: &'static str) -> Way {
    Way { state, by }
}

const fn setting(path: &'static str, effect: &'static str) -> Setting {
    Setting { path, effect }
}

const RFC: &str = "RFC 9293, section 3.3.2";
const SYSCTL: &str = "Documentation/networking/ip-sysctl.rst";

/// Every state.
pub static STATES: [StateText; 11] = [
    StateText {
        state: State::LISTEN,
        is: "A server waits for connections. It is one socket, however many connections come: each of them is a socket \
             of its own.",
        side: "server",
        from: &[way(State::CLOSE, "listen()")],
        to: &[
            way(
                State::SYN_RECV,
                "of a new socket, for a connection: the last ACK of its handshake came",
            ),
            way(
                State::CLOSE,
                "close(), shutdown(), or the end of the process",
            ),
        ],
        lasts: "As long as the server runs.",
        settings: &[
            setting(
                "net/core/somaxconn",
                "limits the backlog that listen() asks for",
            ),
            setting(
                "net/ipv4/tcp_max_syn_backlog",
                "limits half-open connections where there are no SYN cookies",
            ),
            setting(
                "net/ipv4/tcp_syncookies",
                "with 1, the kernel answers without memory where half-open connections are too many",
            ),
            setting(
                "net/ipv4/tcp_abort_on_overflow",
                "with 1, a client whose handshake ends when the queue is full gets a RST; SYNs that come later are dropped all the same",
            ),
        ],
        many: "Many are normal. Watch their queue instead: RECV-Q is the number of connections that wait for \
               accept(), SEND-Q its limit. Where it is full, the kernel drops new connections, and clients wait in \
               SYN_SENT. Accept faster, or raise the backlog in listen() and somaxconn.",
        lore: &[],
        commands: &[
            "tcpstate ls --state listen",
            "ss -tlnp",
            "nstat -az TcpExtListenOverflows",
        ],
        sources: &[RFC, "inet_csk_listen_start", "tcp_conn_request", SYSCTL],
    },
    StateText {
        state: State::SYN_SENT,
        is: "connect() has sent a SYN, and no answer has come.",
        side: "client",
        from: &[way(State::CLOSE, "connect()")],
        to: &[
            way(State::ESTABLISHED, "the SYN-ACK came"),
            way(
                State::SYN_RECV,
                "a SYN came: both ends connect to each other at once",
            ),
            way(
                State::CLOSE,
                "refused, unreachable, no answer in time, no local port, or the application gave up",
            ),
        ],
        lasts: "One round trip. Without an answer the kernel repeats the SYN, and gives up after some two minutes.",
        settings: &[
            setting(
                "net/ipv4/tcp_syn_retries",
                "how often the SYN is repeated: 6 is some 130 s, 3 some 20 s",
            ),
            setting(
                "net/ipv4/tcp_syn_linear_timeouts",
                "so many repetitions come a second apart, before the time doubles (Linux 6.5)",
            ),
            setting(
                "net/ipv4/ip_local_port_range",
                "local ports that connect() may choose",
            ),
        ],
        many: "The way to the server loses packets, a firewall drops them, or the server's queue is full: the client cannot \
               tell which. Look which remote address and port it is, then at the listener there. Where the cause of \
               the end is no_port, local ports are exhausted.",
        lore: &[],
        commands: &[
            "tcpstate ls --state syn-sent",
            "tcpstate life --cause timed_out,refused,unreachable,no_port,abandoned",
        ],
        sources: &[RFC, "tcp_v4_connect", "tcp_retransmit_timer", SYSCTL],
    },
    StateText {
        state: State::SYN_RECV,
        is: "A SYN came, the SYN-ACK went out, and the last ACK of the handshake has not come: the connection is \
             half-open. Linux keeps a small request for it, which makes no event, and makes the socket only when the \
             ACK comes.",
        side: "server",
        from: &[
            way(
                State::LISTEN,
                "the last ACK of the handshake came: the socket is made",
            ),
            way(
                State::SYN_SENT,
                "a SYN came: both ends connect to each other at once",
            ),
        ],
        to: &[
            way(State::ESTABLISHED, "the handshake is complete"),
            way(
                State::FIN_WAIT1,
                "close() before the handshake was complete",
            ),
            way(
                State::CLOSE_WAIT,
                "the SYN had a FIN with it (TCP Fast Open)",
            ),
            way(State::CLOSE, "a RST, or the listener has closed"),
        ],
        lasts: "One round trip for the request, which tcpstate samples; microseconds for the socket.",
        settings: &[
            setting(
                "net/ipv4/tcp_synack_retries",
                "how often the SYN-ACK is repeated: 5 is some 64 s, 2 some 7 s",
            ),
            setting(
                "net/ipv4/tcp_max_syn_backlog",
                "limits them where there are no SYN cookies",
            ),
            setting(
                "net/ipv4/tcp_syncookies",
                "with 1, the kernel answers without memory where they are too many",
            ),
        ],
        many: "From many sources: a SYN flood. From few: the way back loses SYN-ACKs. With a full accept queue \
               (RECV-Q of the listener at SEND-Q): the server accepts too slowly. A listener with TCP_DEFER_ACCEPT \
               keeps them until data comes, which is harmless.",
        lore: &[],
        commands: &[
            "tcpstate ls --state syn-recv",
            "ss -tn state syn-recv",
            "nstat -az TcpExtTCPReqQFullDoCookies",
        ],
        sources: &[
            RFC,
            "tcp_conn_request",
            "tcp_check_req",
            "reqsk_timer_handler",
            SYSCTL,
        ],
    },
    StateText {
        state: State::ESTABLISHED,
        is: "The connection is open: both ends may send.",
        side: "both",
        from: &[
            way(State::SYN_SENT, "the SYN-ACK came"),
            way(State::SYN_RECV, "the handshake is complete"),
        ],
        to: &[
            way(
                State::FIN_WAIT1,
                "close() or shutdown(SHUT_WR): this side closes first",
            ),
            way(
                State::CLOSE_WAIT,
                "the peer's FIN came: the peer closes first",
            ),
            way(State::CLOSE, "a RST was sent or came, or no answer in time"),
        ],
        lasts: "As long as both ends want. An idle connection sends nothing, and lasts for ever, even if the peer is gone.",
        settings: &[
            setting(
                "net/ipv4/tcp_keepalive_time",
                "seconds until an idle connection is probed, only with SO_KEEPALIVE",
            ),
            setting(
                "net/ipv4/tcp_retries2",
                "how often data is repeated before the connection ends: 15 is some 15 minutes or more",
            ),
        ],
        many: "The load, or a pool. Where they grow and stay idle, the peers have gone without a word, or a pool has no \
               limit: use keepalive (SO_KEEPALIVE) or TCP_USER_TIMEOUT, and an idle limit.",
        lore: &[],
        commands: &[
            "tcpstate ls --state established -i",
            "ss -tnoi state established",
        ],
        sources: &[RFC, "tcp_finish_connect", "tcp_write_timeout", SYSCTL],
    },
    StateText {
        state: State::FIN_WAIT1,
        is: "This side has closed: its FIN is sent, or waits behind data, and is not acknowledged.",
        side: "the side that closes first",
        from: &[
            way(State::ESTABLISHED, "close() or shutdown(SHUT_WR)"),
            way(State::SYN_RECV, "close() before the handshake was complete"),
        ],
        to: &[
            way(State::FIN_WAIT2, "the ACK of the FIN came"),
            way(State::CLOSING, "the peer's FIN came before that ACK"),
            way(State::CLOSE, "a RST was sent or came, or no answer in time"),
        ],
        lasts: "One round trip, after the data before the FIN is sent.",
        settings: &[
            setting(
                "net/ipv4/tcp_orphan_retries",
                "how often the FIN is repeated once the application has closed; 0 acts as 8, some 107 s",
            ),
            setting(
                "net/ipv4/tcp_retries2",
                "the same where the application has only called shutdown()",
            ),
            setting(
                "net/ipv4/tcp_max_orphans",
                "closed sockets that still send; above it they are reset",
            ),
        ],
        many: "The peer is silent (`ss -o` shows the timer `on`), or it lives and does not read (timer `persist`, with a \
               SEND-Q): then no setting of these ends it, but TCP_USER_TIMEOUT does.",
        lore: &[Lore {
            said: "tcp_fin_timeout ends FIN_WAIT1",
            truth: "It ends FIN_WAIT2 only. FIN_WAIT1 ends by the repetitions of the FIN.",
        }],
        commands: &["tcpstate ls --state fin-wait-1", "ss -tno state fin-wait-1"],
        sources: &[
            RFC,
            "tcp_close_state",
            "tcp_orphan_retries",
            "tcp_write_timeout",
            SYSCTL,
        ],
    },
    StateText {
        state: State::FIN_WAIT2,
        is: "This side has closed, and the peer has acknowledged it, but has not closed: half of the connection is open.",
        side: "the side that closes first",
        from: &[way(State::FIN_WAIT1, "the ACK of the FIN came")],
        to: &[way(
            State::CLOSE,
            "the peer's FIN came, and a small TIME_WAIT socket takes over; or tcp_fin_timeout is over; or a RST",
        )],
        lasts: "Until the peer closes. Once the application has closed (an orphan), tcp_fin_timeout at most.",
        settings: &[setting(
            "net/ipv4/tcp_fin_timeout",
            "seconds that an orphan stays",
        )],
        many: "The peers do not close: look there for CLOSE_WAIT. Where a process still holds the socket, it has only called \
               shutdown(), and nothing ends the state: it needs a time-out and a close().",
        lore: &[],
        commands: &[
            "tcpstate ls --state fin-wait-2",
            "ss -tanop state fin-wait-2",
        ],
        sources: &[RFC, "tcp_rcv_state_process", "tcp_close", SYSCTL],
    },
    StateText {
        state: State::TIME_WAIT,
        is: "The connection is over. A small socket without a process remembers it, so that late packets do no harm to \
             the next connection between the same addresses and ports.",
        side: "the side that closes first",
        from: &[
            way(
                State::FIN_WAIT2,
                "the peer's FIN came; the change is shown as one to CLOSE",
            ),
            way(
                State::CLOSING,
                "the ACK of the FIN came; the change is shown as one to CLOSE",
            ),
        ],
        to: &[way(
            State::CLOSE,
            "after 60 s, or for a new connection; no change is shown",
        )],
        lasts: "60 s (TCP_TIMEWAIT_LEN), which no setting changes. It makes no event: tcpstate sees it in the lists of sockets.",
        settings: &[
            setting(
                "net/ipv4/tcp_tw_reuse",
                "whether connect() may take its port again after a second (from Linux 6.14 on, after tcp_tw_reuse_delay): 0 no, 1 yes, 2 on loopback",
            ),
            setting(
                "net/ipv4/tcp_max_tw_buckets",
                "limits their number; above it connections end without one",
            ),
        ],
        many: "Normal on the side that closes first: each takes a few hundred bytes, no process and no descriptor. It hurts a client \
               that makes many short connections to one address and port, since each holds a local port: use \
               keep-alive or a pool, or let the other side close first.",
        lore: &[
            Lore {
                said: "tcp_fin_timeout shortens TIME_WAIT",
                truth: "It governs FIN_WAIT2. TIME_WAIT lasts 60 s, whatever it is.",
            },
            Lore {
                said: "tcp_tw_reuse helps a server",
                truth: "It concerns connect() only. A server accepts a new connection from a port in TIME_WAIT anyway.",
            },
            Lore {
                said: "TIME_WAIT on a server is a leak",
                truth: "No process holds it, and it ends by itself.",
            },
        ],
        commands: &["tcpstate ls --state time-wait", "ss -tano state time-wait"],
        sources: &[
            RFC,
            "tcp_time_wait",
            "tcp_twsk_unique",
            "TCP_TIMEWAIT_LEN in include/net/tcp.h",
            SYSCTL,
        ],
    },
    StateText {
        state: State::CLOSE_WAIT,
        is: "The peer has closed: its FIN came. The application on this side has not.",
        side: "the side that closes second",
        from: &[
            way(State::ESTABLISHED, "the peer's FIN came"),
            way(State::SYN_RECV, "the SYN had a FIN with it (TCP Fast Open)"),
        ],
        to: &[
            way(State::LAST_ACK, "close() or shutdown(SHUT_WR)"),
            way(State::CLOSE, "a RST was sent or came, or no answer in time"),
        ],
        lasts: "Until the application closes: microseconds where it reads the end of the stream and closes.",
        settings: &[],
        many: "The application does not close: a defect of it, and no setting ends the state. RECV-Q 0: it has read the end of the \
               stream, and leaks the socket. RECV-Q 1 or more: nobody reads. Not accepted: its accept loop is stuck.",
        lore: &[Lore {
            said: "keepalive cures CLOSE_WAIT",
            truth: "It ends the state once the peer is gone. The application still holds the descriptor.",
        }],
        commands: &[
            "tcpstate ls --state close-wait",
            "tcpstate life --state CLOSE_WAIT --longer-than 10s --live",
            "ss -tnp state close-wait",
        ],
        sources: &[RFC, "tcp_fin", "tcp_close_state"],
    },
    StateText {
        state: State::LAST_ACK,
        is: "Both sides have closed. This one has sent its FIN, and it is not acknowledged.",
        side: "the side that closes second",
        from: &[way(State::CLOSE_WAIT, "close() or shutdown(SHUT_WR)")],
        to: &[way(
            State::CLOSE,
            "the ACK of the FIN came; or a RST, or no answer in time",
        )],
        lasts: "One round trip.",
        settings: &[
            setting(
                "net/ipv4/tcp_orphan_retries",
                "how often the FIN is repeated once the application has closed; 0 acts as 8, some 107 s",
            ),
            setting(
                "net/ipv4/tcp_retries2",
                "the same where the application has only called shutdown()",
            ),
        ],
        many: "The peers have gone without a word, or a firewall has forgotten the connections and drops their last packets.",
        lore: &[],
        commands: &["tcpstate ls --state last-ack", "ss -tno state last-ack"],
        sources: &[RFC, "tcp_close_state", "tcp_orphan_retries", SYSCTL],
    },
    StateText {
        state: State::CLOSING,
        is: "Both sides have closed at once: their FINs have crossed, and this side's is not acknowledged.",
        side: "both",
        from: &[way(
            State::FIN_WAIT1,
            "the peer's FIN came before the ACK of this side's",
        )],
        to: &[way(
            State::CLOSE,
            "the ACK of the FIN came, and a small TIME_WAIT socket takes over; or a RST, or no answer in time",
        )],
        lasts: "One round trip. It is rare.",
        settings: &[setting(
            "net/ipv4/tcp_orphan_retries",
            "how often the FIN is repeated once the application has closed; 0 acts as 8, some 107 s",
        )],
        many: "Many that stay are those of peers that have gone. Many that pass come from two ends with the same time-out.",
        lore: &[],
        commands: &["tcpstate ls --state closing", "ss -tno state closing"],
        sources: &[RFC, "tcp_fin", "tcp_rcv_state_process"],
    },
    StateText {
        state: State::CLOSE,
        is: "There is no connection: the socket is new, or its connection is over.",
        side: "both",
        from: &[
            way(
                State::LISTEN,
                "close(), shutdown(), or the end of the process",
            ),
            way(
                State::SYN_SENT,
                "refused, unreachable, no answer in time, no local port, or the application gave up",
            ),
            way(State::SYN_RECV, "a RST, or the listener has closed"),
            way(
                State::ESTABLISHED,
                "a RST was sent or came, or no answer in time",
            ),
            way(
                State::FIN_WAIT1,
                "a RST was sent or came, or no answer in time",
            ),
            way(
                State::FIN_WAIT2,
                "the peer's FIN came, and a small TIME_WAIT socket takes over; or tcp_fin_timeout is over; or a RST",
            ),
            way(
                State::CLOSE_WAIT,
                "a RST was sent or came, or no answer in time",
            ),
            way(
                State::LAST_ACK,
                "the ACK of the FIN came; or a RST, or no answer in time",
            ),
            way(
                State::CLOSING,
                "the ACK of the FIN came, and a small TIME_WAIT socket takes over; or a RST, or no answer in time",
            ),
        ],
        to: &[
            way(State::LISTEN, "listen()"),
            way(State::SYN_SENT, "connect()"),
        ],
        lasts: "No time for a connection that is over. A socket that is bound, or whose connection ended, may stay in it until \
                the application closes it.",
        settings: &[],
        many: "The kernel does not list those that are bound to no port. `tcpstate life` shows each connection when it ends \
               here, with the cause.",
        lore: &[],
        commands: &["tcpstate life", "tcpstate rates"],
        sources: &[RFC, "tcp_done", "tcp_set_state"],
    },
];
