//! Several requests for one object at the same moment.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_many_takes_it_in_and_the_others_read_along() {
    let root = folder();
    let store = std::sync::Arc::new(open(root.path()));
    let content = bytes(7, MIB);
    let digest = Digest::sha256(&content);
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(16));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (store, start) = (store.clone(), start.clone());
        let (content, digest) = (content.clone(), digest.clone());
        tasks.spawn(async move {
            start.wait().await;
            let begun = store.begin(&digest).expect("room");
            let offered = store.ingest(&digest).expect("readable");
            // No intake writes before all have begun.
            start.wait().await;
            match begun {
                Begun::New(mut sink, _) => {
                    sink.expect(content.len() as u64).await.expect("room");
                    for piece in content.chunks(10_000) {
                        let piece = Bytes::copy_from_slice(piece);
                        sink.write(piece).await.expect("written");
                    }
                    sink.commit(shared()).await.expect("right");
                    true
                }
                Begun::Joined(growing) => {
                    let offered = offered.expect("on its way");
                    assert_eq!(follow(offered.growing).await.as_deref(), Some(&content[..]));
                    assert_eq!(follow(growing).await.as_deref(), Some(&content[..]));
                    false
                }
                Begun::Present => panic!("nobody has committed yet"),
            }
        });
    }
    let led = tokio::time::timeout(SOON, tasks.join_all())
        .await
        .expect("no waiting for ever");
    assert_eq!(led.iter().filter(|led| **led).count(), 1);
    assert!(matches!(store.begin(&digest), Ok(Begun::Present)));
}

/// Reads bytes as they come. `None`: it ends early.
pub async fn follow(mut growing: Growing) -> Option<Vec<u8>> {
    let mut read = Vec::new();
    loop {
        let at = read.len() as u64;
        let progress = growing
            .until(|p| p.written > at || p.stage != IngestStage::Filling)
            .await;
        if progress.stage == IngestStage::Failed {
            return None;
        }
        let more = usize::try_from(progress.written - at).expect("small");
        read.resize(read.len() + more, 0);
        let from = read.len() - more;
        growing
            .file()
            .read_exact_at(&mut read[from..], at)
            .expect("readable");
        if progress.stage == IngestStage::Complete && Some(read.len() as u64) == progress.total {
            return Some(read);
        }
    }
}
