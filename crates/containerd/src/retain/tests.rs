//! Retains layers of a fake containerd.

use std::collections::BTreeSet;
use std::time::SystemTime;

use mirror::Store;
use prost_types::Timestamp;

use super::*;
use crate::leases::whole_seconds;
use crate::tests::fake::{self, Fake};
use crate::tests::{config, open, ready, until};
use crate::{Config, Containerd, blobs};

const HOUR: Duration = Duration::from_secs(3600);

fn retaining(fake: &Fake, time: Duration, bytes: u64) -> Config {
    let filter = Filter::new(&["https://quay.io".into()], &[]).expect("sound");
    Config {
        retain: Some(Retain {
            time,
            bytes,
            // Whatever is in use on the disk of the test machine.
            disk_percent: 100,
            filter,
        }),
        ..config(fake)
    }
}

async fn start(fake: &Fake, bytes: u64) -> (Arc<Containerd>, JoinSet<()>) {
    let (store, tasks) = open(retaining(fake, HOUR, bytes));
    ready(fake, &store).await;
    (store, tasks)
}

/// A running containerd, with the folder that it creates for the first blob.
fn running() -> Fake {
    let mut fake = Fake::new();
    std::fs::create_dir_all(blobs::folder(fake.content(), "sha256")).expect("a folder");
    fake.start();
    fake
}

/// Commits a blob as a pull does.
fn commit(fake: &Fake, namespace: &str, host: &str, bytes: &[u8]) -> Digest {
    let digest = fake.put_file(bytes);
    fake.label(namespace, &digest, Some((host, "a")));
    digest
}

/// Makes a blob as old as this.
fn commit_earlier(fake: &Fake, digest: &Digest, ago: Duration) {
    let file = std::fs::File::open(blobs::path(fake.content(), digest)).expect("a file");
    let then = SystemTime::now() - ago;
    file.set_modified(then).expect("our own file");
}

/// What the mirror's leases keep in a namespace.
fn kept(fake: &Fake, namespace: &str) -> BTreeSet<String> {
    let leases = fake.leases(namespace).into_iter();
    leases
        .filter(|(id, _)| id.starts_with("peili-"))
        .flat_map(|(_, lease)| lease.content)
        .collect()
}

fn these(digests: &[&Digest]) -> BTreeSet<String> {
    digests.iter().map(ToString::to_string).collect()
}

fn lease_until(digest: &Digest, expires: SystemTime) -> (String, fake::Lease) {
    let expires = Timestamp::from(whole_seconds(expires)).to_string();
    let lease = fake::Lease {
        labels: [("containerd.io/gc.expire".to_owned(), expires)].into(),
        content: these(&[digest]),
    };
    (format!("peili-{digest}"), lease)
}

fn expiry(lease: &fake::Lease) -> SystemTime {
    let expire: Timestamp = lease.labels["containerd.io/gc.expire"]
        .parse()
        .expect("RFC 3339");
    expire.try_into().expect("a time")
}

#[tokio::test]
async fn what_is_new_and_mirrored_is_leased_until_its_time_is_over() {
    let fake = running();
    let (_store, _tasks) = start(&fake, 1000).await;
    // File times come from a coarser clock.
    let before = SystemTime::now() - Duration::from_secs(1);
    commit(&fake, "k8s.io", "ghcr.io", b"not mirrored");
    let ours = commit(&fake, "k8s.io", "quay.io", b"layer");
    let theirs = commit(&fake, "default", "quay.io", b"another");
    let both = these(&[&ours, &theirs]);
    until("both are kept", || {
        kept(&fake, "k8s.io") == both && kept(&fake, "default") == both
    })
    .await;
    let leases = fake.leases("k8s.io");
    let lease = &leases[&format!("peili-{ours}")];
    let expire = expiry(lease);
    assert!(expire >= whole_seconds(before + HOUR) && expire <= SystemTime::now() + HOUR);
    assert!(
        lease.labels.contains_key("containerd.io/gc.flat"),
        "what a manifest refers to is not kept with it"
    );
}

#[tokio::test]
async fn a_blob_is_leased_before_it_is_known_where_it_belongs() {
    let fake = running();
    let (_store, _tasks) = start(&fake, 1000).await;
    let digest = fake.put_file(b"layer");
    until("it is kept", || kept(&fake, "k8s.io") == these(&[&digest])).await;
    fake.label("k8s.io", &digest, Some(("ghcr.io", "a")));
    until("it is not ours", || kept(&fake, "k8s.io").is_empty()).await;
}

#[tokio::test]
async fn beyond_the_size_the_oldest_go() {
    let fake = running();
    let old = fake.put_file(b"older");
    let (id, lease) = lease_until(&old, SystemTime::now() + HOUR / 2);
    fake.lease("k8s.io", &id, lease);
    let (_store, _tasks) = start(&fake, 10).await;
    commit(&fake, "k8s.io", "quay.io", b"eleven byte");
    let new = commit(&fake, "k8s.io", "quay.io", b"newer!");
    until("the newer one alone", || {
        kept(&fake, "k8s.io") == these(&[&new])
    })
    .await;
    assert_eq!(fake.collections(), 1);
}

#[tokio::test]
async fn what_an_earlier_process_left_is_taken_over() {
    let fake = running();
    let [expired, alive, foreign] =
        [&b"expired"[..], b"alive", b"foreign"].map(|bytes| fake.put_file(bytes));
    for digest in [&expired, &alive, &foreign] {
        commit_earlier(&fake, digest, HOUR);
    }
    let now = SystemTime::now();
    for (digest, expires) in [(&expired, now - HOUR), (&alive, now + HOUR)] {
        let (id, lease) = lease_until(digest, expires);
        fake.lease("default", &id, lease);
    }
    let (_, lease) = lease_until(&foreign, now - HOUR);
    fake.lease("default", "of-a-pull", lease);
    let (store, _tasks) = start(&fake, 1000).await;
    until("the expired one goes", || {
        kept(&fake, "default") == these(&[&alive])
    })
    .await;
    let metrics = &store.metrics.retain;
    until("it is counted", || metrics.bytes.get() == 5).await;
    assert_eq!(metrics.objects.get(), 1);
    assert!(fake.leases("default").contains_key("of-a-pull"));
}

#[tokio::test]
async fn a_lease_that_was_taken_under_a_clock_ahead_is_shortened() {
    let fake = running();
    let [new, old] = [&b"new"[..], b"old"].map(|bytes| fake.put_file(bytes));
    commit_earlier(&fake, &old, 2 * HOUR);
    let ahead = SystemTime::now() + 365 * 24 * HOUR;
    for digest in [&new, &old] {
        let (id, lease) = lease_until(digest, ahead);
        fake.lease("k8s.io", &id, lease);
    }
    let (_store, _tasks) = start(&fake, 1000).await;
    until("only the new one is kept", || {
        kept(&fake, "k8s.io") == these(&[&new])
    })
    .await;
    let leases = fake.leases("k8s.io");
    let expire = expiry(&leases[&format!("peili-{new}")]);
    assert!(expire > SystemTime::now() && expire <= SystemTime::now() + HOUR);
}

#[tokio::test]
async fn its_time_begins_with_the_commit() {
    let fake = running();
    let [older, newer] = [&b"older"[..], b"newer"].map(|b| commit(&fake, "k8s.io", "quay.io", b));
    // Both are young enough to count as new in a listing.
    commit_earlier(&fake, &older, Duration::from_secs(20));
    let (store, _tasks) = open(retaining(&fake, Duration::from_secs(15), 1000));
    ready(&fake, &store).await;
    until("the newer one is counted", || {
        store.metrics.retain.bytes.get() == 5
    })
    .await;
    assert_eq!(kept(&fake, "k8s.io"), these(&[&newer]));
}

#[tokio::test]
async fn a_restart_of_containerd_is_lived_through() {
    let mut fake = running();
    let (store, _tasks) = start(&fake, 1000).await;
    let first = commit(&fake, "k8s.io", "quay.io", b"first");
    until("it is kept", || kept(&fake, "k8s.io") == these(&[&first])).await;
    fake.stop();
    until("not ready", || !store.health().is_ready()).await;
    let meanwhile = commit(&fake, "k8s.io", "quay.io", b"meanwhile");
    fake.start();
    ready(&fake, &store).await;
    let then = commit(&fake, "k8s.io", "quay.io", b"then");
    until("all are kept", || {
        kept(&fake, "k8s.io") == these(&[&first, &meanwhile, &then])
    })
    .await;
    let bytes = || store.metrics.retain.bytes.get();
    until("all are counted", || bytes() == 5 + 9 + 4).await;
    fake.remove_file(&first);
    until("what is gone is let go", || {
        kept(&fake, "k8s.io") == these(&[&meanwhile, &then])
    })
    .await;
}
