//! `docs/metrics.md`, made from the table of metrics.

use std::fmt::Write as _;

use tcpstate_serve::{
    metrics::{Metric, tables},
    otlp::named,
};

const HEAD: &str = "\
<!-- Made from tcpstate-user/serve/src/metrics: TCPSTATE_BLESS=1 cargo test -p tcpstate --test docs -->

# Metrics

Every metric of `tcpstate serve`, as `/metrics` has it. Counters count from the start of the run. A value that is not known is left out; it is never 0.

- `port` is a service port: the local one of a server, the remote one of a client. The first `--max-ports` \
of those of `--ports` that appear have a label of their own; the rest is `other`. It is `unknown` where the role is, as for a connection from \
before the start.
- Without `--ports`, a port that is not ephemeral gets a label when it has lasted: something has listened at it, or a connection was established, \
for a second, or it was in use at the start; or when it is frequent: eight connections to it began within a minute or two (four, where both ends are on this host). So those that \
somebody scanned, or that only opened and closed, take none of the `--max-ports` labels. Until then a port counts at `other`, and what \
was counted there stays there. A port keeps its label until the end of the run, so that no counter goes back and no series vanishes.
- `unit`, `container`, `pod`, `namespace` and `comm` are there where `--labels` names them, in metrics of their own, so that those by port do not \
multiply. A pod without a known name has its UID and the namespace `unknown`, a container without one the first 12 digits of its id. `none`: \
the socket is of no such thing; `unknown`: its cgroup or its process is not known. The first `--max-workloads` combinations are counted; the rest is `other`. \
Units and pods come and go, so a combination without an event or a socket for an hour loses its place when a new one needs it, and its series end; with \
no such one, the new one is `other` until there is.
- `state`, `from` and `to` are [states](states.md), `cause` is a [cause](causes.md), `role` is `client`, `server` or `unknown`.
- Histograms have at most `--histogram-ports` ports, a port counting once in each role; those of the others are `other`, so that sums over all \
ports remain right. With the defaults, a scrape of 1,000 ports is below 4 MiB.
- A bucket of a histogram never has a duration longer than its bound; it may lack some that are up to 1 % shorter. `--buckets` sets the \
bounds.

Metrics are those of the last full second; the resident memory is that of now. The counters of one scrape are read within milliseconds of each \
other, and may differ by the events under way, so that no alert may ask for two of them to be equal. While there is no such second, or if none has \
come for 10 seconds, `/metrics` answers 503 with the reason, so that `up` is 0.

| name | type | unit | labels | meaning |
|---|---|---|---|---|
";

const OTLP: &str = "
## OpenTelemetry

With `--otlp` the same values go to an OpenTelemetry collector ([deployment](deploy.md)). Metrics that the semantic conventions of OpenTelemetry define have \
their names; all others have the name of above with `tcpstate.` in front, without unit and `_total`, which a collector that writes for Prometheus appends again.

- Labels become attributes of the same name and value, but for those of `system.network.connection.count`: `state` is `network.connection.state`, in \
the words of the conventions (`fin_wait_1`, `syn_received`, `closed`), and there is `network.transport`, which is `tcp`.
- Counters are monotonic sums, and they and histograms are cumulative from the start of the run. Histograms have the bounds of `--buckets`.
- The resource has `service.name` (`tcpstate`), `service.version`, `host.name`, and `service.instance.id`: the name of the host and the port that it listens \
at, such as `web1:9716`.

| name in `/metrics` | name in OpenTelemetry | instrument | unit |
|---|---|---|---|
";

/// The whole page.
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for metric in tables() {
        // Writing to a string does not fail.
        let _ = row(metric, &mut page);
    }
    page.push_str(OTLP);
    for metric in tables() {
        let named = named(metric);
        let instrument = named.instrument.name();
        // The same.
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {instrument} | {} |",
            metric.name(),
            named.name,
            named.unit
        );
    }
    page
}

fn row(metric: &Metric, page: &mut String) -> std::fmt::Result {
    let labels: Vec<String> = metric
        .labels
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    writeln!(
        page,
        "| `{}` | {} | {} | {} | {} |",
        metric.name(),
        metric.kind.name(),
        metric.unit.map_or("", |unit| unit.name()),
        labels.join(", "),
        metric.meaning,
    )
}
