//! The panels of the dashboard.

use super::{Form, Panel, Query};

const fn stat(title: &'static str, unit: &'static str, queries: &'static [Query]) -> Panel {
    Panel {
        title,
        form: Form::Stat,
        unit,
        about: "",
        queries,
    }
}

const fn lines(title: &'static str, unit: &'static str, queries: &'static [Query]) -> Panel {
    Panel {
        form: Form::Lines,
        ..stat(title, unit, queries)
    }
}

impl Panel {
    const fn of_form(self, form: Form) -> Self {
        Self { form, ..self }
    }

    const fn about(self, about: &'static str) -> Self {
        Self { about, ..self }
    }
}

/// Grafana's units: counts in general, by second, seconds, parts of 1, bytes.
const COUNT: &str = "short";
const PER_SECOND: &str = "cps";
const SECONDS: &str = "s";
const RATIO: &str = "percentunit";
const BYTES: &str = "bytes";

/// The rows of the dashboard.
pub static ROWS: &[(&str, &[Panel])] = &[
    (
        "Overview",
        &[
            stat(
                "State changes",
                PER_SECOND,
                &[Query(
                    "sum(rate(tcpstate_transitions_total{@host}[$__rate_interval]))",
                    "",
                )],
            ),
            stat(
                "ESTABLISHED",
                COUNT,
                &[Query(
                    "sum(tcpstate_connections{@host,state=\"ESTABLISHED\"})",
                    "",
                )],
            ),
            stat(
                "TIME_WAIT",
                COUNT,
                &[Query(
                    "sum(tcpstate_connections{@host,state=\"TIME_WAIT\"})",
                    "",
                )],
            ),
            stat(
                "CLOSE_WAIT",
                COUNT,
                &[Query(
                    "sum(tcpstate_connections{@host,state=\"CLOSE_WAIT\"})",
                    "",
                )],
            ),
            stat(
                "Critical findings",
                COUNT,
                &[Query(
                    "sum(tcpstate_finding{@host,severity=\"critical\"}) or vector(0)",
                    "",
                )],
            ),
            stat(
                "State changes missed",
                COUNT,
                &[Query(
                    "sum(increase(tcpstate_events_lost_total{@host}[$__range])) + sum(increase(tcpstate_events_rejected_total{@host}[$__range]))",
                    "",
                )],
            ),
        ],
    ),
    (
        "State changes",
        &[
            lines(
                "By service port",
                PER_SECOND,
                &[Query(
                    "sum by (port) (rate(tcpstate_transitions_total{@port}[$__rate_interval]))",
                    "{{port}}",
                )],
            ),
            lines(
                "By edge",
                PER_SECOND,
                &[Query(
                    "sum by (from, to) (rate(tcpstate_transitions_total{@port}[$__rate_interval]))",
                    "{{from}} -> {{to}}",
                )],
            ),
        ],
    ),
    (
        "States",
        &[
            lines(
                "Sockets by state",
                COUNT,
                &[Query(
                    "sum by (state) (tcpstate_connections{@host,state!=\"CLOSE\"})",
                    "{{state}}",
                )],
            )
            .of_form(Form::Stacked),
            lines(
                "Longer in their state than they should",
                COUNT,
                &[Query(
                    "sum by (state, port) (tcpstate_stale_connections{@port})",
                    "{{state}} {{port}}",
                )],
            )
            .about(
                "CLOSE_WAIT and FIN_WAIT2 60 s; FIN_WAIT1, LAST_ACK and CLOSING 10 s; SYN_SENT 3 s",
            ),
            lines(
                "Oldest connection",
                SECONDS,
                &[Query(
                    "max by (state, port) (tcpstate_oldest_connection_seconds{@port})",
                    "{{state}} {{port}}",
                )],
            ),
        ],
    ),
    (
        "Time in each state",
        &[
            lines(
                "Time in $state",
                SECONDS,
                &[Query(
                    "sum by (le) (increase(tcpstate_state_duration_seconds_bucket{@state}[$__rate_interval]))",
                    "{{le}}",
                )],
            )
            .of_form(Form::Heatmap),
            lines(
                "Time in a state, median and 99th percentile",
                SECONDS,
                &[
                    Query(
                        "histogram_quantile(0.5, sum by (le, state) (rate(tcpstate_state_duration_seconds_bucket{@state}[$__rate_interval])))",
                        "{{state}} p50",
                    ),
                    Query(
                        "histogram_quantile(0.99, sum by (le, state) (rate(tcpstate_state_duration_seconds_bucket{@state}[$__rate_interval])))",
                        "{{state}} p99",
                    ),
                ],
            ),
            lines(
                "Handshakes, median and 99th percentile",
                SECONDS,
                &[
                    Query(
                        "histogram_quantile(0.5, sum by (le, role) (rate(tcpstate_handshake_duration_seconds_bucket{@role}[$__rate_interval])))",
                        "{{role}} p50",
                    ),
                    Query(
                        "histogram_quantile(0.99, sum by (le, role) (rate(tcpstate_handshake_duration_seconds_bucket{@role}[$__rate_interval])))",
                        "{{role}} p99",
                    ),
                ],
            ),
            lines(
                "Lifetimes, median and 99th percentile",
                SECONDS,
                &[
                    Query(
                        "histogram_quantile(0.5, sum by (le, role) (rate(tcpstate_connection_duration_seconds_bucket{@role}[$__rate_interval])))",
                        "{{role}} p50",
                    ),
                    Query(
                        "histogram_quantile(0.99, sum by (le, role) (rate(tcpstate_connection_duration_seconds_bucket{@role}[$__rate_interval])))",
                        "{{role}} p99",
                    ),
                ],
            ),
        ],
    ),
    (
        "Ends of connections",
        &[
            lines(
                "By cause",
                PER_SECOND,
                &[Query(
                    "sum by (cause) (rate(tcpstate_connections_closed_total{@role}[$__rate_interval]))",
                    "{{cause}}",
                )],
            ),
            lines(
                "Out of order, by service port",
                PER_SECOND,
                &[Query(
                    "sum by (port, cause) (rate(tcpstate_connections_closed_total{@role,cause!=\"fin\"}[$__rate_interval]))",
                    "{{port}} {{cause}}",
                )],
            ),
            lines(
                "Connects, by the state after SYN_SENT",
                PER_SECOND,
                &[Query(
                    "sum by (to) (rate(tcpstate_transitions_total{@port,from=\"SYN_SENT\"}[$__rate_interval]))",
                    "{{to}}",
                )],
            )
            .about("ESTABLISHED has succeeded, CLOSE has failed"),
        ],
    ),
    (
        "Listeners",
        &[
            lines(
                "Accept queues, length by limit",
                RATIO,
                &[Query(
                    "max by (port) (tcpstate_accept_queue_fullest_ratio{@port})",
                    "{{port}}",
                )],
            )
            .about("Above 100 % the kernel drops further connections"),
            lines(
                "Accept queues",
                COUNT,
                &[
                    Query(
                        "sum by (port) (tcpstate_accept_queue_length{@port})",
                        "{{port}} waiting",
                    ),
                    Query(
                        "sum by (port) (tcpstate_accept_queue_limit{@port})",
                        "{{port}} limit",
                    ),
                ],
            ),
            lines(
                "Half-open connections",
                COUNT,
                &[Query(
                    "sum by (port) (tcpstate_half_open_connections{@port})",
                    "{{port}}",
                )],
            ),
            lines(
                "Dropped by listeners",
                PER_SECOND,
                &[Query(
                    "sum by (port) (rate(tcpstate_listener_drops_total{@port}[$__rate_interval]))",
                    "{{port}}",
                )],
            ),
            lines(
                "Drops and retransmissions of the host",
                PER_SECOND,
                &[
                    Query(
                        "sum(rate(tcpstate_listen_overflows_total{@host}[$__rate_interval]))",
                        "accept queue full",
                    ),
                    Query(
                        "sum(rate(tcpstate_listen_drops_total{@host}[$__rate_interval]))",
                        "dropped for any reason",
                    ),
                    Query(
                        "sum(rate(tcpstate_request_queue_full_drops_total{@host}[$__rate_interval]))",
                        "SYN queue full",
                    ),
                    Query(
                        "sum(rate(tcpstate_syn_cookies_sent_total{@host}[$__rate_interval]))",
                        "SYN cookies",
                    ),
                    Query(
                        "sum(rate(tcpstate_synack_retransmits_total{@host}[$__rate_interval]))",
                        "SYN-ACKs sent again",
                    ),
                ],
            ),
        ],
    ),
    (
        "Findings",
        &[
            lines(
                "Findings",
                COUNT,
                &[Query(
                    "max by (instance, severity, name, port) (tcpstate_finding{@host})",
                    "{{severity}} {{name}} {{port}} {{instance}}",
                )],
            )
            .of_form(Form::Timeline)
            .about("`tcpstate explain NAME` says what a finding means and what to do"),
        ],
    ),
    (
        "Cost and books of tcpstate",
        &[
            lines(
                "Processor time",
                RATIO,
                &[
                    Query(
                        "sum by (instance) (rate(process_cpu_seconds_total{@host}[$__rate_interval]))",
                        "{{instance}} all",
                    ),
                    Query(
                        "sum by (instance) (rate(tcpstate_sampling_seconds_total{@host}[$__rate_interval]))",
                        "{{instance}} sampling",
                    ),
                    Query(
                        "sum by (instance) (rate(tcpstate_bpf_run_seconds_total{@host}[$__rate_interval]))",
                        "{{instance}} BPF",
                    ),
                ],
            )
            .about("100 % is a core. That of the BPF programs is not in the first, and is known with --bpf-stats"),
            lines(
                "Memory",
                BYTES,
                &[
                    Query(
                        "sum by (instance) (process_resident_memory_bytes{@host})",
                        "{{instance}} resident",
                    ),
                    Query(
                        "sum by (instance) (tcpstate_tracker_memory_bytes{@host})",
                        "{{instance}} tables",
                    ),
                ],
            ),
            lines(
                "Ring buffer",
                BYTES,
                &[
                    Query(
                        "max by (instance) (tcpstate_ring_fill_bytes{@host})",
                        "{{instance}} fill",
                    ),
                    Query(
                        "max by (instance) (tcpstate_ring_high_water_bytes{@host})",
                        "{{instance}} high water",
                    ),
                    Query(
                        "max by (instance) (tcpstate_ring_bytes{@host})",
                        "{{instance}} size",
                    ),
                ],
            ),
            lines(
                "Missed",
                PER_SECOND,
                &[
                    Query(
                        "sum by (reason) (rate(tcpstate_events_lost_total{@host}[$__rate_interval]))",
                        "lost: {{reason}}",
                    ),
                    Query(
                        "sum by (reason) (rate(tcpstate_events_rejected_total{@host}[$__rate_interval]))",
                        "rejected: {{reason}}",
                    ),
                    Query(
                        "sum(rate(tcpstate_transitions_missing_total{@host}[$__rate_interval]))",
                        "inferred",
                    ),
                    Query(
                        "sum(rate(tcpstate_connections_evicted_total{@host}[$__rate_interval]))",
                        "connections forgotten",
                    ),
                ],
            ),
            lines(
                "Scrapes and looks",
                SECONDS,
                &[
                    Query(
                        "max by (instance) (scrape_duration_seconds{@host})",
                        "{{instance}} time of a scrape",
                    ),
                    Query(
                        "max by (instance) (tcpstate_look_age_seconds{@host})",
                        "{{instance}} age of the look",
                    ),
                ],
            ),
            lines(
                "Versions",
                COUNT,
                &[Query(
                    "count by (version) (tcpstate_build_info{@host})",
                    "{{version}}",
                )],
            ),
        ],
    ),
];
