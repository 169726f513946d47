//! Tests the whole store with a fake containerd.

pub(crate) mod fake;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mirror::{Catalog, Content, Health, IngestStage, Store, Visibility};
use oci::{Digest, Name, TagName};
use prometheus_client::registry::Registry;
use tokio::task::JoinSet;

use crate::tests::fake::Fake;
use crate::{Config, Containerd, Setup, State, check};

/// The limit for anything that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// The interval between checks.
const GLANCE: Duration = Duration::from_millis(5);

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(GLANCE).await;
        }
    };
    let done = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(done.is_ok(), "{what}: not in time");
}

pub(crate) fn config(fake: &Fake) -> Config {
    let namespaces = ["k8s.io", "default"];
    Config {
        socket: fake.socket(),
        namespaces: namespaces.map(|n| n.parse().expect("a namespace")).into(),
        content_path: None,
        registries: Vec::new(),
        retain: None,
    }
}

/// A store that lives as long as the returned set.
pub(crate) fn open(config: Config) -> (Arc<Containerd>, JoinSet<()>) {
    let (store, keep) = Containerd::open(config, &mut Registry::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(keep);
    (store, tasks)
}

pub(crate) async fn ready(fake: &Fake, store: &Containerd) {
    until("ready", || store.health().is_ready()).await;
    until("subscribed", || fake.is_heard()).await;
}

fn origins(catalog: &Catalog, digest: &Digest) -> Option<BTreeSet<String>> {
    let object = catalog.object(digest)?;
    Some(object.origins.iter().map(ToString::to_string).collect())
}

fn from(places: &[&str]) -> Option<BTreeSet<String>> {
    Some(places.iter().map(ToString::to_string).collect())
}

fn tag(text: &str) -> TagName {
    let name: Name = text.parse().expect("a name");
    name.tag_name().expect("a tag")
}

#[tokio::test]
async fn waits_for_containerd_and_says_so() {
    let mut fake = Fake::new();
    let (store, _tasks) = open(config(&fake));
    let socket = fake.socket().display().to_string();
    until("the reason", || match store.health() {
        Health::Waiting(why) => why.contains(&socket) && why.contains("does not answer"),
        Health::Ready => false,
    })
    .await;
    assert!(
        store
            .open(&Digest::sha256(b""))
            .expect("no error")
            .is_none()
    );
    fake.start();
    ready(&fake, &store).await;
}

#[tokio::test]
async fn a_folder_that_is_not_the_content_store_makes_it_unready() {
    let mut fake = Fake::new();
    let blob = fake.put_file(b"blob");
    fake.label("k8s.io", &blob, Some(("quay.io", "a")));
    fake.start();
    let elsewhere = tempfile::tempdir().expect("a folder");
    let config = |path: &Path| Config {
        content_path: Some(path.to_owned()),
        ..config(&fake)
    };
    let (store, _tasks) = open(config(elsewhere.path()));
    let (root, path) = (fake.content().display().to_string(), elsewhere.path());
    until("the reason", || match store.health() {
        Health::Waiting(why) => why.contains(&root) && why.contains(&path.display().to_string()),
        Health::Ready => false,
    })
    .await;

    // The same folder under another path is correct.
    let mounted = elsewhere.path().join("mounted");
    std::os::unix::fs::symlink(fake.content(), &mounted).expect("a link");
    let (store, _tasks) = open(config(&mounted));
    until("ready", || store.health().is_ready()).await;
}

#[tokio::test]
async fn what_is_being_fetched_can_be_followed() {
    let mut fake = Fake::new();
    fake.start();
    let (store, tasks) = open(config(&fake));
    ready(&fake, &store).await;
    let digest = Digest::sha256(b"layer");
    let ingest = fake.content().join("ingest/x");
    std::fs::create_dir_all(&ingest).expect("a folder");
    std::fs::write(ingest.join("ref"), format!("k8s.io/1/layer-{digest}")).expect("a file");
    let open = || store.ingest(&digest).expect("readable");
    assert!(open().is_none(), "no data yet");
    std::fs::write(ingest.join("data"), "lay").expect("a file");
    assert!(!store.downloads_share_slots(), "containerd 1.7");
    let mut growing = None;
    until("followed", || {
        growing = open();
        growing.is_some()
    })
    .await;
    let mut growing = growing.expect("open").growing;
    assert_eq!(growing.progress().written, 3);

    // Following continues without containerd, and ends with the store's work.
    fake.stop();
    std::fs::write(ingest.join("data"), "layer").expect("a file");
    let progress = tokio::time::timeout(PATIENCE, growing.until(|p| p.written == 5)).await;
    let progress = progress.expect("in time");
    assert_eq!(
        (progress.written, progress.stage),
        (5, IngestStage::Filling)
    );
    drop(tasks);
    let end =
        tokio::time::timeout(PATIENCE, growing.until(|p| p.stage != IngestStage::Filling)).await;
    assert_eq!(end.expect("in time").stage, IngestStage::Failed);
    assert!(open().is_none());
}

#[tokio::test]
async fn lists_what_the_namespaces_have() {
    let mut fake = Fake::new();
    let ours = fake.put_file(b"ours");
    let shared = fake.put_file(b"shared");
    let elsewhere = fake.put_file(b"elsewhere");
    fake.label("k8s.io", &ours, Some(("quay.io", "a,b")));
    fake.label("k8s.io", &shared, Some(("quay.io", "a")));
    fake.label("default", &shared, Some(("ghcr.io", "c")));
    fake.label("moby", &elsewhere, Some(("quay.io", "a")));
    fake.name("k8s.io", "quay.io/a:1", Some(&ours));
    fake.name("k8s.io", &ours.to_string(), Some(&ours));
    fake.name("moby", "quay.io/a:2", Some(&elsewhere));
    fake.start();
    let (store, _tasks) = open(config(&fake));
    ready(&fake, &store).await;
    let catalog = store.catalog();
    assert_eq!(origins(catalog, &ours), from(&["quay.io/a", "quay.io/b"]));
    assert_eq!(origins(catalog, &shared), from(&["quay.io/a", "ghcr.io/c"]));
    assert_eq!(origins(catalog, &elsewhere), None);
    assert_eq!(catalog.tags(), [(tag("quay.io/a:1"), ours)]);
}

#[tokio::test]
async fn follows_a_pull_and_a_removal() {
    let mut fake = Fake::new();
    std::fs::create_dir(fake.content()).expect("a folder");
    fake.start();
    let (store, _tasks) = open(config(&fake));
    ready(&fake, &store).await;
    let catalog = store.catalog();

    // The order of a commit: the file, the database, the label. None has an event.
    let layer = fake.put_file(b"layer");
    fake.label("k8s.io", &layer, None);
    until("the blob", || catalog.object(&layer).is_some()).await;
    fake.label("k8s.io", &layer, Some(("quay.io", "a")));
    until("its origin", || {
        origins(catalog, &layer) == from(&["quay.io/a"])
    })
    .await;
    let opened = store.open(&layer).expect("readable").expect("there");
    assert_eq!(opened.visibility, Visibility::Shared);
    match opened.content {
        Content::File { size, .. } => assert_eq!(size, 5),
        other => panic!("not a file: {other:?}"),
    }

    fake.name("k8s.io", "quay.io/a:1", Some(&layer));
    fake.tell_image("k8s.io", "quay.io/a:1");
    let v1 = tag("quay.io/a:1");
    until("the tag", || catalog.resolve(&v1).is_some()).await;
    fake.name("k8s.io", "quay.io/a:1", None);
    fake.tell_image("k8s.io", "quay.io/a:1");
    until("no tag", || catalog.resolve(&v1).is_none()).await;

    fake.remove_file(&layer);
    assert!(store.open(&layer).expect("no error").is_none());
    assert!(
        catalog.object(&layer).is_none(),
        "who looked in vain has told the catalog"
    );
}

#[tokio::test]
async fn an_imported_image_belongs_where_its_name_says() {
    let mut fake = Fake::new();
    fake.start();
    std::fs::create_dir(fake.content()).expect("a folder");
    let (store, _tasks) = open(config(&fake));
    ready(&fake, &store).await;
    let layer = fake.put_file(b"layer");
    let manifest = format!(r#"{{"config":{{"digest":"{layer}"}},"layers":[]}}"#);
    let manifest = fake.put_file(manifest.as_bytes());
    fake.label("k8s.io", &layer, None);
    fake.label("k8s.io", &manifest, None);
    fake.name("k8s.io", "registry:5000/a:1", Some(&manifest));
    fake.tell_image("k8s.io", "registry:5000/a:1");
    let expected = from(&["registry:5000/a"]);
    let catalog = store.catalog();
    until("its origins", || {
        origins(catalog, &layer) == expected && origins(catalog, &manifest) == expected
    })
    .await;
}

#[tokio::test]
async fn a_restart_is_lived_through_and_repairs_all() {
    let mut fake = Fake::new();
    let (goes, stays) = (fake.put_file(b"goes"), fake.put_file(b"stays"));
    for digest in [&goes, &stays] {
        fake.label("k8s.io", digest, Some(("quay.io", "a")));
    }
    fake.name("k8s.io", "quay.io/a:1", Some(&goes));
    fake.start();
    let (store, _tasks) = open(config(&fake));
    ready(&fake, &store).await;

    fake.stop();
    until("not ready", || !store.health().is_ready()).await;
    assert!(
        store.open(&stays).expect("readable").is_some(),
        "files are served meanwhile"
    );
    fake.remove_file(&goes);
    fake.name("k8s.io", "quay.io/a:1", None);
    let comes = fake.put_file(b"comes");
    fake.label("k8s.io", &comes, Some(("quay.io", "a")));

    fake.start();
    ready(&fake, &store).await;
    let catalog = store.catalog();
    assert_eq!(origins(catalog, &goes), None);
    assert_eq!(origins(catalog, &stays), from(&["quay.io/a"]));
    assert_eq!(origins(catalog, &comes), from(&["quay.io/a"]));
    assert!(catalog.tags().is_empty());
}

#[tokio::test]
async fn a_list_of_images_may_be_long() {
    let mut fake = Fake::new();
    let digest = fake.put_file(b"m");
    for n in 0..40_000 {
        let name = format!("registry.example/a/repository/with/a/long/name:{n}");
        fake.name("k8s.io", &name, Some(&digest));
    }
    fake.start();
    let (store, _tasks) = open(config(&fake));
    ready(&fake, &store).await;
    assert_eq!(store.catalog().tags().len(), 40_000);
}

#[tokio::test]
async fn checks_name_what_to_write() {
    let mut fake = Fake::new();
    let setup = Setup {
        config_file: fake.content().join("config.toml"),
        registry_config_paths: vec!["/etc/containerd/certs.d".into()],
    };
    assert!(
        check(&config(&fake), &setup, None).await.is_err(),
        "it is not running"
    );
    fake.start();
    let findings = check(&config(&fake), &setup, None)
        .await
        .expect("it answers");
    let states: Vec<_> = findings.iter().map(|f| (f.what, f.state)).collect();
    assert_eq!(
        states,
        [
            (crate::Topic::Version, State::Ok),
            (crate::Topic::RegistryConfig, State::Warning),
            (crate::Topic::PullMode, State::Ok),
            (crate::Topic::Layers, State::Warning),
            (crate::Topic::Content, State::Ok),
        ]
    );
}
