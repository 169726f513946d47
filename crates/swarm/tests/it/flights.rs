//! Members among themselves, and together with nodes that are no members.

use mirror::{Candidate, Decision, Flights as _, PullProgress, SourceRequest, nodes_field};

use super::*;

/// An object by its number.
struct Object {
    digest: Digest,
    request: SourceRequest,
}

fn object(number: usize) -> Object {
    let digest = digest(number);
    let origin = ("registry.example", "registry.example/team/app");
    let request = SourceRequest::new(digest.as_str(), Some(origin));
    Object { digest, request }
}

fn digest(number: usize) -> Digest {
    Digest::sha256(&number.to_be_bytes())
}

fn metric(node: &Node, name: &str) -> u64 {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &node.metrics).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.map(|value| value.trim().parse());
    value.expect("a metric").expect("a whole number")
}

async fn members(nodes: &[Node], count: u64) {
    until(|| {
        let mut nodes = nodes.iter();
        nodes.all(|node| metric(node, "peili_router_members ") == count)
    })
    .await;
}

/// Requests a source, and begins if the node leads.
async fn pull(node: &Node, object: Object) -> Decision<Candidate> {
    let Object { digest, request } = object;
    let decision = timeout(GENEROUS, node.router.request_source(request)).await;
    let decision = decision.expect("an answer").decision;
    if matches!(decision, Decision::Lead) {
        node.router
            .report(&digest, PullProgress::Begun { size: 1_000 });
    }
    decision
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_holds_is_found_until_it_is_withdrawn() {
    let nodes = cluster(5, config).await;
    members(&nodes, 5).await;
    nodes[0].router.announce(vec![key(1), key(2)]).await;
    for node in &nodes[1..] {
        let candidate = find_one(node, &key(1)).await;
        assert_eq!(candidate.peer, nodes[0].router.id());
        assert_eq!(*candidate.addresses, [([127, 0, 0, 1], 10_000).into()]);
    }
    nodes[0].router.withdraw(vec![key(1)]).await;
    let gone = async { while !find(&nodes[4], &key(1)).await.is_empty() {} };
    timeout(GENEROUS, gone).await.expect("it is forgotten");
    find_one(&nodes[4], &key(2)).await;
    // No provider record was needed for that.
    let published = "peili_router_announcements_published_total ";
    assert!(nodes.iter().all(|node| metric(node, published) == 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_seek_at_once_one_leads_and_the_other_follows() {
    let nodes = cluster(3, config).await;
    members(&nodes, 3).await;
    for number in 0..8 {
        let decisions = tokio::join!(
            pull(&nodes[1], object(number)),
            pull(&nodes[2], object(number))
        );
        let (leader, follower) = match decisions {
            (Decision::Lead, decision) => (&nodes[1], decision),
            (decision, Decision::Lead) => (&nodes[2], decision),
            decisions => panic!("nobody leads: {decisions:?}"),
        };
        let Decision::Follow { source, .. } = follower else {
            panic!("{follower:?}");
        };
        assert_eq!(source.peer, leader.router.id());
        let registry = SocketAddr::from(([127, 0, 0, 1], leader.registry_port));
        assert_eq!(*source.addresses, [registry]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_is_followed_by_another() {
    let mut nodes = cluster(4, config).await;
    members(&nodes, 4).await;
    let dying = nodes.pop().expect("four");
    for number in 0..8 {
        assert!(matches!(pull(&dying, object(number)).await, Decision::Lead));
        let Decision::Follow { source, .. } = pull(&nodes[0], object(number)).await else {
            panic!("there is a leader");
        };
        assert_eq!(source.peer, dying.router.id());
    }
    let dead = dying.router.id();
    drop(dying);
    for number in 0..8 {
        let mut object = object(number);
        object.request.failed_sources = nodes_field(dead.node());
        let decision = pull(&nodes[0], object).await;
        assert!(matches!(decision, Decision::Lead), "{decision:?}");
    }
    members(&nodes, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_no_member_at_once() {
    let mut nodes = cluster(3, config).await;
    members(&nodes, 3).await;
    let leaving = nodes.pop().expect("three");
    leaving.router.announce(vec![key(1)]).await;
    find_one(&nodes[0], &key(1)).await;
    let started = Instant::now();
    leaving.handle.shutdown().await;
    members(&nodes, 2).await;
    assert!(started.elapsed() < Duration::from_secs(5), "not by silence");
    assert!(find(&nodes[0], &key(1)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_is_dropped_is_withdrawn() {
    let nodes = cluster(2, config).await;
    members(&nodes, 2).await;
    let led = nodes[0].router.request_source(object(1).request).await;
    assert!(matches!(led.decision, Decision::Lead));
    let waiting = nodes[1].router.request_source(object(1).request);
    let dropped = timeout(Duration::from_millis(100), waiting).await;
    assert!(dropped.is_err(), "the leader has not begun");
    until(|| metric(&nodes[1], "peili_router_pending_requests ") == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_flights_find_each_other() {
    let mut nodes = cluster(3, config).await;
    members(&nodes, 3).await;
    for (number, node) in nodes.iter().enumerate() {
        node.router.announce(vec![key(number)]).await;
    }
    nodes.push(run(plain(10_003, &[nodes[0].port])).await);
    nodes[3].router.announce(vec![key(3)]).await;
    for (number, holder) in nodes.iter().enumerate() {
        for node in nodes.iter().filter(|node| node.port != holder.port) {
            let found = find_one(node, &key(number)).await;
            assert_eq!(found.peer, holder.router.id());
        }
    }
    members(&nodes[..3], 3).await;
    let decided = nodes[3].router.request_source(object(1).request).await;
    assert!(matches!(decided.decision, Decision::Alone));
    // Nodes that are no members get the records, not just answers from the holders themselves.
    let published = |node| metric(node, "peili_router_announcements_published_total ");
    until(|| nodes.iter().all(|node| published(node) > 0)).await;
}
