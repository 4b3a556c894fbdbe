//! The queries of the files in `deploy/`: of the dashboard, and of the rules.

use serde_json::Value;

/// The recording rules.
pub const RECORDING: &str = include_str!("../../../deploy/prometheus/recording.rules.yml");

/// The alert rules.
pub const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.rules.yml");

/// The dashboard.
pub const DASHBOARD: &str = include_str!("../../../deploy/grafana/tcpstate.json");

/// The values that are given to its variables. A name comes before those that it begins with.
const VALUES: [(&str, &str); 7] = [
    ("$__rate_interval", "1m"),
    ("$__range", "5m"),
    ("$instance", ".*"),
    ("$job", ".*"),
    ("$port", ".*"),
    ("$role", ".*"),
    ("$state", ".*"),
];

/// Every query of the dashboard, those of its variables included, with values for the variables.
pub fn of_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"]) {
        let targets = panel["targets"].as_array().into_iter().flatten();
        queries.extend(targets.map(|target| text(&target["expr"])));
    }
    for variable in list(&dashboard["templating"]["list"]) {
        if variable["type"] == "query" {
            queries.push(values_of_label(&text(&variable["query"]["query"])));
        }
    }
    queries
        .iter()
        .map(|query| {
            let replace = |query: String, (name, value): &(&str, &str)| query.replace(name, value);
            let query = VALUES.iter().fold(query.clone(), replace);
            assert!(!query.contains('$'), "a variable is left: {query}");
            query
        })
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// Grafana's `label_values(METRIC, LABEL)` as a query.
fn values_of_label(function: &str) -> String {
    let inside = function
        .strip_prefix("label_values(")
        .and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) = inside
        .and_then(|inside| inside.rsplit_once(", "))
        .expect("label_values(METRIC, LABEL)");
    format!("count by ({label}) ({metric})")
}

/// An expression of an alert without its comparison, which comes last: the value that is compared.
pub fn compared(expression: &str) -> &str {
    let comparison = [" > ", " >= ", " == ", " < "]
        .iter()
        .filter_map(|operator| Some((expression.rfind(operator)?, operator.len())))
        .max();
    let (at, length) = comparison.expect("an alert compares");
    let limit = expression[at + length..].parse::<f64>();
    assert!(limit.is_ok(), "{expression}: not compared with a number");
    &expression[..at]
}
