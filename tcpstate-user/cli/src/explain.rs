//! Arguments of `tcpstate explain`.

use clap::Args;
use tcpstate_core::explain::Topic;

use crate::{headings::OUTPUT, listed::listed};

/// Arguments of `tcpstate explain`.
#[derive(Clone, Debug, Args)]
pub struct Explain {
    /// The thing to explain.
    #[arg(
        help = "A TCP state such as CLOSE_WAIT, a cause such as reset_by_peer, a finding such as close_wait_leak, or a field \
            such as dwell_ns",
        value_name = "TOPIC", value_parser = listed::<Topic>(Topic::words), hide_possible_values = true
    )]
    pub topic: Option<Topic>,
    /// Write JSON, one object
    #[arg(long, help_heading = OUTPUT)]
    pub json: bool,
}

pub(crate) const ABOUT: &str = "\
Explains a TCP state, the cause of a connection's end, a finding of `diagnose`, or a field of the output. Of a state: what it is, \
what leads in and out, how long it lasts, which settings govern it with their values here, what many of it mean, what \
is often said of it and is wrong, and the sockets in it now.

Without a topic: the state diagram, with the number of sockets in each state and, as root, how often per second each \
change happens.

Requires no privileges. Sockets of other network namespaces, and their settings, take root.";

pub(crate) const EXAMPLES: &str = "\
Examples:
  tcpstate explain                  the state diagram
  tcpstate explain CLOSE_WAIT       a state
  tcpstate explain reset_by_peer    a cause
  tcpstate explain close_wait_leak  a finding
  tcpstate explain handshake_ns     a field";
