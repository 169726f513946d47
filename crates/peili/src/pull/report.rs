//! The result of a trial pull, for programs and for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use status::{text, words};

/// The characters of a digest that are shown.
const SHORT_DIGEST: usize = 12;

/// A trial pull.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub image: String,
    /// The digest of the image's name.
    pub digest: String,
    /// The mirror, as `host:port`.
    pub mirror: String,
    /// The time of the pull, in milliseconds.
    pub took_ms: u64,
    /// The objects in the order of the image: manifests, config, layers from the lowest.
    pub objects: Vec<Measured>,
    /// The bytes, by source.
    pub local: u64,
    pub peers: u64,
    pub upstream: u64,
    /// The bytes from upstream, by the reason.
    pub reasons: BTreeMap<String, u64>,
}

/// An object that was pulled and verified, or left to the registry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    pub kind: Kind,
    pub digest: String,
    /// The size in bytes.
    pub size: u64,
    pub source: Source,
    /// Why it did not come from a node: one of the reasons of `peili_upstream_bytes_total`.
    pub reason: Option<String>,
    /// The same as the mirror's text.
    pub detail: Option<String>,
    /// The time from the request to the first byte, in milliseconds. `None`: it was not pulled.
    pub first_byte_ms: Option<u64>,
    /// The time from the request to the last byte, in milliseconds.
    pub took_ms: Option<u64>,
    /// The rate in bytes per second, from the first byte on.
    pub rate: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Manifest,
    Config,
    Layer,
}

/// The source of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "node")]
pub enum Source {
    /// The store of this node.
    Local,
    /// A peer, by its address.
    Peer(String),
    /// The mirror, which does not name its source: for it, this command is a client of another host.
    Mirror,
    Upstream,
}

impl Report {
    /// Sums up objects that were pulled.
    pub fn of(
        image: String,
        digest: String,
        mirror: String,
        took_ms: u64,
        objects: Vec<Measured>,
    ) -> Self {
        let (mut local, mut peers, mut upstream) = (0, 0, 0);
        let mut reasons = BTreeMap::new();
        for object in &objects {
            match object.source {
                Source::Local => local += object.size,
                Source::Peer(_) | Source::Mirror => peers += object.size,
                Source::Upstream => {
                    upstream += object.size;
                    let reason = object.reason.clone().unwrap_or_else(|| "other".to_owned());
                    *reasons.entry(reason).or_default() += object.size;
                }
            }
        }
        Self {
            image,
            digest,
            mirror,
            took_ms,
            objects,
            local,
            peers,
            upstream,
            reasons,
        }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let fastest = self.objects.iter().filter_map(|object| object.rate).max();
        let row = |object: &Measured| {
            let kind = match object.kind {
                Kind::Manifest => "manifest",
                Kind::Config => "config",
                Kind::Layer => "layer",
            };
            let hex = object.digest.split_once(':').map_or("", |(_, hex)| hex);
            let source = match &object.source {
                Source::Local => "this node",
                Source::Peer(address) => address,
                Source::Mirror => "the mirror",
                Source::Upstream if object.took_ms.is_none() => "registry (left out)",
                Source::Upstream => "registry",
            };
            let time = |time: Option<u64>| time.map(words::milliseconds).unwrap_or_default();
            let rate = object.rate.filter(|_| object.kind == Kind::Layer);
            let bar = rate.zip(fastest).map(|(rate, most)| text::bar(rate, most));
            vec![
                format!(
                    "{kind} {}",
                    hex.chars().take(SHORT_DIGEST).collect::<String>()
                ),
                words::bytes(object.size),
                source.to_owned(),
                time(object.first_byte_ms),
                time(object.took_ms),
                rate.map(words::rate).unwrap_or_default(),
                bar.unwrap_or_default(),
            ]
        };
        self.objects.iter().map(row).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.local + self.peers + self.upstream;
        writeln!(
            f,
            "{} by the mirror at {}: {} in {}",
            self.image,
            self.mirror,
            words::bytes(all),
            words::milliseconds(self.took_ms)
        )?;
        let head = ["OBJECT", "SIZE", "FROM", "FIRST BYTE", "TOOK", "RATE", ""];
        write!(f, "{}", text::table(&head, &self.rows()))?;
        writeln!(
            f,
            "From this node {}, from peers {}, from the registry {} ({}).",
            words::bytes(self.local),
            words::bytes(self.peers),
            words::bytes(self.upstream),
            words::percent(self.upstream, all)
        )?;
        for (reason, bytes) in &self.reasons {
            let detail = self
                .objects
                .iter()
                .find(|o| o.reason.as_ref() == Some(reason));
            let detail = detail.and_then(|object| object.detail.as_deref());
            let detail = detail.map(|detail| format!(" (the mirror: {detail})"));
            writeln!(
                f,
                "From the registry, {}: {}{}",
                words::bytes(*bytes),
                words::reason(reason),
                detail.unwrap_or_default()
            )?;
        }
        Ok(())
    }
}
