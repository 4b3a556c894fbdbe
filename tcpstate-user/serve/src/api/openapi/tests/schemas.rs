//! The schemas of answers: those of records from the catalogue, the others here. Each allows what is written, and no more.

use serde_json::{Value, json};
use tcpstate_core::{
    catalogue::{CONNECTION, Column, Formats, Kind, PAST, RATES, TRANSITION, Table, group_table},
    model::By,
};

/// All schemas, by name.
pub(super) fn schemas() -> Value {
    let mut rates = record(&RATES, true);
    add(&mut rates, "ports", list(&reference("Group")));
    let mut past = record(&PAST, true);
    add(&mut past, "ports", list(&reference("Group")));
    json!({
        "Error": object(&[
            ("type", word("error")),
            ("message", json!({"type": "string"})),
            ("?parameter", json!({"type": "string"})),
            ("?from", count()),
            ("?to", count()),
            ("?shown", json!({"type": "string", "description": "the message, the filter, and carets below the wrong part"})),
        ]),
        "State": {"type": ["string", "integer"], "description": "a TCP state by its name, or the number of one that has none"},
        "Counts": {"type": "object", "additionalProperties": {"type": ["integer", "null"], "minimum": 0}},
        "Connection": record(&CONNECTION, true),
        "Transition": record(&TRANSITION, true),
        "Rates": rates,
        "Past": past,
        "Missed": object(&[("type", word("missed")), ("missed", count())]),
        "History": object(&[
            ("type", word("history")),
            ("intervals", list(&reference("Past"))),
        ]),
        "Group": record(group_table(By::Port), false),
        "Summary": summary(),
        "Finding": finding(),
        "Snapshot": object(&[
            ("type", word("snapshot")),
            ("number", count()),
            ("is_final", json!({"type": "boolean"})),
            ("rates", reference("Rates")),
            ("summary", reference("Summary")),
        ]),
        "Connections": object(&[
            ("type", word("connections")),
            ("ts", time()),
            ("ts_ns", count()),
            ("connections", list(&reference("Connection"))),
            ("matching", count()),
            ("undecided", count()),
            ("left_out", count()),
            ("next", json!({"type": ["string", "null"]})),
        ]),
        "Findings": object(&[
            ("type", word("findings")),
            ("ts", time()),
            ("ts_ns", count()),
            ("findings", list(&reference("Finding"))),
        ]),
    })
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list(of: &Value) -> Value {
    json!({"type": "array", "items": of})
}

fn word(word: &str) -> Value {
    json!({"const": word})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn or_null(schema: Value) -> Value {
    let mut schema = schema;
    match schema
        .get("type")
        .and_then(Value::as_str)
        .map(str::to_owned)
    {
        Some(kind) if schema.get("enum").is_none() => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

/// An object with these fields and no others; those with a `?` may be missing.
fn object(fields: &[(&str, Value)]) -> Value {
    let mut object = json!({
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": false,
    });
    for (name, schema) in fields {
        add(&mut object, name, schema.clone());
    }
    object
}

fn add(object: &mut Value, name: &str, schema: Value) {
    let plain = name.trim_start_matches('?');
    object["properties"][plain] = schema;
    if plain == name
        && let Some(required) = object["required"].as_array_mut()
    {
        required.push(plain.into());
    }
}

/// The schema of a record of the catalogue.
fn record<R>(table: &Table<R>, has_type: bool) -> Value {
    let mut schema = object(&[]);
    schema["description"] = table.doc.into();
    if has_type {
        add(&mut schema, "type", word(table.name));
    }
    for column in table.columns().filter(|one| one.formats != Formats::Csv) {
        let field = field(column);
        let Some((of, name)) = column.name.split_once('.') else {
            add(&mut schema, column.name, field);
            continue;
        };
        if schema["properties"].get(of).is_none() {
            let mut inner = object(&[]);
            // It is absent as a whole where nothing in it is known.
            inner["type"] = json!(["object", "null"]);
            add(&mut schema, of, inner);
        }
        add(&mut schema["properties"][of], name, field);
    }
    schema
}

fn field<R>(column: &Column<R>) -> Value {
    let mut schema = kind(column.name, column.kind);
    if !column.unknown.is_empty() {
        schema = or_null(schema);
    }
    let unknown = match column.unknown {
        "" => String::new(),
        unknown => format!(". `null`: {unknown}"),
    };
    let unit = match column.kind.unit() {
        "" => String::new(),
        unit => format!(" ({unit})"),
    };
    schema["description"] = format!("{}{unit}{unknown}", column.doc).into();
    schema
}

fn kind(name: &str, kind: Kind) -> Value {
    match kind {
        Kind::Time => time(),
        Kind::Nanoseconds
        | Kind::Microseconds
        | Kind::Milliseconds
        | Kind::Bytes
        | Kind::Count
        | Kind::Number => count(),
        Kind::Port => json!({"type": "integer", "minimum": 0, "maximum": 65_535}),
        Kind::PerSecond => json!({"type": "number", "minimum": 0}),
        Kind::Share => json!({"type": "number", "minimum": 0, "maximum": 1}),
        Kind::Address => {
            json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]})
        }
        Kind::State => reference("State"),
        Kind::Prefix | Kind::Cause | Kind::Name | Kind::ControlBits => json!({"type": "string"}),
        Kind::Word(words) => json!({"type": "string", "enum": words}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Nested(text) => nested(name, text),
    }
}

fn nested(name: &str, text: &str) -> Value {
    let unknown = || json!({"type": ["integer", "null"], "minimum": 0});
    match name {
        "states" if text.starts_with("list") => list(&object(&[
            ("state", reference("State")),
            ("dwell_ns", unknown()),
            ("?dwell_at_least_ns", count()),
            ("sampled", json!({"type": "boolean"})),
            ("?interval_ns", count()),
        ])),
        "states" | "causes" => reference("Counts"),
        "processes" => list(&object(&[
            ("pid", count()),
            ("comm", json!({"type": ["string", "null"]})),
            ("how", list(&json!({"enum": ["opened", "holds", "closed"]}))),
        ])),
        "transitions" => list(&object(&[
            ("from", reference("State")),
            ("to", reference("State")),
            ("count", count()),
            ("rate", json!({"type": ["number", "null"], "minimum": 0})),
        ])),
        "dwell" => json!({
            "type": "object",
            "additionalProperties": object(&[
                ("count", count()),
                ("p50_ns", unknown()),
                ("p90_ns", unknown()),
                ("p99_ns", unknown()),
            ]),
        }),
        "half_open" => list(&object(&[
            ("netns", count()),
            ("laddr", kind("laddr", Kind::Address)),
            ("lport", kind("lport", Kind::Port)),
            ("count", count()),
            ("oldest_ns", unknown()),
            ("oldest_at_least_ns", unknown()),
            ("synack_retransmits", count()),
        ])),
        other => panic!("{other} has no schema"),
    }
}

fn counts(names: &[&str]) -> Value {
    let fields: Vec<(&str, Value)> = names.iter().map(|&name| (name, count())).collect();
    object(&fields)
}

fn summary() -> Value {
    let unknown = || json!({"type": ["integer", "null"], "minimum": 0});
    let accounting = object(&[
        ("seen", unknown()),
        ("filtered", unknown()),
        ("submitted", unknown()),
        ("lost", unknown()),
        ("received", count()),
        ("rejected", count()),
        (
            "filtered_by_reason",
            counts(&["protocol", "family", "port", "netns", "?address", "?cgroup"]),
        ),
        (
            "lost_by_reason",
            object(&[("ring_full", count()), ("nested", unknown())]),
        ),
        (
            "rejected_by_reason",
            counts(&["malformed", "queue_full", "not_in_file"]),
        ),
        ("partial", json!({"type": "boolean"})),
    ]);
    object(&[
        ("type", word("summary")),
        ("complete", json!({"type": "boolean"})),
        ("evidence", json!({"enum": ["kernel", "packets"]})),
        ("accounting", accounting),
        (
            "selection",
            counts(&["passed", "filtered", "undecided", "unread"]),
        ),
        (
            "self",
            object(&[
                ("cpu_ns", count()),
                ("max_rss_bytes", unknown()),
                ("bpf_run_ns", unknown()),
                ("bpf_run_count", unknown()),
                ("ring_high_water_bytes", unknown()),
            ]),
        ),
        (
            "connections",
            counts(&[
                "live",
                "opened",
                "first_seen",
                "seeded",
                "gaps",
                "missing_inferred",
                "superseded",
                "evicted",
                "listeners_refused",
                "minisockets",
                "unfollowed",
            ]),
        ),
    ])
}

fn finding() -> Value {
    let text = || json!({"type": "string"});
    let text_or_null = || json!({"type": ["string", "null"]});
    let unknown = || json!({"type": ["integer", "null"], "minimum": 0});
    let role = || json!({"enum": ["unknown", "client", "server"]});
    object(&[
        ("type", word("finding")),
        ("name", text()),
        ("severity", json!({"enum": ["note", "warning", "critical"]})),
        ("mono_ns", count()),
        ("summary", text()),
        ("netns", unknown()),
        ("netns_name", text_or_null()),
        ("role", role()),
        ("service_port", unknown()),
        ("peer", text_or_null()),
        ("since_ns", unknown()),
        ("since_at_least_ns", unknown()),
        (
            "figures",
            json!({
                "type": "object",
                "additionalProperties": object(&[
                    ("value", json!({"type": "number"})),
                    ("evidence", text()),
                ]),
            }),
        ),
        (
            "peers",
            list(&object(&[("addr", text()), ("count", count())])),
        ),
        ("more_peers", count()),
        (
            "owners",
            list(&object(&[
                ("pid", count()),
                ("comm", text()),
                ("count", count()),
            ])),
        ),
        ("is", text()),
        ("why", text()),
        ("advice", list(&text())),
        (
            "settings",
            json!({"type": "object", "additionalProperties": text_or_null()}),
        ),
        ("commands", list(&text())),
        ("told_from", list(&text())),
        (
            "see",
            list(&object(&[
                ("name", text()),
                ("netns", unknown()),
                ("role", role()),
                ("service_port", unknown()),
                ("peer", text_or_null()),
            ])),
        ),
    ])
}
