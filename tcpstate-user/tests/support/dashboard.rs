//! `deploy/grafana/tcpstate.json`, made from the table of its panels.

#[path = "dashboard/panels.rs"]
mod panels;

use serde_json::{Value, json};
use tcpstate_common::State;

use self::panels::ROWS;

/// A panel.
struct Panel {
    title: &'static str,
    form: Form,
    /// Grafana's name for the unit of its values.
    unit: &'static str,
    /// Shown as help.
    about: &'static str,
    queries: &'static [Query],
}

/// A query, with [`SELECTORS`], and the name of its series.
struct Query(&'static str, &'static str);

#[derive(Clone, Copy)]
enum Form {
    /// One number.
    Stat,
    Lines,
    Stacked,
    /// One for each state that is chosen.
    Heatmap,
    /// 0 or 1 in time.
    Timeline,
}

/// Short forms in queries: the labels that the variables choose. The longest first.
const SELECTORS: [(&str, &str); 4] = [
    (
        "@state",
        "job=~\"$job\",instance=~\"$instance\",port=~\"$port\",state=~\"$state\"",
    ),
    (
        "@role",
        "job=~\"$job\",instance=~\"$instance\",port=~\"$port\",role=~\"$role\"",
    ),
    (
        "@port",
        "job=~\"$job\",instance=~\"$instance\",port=~\"$port\"",
    ),
    ("@host", "job=~\"$job\",instance=~\"$instance\""),
];

/// The variables that are values of labels: each with its title and a metric that has them.
const LABELS: [(&str, &str, &str); 4] = [
    ("job", "Job", "tcpstate_build_info"),
    ("instance", "Host", "tcpstate_build_info{job=~\"$job\"}"),
    ("port", "Port", "tcpstate_transitions_total{@host}"),
    ("role", "Role", "tcpstate_connections_closed_total{@host}"),
];

/// States whose times have a heatmap at first.
const SHOWN: [State; 3] = [State::ESTABLISHED, State::CLOSE_WAIT, State::TIME_WAIT];

/// The states that connections leave, each with a time in it.
const TIMED: [State; 9] = [
    State::SYN_SENT,
    State::SYN_RECV,
    State::ESTABLISHED,
    State::FIN_WAIT1,
    State::FIN_WAIT2,
    State::CLOSING,
    State::TIME_WAIT,
    State::CLOSE_WAIT,
    State::LAST_ACK,
];

/// The whole dashboard.
pub fn dashboard() -> Value {
    let mut panels = Vec::new();
    let mut y = 0;
    for (title, row) in ROWS {
        panels.push(json!({
            "id": panels.len() + 1,
            "type": "row",
            "title": title,
            "collapsed": false,
            "gridPos": { "x": 0, "y": y, "w": 24, "h": 1 },
            "panels": [],
        }));
        y += 1;
        let (mut x, mut height) = (0, 0);
        for panel in *row {
            let (w, h) = panel.form.size();
            if x + w > 24 {
                (x, y) = (0, y + height);
            }
            height = h;
            let id = panels.len() + 1;
            let place = json!({ "x": x, "y": y, "w": w, "h": h });
            panels.push(panel.json(id, &place));
            x += w;
        }
        y += height;
    }
    json!({
        "uid": "tcpstate",
        "title": "tcpstate",
        "description": "State changes of TCP, the time in each state, causes and findings, from `tcpstate serve`",
        "tags": ["tcp", "tcpstate"],
        "schemaVersion": 39,
        "editable": true,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": { "from": "now-3h", "to": "now" },
        "templating": { "list": variables() },
        "panels": panels,
    })
}

fn expanded(query: &str) -> String {
    let mut query = query.to_owned();
    for (short, labels) in SELECTORS {
        query = query.replace(short, labels);
    }
    query
}

fn source() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

fn variables() -> Vec<Value> {
    let mut all = vec![json!({
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
    })];
    all.extend(LABELS.map(|(name, title, metric)| {
        let query = format!("label_values({}, {name})", expanded(metric));
        json!({
            "name": name,
            "label": title,
            "type": "query",
            "datasource": source(),
            "definition": query,
            "query": { "query": query, "refId": name },
            "refresh": 2,
            "sort": 3,
            "multi": true,
            "includeAll": true,
            "allValue": ".*",
            "current": { "text": "All", "value": "$__all" },
        })
    }));
    let names = SHOWN.map(|state| state.to_string());
    let options: Vec<String> = TIMED.iter().map(ToString::to_string).collect();
    all.push(json!({
        "name": "state",
        "label": "State",
        "type": "custom",
        "query": options.join(","),
        "multi": true,
        "includeAll": true,
        "current": { "text": names, "value": names },
    }));
    all
}

impl Form {
    /// Width, in parts of 24, and height.
    const fn size(self) -> (u32, u32) {
        match self {
            Self::Stat => (4, 4),
            Self::Lines | Self::Stacked | Self::Heatmap => (12, 8),
            Self::Timeline => (24, 8),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Lines | Self::Stacked => "timeseries",
            Self::Heatmap => "heatmap",
            Self::Timeline => "state-timeline",
        }
    }
}

impl Panel {
    fn json(&self, id: usize, place: &Value) -> Value {
        let mut panel = json!({
            "id": id,
            "type": self.form.name(),
            "title": self.title,
            "datasource": source(),
            "gridPos": place,
            "targets": self.targets(),
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] },
            "options": self.options(),
        });
        if !self.about.is_empty() {
            panel["description"] = self.about.into();
        }
        if matches!(self.form, Form::Heatmap) {
            panel["repeat"] = "state".into();
            panel["repeatDirection"] = "h".into();
            panel["maxPerRow"] = 3.into();
        }
        panel
    }

    fn targets(&self) -> Vec<Value> {
        let targets = self.queries.iter().zip('A'..);
        targets
            .map(|(Query(query, legend), id)| {
                let mut target = json!({
                    "refId": id.to_string(),
                    "expr": expanded(query),
                    "legendFormat": legend,
                });
                if matches!(self.form, Form::Heatmap) {
                    target["format"] = "heatmap".into();
                }
                target
            })
            .collect()
    }

    fn defaults(&self) -> Value {
        let mut defaults = json!({ "unit": self.unit, "min": 0 });
        match self.form {
            Form::Stacked => {
                defaults["custom"] =
                    json!({ "fillOpacity": 40, "stacking": { "mode": "normal", "group": "A" } });
            }
            Form::Timeline => {
                defaults["custom"] = json!({ "fillOpacity": 80 });
                defaults["mappings"] = json!([{
                    "type": "value",
                    "options": {
                        "0": { "text": "over", "color": "green", "index": 0 },
                        "1": { "text": "now", "color": "red", "index": 1 },
                    },
                }]);
            }
            _ => {}
        }
        defaults
    }

    fn options(&self) -> Value {
        match self.form {
            Form::Stat => json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": "value",
                "graphMode": "area",
            }),
            Form::Heatmap => json!({
                "calculate": false,
                "yAxis": { "unit": self.unit },
                "color": { "mode": "scheme", "scheme": "Spectral", "exponent": 0.5, "steps": 64 },
                "tooltip": { "mode": "single", "yHistogram": true },
            }),
            Form::Timeline => json!({ "showValue": "never", "mergeValues": true }),
            Form::Lines | Form::Stacked => json!({
                "legend": { "displayMode": "table", "placement": "right", "calcs": ["mean", "max"] },
                "tooltip": { "mode": "multi", "sort": "desc" },
            }),
        }
    }
}
