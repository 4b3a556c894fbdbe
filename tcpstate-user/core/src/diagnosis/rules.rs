//! The rules, a file each. Each file has the rule's text, its inputs and its check, and tests of what it finds and of
//! what looks alike.

mod accept_queue_full;
mod close_wait_leak;
// Of sockets, queues and counters.
mod bind_before_connect;
mod connect_hangs;
mod fin_wait2_held;
mod half_open;
mod orphans_near_limit;
mod peer_does_not_read;
mod ports_near_exhaustion;
mod reset_before_accept;
mod silent_peer;
mod stuck_closing;
mod syn_flood;
mod synack_retransmits;
mod time_wait_table_full;
mod waiting;

mod closes_first;
mod connects_fail;
mod deploy;
mod failing_peer;
mod health_checks;
mod idle_reset;
mod keepalive_race;
mod listener_vanished;
mod ports_exhausted;
mod short_connections;
mod stale_pool;
mod syn_loss;

use super::Rule;

/// All rules, those that explain the most trouble first.
pub static RULES: &[&Rule] = &[
    &close_wait_leak::RULE,
    &accept_queue_full::RULE,
    // Of sockets, queues and counters.
    &ports_near_exhaustion::RULE,
    &bind_before_connect::RULE,
    &orphans_near_limit::RULE,
    &syn_flood::RULE,
    &connect_hangs::RULE,
    &silent_peer::RULE,
    &peer_does_not_read::RULE,
    &stuck_closing::RULE,
    &fin_wait2_held::RULE,
    &synack_retransmits::RULE,
    &time_wait_table_full::RULE,
    &reset_before_accept::RULE,
    // By events.
    &ports_exhausted::RULE,
    &connects_fail::RULE,
    &listener_vanished::RULE,
    &syn_loss::RULE,
    &stale_pool::RULE,
    &keepalive_race::RULE,
    &idle_reset::RULE,
    &failing_peer::RULE,
    &deploy::RULE,
    &short_connections::RULE,
    &closes_first::RULE,
    &health_checks::RULE,
];
