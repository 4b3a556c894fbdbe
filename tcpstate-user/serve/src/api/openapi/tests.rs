//! The document is made here, and answers are checked against it.

mod schemas;

use std::{env, fs, path::Path};

use serde_json::{Map, Value, json};

use self::schemas::schemas;
use super::super::{ENDPOINTS, Endpoint, Form, Parameter};

/// The schema of the answer of this path.
fn answer(endpoint: &Endpoint) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    match endpoint.path.rsplit('/').next() {
        Some("snapshot") => reference("Snapshot"),
        Some("connections") => reference("Connections"),
        Some("findings") => reference("Findings"),
        Some("history") => reference("History"),
        Some("openapi.json") => json!({"type": "object"}),
        Some("events") => json!({"type": "string"}),
        other => panic!("{other:?} has no schema"),
    }
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.form {
        Form::Text => json!({"type": "string"}),
        Form::Word(words) => json!({"type": "string", "enum": words, "default": words[0]}),
        Form::Number { usual, most } => {
            json!({"type": "integer", "minimum": 1, "maximum": most, "default": usual})
        }
    };
    json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.doc,
        "schema": schema,
    })
}

fn path(endpoint: &Endpoint) -> Value {
    let error = |description: &str| {
        json!({
            "description": description,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Error"}}
            },
        })
    };
    let media = if endpoint.path.ends_with("/events") {
        "text/event-stream"
    } else {
        "application/json"
    };
    let fields: Vec<String> = endpoint
        .fields
        .iter()
        .map(|(name, doc)| format!("- `{name}`: {doc}"))
        .collect();
    let mut operation = json!({
        "summary": endpoint.doc,
        "description": fields.join("\n"),
        "responses": {
            "200": {
                "description": endpoint.doc,
                "content": {media: {"schema": answer(endpoint)}},
            },
            "400": error("The request is wrong"),
            "503": error("There is nothing to show, or too many ask"),
        },
    });
    if !endpoint.parameters.is_empty() {
        let parameters: Vec<Value> = endpoint.parameters.iter().map(parameter).collect();
        operation["parameters"] = parameters.into();
    }
    json!({"get": operation})
}

fn document() -> Value {
    let paths: Map<String, Value> = ENDPOINTS
        .iter()
        .map(|endpoint| (endpoint.path.to_owned(), path(endpoint)))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tcpstate serve",
            "description": "The TCP connections of a Linux host: their states, how long they stay in each, and what is wrong",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas()},
    })
}

#[test]
fn the_committed_document_is_that_of_the_code() {
    let mut text = serde_json::to_string_pretty(&document()).unwrap();
    text.push('\n');
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
    if env::var_os("TCPSTATE_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == text,
        "openapi.json is not what the code says; TCPSTATE_BLESS=1 writes it anew"
    );
}

/// Checks a value against a schema of the document.
pub(crate) fn check(name: &str, value: &Value) {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": format!("#/components/schemas/{name}"),
        "components": document()["components"],
    });
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{name}: {errors:#?}\n{value:#}");
}

#[test]
fn a_wrong_answer_is_found() {
    let wrong = json!({"type": "error", "message": 7});
    assert!(std::panic::catch_unwind(|| check("Error", &wrong)).is_err());
    let more = json!({"type": "error", "message": "x", "more": 1});
    assert!(std::panic::catch_unwind(|| check("Error", &more)).is_err());
    check("Error", &json!({"type": "error", "message": "x"}));
}
