//! What becomes of those who are slower than the others.

use super::*;

fn is_outrun(news: &News) -> bool {
    let outrun = Place { epoch: 7, order: 1 };
    matches!(news, News::Outrun { place, .. } if *place == outrun)
}

/// Of the leader's ingest.
const STEP: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn of_a_follower_that_stays_behind_the_others_are_told_now_and_then() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, 40 * MIB as u64).await;
    growing.write(&[0; MIB]);
    let mut answer = leader.fed(&digest).await;
    answer.read(MIB).await;
    for _ in 0..30 {
        growing.write(&[0; MIB]);
        tokio::time::sleep(STEP).await;
    }
    let outrun = |script: &Script| {
        let news = script.news().into_iter();
        news.filter(is_outrun).collect::<Vec<_>>()
    };
    leader.script.until(|s| !outrun(s).is_empty()).await;
    let outrun = outrun(&leader.script);
    assert!((2..10).contains(&outrun.len()), "{outrun:?}");
    let Some(News::Outrun { rate, .. }) = outrun.last() else {
        panic!("{outrun:?}");
    };
    let mib = *rate as f64 / MIB as f64;
    assert!((8.0..12.0).contains(&mib), "{mib} MiB/s");
    let counted = leader.metric("peili_flights_outrun_total");
    assert_eq!(counted, outrun.len() as u64);
    // It may go on, as slow as it is.
    answer.read(MIB).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_all_there_is_does_not_stay_behind() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, 40 * MIB as u64).await;
    growing.write(&[0; 4 * MIB]);
    // One that takes it as it comes, one that comes late, and one that has nothing to take.
    let mut close = leader.fed(&digest).await;
    for _ in 0..15 {
        growing.write(&[0; MIB]);
        close.read(MIB).await;
        tokio::time::sleep(STEP).await;
    }
    let mut late = leader.fed(&digest).await;
    for _ in 0..15 {
        growing.write(&[0; MIB]);
        late.read(MIB).await;
        close.read(MIB).await;
        tokio::time::sleep(STEP).await;
    }
    drop(close);
    tokio::time::sleep(STEP * 30).await;
    assert!(!leader.script.news().iter().any(is_outrun));
    drop(late);
}

#[tokio::test]
async fn who_steps_aside_ends_what_it_passes_on_before_it_has_it() {
    let it = chain().await;
    let (bytes, first) = (&it.bytes, &it.first);
    it.second.then(it.leader.follow(1));
    let mut answer = first.own(&it.digest).await;
    let mut last = it.second.own(&it.digest).await;
    it.growing.write(&bytes[..MIB]);
    it.own.write(&answer.read(MIB).await);
    let begin = last.read(MIB).await;

    // What is no faster than this node is not held up by it.
    first.script.outrun.send_replace(0);
    tokio::task::yield_now().await;
    first.script.outrun.send_replace(u64::MAX);
    it.growing.write(&bytes[MIB..]);
    let (rest, is_all) = last.rest().await;
    assert!(is_all && begin == bytes[..MIB] && rest == bytes[MIB..]);
    assert!(
        answer.rest().await == (bytes.slice(MIB..), true),
        "its own client's"
    );
    let moved = it.second.script.seeks.lock()[1].clone();
    assert_eq!(
        (moved.offset, moved.failed),
        (MIB as u64, vec![first.peer()])
    );
    assert_eq!(*first.script.lags.lock(), [true]);
    assert_eq!(first.script.seeks.lock().len(), 1, "it goes on where it is");
    assert_eq!(first.metric("peili_flights_stepped_aside_total"), 1);

    // Who asks afterwards is fed.
    let mut late = first.fed(&it.digest).await;
    late.read(MIB).await;
    it.own.write(&bytes[MIB..]);
    assert!(late.rest().await == (bytes.slice(MIB..), true));
}

#[tokio::test(start_paused = true)]
async fn who_takes_in_as_much_as_others_is_slow_no_longer() {
    let (node, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = node.lead(&digest, 40 * MIB as u64).await;
    let told = async |lags: &[bool]| node.script.until(|s| *s.lags.lock() == lags).await;
    node.script.outrun.send_replace(4 * MIB as u64);
    told(&[true]).await;
    for _ in 0..30 {
        growing.write(&[0; MIB]);
        tokio::time::sleep(STEP).await;
    }
    told(&[true, false]).await;
    node.script.outrun.send_replace(10 * MIB as u64);
    tokio::time::sleep(STEP * 20).await;
    node.script.outrun.send_replace(10 * MIB as u64);
    told(&[true, false, true]).await;
    // Nothing more comes. That is not held against it for ever.
    tokio::time::sleep(crate::flight::aside::FORGIVEN).await;
    told(&[true, false, true, false]).await;
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_far_too_slow_is_left_for_a_better_one() {
    const FAST: usize = MIB / 4;
    const SLOW: usize = MIB / 64;
    let (bytes, leader, better) = (Bytes::from(vec![7; 32 * MIB]), node().await, node().await);
    let (follower, digest) = (node().await, Digest::sha256(b"layer"));
    let size = bytes.len() as u64;
    let growing = leader.lead(&digest, size).await;
    let has_all = better.lead(&digest, size).await;
    has_all.write(&bytes);
    let _own = follower.ingest(&digest, size);
    follower.then(leader.follow(1));
    let answer = follower.own(&digest).await;
    let reading = tokio::spawn(answer.rest());
    for _ in 0..70 {
        growing.write(&bytes[..FAST]);
        tokio::time::sleep(STEP).await;
    }
    assert_eq!(follower.script.seeks.lock().len(), 1);
    // There is none that is better; then there is, but it is too soon to ask again.
    follower.then(Turn::Alone);
    follower.then(leader.follow(1));
    for _ in 0..120 {
        growing.write(&bytes[..SLOW]);
        tokio::time::sleep(STEP).await;
    }
    let asked = |script: &Script| -> Vec<_> {
        let seeks = script.seeks.lock();
        let asked = seeks.iter().map(|s| (s.too_slow, s.failed.clone()));
        asked.collect()
    };
    let slow = (true, vec![leader.peer()]);
    assert_eq!(
        asked(&follower.script)[1..],
        [slow.clone(), (false, vec![])]
    );
    follower.then(better.follow(1));
    for _ in 0..600 {
        growing.write(&bytes[..SLOW]);
        tokio::time::sleep(STEP).await;
    }
    assert!(reading.await.expect("no panic") == (bytes, true));
    assert_eq!(asked(&follower.script)[3..], [slow]);
    assert_eq!(follower.metric("peili_flights_too_slow_total"), 2);
}
