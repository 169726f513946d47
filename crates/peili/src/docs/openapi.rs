//! docs/openapi.json and docs/api.md: the paths, and the types of their answers.

use std::collections::BTreeSet;

use regex::Regex;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use status::{Cluster, Content, Status};

use super::{read, settle};
use crate::observe::PATHS;

/// An answer: JSON with its schema, or another form.
enum Answer {
    Json(&'static str),
    Any(&'static str),
}

/// Every path with its answer, and whether it is only for clients on loopback unless `--page-access` opens it.
const ROUTES: [(&str, &str, Answer, bool); 13] = [
    ("/", "The status page", Answer::Any("text/html"), true),
    (
        "/events",
        "The content of the page, whenever it has changed",
        Answer::Any("text/event-stream"),
        true,
    ),
    (
        "/api/v1/status",
        "What the mirror is doing and has done",
        Answer::Json("Status"),
        true,
    ),
    (
        "/api/v1/doctor",
        "The node's name, and what the mirror tells `peili doctor`; not stable",
        Answer::Any("application/json"),
        true,
    ),
    (
        "/cluster",
        "The page of the whole cluster",
        Answer::Any("text/html"),
        true,
    ),
    (
        "/cluster-events",
        "The content of that page, whenever it has changed",
        Answer::Any("text/event-stream"),
        true,
    ),
    (
        "/content",
        "The page of what this node holds",
        Answer::Any("text/html"),
        true,
    ),
    (
        "/api/v1/cluster",
        "All nodes, and who pulls what from whom",
        Answer::Json("Cluster"),
        true,
    ),
    (
        "/api/v1/content",
        "What the node holds and shares",
        Answer::Json("Content"),
        true,
    ),
    (
        "/api/v1/openapi.json",
        "This document",
        Answer::Any("application/json"),
        true,
    ),
    (
        "/metrics",
        "Metrics in OpenMetrics text",
        Answer::Any("application/openmetrics-text"),
        false,
    ),
    (
        "/readyz",
        "Whether the mirror is ready; 503 with the reasons if not",
        Answer::Any("text/plain"),
        false,
    ),
    (
        "/livez",
        "Whether the mirror runs",
        Answer::Any("text/plain"),
        false,
    ),
];

/// The document, with the schemas of all answers.
fn document() -> Value {
    let settings = SchemaSettings::openapi3().for_serialize();
    let mut generator = settings.into_generator();
    let _ = generator.subschema_for::<Status>();
    let _ = generator.subschema_for::<Cluster>();
    let _ = generator.subschema_for::<Content>();
    let schemas = generator.take_definitions(true);
    let mut paths = serde_json::Map::new();
    for (path, summary, answer, is_guarded) in &ROUTES {
        let (media_type, schema) = match answer {
            Answer::Json(name) => (
                "application/json",
                json!({"$ref": format!("#/components/schemas/{name}")}),
            ),
            Answer::Any(media_type) => (*media_type, json!({})),
        };
        let mut responses = json!({"200": {
            "description": summary,
            "content": {media_type: {"schema": schema}},
        }});
        if *is_guarded {
            let refused = "The client is not on this host, and --page-access is loopback";
            responses["403"] = json!({"description": refused});
            responses["421"] = json!({"description": "The Host header names another host"});
        }
        if *path == "/readyz" {
            responses["503"] = json!({"description": "The mirror is not ready"});
        }
        let operation = json!({"summary": summary, "responses": responses});
        paths.insert((*path).to_owned(), json!({"get": operation}));
    }
    json!({
        "openapi": "3.0.3",
        "info": {
            "title": "Peili",
            "description": "What a mirror tells at --metrics-addr. Nothing here changes anything.",
            "version": "1",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {"schemas": schemas},
    })
}

#[test]
fn the_openapi_document_is_as_the_types_are() {
    let mut document = serde_json::to_string_pretty(&document()).expect("JSON");
    document.push('\n');
    settle("docs/openapi.json", &document);
}

#[test]
fn every_path_is_described_and_the_reverse() {
    let described: BTreeSet<_> = ROUTES
        .iter()
        .filter(|r| r.3)
        .map(|(path, ..)| *path)
        .collect();
    assert_eq!(described, BTreeSet::from(PATHS));
    let page = read("docs/api.md");
    for (path, ..) in &ROUTES {
        assert!(
            page.contains(&format!("| `{path}` |")),
            "{path} is not in docs/api.md"
        );
    }
    let path = Regex::new(r"/api/v1/[\w./-]*\w").expect("an expression");
    for (name, page) in super::pages() {
        for found in path.find_iter(&page) {
            let found = found.as_str();
            let is_known = ROUTES.iter().any(|(path, ..)| *path == found);
            assert!(is_known, "{name} has {found}, which is no path");
        }
    }
}

/// The schema behind a reference, or behind a nullable, listed or sole variant.
fn resolved<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.rsplit('/').next()) {
        return resolved(document, &document["components"]["schemas"][name]);
    }
    for key in ["allOf", "anyOf"] {
        if let Some(first) = schema[key].as_array().and_then(|all| all.first()) {
            return resolved(document, first);
        }
    }
    match &schema["items"] {
        Value::Null => schema,
        items => resolved(document, items),
    }
}

#[test]
fn every_field_is_in_the_page_and_the_reverse() {
    let (document, page) = (document(), read("docs/api.md"));
    let schemas = &document["components"]["schemas"];
    for (name, schema) in schemas.as_object().expect("schemas") {
        let properties = schema["properties"].as_object();
        for field in properties.into_iter().flat_map(|p| p.keys()) {
            let named = Regex::new(&format!(r"`[^`]*\b{field}\b[^`]*`")).expect("an expression");
            assert!(
                named.is_match(&page),
                "{name}.{field} is not in docs/api.md"
            );
        }
    }
    let sections = [
        ("## Status", "Status"),
        ("## Cluster", "Cluster"),
        ("## Content", "Content"),
    ];
    for (heading, schema) in sections {
        let section = page.split(heading).nth(1).expect(heading);
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split(" |").next());
        for path in names.flat_map(|names| names.split(", ")) {
            let mut at = &schemas[schema];
            for field in path.trim_matches('`').trim_end_matches("[]").split('.') {
                at = resolved(&document, &at["properties"][field.trim_end_matches("[]")]);
                assert!(!at.is_null(), "{heading}: {path} is no field");
            }
        }
    }
}
