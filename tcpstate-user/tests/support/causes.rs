//! `docs/causes.md`, made from the table of causes.

use std::fmt::Write as _;

use tcpstate_core::cause::EXPLAINED;

const HEAD: &str = "\
<!-- Made from tcpstate-user/core/src/cause/explained.rs: TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs -->

# Causes

Why a connection ended, as `cause` in every output and as `--cause` selects it. A cause is said only where something \
proves it: the kernel's own error on the socket, its states and flags at the transition to `CLOSE`, and the RSTs that \
this kernel sends. Whoever is said to have reset has sent a RST. Where both ends are on this host, each has a cause of \
its own.

| cause | what happened | how it is known | since Linux; needs |
|---|---|---|---|
";

const TAIL: &str = "
Linux 5.10 is the oldest supported kernel. The last column names:

- *The socket*: its members, read with the kernel's BTF. Without BTF (`--attach tracepoint`, and a note says so) the \
cause is `-`, but for `no_port`.
- *The resets*: the tracepoint `tcp:tcp_send_reset`, through BTF in both attach modes; tracefs is not needed. \
`tcpstate doctor` says whether it can be had, a note at the start says if not. Without it the cause is `-` where data \
may have come after a close, and `reset_locally` where the kernel hardly ever sends no RST.

Why this kernel sent its RST is in the field `reset_reason`, since Linux 6.10.

The kernel sends a RST just after the transition that it belongs to, or just before. So an end that a RST would \
explain is shown when its RST has come, otherwise after 20 to 60 ms, and what is behind it too. A RST that the ring buffer \
has no room for is missing: what is then said of that end can be wrong, and the summary counts what else was lost. In \
a recording the cause is complete.

An *orphan* that has left for a minisocket (`FIN_WAIT2`, `TIME_WAIT`) has closed in order: a RST that it sends later \
is not its cause. Its peer says `reset_by_peer`.

Two kinds of sockets close without an error and without a RST: one with `TCP_REPAIR`, whose connection goes on on \
another host, and one whose network namespace is gone. Their cause is `-`.
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for row in EXPLAINED {
        let name = match row.name {
            name if name.contains(' ') => name.to_owned(),
            name => format!("`{name}`"),
        };
        let (what, known, since) = (row.what, row.known, row.since);
        // Writing to a string does not fail.
        let _ = writeln!(page, "| {name} | {what} | {known} | {since} |");
    }
    page.push_str(TAIL);
    page
}
