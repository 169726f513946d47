//! Traces of pulls, over real containerds and into a collector of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use e2e::{Generation, Lab, Settings, until};
use prost::Message;

use crate::flights::{LONG_LAYER, pull_together, start};

/// The last part of the collector's address, and its port.
const COLLECTOR: (u8, u16) = (99, 4318);

const SETTINGS: Settings = Settings {
    containerd: "",
    discards_layers: false,
    lists_config_paths: false,
    runs_containers: false,
    mirror: &["--otlp-endpoint", "http://10.77.0.99:4318"],
    names: false,
    secret: true,
    network_keys: None,
    checks: false,
    descriptors: None,
    plain: false,
};

/// As much of OTLP's messages as the test looks at.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scope>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
}

/// Takes requests until the lab is gone.
fn collect(listener: TcpListener) -> Receiver<Vec<u8>> {
    let (sender, requests) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || take(&stream, &sender));
        }
    });
    requests
}

/// Takes the requests of a connection.
fn take(mut stream: &TcpStream, sender: &Sender<Vec<u8>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut length, mut line) = (0, String::new());
        while reader.read_line(&mut line).ok()? > 2 {
            if let Some(text) = line.to_lowercase().strip_prefix("content-length:") {
                length = text.trim().parse().ok()?;
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        if length > 0 {
            sender.send(body).ok()?;
        }
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .ok()?;
    }
}

/// Two nodes pull a new image at once: the layer that one streams from the other is one trace over both.
pub async fn cold_pull_is_traced_over_both_nodes(lab: Lab, containerd: Generation) -> Result<()> {
    let collector = lab.add_host("collector", COLLECTOR.0)?;
    let requests = collect(collector.listen(COLLECTOR.1)?);
    let nodes = start::<2>(&lab, containerd, SETTINGS).await?;
    let image = lab.upstream.push("lab/app", "v1", &[LONG_LAYER])?;
    pull_together(&nodes, &image).await?;

    let mut traces: BTreeMap<Vec<u8>, Vec<Span>> = BTreeMap::new();
    until("a trace over both nodes, with all its spans", async || {
        for body in requests.try_iter() {
            let request = Request::decode(&*body).context("a request in OTLP")?;
            let scopes = request.resources.into_iter().flat_map(|r| r.scopes);
            for span in scopes.flat_map(|scope| scope.spans) {
                traces.entry(span.trace.clone()).or_default().push(span);
            }
        }
        Ok(traces.values().any(|spans| is_whole(spans)))
    })
    .await?;
    let ids: Vec<_> = traces.values().flatten().map(|span| &span.id).collect();
    let distinct: BTreeSet<_> = ids.iter().collect();
    ensure!(distinct.len() == ids.len(), "spans share an id");
    Ok(())
}

/// Whether a request of containerd was answered by a peer, whose own request lies below it, with every step between.
fn is_whole(spans: &[Span]) -> bool {
    let below = |parent: &Span, name: &str| {
        let mut of_name = spans.iter().filter(|span| span.name == name);
        of_name.find(|span| span.parent == parent.id).cloned()
    };
    let roots = spans
        .iter()
        .filter(|span| span.name == "request" && span.parent.is_empty());
    roots.into_iter().any(|root| {
        let Some(peer) = below(root, "ask peer") else {
            return false;
        };
        let steps = ["connect", "first byte", "transfer", "request"];
        below(root, "look-up").is_some() && steps.iter().all(|step| below(&peer, step).is_some())
    })
}
