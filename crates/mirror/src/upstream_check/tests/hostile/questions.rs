//! Which clients cause questions to upstream, and how often.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stranger_starts_no_check_and_learns_what_is_known() {
    let test = start(CheckOptions::default());
    let told = test.admit("quay.io", Asker::Unauthenticated).await;
    assert!(is_not_public(&told), "{told:?}");
    assert_eq!(test.asked(), 0);
    let own = test.admit("quay.io", Asker::ProvenOwn).await;
    own.expect("public");
    let told = test.admit("quay.io", Asker::Unauthenticated).await;
    told.expect("known to be public");
    advance(Duration::from_secs(10 * 60)).await;
    let told = test.admit("quay.io", Asker::Unauthenticated).await;
    told.expect("public not long ago");
    assert_eq!(test.asked(), 1);
    // Credentials of a stranger cause none either.
    let credentials = ClientCredentials::new(HeaderValue::from_static("Basic eDp5"));
    let reference = Reference::Digest(digest("manifest"));
    let mut other = target("b", reference, Kind::Manifest);
    let told = test
        .check
        .admit(&mut other, Some(&credentials), Asker::Unauthenticated);
    assert!(is_not_public(&told.await));
    assert_eq!(test.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn few_registries_that_nobody_knows_are_asked_within_a_minute() {
    let test = start(CheckOptions::default());
    test.admit("known.io", Asker::Anybody)
        .await
        .expect("public");
    for n in 0..100 {
        let _ = test.admit(&format!("r{n}.io"), Asker::Anybody).await;
    }
    assert_eq!(test.asked(), 16);
    advance(Duration::from_secs(10 * 60)).await;
    let _ = test.admit("known.io", Asker::Anybody).await;
    let _ = test.admit("r99.io", Asker::Anybody).await;
    assert_eq!(test.asked(), 18);
    for n in 0..100 {
        let _ = test.admit(&format!("r{n}.org"), Asker::ProvenOwn).await;
    }
    assert_eq!(test.asked(), 118, "this node's own client may ask for any");
}

#[tokio::test(start_paused = true)]
async fn anybody_has_some_questions_a_minute() {
    let test = start(CheckOptions::default());
    for n in 0..500 {
        let _ = test.tag(&format!("a{n}")).await;
    }
    assert_eq!(test.asked(), 240);
    let told = test.tag("a499").await;
    assert!(matches!(told, Err(Refusal::TagUnchecked(_))), "{told:?}");
    advance(Duration::from_secs(60)).await;
    test.tag("a499").await.expect("asked");
}

#[tokio::test(start_paused = true)]
async fn half_of_the_questions_are_kept_for_this_nodes_own_client() {
    let test = start(CheckOptions::default());
    test.manifest("met").await.expect("public");
    let credentials = ClientCredentials::new(HeaderValue::from_static("Basic eDp5"));
    let (mut asked, mut with_credentials) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let name = format!("a{n}");
        test.set(&name, Does::Hang);
        for (all, with) in [
            (&mut asked, None),
            (&mut with_credentials, Some(&credentials)),
        ] {
            let reference = Reference::Digest(digest("manifest"));
            let mut target = target(&name, reference, Kind::Manifest);
            let check = &test.check;
            all.push(async move { check.admit(&mut target, with, Asker::Anybody).await });
        }
    }
    futures::future::join_all(asked).await;
    assert_eq!(test.asked(), 1 + 8);
    let _ = test.admit("quay.io", Asker::ProvenOwn).await;
    tokio::task::yield_now().await;
    assert_eq!(test.asked(), 1 + 8 + 1);
    advance(Duration::from_secs(30)).await;
    futures::future::join_all(with_credentials).await;
    assert_eq!(test.asked(), 1 + 8 + 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn questions_about_what_is_held_count_for_those_who_cause_them() {
    let test = start(CheckOptions::default());
    let shows = async |registry: &str, digest: &Digest, caller| {
        let reference = Reference::Digest(digest.clone());
        let mut asked = target("a", reference, Kind::Manifest);
        asked.origin.as_mut().expect("one").registry = registry.parse().expect("a registry");
        asked.caller = caller;
        test.check.shows(&asked).await.expect("there is memory")
    };
    let image = |n| manifest_of(&digest(&format!("layer {n}")), &digest("config"));
    for n in 0..20 {
        let name = format!("r{n}.io");
        let held = test.hold_at(&image(n), &[(&name, "a")]);
        let is_asked = n < 16;
        assert_eq!(shows(&name, &held, Caller::Peer).await, is_asked, "{n}");
    }
    assert_eq!(test.asked(), 16);
    let held = test.hold_at(&image(20), &[("own.io", "a")]);
    assert!(shows("own.io", &held, Caller::Own).await);
    test.set("a", Does::GiveToThisNode);
    let held = test.hold_at(&image(21), &[("given.io", "a")]);
    for _ in 0..5 {
        assert!(!shows("given.io", &held, Caller::Own).await);
    }
    assert_eq!(test.asked(), 16 + 1 + 1, "it is remembered");
}
