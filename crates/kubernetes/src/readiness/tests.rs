//! The decisions, with a node, a mirror and a clock that the test sets.

use proptest::prelude::*;
use reqwest::StatusCode;
use serde_json::json;

use super::*;
use crate::node::Condition;

const TAINT: &str = "peili.dev/mirror-not-ready";
const POLL: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(300);

struct Test {
    readiness: Readiness,
    now: Duration,
    mirror_waits_for: Option<String>,
}

fn test(mode: Mode) -> Test {
    let config = Config {
        node: "n".into(),
        mode,
        taint: TAINT.into(),
        timeout: TIMEOUT,
    };
    Test {
        readiness: Readiness::new(config, "1a".into(), POLL),
        now: Duration::ZERO,
        mirror_waits_for: None,
    }
}

fn node(tainted: bool, condition: Option<&Condition>) -> Node {
    let taints = if tainted {
        json!([{ "key": TAINT, "effect": "NoSchedule" }])
    } else {
        json!([])
    };
    let conditions: Vec<_> = condition
        .map(|c| json!({ "type": crate::node::CONDITION, "status": c.status, "reason": c.reason, "message": c.message }))
        .into_iter()
        .collect();
    let node = json!({
        "metadata": { "uid": "u", "resourceVersion": "1" },
        "spec": { "taints": taints },
        "status": { "conditions": conditions },
    });
    serde_json::from_value(node).expect("a node")
}

fn refused(status: StatusCode) -> ApiError {
    ApiError::Refused {
        status,
        message: "no".into(),
    }
}

impl Test {
    fn next(&mut self) -> Step {
        let waits_for = self.mirror_waits_for.clone();
        self.readiness
            .next(self.now, SystemTime::UNIX_EPOCH, waits_for)
    }

    /// The next step that is not a wait, within this time.
    fn within(&mut self, limit: Duration) -> Option<Step> {
        let end = self.now + limit;
        loop {
            match self.next() {
                Step::WaitUntil(time) if time > end => return None,
                Step::WaitUntil(time) => {
                    assert!(time > self.now, "it would spin");
                    self.now = time;
                }
                step => return Some(step),
            }
        }
    }

    /// Reads the node, which must be the next step.
    fn reads(&mut self, node: Node) {
        let step = self.within(POLL);
        assert!(matches!(step, Some(Step::Read { .. })), "{step:?}");
        self.readiness.read(self.now, Ok(node));
    }

    fn tries(&mut self, result: Result<(), &str>) {
        assert_eq!(self.within(Duration::from_secs(30)), Some(Step::Trial));
        self.readiness
            .tried(self.now, result.map_err(ToOwned::to_owned));
    }

    /// The condition that the next step writes. The node then has it.
    fn writes_condition(&mut self) -> Condition {
        match self.next() {
            Step::Patch(Patch::Condition(patch)) => {
                let condition = patch["status"]["conditions"][0].clone();
                let condition: Condition = serde_json::from_value(condition).expect("a condition");
                self.readiness
                    .patched(self.now, Ok(node(false, Some(&condition))));
                condition
            }
            other => panic!("no condition is written but: {other:?}"),
        }
    }
}

#[test]
fn the_taint_goes_when_the_mirror_is_ready_and_a_trial_has_passed() {
    let mut test = test(Mode::Taint);
    test.mirror_waits_for = Some("peers".into());
    assert_eq!(test.next(), Step::Read { exact: false });
    test.reads(node(true, None));
    assert_eq!(
        test.within(Duration::from_secs(30)),
        None,
        "the mirror is not ready"
    );
    assert_eq!(test.readiness.state(), State::WaitingForMirror);

    test.mirror_waits_for = None;
    test.tries(Err("not asked"));
    assert!(
        matches!(test.next(), Step::WaitUntil(_)),
        "no trial has passed"
    );
    assert_eq!(test.readiness.state(), State::WaitingForTrial);
    test.tries(Ok(()));
    let tainted = node(true, None);
    assert_eq!(test.next(), Step::Patch(tainted.without_taint(TAINT)));
    test.readiness.patched(test.now, Ok(node(false, None)));
    assert!(
        matches!(test.next(), Step::WaitUntil(_)),
        "no Event, nothing else"
    );
    assert_eq!(test.readiness.state(), State::Ready);
}

#[test]
fn a_node_without_the_taint_is_left_alone() {
    let mut test = test(Mode::Taint);
    test.reads(node(false, None));
    let read_at = test.now;
    assert!(matches!(
        test.within(POLL),
        Some(Step::Read { exact: false })
    ));
    assert_eq!(test.now, read_at + POLL);
}

#[test]
fn a_taint_that_comes_back_needs_a_new_trial() {
    let mut test = test(Mode::Taint);
    test.reads(node(true, None));
    test.tries(Ok(()));
    test.readiness.patched(test.now, Ok(node(false, None)));
    test.reads(node(true, None));
    test.tries(Ok(()));
    assert!(matches!(test.next(), Step::Patch(_)));
}

#[test]
fn after_the_timeout_the_taint_goes_anyway_with_an_event() {
    let mut test = test(Mode::Taint);
    test.reads(node(true, None));
    let begin = test.now;
    loop {
        match test.within(TIMEOUT).expect("something to do") {
            Step::Trial => {
                test.readiness.tried(test.now, Err("no hosts.toml".into()));
            }
            Step::Read { .. } => {
                test.readiness.read(test.now, Ok(node(true, None)));
            }
            Step::Patch(_) => break,
            other => panic!("{other:?}"),
        }
    }
    let waited = test.now - begin;
    assert!(
        waited >= TIMEOUT && waited <= TIMEOUT + LOOK_EVERY,
        "{waited:?}"
    );
    assert_eq!(test.readiness.state(), State::TimedOut);
    test.readiness.patched(test.now, Ok(node(false, None)));
    match test.next() {
        Step::Report(message) => assert!(message.contains("no hosts.toml"), "{message}"),
        other => panic!("no Event but: {other:?}"),
    }
    assert!(
        matches!(test.next(), Step::WaitUntil(_)),
        "one Event is enough"
    );
}

#[test]
fn after_a_conflict_the_node_is_read_exactly_and_patched_again() {
    let mut test = test(Mode::Taint);
    test.reads(node(true, None));
    test.tries(Ok(()));
    for (status, wait) in [
        (StatusCode::CONFLICT, 100),
        (StatusCode::UNPROCESSABLE_ENTITY, 200),
    ] {
        assert!(matches!(test.next(), Step::Patch(_)));
        test.readiness.patched(test.now, Err(&refused(status)));
        assert_eq!(test.next(), Step::Read { exact: true });
        test.reads(node(true, None));
        let conflict = test.now;
        let step = test.within(Duration::from_secs(1));
        assert!(matches!(step, Some(Step::Patch(_))), "{step:?}");
        assert_eq!(test.now - conflict, Duration::from_millis(wait));
    }
}

#[test]
fn a_forbidden_patch_is_tried_again_slowly() {
    let mut test = test(Mode::Taint);
    test.reads(node(true, None));
    test.tries(Ok(()));
    assert!(matches!(test.next(), Step::Patch(_)));
    assert_eq!(
        test.readiness
            .patched(test.now, Err(&refused(StatusCode::FORBIDDEN))),
        1
    );
    assert_eq!(
        test.within(Duration::from_secs(59)),
        None,
        "no second trial either"
    );
    test.now += Duration::from_secs(1);
    test.reads(node(true, None));
    assert!(matches!(test.next(), Step::Patch(_)));
}

#[test]
fn an_api_server_that_is_gone_is_asked_less_and_less_often() {
    let mut test = test(Mode::Taint);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let before = test.now;
        assert_eq!(test.within(POLL), Some(Step::Read { exact: false }));
        waits.push((test.now - before).as_secs());
        test.readiness
            .read(test.now, Err(&ApiError::Unreachable("refused".into())));
    }
    assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60]);
    assert_eq!(test.readiness.state(), State::Unknown);
}

#[test]
fn the_condition_follows_the_mirror() {
    let mut test = test(Mode::Condition);
    test.mirror_waits_for = Some("peers".into());
    test.reads(node(false, None));
    let said = test.writes_condition();
    assert_eq!(
        (said.status.as_str(), said.reason.as_str()),
        ("False", "MirrorNotReady")
    );
    assert!(said.message.contains("peers"));

    test.mirror_waits_for = None;
    test.tries(Err("not asked"));
    assert_eq!(test.writes_condition().reason, "TrialFailed");
    test.tries(Ok(()));
    assert!(test.writes_condition().is_true());

    test.mirror_waits_for = Some("containerd".into());
    assert_eq!(
        test.within(UNREADY_GRACE - LOOK_EVERY * 2),
        None,
        "a restart of containerd"
    );
    test.now += LOOK_EVERY * 2;
    let said = test.readiness.passed();
    test.reads(node(false, Some(&said)));
    assert_eq!(test.writes_condition().reason, "MirrorNotReady");
    test.mirror_waits_for = None;
    test.tries(Ok(()));
    assert!(test.writes_condition().is_true());
}

#[test]
fn what_another_process_has_said_stays_for_a_while() {
    let mut test = test(Mode::Condition);
    test.mirror_waits_for = Some("peers".into());
    let other = Condition {
        message: "instance 2b".into(),
        ..test.readiness.passed()
    };
    test.reads(node(false, Some(&other)));
    assert_eq!(test.within(UNREADY_GRACE - LOOK_EVERY * 2), None);
    test.now += LOOK_EVERY * 2;
    test.reads(node(false, Some(&other)));
    assert_eq!(test.writes_condition().status, "False");
}

#[test]
fn an_update_ends_with_the_condition_of_the_new_process() {
    let mut test = test(Mode::Condition);
    let old = Condition {
        message: "instance 2b".into(),
        ..test.readiness.passed()
    };
    test.reads(node(false, Some(&old)));
    test.tries(Ok(()));
    let new = test.writes_condition();
    assert!(
        new.is_true() && new != old,
        "the old process must not withdraw it"
    );

    test.reads(node(
        false,
        Some(&Condition {
            message: "instance 3c".into(),
            ..test.readiness.passed()
        }),
    ));
    assert!(
        matches!(test.next(), Step::WaitUntil(_)),
        "it does not contradict a later process"
    );

    let withdraws = |said| {
        test.readiness
            .withdraw(&node(false, Some(said)), SystemTime::UNIX_EPOCH)
    };
    assert!(withdraws(&new).is_some());
    assert!(withdraws(&old).is_none());
}

#[test]
fn a_condition_does_not_become_true_by_waiting() {
    let mut test = test(Mode::Condition);
    test.mirror_waits_for = Some("peers".into());
    test.reads(node(false, None));
    let said = test.writes_condition();
    let mut reports = 0;
    while test.now < TIMEOUT * 3 {
        match test.within(POLL) {
            Some(Step::Read { .. }) => {
                test.readiness.read(test.now, Ok(node(false, Some(&said))));
            }
            Some(Step::Report(message)) => {
                assert!(message.contains("peers"), "{message}");
                reports += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(reports, 1);
}

#[derive(Clone, Debug)]
enum Happens {
    MirrorIsReady(bool),
    TaintIsBack,
    TimePasses(u64),
    /// The next request or trial succeeds, or fails with this status.
    Succeeds,
    Fails(u16),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        1 => any::<bool>().prop_map(Happens::MirrorIsReady),
        1 => Just(Happens::TaintIsBack),
        1 => (0..200_u64).prop_map(Happens::TimePasses),
        4 => Just(Happens::Succeeds),
        1 => prop::sample::select(vec![403_u16, 404, 409, 422, 500]).prop_map(Happens::Fails),
    ]
}

proptest! {
    /// Whatever happens, the taint is removed only after a trial of a ready mirror has passed, or after the timeout.
    #[test]
    fn the_taint_never_goes_too_early(history in prop::collection::vec(happens(), 1..120)) {
        let mut test = test(Mode::Taint);
        let (mut tainted, mut seen, mut passed) = (true, None, false);
        for event in history {
            let result = match event {
                Happens::MirrorIsReady(ready) => {
                    test.mirror_waits_for = (!ready).then(|| "peers".into());
                    continue;
                }
                Happens::TaintIsBack => {
                    tainted = true;
                    continue;
                }
                Happens::TimePasses(seconds) => {
                    test.now += Duration::from_secs(seconds);
                    continue;
                }
                Happens::Succeeds => Ok(()),
                Happens::Fails(status) => Err(refused(StatusCode::from_u16(status).expect("a status"))),
            };
            let now = test.now;
            match test.next() {
                Step::Read { .. } => {
                    let read = result.as_ref().map(|()| node(tainted, None));
                    if read.is_ok() && tainted {
                        seen.get_or_insert(now);
                    } else if read.is_ok() {
                        (seen, passed) = (None, false);
                    }
                    test.readiness.read(now, read);
                }
                Step::Trial => {
                    prop_assert!(test.mirror_waits_for.is_none());
                    passed |= result.is_ok();
                    test.readiness.tried(now, result.map_err(|error| error.to_string()));
                }
                Step::Patch(patch) => {
                    prop_assert_eq!(&patch, &node(true, None).without_taint(TAINT));
                    let waited = seen.is_some_and(|seen| now - seen >= TIMEOUT);
                    prop_assert!(passed || waited, "too early");
                    let patched = result.as_ref().map(|()| node(false, None));
                    if patched.is_ok() {
                        (tainted, seen, passed) = (false, None, false);
                    }
                    test.readiness.patched(now, patched);
                }
                Step::Report(_) => {}
                Step::WaitUntil(time) => prop_assert!(time > now),
            }
        }
    }
}
