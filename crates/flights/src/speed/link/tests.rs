use super::*;

const USUAL: u64 = 9_000_000;

fn test(bandwidth: u64, others: &[u64]) -> LinkTest {
    let others = others.iter().zip(0..);
    LinkTest {
        bandwidth: Some(bandwidth),
        others: others.map(|(rate, n)| (NodeId([n; 32]), *rate)).collect(),
    }
}

fn condition(bandwidth: u64, others: &[u64]) -> Condition {
    let mut link = Link {
        nodes: 3,
        ..Link::default()
    };
    link.tested(Time(0), test(bandwidth, others));
    link.condition(Time(0))
}

#[test]
fn a_link_with_less_than_a_third_of_what_is_usual_is_slow() {
    assert_eq!(condition(2_900_000, &[USUAL; 3]), Condition::Slow);
    assert_eq!(condition(3_100_000, &[USUAL; 3]), Condition::Good);
}

#[test]
fn slow_nodes_that_are_many_and_one_that_claims_too_much_decide_nothing() {
    assert_eq!(
        condition(1_000_000, &[900_000, 900_000, USUAL, USUAL]),
        Condition::Slow
    );
    assert_eq!(condition(USUAL, &[u64::MAX, USUAL, USUAL]), Condition::Good);
    assert_eq!(
        condition(1_000_000, &[USUAL]),
        Condition::Good,
        "too few others"
    );
}

#[test]
fn a_starved_node_tests_its_link_and_less_and_less_often() {
    let mut link = Link {
        nodes: 3,
        ..Link::default()
    };
    link.tested(Time(0), test(USUAL, &[USUAL; 3]));
    assert!(!link.observe(Time(1_000), USUAL / 2, 0), "that is enough");
    let mut tests = Vec::new();
    for now in (10_000..100_000).step_by(250).map(Time) {
        if link.observe(now, 1_000_000, 0) {
            tests.push(now.0);
            link.tested(now, test(USUAL, &[USUAL; 3]));
            assert_eq!(link.condition(now), Condition::Starved);
        }
    }
    assert_eq!(tests, [10_500, 14_500, 22_500, 38_500, 70_500]);
    assert!(!link.observe(Time(101_000), USUAL, 0));
    assert_eq!(link.condition(Time(101_000)), Condition::Good);
}

#[test]
fn a_node_whose_intake_falls_tests_its_link_at_once() {
    let mut link = Link {
        nodes: 3,
        ..Link::default()
    };
    link.tested(Time(0), test(USUAL, &[USUAL; 3]));
    let mut now = Time(0);
    let mut observe_until_test = |link: &mut Link, intake| {
        let begin = now;
        loop {
            now = now.after(Duration::from_millis(250));
            if link.observe(now, intake, 0) {
                return now.since(begin);
            }
        }
    };
    for _ in 0..5 {
        observe_until_test(&mut link, 2_000_000);
        link.tested(Time(0), test(USUAL, &[USUAL; 3]));
    }
    assert!(observe_until_test(&mut link, 500_000) <= DROP_PAUSE);
}

#[test]
fn a_slow_node_is_slow_until_a_test_or_the_time_shows_otherwise() {
    let mut link = Link {
        nodes: 3,
        ..Link::default()
    };
    link.tested(Time(0), test(1_000_000, &[USUAL; 3]));
    assert_eq!(link.next_deadline(), Some(Time(0).after(SLOW_FOR)));
    link.observe(Time(1_000), 900_000, 0);
    assert!(
        link.observe(Time(6_000), 900_000, 0),
        "it tests again while it pulls"
    );
    link.tested(Time(6_500), test(USUAL, &[USUAL; 3]));
    assert_eq!(link.condition(Time(6_500)), Condition::Starved);
    link.tested(Time(7_000), test(1_000_000, &[USUAL; 3]));
    link.tick(Time(7_000).after(SLOW_FOR), 3);
    assert_ne!(link.condition(Time(7_000).after(SLOW_FOR)), Condition::Slow);
}

#[test]
fn a_node_tests_its_link_once_there_are_others_that_know_theirs() {
    let mut link = Link::default();
    assert!(!link.tick(Time(0), 1));
    assert_eq!(link.next_deadline(), None);
    assert!(link.tick(Time(10_000), 9));
    assert!(!link.tick(Time(10_001), 9), "one at a time");
    link.tested(Time(10_100), test(USUAL, &[USUAL; 3]));
    assert!(link.tick(Time(10_100).after(FIRST_PAUSE), 9), "few knew");
    link.tested(Time(10_700), test(USUAL, &[USUAL; 5]));
    assert_eq!(link.next_deadline(), None);
}

#[test]
fn a_starved_node_is_held_up_once_a_registry_gives_others_far_more_for_a_while() {
    let mut link = Link {
        nodes: 3,
        ..Link::default()
    };
    link.tested(Time(0), test(USUAL, &[USUAL; 3]));
    let mut held_up_at = |intake, registry_rate| {
        (0..40_000).step_by(250).map(Time).find(|now| {
            if link.observe(*now, intake, registry_rate) {
                link.tested(*now, test(USUAL, &[USUAL; 3]));
            }
            link.state(*now)
                .starved()
                .is_some_and(|starved| starved.is_held_up)
        })
    };
    let held_up = held_up_at(500_000, USUAL).expect("it gets an eighteenth");
    assert!(held_up >= Time(0).after(HELD_UP_FOR));
    assert_eq!(held_up_at(500_000, 1_000_000), None, "the registry is slow");
    assert_eq!(
        held_up_at(USUAL / 2, u64::MAX),
        None,
        "it gets half of what its link carries"
    );
}
