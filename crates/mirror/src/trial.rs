//! Trial images: the proof that this node's containerd asks this mirror.
//!
//! A trial image is in the memory of one mirror, with a random repository and a random digest. No other node has it or
//! knows its name. A containerd that can pull it must have asked this very mirror.

pub(crate) mod repository;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use oci::{Digest, NameError, Origin, Registry, RegistryUrl};
use parking_lot::Mutex;

use crate::found::{Found, Payload, Source};
use crate::local;
use crate::request::{Caller, Kind, Target};

pub use repository::TRIAL_REPOSITORY;

/// The registry of trial images if all registries are mirrored. No registry can have this name: the top-level domain
/// `invalid` is reserved (RFC 6761, section 6.4).
const RESERVED_REGISTRY: &str = "mirror-trial.peili.invalid";

/// Returns a registry for trial images, one for which containerd asks this mirror.
///
/// `mirrored`: the elements of `--mirrored-registries`. The first registry in it is used. An empty list, or one with
/// `_default`, covers every registry; then a reserved name is used that no other registry can have.
///
/// # Errors
/// The first entry of the list is not a registry.
pub fn trial_registry(mirrored: &[String]) -> Result<Registry, NameError> {
    let all = mirrored
        .iter()
        .any(|entry| matches!(entry.as_str(), "_default" | "*"));
    match mirrored.first() {
        Some(first) if !all => first.parse().map(|url: RegistryUrl| url.registry),
        _ => RESERVED_REGISTRY.parse(),
    }
}

/// The trial images of a mirror: at most one, for as long as its [`Trial`] lives.
#[derive(Debug, Default)]
pub struct Trials {
    current: Mutex<Option<Arc<Image>>>,
}

#[derive(Debug)]
struct Image {
    origin: Origin,
    manifest: (Digest, Bytes),
    config: (Digest, Bytes),
    sent_manifest: AtomicBool,
    sent_config: AtomicBool,
    /// Whether one of the requests was recognised as coming from this node's own containerd.
    from_own: AtomicBool,
}

/// What a mirror has served of a trial image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    pub manifest: bool,
    pub config: bool,
    /// Whether the mirror recognised the requests as those of this node's own containerd.
    pub recognised: bool,
}

impl Served {
    /// Whether the client got the whole image from this mirror.
    pub fn is_whole(self) -> bool {
        self.manifest && self.config
    }

    /// Whether the client asked this mirror for anything.
    pub fn is_any(self) -> bool {
        self.manifest || self.config
    }
}

/// A trial image that the mirror serves until this is dropped.
#[derive(Debug)]
pub struct Trial {
    trials: Arc<Trials>,
    image: Arc<Image>,
}

impl Trials {
    /// Makes a new trial image of this registry and serves it. It replaces an earlier one.
    ///
    /// # Errors
    /// The names do not form a valid image name.
    pub fn begin(self: &Arc<Self>, registry: &Registry) -> Result<Trial, NameError> {
        let image = Arc::new(Image::new(registry, rand::random())?);
        *self.current.lock() = Some(image.clone());
        Ok(Trial {
            trials: self.clone(),
            image,
        })
    }

    /// Whether [`find`](Self::find) will answer a request, unless it is a peer's.
    pub(crate) fn has(&self, target: &Target) -> bool {
        let current = self.current.lock();
        let image = current.as_ref();
        image.is_some_and(|image| {
            let is_of_image = target.origin.as_ref() == Some(&image.origin);
            is_of_image && target.digest() == Some(image.named(target.kind))
        })
    }

    /// Finds the requested content if it belongs to the current trial image.
    ///
    /// The random name is the permission: only the containerd that was told to pull the image knows it. A peer is
    /// refused nevertheless, because what another mirror relays proves nothing.
    pub(crate) fn find(&self, target: &Target) -> Option<Found> {
        let image = self.current.lock().clone()?;
        if target.caller == Caller::Peer || target.origin.as_ref() != Some(&image.origin) {
            return None;
        }
        image.find(target)
    }
}

impl Image {
    /// An image without layers: containerd accepts that, and its snapshotter has nothing to do.
    fn new(registry: &Registry, nonce: u128) -> Result<Self, NameError> {
        let repository = format!("{TRIAL_REPOSITORY}/{nonce:032x}").parse()?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = format!(
            r#"{{"architecture":"{architecture}","os":"linux","author":"{TRIAL_REPOSITORY}/{nonce:032x}","config":{{}},"rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config_digest = Digest::sha256(config.as_bytes());
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[]}}"#,
            config.len()
        );
        Ok(Self {
            origin: Origin {
                registry: registry.clone(),
                repository,
            },
            manifest: (Digest::sha256(manifest.as_bytes()), manifest.into()),
            config: (config_digest, config.into()),
            sent_manifest: AtomicBool::new(false),
            sent_config: AtomicBool::new(false),
            from_own: AtomicBool::new(false),
        })
    }

    fn named(&self, kind: Kind) -> &Digest {
        match kind {
            Kind::Manifest => &self.manifest.0,
            Kind::Blob => &self.config.0,
        }
    }

    fn find(&self, target: &Target) -> Option<Found> {
        let ((digest, bytes), sent) = match target.kind {
            Kind::Manifest => (&self.manifest, &self.sent_manifest),
            Kind::Blob => (&self.config, &self.sent_config),
        };
        if target.digest() != Some(digest) {
            return None;
        }
        if !target.head_only {
            sent.store(true, Ordering::Relaxed);
            if target.caller == Caller::Own {
                self.from_own.store(true, Ordering::Relaxed);
            }
        }
        match target.kind {
            Kind::Manifest => Some(local::manifest(digest, bytes.clone(), None, Source::Local)),
            Kind::Blob => {
                let (size, payload) = (bytes.len() as u64, Payload::Bytes(bytes.clone()));
                Some(Found::blob(digest, Some(size), payload, Source::Local))
            }
        }
    }
}

impl Trial {
    /// The image by its digest. A tag would need hosts.toml to resolve tags, which can be switched off.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.image.origin, self.image.manifest.0)
    }

    pub fn served(&self) -> Served {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        Served {
            manifest: is(&self.image.sent_manifest),
            config: is(&self.image.sent_config),
            recognised: is(&self.image.from_own),
        }
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        let mut current = self.trials.current.lock();
        if current
            .as_ref()
            .is_some_and(|image| Arc::ptr_eq(image, &self.image))
        {
            *current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::repository::is_trial;
    use super::*;
    use crate::own_pull::OwnPull;
    use oci::Reference;

    fn registry() -> Registry {
        RESERVED_REGISTRY.parse().expect("a registry")
    }

    fn target(trial: &Trial, kind: Kind, digest: &Digest) -> Target {
        Target {
            kind,
            origin: Some(trial.image.origin.clone()),
            reference: Reference::Digest(digest.clone()),
            ranges: None,
            caller: Caller::Remote,
            pull: OwnPull::default(),
            head_only: false,
            follower: None,
        }
    }

    #[test]
    fn the_whole_image_is_served_and_each_part_counted() {
        let trials = Arc::new(Trials::default());
        let trial = trials.begin(&registry()).expect("a name");
        let mut manifest = target(&trial, Kind::Manifest, &trial.image.manifest.0);
        manifest.head_only = true;
        let found = trials.find(&manifest).expect("served");
        assert!(found.media_type.is_manifest());
        assert!(!trial.served().is_any(), "a head is not the image");

        manifest.head_only = false;
        trials.find(&manifest).expect("served");
        let served = trial.served();
        assert!(served.manifest && !served.is_whole() && !served.recognised);

        let mut config = target(&trial, Kind::Blob, &trial.image.config.0);
        config.caller = Caller::Own;
        trials.find(&config).expect("served");
        let served = trial.served();
        assert!(served.is_whole() && served.recognised);
    }

    #[test]
    fn the_manifest_names_the_config() {
        let image = Image::new(&registry(), 7).expect("a name");
        let manifest = oci::Manifest::parse(&image.manifest.1).expect("a manifest");
        let children: Vec<_> = manifest
            .children
            .iter()
            .map(|child| &child.digest)
            .collect();
        assert_eq!(children, [&image.config.0]);
        let other = Image::new(&registry(), 8).expect("a name");
        assert_ne!(image.manifest.0, other.manifest.0);
        assert_ne!(image.origin, other.origin);
    }

    #[test]
    fn nobody_else_gets_it() {
        let trials = Arc::new(Trials::default());
        let trial = trials.begin(&registry()).expect("a name");
        let asked = target(&trial, Kind::Manifest, &trial.image.manifest.0);
        let peer = Target {
            caller: Caller::Peer,
            ..asked.clone()
        };
        let elsewhere = Target {
            origin: None,
            ..asked.clone()
        };
        let as_blob = Target {
            kind: Kind::Blob,
            ..asked.clone()
        };
        for refused in [peer, elsewhere, as_blob] {
            assert!(trials.find(&refused).is_none(), "{refused:?}");
        }
        assert!(!trial.served().is_any());

        let later = trials.begin(&registry()).expect("a name");
        assert!(
            trials.find(&asked).is_none(),
            "a later trial has taken its place"
        );
        drop(trial);
        let asked = target(&later, Kind::Manifest, &later.image.manifest.0);
        assert!(
            trials.find(&asked).is_some(),
            "the end of the earlier one changes nothing"
        );
        drop(later);
        assert!(trials.find(&asked).is_none());
    }

    #[test]
    fn the_registry_is_one_that_is_mirrored() {
        let of = |mirrored: &[&str]| {
            let mirrored: Vec<_> = mirrored.iter().map(ToString::to_string).collect();
            trial_registry(&mirrored).map(|registry| registry.to_string())
        };
        assert_eq!(of(&[]).as_deref(), Ok(RESERVED_REGISTRY));
        assert_eq!(
            of(&["https://quay.io", "_default"]).as_deref(),
            Ok(RESERVED_REGISTRY)
        );
        assert_eq!(
            of(&["https://quay.io", "https://ghcr.io"]).as_deref(),
            Ok("quay.io")
        );
        assert!(of(&["quay.io"]).is_err());
    }

    #[test]
    fn trial_content_is_told_from_other_content() {
        let origin = |repository: &str| Origin {
            registry: registry(),
            repository: repository.parse().expect("a repository"),
        };
        assert!(is_trial(&origin("peili-mirror-trial/0a")));
        assert!(!is_trial(&origin("peili-mirror-trial-0a/b")));
        assert!(!is_trial(&origin("library/redis")));
    }
}
