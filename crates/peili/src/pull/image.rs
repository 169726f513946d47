//! Pulls an image: the tag's target, the manifests, then config and layers, three at a time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use http::Method;
use http_body_util::BodyExt as _;
use mirror::{Upstream as _, UpstreamRepository};
use oci::{
    Digest, Hasher, MAX_MANIFEST_SIZE, Manifest, Name, Role, architecture, image_for_this_machine,
};
use tokio::time::{Instant, timeout};
use upstream::Registries;

use super::mirror_client::{Answer, MirrorClient};
use super::progress::Progress;
use super::report::{Kind, Measured, Report, Source};

/// The most objects at once, as containerd's default.
const PARALLEL: usize = 3;
/// The limit between two pieces of a body.
const STALL_LIMIT: Duration = Duration::from_secs(90);
/// The largest accepted size of an object, in bytes, if no manifest contains it.
const MAX_SIZE: u64 = 1 << 42;

/// A trial pull.
pub struct Pull {
    pub name: Name,
    pub mirror: MirrorClient,
    /// `None`: objects that the mirror does not send are not pulled.
    pub upstream: Option<Arc<Registries>>,
    pub progress: Progress,
}

/// An object to pull.
struct LayerRequest<'a> {
    kind: Kind,
    digest: &'a Digest,
    /// The size in bytes, from a manifest.
    size: Option<u64>,
}

/// A body that is being received.
type Pieces = BoxStream<'static, anyhow::Result<Bytes>>;

impl Pull {
    /// # Errors
    /// An object did not come, or does not match its digest.
    pub async fn run(&self) -> anyhow::Result<Report> {
        let began = Instant::now();
        let digest = self.resolve().await?;
        let (mut manifest, measured) = self.manifest(&digest).await?;
        let mut objects = vec![measured];
        if manifest.0.children.iter().any(|c| c.role == Role::Manifest) {
            let what = || {
                format!(
                    "{} has no image for linux/{}",
                    text(&self.name),
                    architecture()
                )
            };
            let chosen = image_for_this_machine(&manifest.1).with_context(what)?;
            let (image, measured) = self.manifest(&chosen).await?;
            objects.push(measured);
            manifest = image;
        }
        let mut seen = BTreeSet::new();
        let mut children = manifest.0.children;
        children.retain(|child| seen.insert(child.digest.clone()));
        let sizes = children.iter().filter_map(|child| child.size);
        self.progress.size(sizes.fold(0, u64::saturating_add));
        let wanted = children.iter().map(|child| LayerRequest {
            kind: match child.role {
                Role::Config => Kind::Config,
                Role::Manifest => Kind::Manifest,
                Role::Layer => Kind::Layer,
            },
            digest: &child.digest,
            size: child.size,
        });
        let pulls: Vec<_> = wanted.map(|wanted| self.pull(wanted, None)).collect();
        let blobs = stream::iter(pulls).buffered(PARALLEL);
        objects.extend(blobs.try_collect::<Vec<_>>().await?);
        let took = millis(began.elapsed());
        let mirror = self.mirror.name.clone();
        Ok(Report::of(
            text(&self.name),
            digest.to_string(),
            mirror,
            took,
            objects,
        ))
    }

    /// Resolves the image's name to a digest.
    async fn resolve(&self) -> anyhow::Result<Digest> {
        let Name {
            origin,
            tag,
            digest,
        } = &self.name;
        if let Some(digest) = digest {
            return Ok(digest.clone());
        }
        let tag = tag.as_ref().context("a reference has a tag or a digest")?;
        let head = Method::HEAD;
        let answer = self
            .mirror
            .ask(head, origin, "manifests", tag.as_str())
            .await?;
        match answer {
            Answer::Found { response, .. } => {
                let named = response.headers().get("docker-content-digest");
                let digest = named.and_then(|value| value.to_str().ok()?.parse().ok());
                digest.with_context(|| format!("the mirror names no digest for tag {tag}"))
            }
            Answer::GoUpstream { detail, .. } => {
                let what = format!("the mirror does not answer for tag {tag} ({detail})");
                let Some(upstream) = &self.upstream else {
                    bail!("{what}; leave out --mirror-only to ask the registry, or name a digest");
                };
                let resolved = upstream.resolve(&self.repository(), tag).await;
                Ok(resolved
                    .with_context(|| format!("{what}, and the registry does not either"))?
                    .digest)
            }
        }
    }

    async fn manifest(&self, digest: &Digest) -> anyhow::Result<((Manifest, Vec<u8>), Measured)> {
        let wanted = LayerRequest {
            kind: Kind::Manifest,
            digest,
            size: None,
        };
        let mut bytes = Vec::new();
        let measured = self.pull(wanted, Some(&mut bytes)).await?;
        if measured.took_ms.is_none() {
            bail!(
                "the mirror does not have manifest {digest} ({}), and without it the layers are unknown; leave out --mirror-only \
                 to ask the registry",
                measured.detail.unwrap_or_default()
            );
        }
        let manifest = Manifest::parse(&bytes).with_context(|| format!("manifest {digest}"))?;
        Ok(((manifest, bytes), measured))
    }

    /// Pulls an object and verifies it. `keep`: the buffer for a manifest's bytes.
    async fn pull(
        &self,
        wanted: LayerRequest<'_>,
        keep: Option<&mut Vec<u8>>,
    ) -> anyhow::Result<Measured> {
        let (digest, path) = (
            wanted.digest,
            match wanted.kind {
                Kind::Manifest => "manifests",
                Kind::Config | Kind::Layer => "blobs",
            },
        );
        let mut began = Instant::now();
        let mut measured = Measured {
            kind: wanted.kind,
            digest: digest.to_string(),
            size: wanted.size.unwrap_or_default(),
            source: Source::Upstream,
            reason: None,
            detail: None,
            first_byte_ms: None,
            took_ms: None,
            rate: None,
        };
        let origin = &self.name.origin;
        let pieces = match self
            .mirror
            .ask(Method::GET, origin, path, digest.as_str())
            .await?
        {
            Answer::Found { response, source } => {
                measured.source = source;
                let body = response.into_body().into_data_stream();
                body.map_err(anyhow::Error::from).boxed()
            }
            Answer::GoUpstream { reason, detail } => {
                (measured.reason, measured.detail) = (Some(reason), Some(detail));
                let Some(upstream) = &self.upstream else {
                    return Ok(measured);
                };
                began = Instant::now();
                self.open_upstream(upstream, &wanted).await?
            }
        };
        let limit = match wanted.kind {
            Kind::Manifest => MAX_MANIFEST_SIZE,
            Kind::Config | Kind::Layer => wanted.size.unwrap_or(MAX_SIZE),
        };
        let read = self.read(pieces, digest, limit, keep).await;
        let (size, first) = read.with_context(|| format!("{path} {digest}"))?;
        if let Some(expected) = wanted.size {
            ensure!(
                size == expected,
                "{path} {digest}: {size} bytes came and not {expected}"
            );
        }
        let (first_byte, took) = (first.duration_since(began), began.elapsed());
        let rate = u128::from(size) * 1_000_000 / (took - first_byte).as_micros().max(1);
        measured.size = size;
        measured.first_byte_ms = Some(millis(first_byte));
        measured.took_ms = Some(millis(took));
        measured.rate = u64::try_from(rate).ok();
        Ok(measured)
    }

    async fn open_upstream(
        &self,
        upstream: &Registries,
        wanted: &LayerRequest<'_>,
    ) -> anyhow::Result<Pieces> {
        let what = || {
            format!(
                "the mirror does not have {}, and the registry does not give it",
                wanted.digest
            )
        };
        let repository = self.repository();
        Ok(match wanted.kind {
            Kind::Manifest => {
                let manifest = upstream.manifest(&repository, wanted.digest).await;
                let bytes = manifest.with_context(what)?.bytes;
                stream::once(async { Ok(bytes) }).boxed()
            }
            Kind::Config | Kind::Layer => {
                let blob = upstream.blob(&repository, wanted.digest, None).await;
                blob.with_context(what)?
                    .body
                    .map_err(anyhow::Error::from)
                    .boxed()
            }
        })
    }

    /// Reads a body to its end and verifies it. Returns its size in bytes, and when the first of them came.
    async fn read(
        &self,
        mut pieces: Pieces,
        digest: &Digest,
        limit: u64,
        mut keep: Option<&mut Vec<u8>>,
    ) -> anyhow::Result<(u64, Instant)> {
        let (mut hasher, mut size, mut first) = (Hasher::new(digest), 0, None);
        loop {
            let piece = timeout(STALL_LIMIT, pieces.next()).await;
            let piece =
                piece.with_context(|| format!("no byte for {STALL_LIMIT:?} after {size}"))?;
            let Some(piece) = piece else { break };
            let piece = piece.with_context(|| format!("the body broke after {size} bytes"))?;
            first.get_or_insert_with(Instant::now);
            size += piece.len() as u64;
            ensure!(size <= limit, "more than {limit} bytes came");
            hasher.update(&piece);
            match &mut keep {
                Some(bytes) => bytes.extend_from_slice(&piece),
                None => self.progress.more(piece.len() as u64),
            }
        }
        ensure!(
            hasher.finish() == *digest,
            "the bytes are not what the digest names"
        );
        Ok((size, first.unwrap_or_else(Instant::now)))
    }

    /// The repository, without credentials.
    fn repository(&self) -> UpstreamRepository {
        UpstreamRepository::anonymous(&self.name.origin)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An image's name as people write it.
fn text(name: &Name) -> String {
    let tag = name.tag.as_ref().map_or(String::new(), |t| format!(":{t}"));
    let digest = name.digest.as_ref();
    let digest = digest.map_or(String::new(), |d| format!("@{d}"));
    format!("{}{tag}{digest}", name.origin)
}
