//! What becomes of those who are slower than the others.

use super::*;
use crate::Candidate;
use crate::flight::slow_state::SLOW_FOR;

fn is_too_slow(progress: &PullProgress) -> bool {
    let too_slow_reports = ChainPosition { epoch: 7, order: 1 };
    matches!(progress, PullProgress::FollowerTooSlow { position, .. } if *position == too_slow_reports)
}

/// Of the leader's ingest.
const STEP: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn of_a_follower_that_stays_behind_the_others_are_told_now_and_then() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, 40 * MIB as u64).await;
    growing.write(&[0; MIB]);
    let mut answer = leader.follow_first(&digest).await;
    answer.read(MIB).await;
    for _ in 0..30 {
        growing.write(&[0; MIB]);
        tokio::time::sleep(STEP).await;
    }
    let too_slow_reports = |script: &Script| {
        let progress = script.progress().into_iter();
        progress.filter(is_too_slow).collect::<Vec<_>>()
    };
    leader
        .script
        .until(|s| !too_slow_reports(s).is_empty())
        .await;
    let too_slow_reports = too_slow_reports(&leader.script);
    assert!(
        (2..10).contains(&too_slow_reports.len()),
        "{too_slow_reports:?}"
    );
    let Some(PullProgress::FollowerTooSlow { rate, .. }) = too_slow_reports.last() else {
        panic!("{too_slow_reports:?}");
    };
    let mib = *rate as f64 / MIB as f64;
    assert!((8.0..12.0).contains(&mib), "{mib} MiB/s");
    let counted = leader.metric("peili_flights_outrun_total");
    assert_eq!(counted, too_slow_reports.len() as u64);
    // It may go on, as slow as it is.
    answer.read(MIB).await;
}

#[tokio::test(start_paused = true)]
async fn who_takes_all_there_is_does_not_stay_behind() {
    let (leader, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = leader.lead(&digest, 40 * MIB as u64).await;
    growing.write(&[0; 4 * MIB]);
    // One that takes it as it comes, one that comes late, and one that has nothing to take.
    let mut close = leader.follow_first(&digest).await;
    for _ in 0..15 {
        growing.write(&[0; MIB]);
        close.read(MIB).await;
        tokio::time::sleep(STEP).await;
    }
    let mut late = leader.follow_first(&digest).await;
    for _ in 0..15 {
        growing.write(&[0; MIB]);
        late.read(MIB).await;
        close.read(MIB).await;
        tokio::time::sleep(STEP).await;
    }
    drop(close);
    tokio::time::sleep(STEP * 30).await;
    assert!(!leader.script.progress().iter().any(is_too_slow));
    drop(late);
}

#[tokio::test]
async fn a_slow_node_ends_the_streams_of_incomplete_objects() {
    let it = chain().await;
    let (bytes, first) = (&it.bytes, &it.first);
    it.second.then(it.leader.follow(1));
    let mut answer = first.own(&it.digest).await;
    let mut last = it.second.own(&it.digest).await;
    it.growing.write(&bytes[..MIB]);
    it.own.write(&answer.read(MIB).await);
    let begin = last.read(MIB).await;

    // What is no faster than this node is not held up by it.
    first.script.too_slow_reports.send_replace(0);
    tokio::task::yield_now().await;
    first.script.too_slow_reports.send_replace(u64::MAX);
    it.growing.write(&bytes[MIB..]);
    let (rest, is_all) = last.rest().await;
    assert!(is_all && begin == bytes[..MIB] && rest == bytes[MIB..]);
    assert!(
        answer.rest().await == (bytes.slice(MIB..), true),
        "its own client's"
    );
    assert_eq!(it.second.script.requests.lock()[1].offset, MIB as u64);
    assert_eq!(it.second.script.failed(1), [first.id()]);
    assert_eq!(*first.script.is_slow.lock(), [true]);
    assert_eq!(
        first.script.requests.lock().len(),
        1,
        "it goes on where it is"
    );
    assert_eq!(first.metric("peili_flights_stepped_aside_total"), 1);

    // Who asks afterwards is fed.
    let mut late = first.follow_first(&it.digest).await;
    late.read(MIB).await;
    it.own.write(&bytes[MIB..]);
    assert!(late.rest().await == (bytes.slice(MIB..), true));
}

#[tokio::test(start_paused = true)]
async fn who_takes_in_as_much_as_others_is_slow_no_longer() {
    let (node, digest) = (node().await, Digest::sha256(b"layer"));
    let growing = node.lead(&digest, 40 * MIB as u64).await;
    let told = async |is_slow: &[bool]| node.script.until(|s| *s.is_slow.lock() == is_slow).await;
    node.script.too_slow_reports.send_replace(4 * MIB as u64);
    told(&[true]).await;
    for _ in 0..30 {
        growing.write(&[0; MIB]);
        tokio::time::sleep(STEP).await;
    }
    told(&[true, false]).await;
    node.script.too_slow_reports.send_replace(10 * MIB as u64);
    tokio::time::sleep(STEP * 20).await;
    node.script.too_slow_reports.send_replace(10 * MIB as u64);
    told(&[true, false, true]).await;
    // Nothing more comes. That is not held against it for ever.
    tokio::time::sleep(SLOW_FOR).await;
    told(&[true, false, true, false]).await;
}

#[tokio::test(start_paused = true)]
async fn what_shows_again_and_again_counts_for_longer() {
    let node = node().await;
    let is_slow = || node.script.is_slow.lock().last() == Some(&true);
    let lasts = async |expected: Duration| {
        node.script.too_slow_reports.send_replace(MIB as u64);
        node.script.until(|_| is_slow()).await;
        tokio::time::sleep(expected - STEP).await;
        assert!(is_slow(), "{expected:?}");
        tokio::time::sleep(STEP * 2).await;
        assert!(!is_slow(), "{expected:?}");
    };
    for times in [1, 2, 4] {
        lasts(SLOW_FOR * times).await;
        tokio::time::sleep(SLOW_FOR / 2).await;
    }
    tokio::time::sleep(SLOW_FOR * 4).await;
    // It was well for as long.
    for doublings in 0..8 {
        lasts(SLOW_FOR * (1 << doublings)).await;
    }
    lasts(Duration::from_secs(24 * 3600)).await;
}

/// A follower that has got much more before of what a slow leader gives it.
struct Slowed {
    bytes: Bytes,
    digest: Digest,
    leader: Node,
    follower: Node,
    growing: Ingest,
    _own: Ingest,
}

impl Slowed {
    const FAST: usize = MIB / 4;
    const SLOW: usize = MIB / 64;

    async fn new() -> (Self, Answer) {
        let (bytes, leader) = (Bytes::from(vec![7; 32 * MIB]), node().await);
        let (follower, digest) = (node().await, Digest::sha256(b"layer"));
        let size = bytes.len() as u64;
        let growing = leader.lead(&digest, size).await;
        let _own = follower.ingest(&digest, size);
        follower.then(leader.follow(1));
        let answer = follower.own(&digest).await;
        let it = Self {
            bytes,
            digest,
            leader,
            follower,
            growing,
            _own,
        };
        (it, answer)
    }

    async fn flow(&self, step: usize, steps: usize) {
        for _ in 0..steps {
            self.growing.write(&self.bytes[..step]);
            tokio::time::sleep(STEP).await;
        }
    }

    /// The lead that the follower found slow, and its source, each time that it asked.
    fn asked(&self) -> Vec<(Option<NodeId>, Option<NodeId>)> {
        let requests = self.follower.script.requests.lock();
        let asked = requests.iter().map(|s| (s.slow_leader(), s.slow_source()));
        asked.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_far_too_slow_is_left_for_a_better_one() {
    let (it, answer) = Slowed::new().await;
    let better = node().await;
    let has_all = better.lead(&it.digest, it.bytes.len() as u64).await;
    has_all.write(&it.bytes);
    let reading = tokio::spawn(answer.rest());
    it.flow(Slowed::FAST, 70).await;
    assert_eq!(it.asked(), [(None, None)]);
    // There is none that is better; then there is, but it is too soon to ask again.
    it.follower.then(Decision::Alone);
    it.follower.then(it.leader.follow(1));
    it.flow(Slowed::SLOW, 100).await;
    let slow = (Some(it.leader.id()), Some(it.leader.id()));
    assert_eq!(it.asked()[1..], [slow, (None, None)]);
    it.follower.then(better.follow(1));
    it.flow(Slowed::SLOW, 200).await;
    assert!(reading.await.expect("no panic") == (it.bytes.clone(), true));
    assert_eq!(it.asked()[3..], [slow]);
    assert_eq!(it.follower.metric("peili_flights_too_slow_total"), 2);
}

#[tokio::test(start_paused = true)]
async fn who_has_got_far_more_than_it_is_given_is_not_the_slow_one() {
    let (it, answer) = Slowed::new().await;
    let _reading = tokio::spawn(answer.rest());
    it.flow(Slowed::FAST, 70).await;
    it.flow(Slowed::SLOW, 15).await;
    it.follower
        .script
        .too_slow_reports
        .send_replace(10 * MIB as u64);
    let is_slow = |is_slow: &'static [bool]| move |s: &Script| *s.is_slow.lock() == is_slow;
    it.follower.script.until(is_slow(&[true])).await;
    it.follower.then(it.leader.follow(1));
    it.flow(Slowed::SLOW, 100).await;
    it.follower.script.until(is_slow(&[true, false])).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_node_evicts_new_followers_again() {
    let node = node().await;
    for times in 1..=3 {
        node.script
            .too_slow_reports
            .send_replace(MIB as u64 + times);
        let raised = async {
            while node.metric("peili_flights_stepped_aside_total") < times {
                tokio::time::sleep(STEP).await;
            }
        };
        timeout(PATIENCE, raised).await.expect("it steps aside");
    }
    assert_eq!(*node.script.is_slow.lock(), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_pull_is_requeued_where_downloads_share_slots() {
    let (it, answer) = Slowed::new().await;
    it.follower.store.set_downloads_share_slots();
    let reading = tokio::spawn(answer.rest());
    it.flow(Slowed::FAST, 70).await;
    it.flow(Slowed::SLOW, 100).await;
    let (begin, is_all) = reading.await.expect("no panic");
    assert!(!is_all && begin.len() < it.bytes.len());
    assert_eq!(it.asked().len(), 1, "others had their turn first");

    // Nobody has begun when it comes again, nor when another object of the image comes.
    let slow = (Some(it.leader.id()), Some(it.leader.id()));
    it.follower.then(Decision::Later);
    it.follower.own(&it.digest).await;
    it.follower.then(Decision::Lead);
    assert_eq!(it.follower.own(&it.digest).await.0.status(), 404);
    let next = Digest::sha256(b"next");
    let _next = it.follower.ingest(&next, 2 * MIB as u64);
    it.follower.then(Decision::Lead);
    it.follower.own(&next).await;
    let next = (Some(it.leader.id()), None);
    assert_eq!(it.asked()[1..], [slow, slow, next]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_lead_that_is_found_too_slow_says_so() {
    let (it, answer) = Slowed::new().await;
    it.follower.store.set_downloads_share_slots();
    let _reading = tokio::spawn(answer.rest());
    let next = Digest::sha256(b"next");
    let _next = it.follower.ingest(&next, 2 * MIB as u64);
    let waiting = it.follower.own(&next);
    let found = async {
        it.flow(Slowed::FAST, 70).await;
        assert_eq!(it.asked().len(), 2);
        it.follower.then(Decision::Lead);
        it.flow(Slowed::SLOW, 100).await;
    };
    let (answer, ()) = tokio::join!(waiting, found);
    assert_eq!(answer.0.status(), 404);
    assert_eq!(it.asked()[2..], [(Some(it.leader.id()), None)]);
}

fn asking() -> http::request::Parts {
    let request = http::Request::get("/gauge").body(());
    request.expect("a request").into_parts().0
}

fn remote(node: &Node) -> crate::Ends {
    crate::Ends {
        remote: ([10, 0, 0, 9], 9).into(),
        local: node.address,
    }
}

/// What a node answers that is asked for bytes to measure by: the status, the bytes, and what it knows of its link.
async fn measured(node: &Node) -> (StatusCode, usize, Option<String>) {
    let answer = Answer(node.mirror.answer(&asking(), remote(node)).await);
    let link = answer.0.headers().get("x-peili-link");
    let link = link.map(|link| link.to_str().expect("text").to_owned());
    (answer.0.status(), answer.rest().await.0.len(), link)
}

#[tokio::test(start_paused = true)]
async fn links_are_measured_while_nothing_else_moves() {
    let (node, digest) = (node().await, Digest::sha256(b"layer"));
    assert_eq!(measured(&node).await, (StatusCode::OK, MIB, None));
    let growing = node.lead(&digest, MIB as u64).await;
    assert_eq!(measured(&node).await.0, StatusCode::SERVICE_UNAVAILABLE);
    growing.fail(&node, &digest);
    let over = async {
        while measured(&node).await.0 != StatusCode::OK {
            tokio::time::sleep(STEP).await;
        }
    };
    timeout(PATIENCE, over).await.expect("it is idle again");

    // One at a time, unless somebody takes too long.
    let forgotten = node.mirror.answer(&asking(), remote(&node)).await;
    assert_eq!(measured(&node).await.0, StatusCode::SERVICE_UNAVAILABLE);
    tokio::time::sleep(crate::fetch::link_probe::LIMIT).await;
    assert_eq!(measured(&node).await.0, StatusCode::OK);
    drop(forgotten);
}

/// A node that sends what others measure by in so much time at the least, and knows that its link carries far more.
async fn random_peer(pause: Duration) -> Candidate {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            while let Ok(1..) = stream.read(&mut head).await {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nX-Peili-Link: 50000000\r\nContent-Length: {MIB}\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await.expect("taken");
                stream.write_all(&[0; MIB * 3 / 4]).await.expect("taken");
                tokio::time::sleep(pause).await;
                stream.write_all(&[0; MIB / 4]).await.expect("taken");
            }
        }
    });
    candidate(address)
}

#[tokio::test]
async fn who_finds_its_link_far_slower_than_those_of_others_says_so() {
    let node = node().await;
    let pause = Duration::from_millis(200);
    let random_peers = [random_peer(pause).await, random_peer(pause).await];
    *node.script.random_peers.lock() = random_peers.to_vec();
    node.script
        .until(|script| *script.is_slow.lock() == [true])
        .await;
    assert_eq!(node.metric("peili_flights_slow"), 1);
    let link = node.metric("peili_flights_link_bytes_per_second");
    assert!((1..=MIB as u64 / 2 * 5).contains(&link), "{link}");
    let (status, _, known) = measured(&node).await;
    assert_eq!((status, known), (StatusCode::OK, Some(link.to_string())));
}
