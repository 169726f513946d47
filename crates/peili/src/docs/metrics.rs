//! docs/metrics.md: every metric that the crates register.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use containerd::Containerd;
use kubernetes::{Mode, NodeReadiness, ServiceAccount};
use layout::Layout;
use mirror::memory::{MemoryCluster, MemoryStore};
use mirror::serve::ConnectionLimits;
use mirror::{Access, Adapters, Candidate, Limits, Mirror, Options, PeerId, Reader};
use prometheus_client::registry::Registry;
use regex::Regex;
use swarm::Bootstrap;

use super::{cell, read, settle};
use crate::{network_key_file, observe, peer_tls_dir, traces};

const HEAD: &str = "\
# Metrics
The mirror answers `/metrics` at `--metrics-addr` (port 9090) in OpenMetrics text. Metrics that begin with `spegel_` and `http_` are
Spegel's. A metric with labels appears after its first sample. A test writes this page from the code.

Histograms have no exemplars: they would cost a lock and a label set for each request, for those few that are traced. To go from a slow
request to its trace, search the traces for the longest `request` spans of the node ([traces.md](traces.md)).

| metric | type | meaning |
|---|---|---|
";

/// The files in which metrics are defined and registered.
const SOURCES: [&[&str]; 7] = [
    &["crates/containerd/src/metrics.rs"],
    &["crates/kubernetes/src/metrics.rs"],
    &["crates/layout/src/metrics.rs"],
    &[
        "crates/mirror/src/metrics.rs",
        "crates/mirror/src/metrics/register.rs",
    ],
    &["crates/peili/src/observe.rs"],
    &["crates/peili/src/traces.rs"],
    &["crates/swarm/src/metrics.rs"],
];

/// A registered metric.
#[derive(Clone, Debug)]
struct Described {
    /// The name with the prefix and the unit.
    name: String,
    /// The name in the code.
    short: String,
    help: String,
}

/// A mirror's registry, with the metrics of both stores and of node readiness.
async fn registry() -> Registry {
    let mut registry = Registry::default();
    observe::register_node(&mut registry, "n1");
    let _ = observe::register_ready(&mut registry);
    traces::register(&mut registry);
    network_key_file::register(&mut registry);
    peer_tls_dir::register(&mut registry);
    let folder = tempfile::tempdir().expect("a folder");
    let options = layout::Options {
        path: folder.path().join("store"),
        limit: 1 << 20,
    };
    drop(Layout::open(&options, &mut registry).expect("a new store"));
    let config = containerd::Config {
        socket: "/nowhere".into(),
        namespaces: Vec::new(),
        content_path: None,
        registries: Vec::new(),
        retain: None,
    };
    drop(Containerd::open(config, &mut registry));
    let config = kubernetes::Config {
        node: "n1".to_owned(),
        mode: Mode::Taint,
        taint: "t".to_owned(),
        timeout: Duration::from_secs(1),
    };
    let account = ServiceAccount::new("127.0.0.1", "1", Path::new("/nowhere"));
    drop(NodeReadiness::new(config, account, &mut registry));
    let config = swarm::Config {
        node_name: "n1".to_owned(),
        listen: "127.0.0.1:0".parse().expect("an address"),
        registry_port: 5000,
        data_dir: None,
        bootstrap: Bootstrap::Static { peers: Vec::new() },
        flights: true,
        network_keys: None,
        peer_tls: None,
        connections: ConnectionLimits::default(),
    };
    drop(
        swarm::bind(config, &mut registry)
            .await
            .expect("a free port"),
    );
    let node = Candidate {
        peer: PeerId::new("n1"),
        addresses: Arc::new([]),
    };
    let parts = Adapters {
        store: Arc::new(MemoryStore::default()),
        router: Arc::new(MemoryCluster::default().router(node)),
        pull_through: None,
        checks: None,
        flights: None,
    };
    let options = Options {
        access: Access::default(),
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_secs(1),
            attempts: 1,
        },
    };
    drop(Mirror::new(parts, options, &mut registry));
    registry
}

/// The metrics of a registry, from its debug form: only that contains families without a sample.
fn described(registry: &Registry) -> Vec<Described> {
    let debug = format!("{registry:#?}");
    let token = Regex::new(
        r#"(?s)(?<open>Registry \{)|Prefix\(\s*"(?<prefix>\w+)",\s*\)|Descriptor \{\s*name: "(?<name>\w+)",\s*help: "(?<help>(?:[^"\\]|\\.)*)",\s*unit: (?<unit>None|Some\(\s*\w+,\s*\))"#,
    )
    .expect("an expression");
    let (mut prefix, mut all) = (String::new(), Vec::new());
    for found in token.captures_iter(&debug) {
        if found.name("open").is_some() {
            // Nested registries contain their full prefix, and follow the metrics of the outer one.
            prefix.clear();
        } else if let Some(name) = found.name("prefix") {
            prefix = format!("{}_", name.as_str());
        } else {
            let unit = match &found["unit"] {
                "None" => String::new(),
                unit => {
                    let name: String = unit.chars().skip(5).filter(|c| c.is_alphabetic()).collect();
                    format!("_{}", name.to_lowercase())
                }
            };
            let help = found["help"].replace("\\\"", "\"").replace("\\'", "'");
            all.push(Described {
                name: format!("{prefix}{}{unit}", &found["name"]),
                short: found["name"].to_owned(),
                help: help.trim_end_matches('.').to_owned(),
            });
        }
    }
    all
}

/// The types, by the metrics' names in the code. A name is followed by its help and by its field.
fn types() -> BTreeMap<String, &'static str> {
    let field = Regex::new(
        r"(?m)^\s*(?:pub(?:\(crate\))? )?(\w+): (?:Family<.*?)?(Counter|Gauge|Histogram)\b",
    )
    .expect("an expression");
    let registered = Regex::new(
        r#"(?s)"(\w+)",\s*"(?:[^"\\]|\\.)*",\s*(?:Unit::\w+,\s*)?&?(?:\w+\.)*?(\w+)(?:\.family)?(?:\.clone\(\))?,?\s*\)"#,
    )
    .expect("an expression");
    let mut types = BTreeMap::from([
        ("peili_node".to_owned(), "info"),
        ("peili_ready".to_owned(), "gauge"),
        ("peili_network_keys".to_owned(), "gauge"),
        (
            "peili_peer_certificate_expiration_timestamp_seconds".to_owned(),
            "gauge",
        ),
        ("peili_bytes".to_owned(), "counter"),
    ]);
    for sources in SOURCES {
        let text: String = sources.iter().map(|source| read(source)).collect();
        let fields: BTreeMap<_, _> = field
            .captures_iter(&text)
            .map(|found| {
                let kind = match &found[2] {
                    "Counter" => "counter",
                    "Gauge" => "gauge",
                    _ => "histogram",
                };
                (found[1].to_owned(), kind)
            })
            .collect();
        for found in registered.captures_iter(&text) {
            if let Some(kind) = fields.get(&found[2]) {
                types.entry(found[1].to_owned()).or_insert(kind);
            }
        }
    }
    types
}

/// Every metric, by its name in Prometheus, with its type and meaning.
fn all(registry: &Registry) -> Vec<(String, &'static str, String)> {
    let types = types();
    let exposed = described(registry).into_iter().map(|metric| {
        let kind = *types
            .get(&metric.short)
            .unwrap_or_else(|| panic!("the type of {} is not found in the code", metric.name));
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        (format!("{}{suffix}", metric.name), kind, metric.help)
    });
    let mut all: Vec<_> = exposed.collect();
    all.sort();
    all
}

/// The names of all metrics in Prometheus.
pub async fn names() -> Vec<String> {
    let registry = registry().await;
    all(&registry).into_iter().map(|(name, ..)| name).collect()
}

#[tokio::test]
async fn metrics_page_is_as_the_code_is() {
    let registry = registry().await;
    let all = all(&registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a type");
        let has = |(listed, listed_kind, _): &(String, &str, String)| {
            let listed = listed.trim_end_matches("_total").trim_end_matches("_info");
            listed == name && *listed_kind == kind
        };
        assert!(all.iter().any(has), "{name} is a {kind}");
    }
    let mut page = HEAD.to_owned();
    for (name, kind, help) in all {
        // Writing to a text does not fail.
        let _ = writeln!(page, "| `{name}` | {kind} | {} |", cell(&help));
    }
    settle("docs/metrics.md", &page);
}
