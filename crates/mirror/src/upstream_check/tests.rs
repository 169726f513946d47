mod hostile;

use std::sync::atomic::Ordering;

use http::HeaderValue;
use prometheus_client::registry::Registry;
use tokio::time::advance;

use super::fake::{Does, FakeUpstream};
use super::*;
use crate::Object;
use crate::body::send_memory::SendMemory;
use crate::memory::MemoryStore;
use crate::request::Caller;

struct Test {
    check: UpstreamCheck,
    upstream: Arc<FakeUpstream>,
    store: Arc<MemoryStore>,
}

fn digest(text: &str) -> Digest {
    Digest::sha256(text.as_bytes())
}

fn origin(repository: &str) -> Origin {
    Origin {
        registry: "quay.io".parse().expect("a registry"),
        repository: repository.parse().expect("a repository"),
    }
}

fn start(options: CheckOptions) -> Test {
    let upstream = Arc::new(FakeUpstream::new(digest("v1")));
    let store = Arc::new(MemoryStore::default());
    let metrics = Arc::new(Metrics::register(&mut Registry::default()));
    let local: (Arc<dyn Store>, _) = (store.clone(), SendMemory::default());
    let check = UpstreamCheck::new(upstream.clone(), local, options, metrics);
    Test {
        check,
        upstream,
        store,
    }
}

fn with(tags: TagPolicy, private: &str) -> CheckOptions {
    CheckOptions {
        tags,
        private: PrivatePolicies::parse([private]).expect("a policy"),
        ..CheckOptions::default()
    }
}

pub(super) fn target(repository: &str, reference: Reference, kind: Kind) -> Target {
    Target {
        kind,
        origin: Some(origin(repository)),
        reference,
        ranges: None,
        caller: Caller::Own,
        pull: Default::default(),
        head_only: false,
        follower: None,
    }
}

impl Test {
    fn set(&self, repository: &str, does: Does) {
        self.upstream.does.lock().insert(repository.into(), does);
    }

    fn asked(&self) -> usize {
        self.upstream.asked.load(Ordering::Relaxed)
    }

    /// The digest that a client gets for a tag. `None`: that of the node and its peers.
    async fn tag(&self, repository: &str) -> Result<Option<Digest>, Refusal> {
        let tag = Reference::Tag("v".parse().expect("a tag"));
        let mut target = target(repository, tag, Kind::Manifest);
        self.check.admit(&mut target, None, Asker::Anybody).await?;
        Ok(target.digest().cloned())
    }

    async fn manifest(&self, repository: &str) -> Result<(), Refusal> {
        let reference = Reference::Digest(digest("manifest"));
        let mut target = target(repository, reference, Kind::Manifest);
        self.check
            .admit(&mut target, None, Asker::Anybody)
            .await
            .map(drop)
    }

    async fn blob(&self, repository: &str, digest: &Digest, is_own: bool) -> Result<(), Refusal> {
        let mut target = target(repository, Reference::Digest(digest.clone()), Kind::Blob);
        let asker = match is_own {
            true => Asker::ProvenOwn,
            false => Asker::Anybody,
        };
        self.check.admit(&mut target, None, asker).await.map(drop)
    }

    /// Holds an object under these repositories.
    fn hold(&self, bytes: &str, repositories: &[&str]) -> Digest {
        let digest = self.store.put(&origin("x"), Bytes::from(bytes.to_owned()));
        let object = Object {
            size: bytes.len() as u64,
            origins: repositories.iter().map(|name| origin(name)).collect(),
            visibility: Visibility::Shared,
        };
        self.store.catalog().insert(digest.clone(), object);
        digest
    }

    async fn shows(&self, repository: &str, digest: &Digest, kind: Kind) -> bool {
        let target = target(repository, Reference::Digest(digest.clone()), kind);
        self.check.shows(&target).await.expect("memory")
    }
}

fn is_not_public(result: &Result<impl Sized, Refusal>) -> bool {
    matches!(result, Err(Refusal::NotPublic(..)))
}

#[tokio::test(start_paused = true)]
async fn a_tag_means_what_upstream_says_now() {
    let test = start(CheckOptions::default());
    assert_eq!(test.tag("a").await.expect("public"), Some(digest("v1")));
    *test.upstream.tag.lock() = digest("v2");
    assert_eq!(test.tag("a").await.expect("public"), Some(digest("v1")));
    assert_eq!(test.asked(), 1, "the answer is as young as it may be");
    advance(Duration::from_secs(30)).await;
    assert_eq!(test.tag("a").await.expect("public"), Some(digest("v2")));
    test.set("a", Does::CannotBeReached);
    advance(Duration::from_secs(30)).await;
    assert_eq!(test.tag("a").await.expect("public"), None, "the old one");
}

#[tokio::test(start_paused = true)]
async fn who_says_what_a_tag_is_can_be_chosen() {
    let peers = start(with(TagPolicy::Peers, "auto"));
    assert_eq!(peers.tag("a").await.expect("public"), None);
    peers.set("b", Does::Refuse);
    assert!(is_not_public(&peers.tag("b").await));
    let spegel = start(with(TagPolicy::Peers, "share"));
    spegel.set("b", Does::Refuse);
    assert_eq!(spegel.tag("b").await.expect("shared"), None);
    assert_eq!(spegel.asked(), 0);
    let upstream = start(with(TagPolicy::Upstream, "auto"));
    let told = upstream.tag("a").await;
    assert!(matches!(told, Err(Refusal::TagUnchecked(_))), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn what_upstream_refuses_is_for_nobody_until_it_is_public() {
    let test = start(CheckOptions::default());
    for does in [Does::Refuse, Does::Lack] {
        test.set("a", does);
        assert!(is_not_public(&test.tag("a").await));
        assert!(is_not_public(&test.manifest("a").await));
    }
    test.set("a", Does::Give);
    advance(Duration::from_secs(5 * 60)).await;
    test.manifest("a").await.expect("public");
    let asked = test.asked();
    for _ in 0..5 {
        test.manifest("a").await.expect("public");
    }
    assert_eq!(
        test.asked(),
        asked,
        "a public repository is not asked again soon"
    );
    test.set("a", Does::Refuse);
    advance(Duration::from_secs(10 * 60)).await;
    assert!(
        is_not_public(&test.manifest("a").await),
        "it is private by now"
    );
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_that_counts_what_was_proven() {
    for (does, protects_unproven) in [
        (Does::LimitRate, true),
        (Does::Fail, true),
        (Does::CannotBeReached, false),
    ] {
        let test = start(CheckOptions::default());
        test.set("new", does.clone());
        assert_eq!(
            is_not_public(&test.manifest("new").await),
            protects_unproven,
            "{does:?}"
        );
        advance(Duration::from_secs(60)).await;
        test.manifest("old").await.expect("public");
        test.set("old", does.clone());
        advance(Duration::from_secs(10 * 60)).await;
        test.manifest("old").await.expect("it was public");
        test.tag("old").await.expect("it was public");
    }
    let strict = start(with(TagPolicy::Fresh, "protect"));
    strict.set("a", Does::CannotBeReached);
    assert!(is_not_public(&strict.manifest("a").await));
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_is_waited_for_once_in_a_while() {
    let test = start(CheckOptions::default());
    test.manifest("a").await.expect("public");
    test.set("b", Does::Hang);
    let waited = |since: tokio::time::Instant| since.elapsed();
    let since = tokio::time::Instant::now();
    let told = test.tag("b").await;
    assert!(matches!(told, Err(Refusal::TagUnchecked(_))), "{told:?}");
    assert_eq!(waited(since), WAIT);
    assert!(is_not_public(&test.manifest("b").await));
    assert_eq!(waited(since), WAIT, "nobody waits again");

    // A registry that never answered counts as unreachable: such sites have no other source.
    let away = start(CheckOptions::default());
    away.set("a", Does::Hang);
    assert_eq!(away.tag("a").await.expect("out of reach"), None);
    away.manifest("a").await.expect("out of reach");
}

#[tokio::test(start_paused = true)]
async fn a_registry_out_of_reach_costs_its_wait_once() {
    let test = start(CheckOptions::default());
    test.set("a", Does::CannotBeReached);
    for _ in 0..10 {
        assert_eq!(test.tag("a").await.expect("out of reach"), None);
    }
    assert_eq!(test.asked(), 1);
    test.set("a", Does::Give);
    advance(Duration::from_secs(15)).await;
    let _ = test.tag("a").await;
    advance(Duration::from_millis(1)).await;
    assert_eq!(test.tag("a").await.expect("back"), Some(digest("v1")));
}

#[tokio::test(start_paused = true)]
async fn equal_questions_are_one() {
    let test = start(CheckOptions::default());
    let all = (0..20).map(|_| test.tag("a"));
    for told in futures::future::join_all(all).await {
        assert_eq!(told.expect("public"), Some(digest("v1")));
    }
    assert_eq!(test.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn credentials_open_what_they_open_and_nothing_for_others() {
    let test = start(CheckOptions::default());
    test.set("a", Does::Refuse);
    let credentials = ClientCredentials::new(HeaderValue::from_static("Basic eDp5"));
    let mut target = target("a", Reference::Digest(digest("m")), Kind::Manifest);
    let admitted = test
        .check
        .admit(&mut target, Some(&credentials), Asker::Anybody);
    admitted.await.expect("granted to these credentials");
    assert!(is_not_public(&test.manifest("a").await));
}

#[tokio::test(start_paused = true)]
async fn layers_of_a_private_image_follow_its_manifest() {
    let test = start(CheckOptions::default());
    test.set("a", Does::Refuse);
    let (layer, config) = (digest("layer"), digest("config"));
    let json = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{{"digest":"{layer}","size":5}}]}}"#
    );
    let manifest = Digest::sha256(json.as_bytes());
    let mut asked = target("a", Reference::Digest(manifest), Kind::Manifest);
    let told = test.check.admit(&mut asked, None, Asker::ProvenOwn).await;
    assert!(is_not_public(&told));
    assert!(
        is_not_public(&test.blob("a", &layer, true).await),
        "nothing was granted"
    );
    test.hold(&json, &["a"]);
    test.blob("a", &layer, true)
        .await
        .expect("granted upstream");
    assert!(
        is_not_public(&test.blob("a", &layer, false).await),
        "it may be anybody"
    );
    assert!(
        is_not_public(&test.blob("a", &config, true).await),
        "a config may hold secrets"
    );
    assert!(is_not_public(&test.blob("a", &digest("other"), true).await));
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_was_here_before_grants_nothing() {
    let test = start(CheckOptions::default());
    test.set("a", Does::Refuse);
    let layer = digest("layer");
    let json = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{layer}","size":1}},"layers":[{{"digest":"{layer}","size":5}}]}}"#
    );
    let manifest = test.hold(&json, &["a"]);
    let mut asked = target("a", Reference::Digest(manifest), Kind::Manifest);
    assert!(is_not_public(
        &test.check.admit(&mut asked, None, Asker::ProvenOwn).await
    ));
    assert!(is_not_public(&test.blob("a", &layer, true).await));
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_shown_where_it_belongs() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    test.set("tenant", Does::Give);
    let layer = test.hold("layer of a private image", &["private"]);
    let config = test.hold(r#"{"env":"secret"}"#, &["private"]);
    assert!(
        test.shows("private", &layer, Kind::Blob).await,
        "whoever knows its digest"
    );
    for kind in [Kind::Blob, Kind::Manifest] {
        assert!(!test.shows("private", &config, kind).await, "{kind:?}");
        assert!(!test.shows("tenant", &config, kind).await, "{kind:?}");
    }
    assert!(
        !test.shows("tenant", &layer, Kind::Blob).await,
        "it is not held there"
    );

    let public = test.hold("layer of a public image", &["public"]);
    test.upstream.blobs.lock().insert(
        public.clone(),
        Bytes::from_static(b"layer of a public image"),
    );
    assert!(
        test.shows("another", &public, Kind::Blob).await,
        "everybody may have it"
    );
}

/// containerd adds labels to an existing layer for each image that names it.
#[tokio::test(start_paused = true)]
async fn a_label_of_a_public_repository_proves_nothing() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    let _ = test.manifest("private").await;
    test.manifest("tenant").await.expect("public");
    let mut elsewhere = origin("tenant");
    elsewhere.registry = "evil.example".parse().expect("a registry");
    let layer = test.hold("layer of a private image", &["private", "tenant"]);
    let mut object = test.store.catalog().object(&layer).expect("held");
    object.origins = BTreeSet::from([origin("private"), elsewhere.clone()]);
    test.store.catalog().insert(layer.clone(), object);
    let mut asked = target("tenant", Reference::Digest(layer.clone()), Kind::Blob);
    asked.origin = Some(elsewhere);
    assert!(
        !test.check.shows(&asked).await.expect("memory"),
        "its registry lacks the bytes"
    );
    let other = Bytes::from_static(b"a layer of the same size");
    test.upstream.blobs.lock().insert(layer.clone(), other);
    advance(Duration::from_secs(60)).await;
    assert!(
        !test.check.shows(&asked).await.expect("memory"),
        "its registry has other bytes"
    );
    let same = Bytes::from_static(b"layer of a private image");
    test.upstream.blobs.lock().insert(layer.clone(), same);
    advance(Duration::from_secs(60)).await;
    assert!(
        test.check.shows(&asked).await.expect("memory"),
        "whoever has the bytes gives nothing away"
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_public_is_remembered_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("proofs.json");
    let options = CheckOptions {
        proofs_file: Some(file.clone()),
        ..with(TagPolicy::Fresh, "protect")
    };
    let test = start(options.clone());
    test.manifest("a").await.expect("public");
    let keeping = test.check.keep_proofs();
    tokio::select! {
        () = keeping => unreachable!("it runs for ever"),
        () = async { while !file.exists() { advance(Duration::from_secs(1)).await; tokio::task::yield_now().await; } } => {}
    }
    let restarted = start(options);
    restarted.set("a", Does::CannotBeReached);
    restarted.set("b", Does::CannotBeReached);
    restarted.manifest("a").await.expect("it was public");
    assert!(is_not_public(&restarted.manifest("b").await));
}
