//! Clients, peers and registries that want content that is not for them.

mod questions;

use super::*;

/// A manifest of an image with this layer and this config.
fn manifest_of(layer: &Digest, config: &Digest) -> String {
    format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{config}","size":1}},"layers":[{{"digest":"{layer}","size":5}}]}}"#
    )
}

impl Test {
    async fn admit(&self, registry: &str, asker: Asker) -> Result<(), Refusal> {
        let reference = Reference::Digest(digest("manifest"));
        let mut target = target("a", reference, Kind::Manifest);
        let registry = registry.parse().expect("a registry");
        target.origin.as_mut().expect("one").registry = registry;
        self.check.admit(&mut target, None, asker).await.map(drop)
    }

    /// Holds an object under repositories of several registries.
    fn hold_at(&self, bytes: &str, places: &[(&str, &str)]) -> Digest {
        let digest = self.hold(bytes, &[]);
        let mut object = self.store.catalog().object(&digest).expect("held");
        for (registry, repository) in places {
            let mut place = origin(repository);
            place.registry = registry.parse().expect("a registry");
            object.origins.insert(place);
        }
        self.store.catalog().insert(digest.clone(), object);
        digest
    }

    async fn shows_at(&self, place: (&str, &str), digest: &Digest, kind: Kind) -> bool {
        let mut asked = target(place.1, Reference::Digest(digest.clone()), kind);
        let registry = place.0.parse().expect("a registry");
        asked.origin.as_mut().expect("one").registry = registry;
        self.check.shows(&asked).await.expect("memory")
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_remembered_over_a_restart() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("repositories.json");
    let options = CheckOptions {
        proofs_file: Some(file.clone()),
        ..CheckOptions::default()
    };
    let test = start(options.clone());
    test.set("a", Does::Refuse);
    let refused = async {
        // At its first check there must be nothing to write.
        tokio::task::yield_now().await;
        assert!(is_not_public(&test.manifest("a").await));
        let since = tokio::time::Instant::now();
        while !file.exists() {
            assert!(since.elapsed() < Duration::from_secs(1), "not at once");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = test.check.keep_proofs() => unreachable!("it runs for ever"),
        () = refused => {}
    }
    let restarted = start(options);
    for name in ["a", "b"] {
        restarted.set(name, Does::CannotBeReached);
    }
    let config = restarted.hold(r#"{"env":"secret"}"#, &["a"]);
    assert!(!restarted.shows("a", &config, Kind::Blob).await);
    assert!(is_not_public(&restarted.manifest("a").await));
    assert!(is_not_public(&restarted.blob("a", &config, true).await));
    restarted.manifest("b").await.expect("never refused");
}

#[tokio::test(start_paused = true)]
async fn asking_for_what_is_not_there_takes_no_proof_away() {
    let test = start(CheckOptions::default());
    test.manifest("a").await.expect("public");
    advance(Duration::from_secs(10 * 60)).await;
    test.set("a", Does::Lack);
    assert!(is_not_public(&test.manifest("a").await));
    advance(Duration::from_secs(10)).await;
    test.set("a", Does::Fail);
    test.manifest("a").await.expect("it was public");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_limits_is_not_asked_for_each_layer() {
    for does in [Does::LimitRate, Does::Fail, Does::Lack] {
        let test = start(CheckOptions::default());
        test.set("a", does.clone());
        let layer = test.hold("a layer", &["a"]);
        for _ in 0..10 {
            let _ = test.manifest("a").await;
            let _ = test.shows("a", &layer, Kind::Blob).await;
        }
        assert!(test.asked() <= 2, "{does:?}: {}", test.asked());
    }
}

/// Otherwise a config being received would be passed on to any client while a registry neither grants nor refuses.
#[tokio::test(start_paused = true)]
async fn blobs_of_an_unproven_repository_are_protected() {
    for does in [Does::LimitRate, Does::Fail] {
        let test = start(CheckOptions::default());
        test.set("a", does);
        let manifest = async |asker| test.admit("quay.io", asker).await;
        assert!(is_not_public(&manifest(Asker::Anybody).await));
        let blob = async || test.blob("a", &digest("config"), true).await;
        blob().await.expect("what others ask for changes nothing");
        assert!(is_not_public(&manifest(Asker::ProvenOwn).await));
        assert!(is_not_public(&blob().await));
        test.set("a", Does::CannotBeReached);
        advance(Duration::from_secs(5)).await;
        manifest(Asker::ProvenOwn).await.expect("out of reach");
        blob().await.expect("the pull goes on");
    }
    let away = start(CheckOptions::default());
    away.set("a", Does::CannotBeReached);
    away.manifest("a").await.expect("out of reach");
    let blob = away.blob("a", &digest("config"), false).await;
    blob.expect("out of reach");
}

/// A registry can grant everything: its answer counts only for content held under its own name.
#[tokio::test(start_paused = true)]
async fn a_yes_of_one_registry_opens_nothing_of_another() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    let (private, evil) = (("quay.io", "private"), ("evil.example", "x"));
    let layer = test.hold_at("layer of a private image", &[private, evil]);
    let manifest = manifest_of(&layer, &digest("config"));
    let manifest = test.hold_at(&manifest, &[private, evil]);
    for _ in 0..3 {
        for kind in [Kind::Manifest, Kind::Blob] {
            assert!(!test.shows_at(evil, &manifest, kind).await, "{kind:?}");
            assert!(!test.shows_at(private, &manifest, kind).await, "{kind:?}");
        }
        assert!(!test.shows_at(evil, &layer, Kind::Blob).await);
        // Also if the refusal is long ago.
        advance(Duration::from_secs(20 * 60)).await;
        let mut of_evil = target("x", Reference::Digest(digest("m")), Kind::Manifest);
        let told = test.check.admit(&mut of_evil, None, Asker::ProvenOwn);
        told.await.expect("its registry says yes");
    }
    let away = start(CheckOptions::default());
    away.set("x", Does::CannotBeReached);
    away.set("private", Does::Refuse);
    let layer = away.hold_at("layer of a private image", &[private, evil]);
    assert!(!away.shows_at(evil, &layer, Kind::Blob).await, "one of two");
    let site = start(CheckOptions::default());
    site.set("x", Does::CannotBeReached);
    site.set("private", Does::CannotBeReached);
    let layer = site.hold_at("layer of two images", &[private, evil]);
    assert!(site.shows_at(evil, &layer, Kind::Blob).await, "no registry");
}

#[tokio::test(start_paused = true)]
async fn a_public_repository_of_the_same_registry_opens_nothing() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    test.manifest("tenant").await.expect("public");
    let _ = test.manifest("private").await;
    let layer = test.hold("layer of a private image", &["private", "tenant"]);
    assert!(!test.shows("tenant", &layer, Kind::Blob).await);
    assert!(test.shows("private", &layer, Kind::Blob).await);
}

/// containerd's labels do not distinguish ports.
#[tokio::test(start_paused = true)]
async fn a_layer_is_shared_whose_label_has_no_port() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    let places = [("10.0.0.1:5000", "private"), ("10.0.0.1", "private")];
    let layer = test.hold_at("layer of a private image", &places);
    assert!(test.shows_at(places[0], &layer, Kind::Blob).await);
    let places = [("10.0.0.1:5000", "open"), ("10.0.0.1", "open")];
    let config = test.hold_at(r#"{"env":""}"#, &places);
    test.upstream
        .blobs
        .lock()
        .insert(config.clone(), Bytes::from_static(br#"{"env":""}"#));
    assert!(test.shows_at(places[0], &config, Kind::Blob).await);
}

/// Just after a commit containerd does not report the origin of an object yet.
#[tokio::test(start_paused = true)]
async fn what_was_just_committed_belongs_where_it_was_pulled_from() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    test.manifest("open").await.expect("public");
    let json = manifest_of(&digest("layer"), &digest("config"));
    let pulled = Digest::sha256(json.as_bytes());
    for (repository, is_shown) in [("private", false), ("open", true)] {
        let test_of = |name| target(name, Reference::Digest(pulled.clone()), Kind::Manifest);
        let fresh = start(CheckOptions::default());
        fresh.set("private", Does::Refuse);
        let mut asked = test_of(repository);
        let _ = fresh.check.admit(&mut asked, None, Asker::ProvenOwn).await;
        for name in ["private", "open"] {
            fresh.store.put(&origin("x"), Bytes::from(json.clone()));
            fresh.store.catalog().remove(&pulled);
            let is_it = fresh.check.shows(&test_of(name)).await.expect("memory");
            assert_eq!(is_it, is_shown, "pulled from {repository}, asked as {name}");
        }
    }
    // An object that is still being received says nothing about its registry.
    let fresh = start(CheckOptions::default());
    fresh.set("a", Does::CannotBeReached);
    let _ = fresh.blob("a", &digest("on its way"), false).await;
    assert!(!fresh.shows("a", &digest("on its way"), Kind::Blob).await);
    assert_eq!(fresh.asked(), 0);
    let unplaced = test.hold("nobody knows where it belongs", &[]);
    assert!(!test.shows("open", &unplaced, Kind::Blob).await);
    // Nor does it belong to the repository of any request for it.
    let pulled = test.blob("open", &unplaced, true).await;
    pulled.expect("an own client may ask peers");
    assert!(!test.shows("open", &unplaced, Kind::Blob).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_its_way_is_for_those_who_pull_the_same() {
    let test = start(CheckOptions::default());
    test.set("private", Does::Refuse);
    let _ = test.manifest("private").await;
    test.manifest("open").await.expect("public");
    let private = origin("private");
    let shows = |name: &str, object: &str, kind, origin: &Origin| {
        let asked = target(name, Reference::Digest(digest(object)), kind);
        test.check.shows_growing(&asked, Some(origin))
    };
    assert!(
        !shows("private", "layer", Kind::Blob, &private),
        "nothing was granted"
    );
    let json = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":1}},"layers":[{{"digest":"{}","size":5}}]}}"#,
        digest("config"),
        digest("layer"),
    );
    test.check.0.grants.grant(&private, json.as_bytes());
    for (name, object, kind, is_shown) in [
        ("private", "layer", Kind::Blob, true),
        ("private", "layer", Kind::Manifest, false),
        ("private", "config", Kind::Blob, false),
        ("open", "layer", Kind::Blob, false),
    ] {
        assert_eq!(
            shows(name, object, kind, &private),
            is_shown,
            "{name} {object} {kind:?}"
        );
    }
    assert!(shows("x", "manifest", Kind::Manifest, &origin("open")));
}

#[tokio::test(start_paused = true)]
async fn what_is_protected_without_an_answer_is_so_on_its_way_too() {
    let test = start(with(TagPolicy::Fresh, "protect"));
    test.set("a", Does::CannotBeReached);
    let told = test.admit("quay.io", Asker::ProvenOwn).await;
    assert!(is_not_public(&told));
    assert!(is_not_public(
        &test.blob("a", &digest("layer"), false).await
    ));
    let asked = target("a", Reference::Digest(digest("layer")), Kind::Blob);
    assert!(!test.check.shows_growing(&asked, Some(&origin("a"))));
}

#[tokio::test(start_paused = true)]
async fn with_tags_left_to_nodes_upstream_says_only_what_is_public() {
    let test = start(with(TagPolicy::Peers, "auto"));
    test.manifest("a").await.expect("public");
    for does in [Does::Lack, Does::Fail, Does::Hang] {
        test.set("a", does.clone());
        advance(Duration::from_secs(10 * 60)).await;
        let told = test.tag("a").await;
        assert_eq!(told.expect("it was public"), None, "{does:?}");
    }
}

/// Any client can name a repository that does not exist.
#[tokio::test(start_paused = true)]
async fn invented_names_take_no_proof_away() {
    let test = start(CheckOptions::default());
    test.manifest("a").await.expect("public");
    for n in 0..5_000 {
        let _ = test
            .blob(&format!("invented/{n}"), &digest("x"), false)
            .await;
        test.check
            .0
            .answers
            .lock()
            .set_unproven(&origin(&format!("invented/{n}")), true);
    }
    let asked = test.asked();
    test.manifest("a").await.expect("it is known to be public");
    assert_eq!(test.asked(), asked);
}

/// hosts.toml of two nodes may name each other's mirrors.
#[tokio::test(start_paused = true)]
async fn mirrors_that_ask_each_other_come_to_an_end() {
    let (one, two) = (
        start(CheckOptions::default()),
        start(CheckOptions::default()),
    );
    for (test, other) in [(&one, &two), (&two, &one)] {
        *test.upstream.mirror.lock() = Some(other.check.clone());
        test.set("a", Does::IsMirror);
    }
    let since = tokio::time::Instant::now();
    let _ = one.tag("a").await;
    assert!(since.elapsed() <= WAIT);
    advance(Duration::from_secs(1)).await;
    tokio::task::yield_now().await;
    assert_eq!((one.asked(), two.asked()), (1, 1));
}

/// Content that is accessible by hosts.toml's headers and certificates is for this node's own client.
#[tokio::test(start_paused = true)]
async fn what_this_node_is_given_is_for_its_own_client() {
    let test = start(CheckOptions::default());
    test.set("a", Does::GiveToThisNode);
    let layer = digest("layer");
    let json = manifest_of(&layer, &digest("config"));
    let manifest = Digest::sha256(json.as_bytes());
    for asker in [Asker::Anybody, Asker::Unauthenticated, Asker::ProvenOwn] {
        let tag = Reference::Tag("v".parse().expect("a tag"));
        for reference in [tag, Reference::Digest(manifest.clone())] {
            let mut asked = target("a", reference.clone(), Kind::Manifest);
            let told = test.check.admit(&mut asked, None, asker).await;
            assert!(told.is_err(), "{asker:?} {reference}");
            asked.head_only = true;
            let told = test.check.admit(&mut asked, None, asker).await;
            let is_own_tag = asker == Asker::ProvenOwn && matches!(reference, Reference::Tag(_));
            assert_eq!(told.is_ok(), is_own_tag, "{asker:?} {reference}");
        }
    }
    test.hold(&json, &["a"]);
    test.blob("a", &layer, true).await.expect("it was given");
    assert!(is_not_public(&test.blob("a", &layer, false).await));
    assert!(!test.shows("a", &manifest, Kind::Manifest).await);
    let held = test.hold("a layer", &["a"]);
    assert!(
        test.shows("a", &held, Kind::Blob).await,
        "as of a private one"
    );
}

/// A repository may be closed after it has given content shared with a private one to anonymous clients.
#[tokio::test(start_paused = true)]
async fn what_was_given_to_anybody_is_asked_for_again_once_the_proof_is_old() {
    let config = r#"{"env":"secret"}"#;
    for (does, is_shown) in [
        (Does::Give, true),
        (Does::Refuse, false),
        (Does::Fail, true),
        (Does::CannotBeReached, true),
    ] {
        let test = start(CheckOptions::default());
        test.set("private", Does::Refuse);
        let held = test.hold(config, &["private", "tenant"]);
        let given = Bytes::from_static(config.as_bytes());
        test.upstream.blobs.lock().insert(held.clone(), given);
        assert!(test.shows("tenant", &held, Kind::Blob).await);
        let asked = test.asked();
        assert!(test.shows("tenant", &held, Kind::Blob).await);
        assert_eq!(test.asked(), asked, "the proof is fresh");

        test.set("tenant", does.clone());
        advance(Duration::from_secs(10 * 60)).await;
        let shown = test.shows("tenant", &held, Kind::Blob).await;
        assert_eq!(shown, is_shown, "{does:?}");
        let is_proven = test
            .check
            .0
            .answers
            .lock()
            .is_proven(&origin("tenant"), &held);
        assert_eq!(is_proven, is_shown, "{does:?}");
    }
}

/// More repositories than are asked at once.
#[tokio::test(start_paused = true)]
async fn a_closed_repository_among_many_closes_what_it_holds() {
    let test = start(CheckOptions::default());
    let names = ["a", "b", "c", "d", "e"];
    let image = manifest_of(&digest("layer"), &digest("config"));
    let held = test.hold(&image, &names);
    assert!(
        !test.shows("a", &held, Kind::Manifest).await,
        "two are left"
    );
    assert!(test.shows("a", &held, Kind::Manifest).await);
    test.set("e", Does::Refuse);
    advance(Duration::from_secs(10 * 60)).await;
    for _ in 0..3 {
        assert!(!test.shows("a", &held, Kind::Manifest).await);
    }
}
