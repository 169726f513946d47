//! Any faults of a store in any order: no client gets wrong bytes, and lost objects can be taken in again.

use proptest::prelude::*;
use rustix::process::{Resource, getrlimit};

use super::damage::{Damage, damage};
use super::outage::{again_alone, limit_files};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    TakeIn(usize),
    Pull(usize),
    Damage(usize, Damage),
    Restart,
    /// From now on no file becomes larger than this many bytes, as on a full disk.
    Limit(Option<u64>),
}

/// Sizes of the contents; see `damage.rs`.
const SIZES: [u64; 4] = [200, 3000, MIB + 1, 9 * MIB];

fn step() -> impl Strategy<Value = Step> {
    let which = 0..SIZES.len();
    let limit = prop::sample::select(vec![None, None, Some(0), Some(1000), Some(MIB)]);
    prop_oneof![
        4 => which.clone().prop_map(Step::TakeIn),
        4 => which.clone().prop_map(Step::Pull),
        4 => (which, damage()).prop_map(|(n, damage)| Step::Damage(n, damage)),
        2 => Just(Step::Restart),
        2 => limit.prop_map(Step::Limit),
    ]
}

/// Takes in a content if possible, as a client's request would. An object that counts as present must be right.
async fn try_take_in(store: &Layout, content: &Bytes) -> Result<(), IntakeError> {
    let digest = Digest::sha256(content);
    loop {
        match store.begin(&digest)? {
            Begun::Present => match pull(store, &digest).await {
                Some(found) => {
                    assert_eq!(found, *content);
                    return Ok(());
                }
                None => continue,
            },
            Begun::Joined(_) => panic!("nobody else is there"),
            Begun::New(mut sink, _) => {
                sink.expect(content.len() as u64).await?;
                let (one, other) = (content.slice(..100), content.slice(100..));
                sink.write(one).await?;
                sink.write(other).await?;
                return sink.commit(shared()).await;
            }
        }
    }
}

async fn run(contents: &[Bytes], steps: Vec<Step>) {
    let root = folder();
    // A failed one may have left its limit.
    limit_files(None);
    let mut is_limited = false;
    let mut store = Some(open(root.path()));
    for step in steps {
        let open_store = store.as_ref().expect("open between steps");
        match step {
            Step::TakeIn(n) => {
                let taken = try_take_in(open_store, &contents[n]).await;
                if let Err(fault) = taken {
                    assert!(is_limited, "{fault}");
                    let left = files(&root.path().join("ingest"));
                    // A file that was given up is renamed at once and removed a moment later; the index may be in
                    // progress.
                    let of_object = |name: &String| {
                        let mut algorithms = Digest::ALGORITHMS.iter();
                        algorithms.any(|algorithm| name.starts_with(algorithm))
                    };
                    assert!(!left.iter().any(of_object), "{left:?}");
                } else {
                    let pulled = pull(open_store, &Digest::sha256(&contents[n])).await;
                    assert_eq!(pulled.as_deref(), Some(&contents[n][..]));
                }
            }
            Step::Pull(n) => {
                let pulled = pull(open_store, &Digest::sha256(&contents[n])).await;
                assert!(pulled.is_none_or(|pulled| pulled == contents[n]));
            }
            Step::Damage(n, damage) => {
                let path = blob_path(root.path(), &Digest::sha256(&contents[n]));
                // A damaged object may be removed at any moment.
                let is_whole =
                    !path.is_symlink() && fs::read(&path).is_ok_and(|b| b == contents[n]);
                // The damage is not one of the store's writes.
                let limit = getrlimit(Resource::Fsize).current;
                limit_files(None);
                if is_whole {
                    damage.befall(&path);
                }
                limit_files(limit);
            }
            Step::Restart => {
                drop(store.take());
                store = Some(open(root.path()));
            }
            Step::Limit(limit) => {
                is_limited = limit.is_some();
                limit_files(limit);
            }
        }
        let catalog = store.as_ref().expect("open").catalog();
        let objects = catalog.digests().into_iter().map(|d| catalog.object(&d));
        let mut private = objects
            .flatten()
            .filter(|o| o.visibility != Visibility::Shared);
        assert_eq!(private.next(), None, "what was shared stays so");
    }
    limit_files(None);
    for content in contents {
        try_take_in(store.as_ref().expect("open"), content)
            .await
            .expect("there is room");
    }
}

#[test]
fn nobody_pulls_wrong_bytes_whatever_befalls_the_store() {
    let name = "tests::sequences::nobody_pulls_wrong_bytes_whatever_befalls_the_store";
    if again_alone(name) {
        return;
    }
    let contents: Vec<_> = (1..).zip(SIZES).map(|(n, size)| bytes(n, size)).collect();
    let config = ProptestConfig {
        cases: 32,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..30))| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(run(&contents, steps));
    });
}
