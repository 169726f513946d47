//! A fake of upstream registries.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use http::HeaderValue;
use mirror::{
    List, Resolved, Upstream, UpstreamBlob, UpstreamError, UpstreamManifest, UpstreamPage,
    UpstreamRepository, Visibility,
};
use oci::{Digest, Origin, Ranges, Tag};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// How a registry refuses.
pub type Refuse = fn(Origin) -> UpstreamError;

/// The content of the upstream registry, and its behaviour.
#[derive(Default)]
pub struct Fake {
    pub objects: Mutex<HashMap<Digest, Bytes>>,
    pub tags: Mutex<HashMap<String, Digest>>,
    pub private: Mutex<bool>,
    pub gone: Mutex<bool>,
    /// Breaks each body after this many bytes.
    pub breaks_after: Mutex<Option<usize>>,
    /// Lets pieces of 1,000 bytes through, as many as it has permits.
    pub gate: Mutex<Option<Arc<Semaphore>>>,
    pub blobs_asked: AtomicUsize,
    pub bytes_sent: AtomicUsize,
    pub tells_no_size: Mutex<bool>,
    /// How long it takes to resolve a tag.
    pub slow: Mutex<Duration>,
    /// The refusal for clients without credentials.
    pub refusal: Mutex<Option<Refuse>>,
    /// The same for blobs alone.
    pub blob_refusal: Mutex<Option<Refuse>>,
    /// The referrers of manifests; other lists are text.
    pub referrers: Mutex<HashMap<Digest, Bytes>>,
}

impl Fake {
    pub fn put(&self, bytes: Bytes) -> Digest {
        let digest = Digest::sha256(&bytes);
        self.objects.lock().insert(digest.clone(), bytes);
        digest
    }

    /// Makes an image of one layer. Returns its manifest's digest.
    pub fn image(&self, tag: &str, layer: &Digest) -> Digest {
        let config = self.put(Bytes::from_static(b"{}"));
        let size = self.objects.lock().get(layer).map_or(1, Bytes::len);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":2}},"layers":[{{"digest":"{layer}","size":{size}}}]}}"#
        );
        let digest = self.put(manifest.into());
        self.tags.lock().insert(tag.to_owned(), digest.clone());
        digest
    }

    fn reach<'a>(&self, repository: &'a UpstreamRepository) -> Result<&'a Origin, UpstreamError> {
        let origin = &repository.origin;
        let is_known = repository.credentials.is_some();
        match self.refusal.lock().as_ref() {
            _ if *self.gone.lock() => {
                Err(UpstreamError::Unreachable(origin.clone(), "gone".into()))
            }
            Some(refuse) if !is_known => Err(refuse(origin.clone())),
            _ => Ok(origin),
        }
    }

    fn reach_blobs<'a>(
        &self,
        repository: &'a UpstreamRepository,
    ) -> Result<&'a Origin, UpstreamError> {
        let origin = self.reach(repository)?;
        match self.blob_refusal.lock().as_ref() {
            Some(refuse) if repository.credentials.is_none() => Err(refuse(origin.clone())),
            _ => Ok(origin),
        }
    }

    fn tells_sizes(&self) -> bool {
        !*self.tells_no_size.lock()
    }

    fn visibility(&self) -> Visibility {
        if *self.private.lock() {
            Visibility::Private
        } else {
            Visibility::Shared
        }
    }
}

#[async_trait]
impl Upstream for Fake {
    async fn head(
        &self,
        _: &UpstreamRepository,
        _: &oci::Reference,
    ) -> Result<mirror::UpstreamHead, UpstreamError> {
        unreachable!("the embedded store resolves tags")
    }

    async fn resolve(
        &self,
        repository: &UpstreamRepository,
        tag: &Tag,
    ) -> Result<Resolved, UpstreamError> {
        let slow = *self.slow.lock();
        tokio::time::sleep(slow).await;
        let origin = self.reach(repository)?;
        let digest = self.tags.lock().get(tag.as_str()).cloned();
        Ok(Resolved {
            digest: digest.ok_or_else(|| UpstreamError::NotFound(origin.clone()))?,
            manifest: None,
        })
    }

    async fn manifest(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<UpstreamManifest, UpstreamError> {
        let origin = self.reach(repository)?;
        let bytes = self.objects.lock().get(digest).cloned();
        let bytes = bytes.ok_or_else(|| UpstreamError::NotFound(origin.clone()))?;
        Ok(UpstreamManifest {
            bytes,
            digest: digest.clone(),
            media_type: None,
            visibility: self.visibility(),
        })
    }

    async fn blob_size(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        let origin = self.reach_blobs(repository)?;
        let bytes = self.objects.lock().get(digest).cloned();
        let bytes = bytes.ok_or_else(|| UpstreamError::NotFound(origin.clone()))?;
        Ok(self.tells_sizes().then_some(bytes.len() as u64))
    }

    async fn blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let origin = self.reach_blobs(repository)?;
        self.blobs_asked.fetch_add(1, Ordering::Relaxed);
        let bytes = self.objects.lock().get(digest).cloned();
        let bytes = bytes.ok_or_else(|| UpstreamError::NotFound(origin.clone()))?;
        let size = bytes.len() as u64;
        let range = match ranges {
            None => 0..size,
            Some(ranges) => match ranges.first().resolve(size) {
                Ok(ranges) => ranges[0].clone(),
                Err(_) => {
                    return Err(UpstreamError::Unsatisfiable {
                        origin: origin.clone(),
                        size: Some(size),
                    });
                }
            },
        };
        let rest = bytes.slice(range.start as usize..range.end as usize);
        self.bytes_sent.fetch_add(rest.len(), Ordering::Relaxed);
        let sent = self
            .breaks_after
            .lock()
            .map_or(rest.len(), |limit| limit.min(rest.len()));
        let mut pieces: Vec<_> = rest[..sent]
            .chunks(1000)
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        if sent < rest.len() {
            pieces.push(Err(UpstreamError::Unreachable(
                origin.clone(),
                "broken".into(),
            )));
        }
        let gate = self.gate.lock().clone();
        let through = move |piece| {
            let gate = gate.clone();
            async move {
                if let Some(gate) = gate {
                    gate.acquire().await.expect("never closed").forget();
                }
                piece
            }
        };
        let body = futures::stream::iter(pieces).then(through).boxed();
        Ok(UpstreamBlob {
            size: self.tells_sizes().then_some(size),
            offset: range.start,
            visibility: self.visibility(),
            body,
        })
    }

    async fn page(
        &self,
        repository: &UpstreamRepository,
        list: &List,
        query: &str,
    ) -> Result<UpstreamPage, UpstreamError> {
        self.reach(repository)?;
        if let List::Referrers(subject) = list
            && let Some(bytes) = self.referrers.lock().get(subject)
        {
            return Ok(UpstreamPage {
                bytes: bytes.clone(),
                content_type: None,
                next: None,
                filters_applied: None,
            });
        }
        Ok(UpstreamPage {
            bytes: format!("{list:?} {query}").into(),
            content_type: None,
            next: Some("n=1&last=a".to_owned()),
            filters_applied: Some(HeaderValue::from_static("artifactType")),
        })
    }
}
