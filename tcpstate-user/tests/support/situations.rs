//! The situations that the kernel tests of `diagnose` provoke, each with all of its findings. `docs/diagnosis.md` shows this
//! table, and each test checks its rows.

/// A situation.
pub struct Situation {
    /// The name by which a kernel test finds it.
    pub name: &'static str,
    /// The situation in words.
    pub words: &'static str,
    /// The findings with their severities, wherever they are; there are no others.
    pub found: &'static [(&'static str, &'static str)],
    /// Findings that it depends on the moment, or on the speed of the machine, whether they are there.
    pub may_be: &'static [&'static str],
}

const fn situation(
    name: &'static str,
    words: &'static str,
    found: &'static [(&'static str, &'static str)],
) -> Situation {
    Situation {
        name,
        words,
        found,
        may_be: &[],
    }
}

/// All of them.
pub const SITUATIONS: &[Situation] = &[
    situation(
        "close_wait_before",
        "A server has not closed what its clients have closed, and does so no more",
        &[("close_wait_leak", "warning")],
    ),
    situation(
        "close_wait_grows",
        "The same, and it goes on",
        &[("close_wait_leak", "critical")],
    ),
    situation(
        "close_wait_in_use",
        "Half-closed connections on which the server still sends, and two that are forgotten",
        &[],
    ),
    situation(
        "accept_queue_full",
        "A server does not accept",
        &[("accept_queue_full", "critical")],
    ),
    situation(
        "connect_to_a_full_listener",
        "The same, and a client of this host waits",
        &[
            ("accept_queue_full", "critical"),
            ("connect_hangs", "warning"),
        ],
    ),
    Situation {
        may_be: &["accept_queue_full"],
        ..situation(
            "slow_accept",
            "A server accepts late, and drops SYNs of this host before that",
            &[("syn_loss", "note")],
        )
    },
    situation(
        "connect_hangs",
        "A firewall drops all SYNs to a server",
        &[("connect_hangs", "critical")],
    ),
    situation(
        "connect_refused",
        "Nobody listens at a port of this host",
        &[("connects_fail", "critical")],
    ),
    situation(
        "connects_fail",
        "Connects time out, are refused, find no route and are given up, each at a port of its own",
        &[("connects_fail", "critical")],
    ),
    situation(
        "lost_races",
        "Clients give up the slower one of two connects",
        &[],
    ),
    situation(
        "listener_vanished",
        "A server is killed, and its clients come again",
        &[("listener_vanished", "critical")],
    ),
    situation(
        "listener_that_nobody_misses",
        "A server ends without clients, and others come to a port where nobody ever listened",
        &[("connects_fail", "critical")],
    ),
    situation(
        "failing_peer",
        "One of the four addresses of a service is unreachable",
        &[("failing_peer", "warning"), ("connects_fail", "warning")],
    ),
    situation(
        "syn_loss",
        "Every second SYN is lost",
        &[("syn_loss", "warning")],
    ),
    situation(
        "old_connection",
        "SYNs meet TIME_WAIT at the server, and are sent again",
        &[],
    ),
    situation(
        "syn_flood_without_cookies",
        "SYNs with forged addresses, where SYN cookies are off",
        &[("syn_flood", "critical")],
    ),
    situation(
        "syn_flood_with_cookies",
        "The same with SYN cookies",
        &[("syn_flood", "warning")],
    ),
    situation(
        "deferred_accept",
        "Clients of a listener with TCP_DEFER_ACCEPT send nothing",
        &[],
    ),
    situation(
        "synack_retransmits",
        "The last ACKs of many handshakes are lost",
        &[("synack_retransmits", "warning")],
    ),
    situation(
        "few_synack_retransmits",
        "The last ACKs of a few handshakes are lost",
        &[("synack_retransmits", "note")],
    ),
    situation(
        "reset_before_accept",
        "A scan: SYNs whose senders reset",
        &[("reset_before_accept", "note")],
    ),
    situation(
        "silent_peer",
        "A server is gone, and another one is busy",
        &[("silent_peer", "warning")],
    ),
    situation(
        "one_silent_client",
        "One client of thirty has vanished",
        &[("silent_peer", "note")],
    ),
    situation(
        "silent_clients",
        "Three clients of thirty have vanished",
        &[("silent_peer", "warning")],
    ),
    situation(
        "peer_does_not_read",
        "A server does not read what its clients send",
        &[("peer_does_not_read", "warning")],
    ),
    situation(
        "fin_wait2_held",
        "Clients only call shutdown(), others close; their servers do neither",
        &[("fin_wait2_held", "warning")],
    ),
    situation(
        "fin_wait2_in_use",
        "Clients have called shutdown(), and read a long answer",
        &[],
    ),
    situation(
        "closing_silent",
        "Both sides of many connections close, and no ACK comes",
        &[("stuck_closing", "warning")],
    ),
    situation(
        "closing_blocked",
        "Clients close with data that the server does not read",
        &[("stuck_closing", "note")],
    ),
    situation(
        "closing_both",
        "Both sides close at the same moment, and no ACK comes",
        &[("stuck_closing", "note")],
    ),
    situation(
        "time_wait_fits",
        "Fewer connections in TIME_WAIT than have room",
        &[],
    ),
    situation(
        "time_wait_table_full",
        "More of them than have room",
        &[("time_wait_table_full", "warning")],
    ),
    situation(
        "most_ports_free",
        "Connections to one destination take 78 % of the ports",
        &[],
    ),
    situation(
        "ports_near_exhaustion",
        "They take 84 %",
        &[("ports_near_exhaustion", "warning")],
    ),
    situation(
        "all_ports_taken",
        "They take all",
        &[("ports_near_exhaustion", "critical")],
    ),
    situation(
        "ports_in_time_wait",
        "Ports in TIME_WAIT take 90 %, and `tcp_tw_reuse` is 0",
        &[("ports_near_exhaustion", "warning")],
    ),
    situation(
        "ports_used_again",
        "The same, and `tcp_tw_reuse` lets them be used again",
        &[],
    ),
    situation(
        "ports_exhausted",
        "Connects find no port",
        &[("ports_exhausted", "critical")],
    ),
    situation(
        "bound_port_in_use",
        "A client binds a port that it uses to the same destination",
        &[("ports_exhausted", "critical")],
    ),
    situation(
        "bind_before_connect",
        "Clients of three destinations bind before they connect",
        &[("bind_before_connect", "warning")],
    ),
    situation(
        "bind_without_port",
        "The same without bind(), and with IP_BIND_ADDRESS_NO_PORT",
        &[],
    ),
    situation("careful_pool", "A pool closes what redis has closed", &[]),
    situation(
        "stale_pool",
        "A pool uses what redis has closed",
        &[("stale_pool", "warning"), ("keepalive_race", "note")],
    ),
    situation(
        "keepalive_race",
        "Requests cross the FIN of nginx, which closes what is idle",
        &[("keepalive_race", "warning")],
    ),
    situation(
        "keepalive_race_behind_haproxy",
        "HAProxy keeps connections to a server in Python longer than that does",
        &[("keepalive_race", "warning")],
    ),
    situation(
        "early_close",
        "A server closes before it has read a request",
        &[("keepalive_race", "note")],
    ),
    situation(
        "idle_reset",
        "A firewall forgets idle connections, and resets them when they are used",
        &[("idle_reset", "warning")],
    ),
    situation(
        "reset_of_all_at_once",
        "A server ends, and resets its idle connections",
        &[],
    ),
    situation(
        "health_checks",
        "HAProxy checks redis every second",
        &[("health_checks", "note")],
    ),
    situation(
        "short_connections",
        "Load on nginx without keep-alive",
        &[("short_connections", "note"), ("closes_first", "note")],
    ),
    situation(
        "short_connections_take_ports",
        "The client closes first, and has few ports",
        &[
            ("ports_near_exhaustion", "warning"),
            ("short_connections", "warning"),
            ("short_connections", "note"),
            ("closes_first", "note"),
        ],
    ),
    situation(
        "deploy_that_resets",
        "redis is killed and replaced while clients come",
        &[("deploy", "warning")],
    ),
    situation(
        "careful_deploy",
        "redis is replaced when its clients have closed",
        &[("deploy", "note")],
    ),
    situation("at_rest", "A listener, and nobody comes", &[]),
    Situation {
        may_be: &["closes_first", "short_connections"],
        ..situation("nginx_with_keepalive", "Load on nginx with keep-alive", &[])
    },
    Situation {
        may_be: &["closes_first", "short_connections"],
        ..situation(
            "nginx_without_keepalive",
            "Load on nginx without keep-alive, with the default figures",
            &[],
        )
    },
    situation("redis_pool", "A pool of ten connections to redis", &[]),
    situation("a_thousand_idle", "A thousand idle connections", &[]),
];
