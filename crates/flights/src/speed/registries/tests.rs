use super::*;

const USUAL: u64 = 8_000_000;
const LITTLE: u64 = 1_000_000;
/// Another node.
const OTHER: u64 = 9;

/// A rate that another node has measured a minute ago.
fn known(rate: u64) -> KnownRate {
    KnownRate {
        rate,
        age_s: 60,
        judging_paused_for_ms: 0,
        measured_by: OTHER,
    }
}

fn rates(me: u64) -> RegistryRates {
    let mut rates = RegistryRates::default();
    rates.seed(me);
    rates
}

fn sample(bytes: u64, intake: u64) -> LeadSample {
    LeadSample {
        bytes,
        intake,
        ..LeadSample::default()
    }
}

/// Leads for this many seconds and receives `LITTLE`, where others know `USUAL`. Returns the first finding.
fn lead(rates: &mut RegistryRates, now: &mut Time, seconds: u64, is_second: bool) -> LeadRate {
    let mut found = LeadRate::Fine;
    for _ in 0..seconds {
        *now = now.after(Duration::from_secs(1));
        let sample = LeadSample {
            is_second,
            ..sample(now.0 * LITTLE / 1_000, LITTLE)
        };
        let judged = rates.judge(*now, 7, sample);
        if found == LeadRate::Fine {
            found = judged;
        }
    }
    found
}

/// The time after which a lead is judged, in seconds.
const JUDGED_AFTER: u64 = 4;
const FIRST: LeadRate = LeadRate::BelowExpected { repeated: false };

#[test]
fn what_others_remember_is_not_held_against_the_next_lead() {
    let (mut rates, mut now) = (rates(1), Time(0));
    rates.learn(now, 7, known(USUAL));
    let second = lead(&mut rates, &mut now, JUDGED_AFTER, true);
    assert_eq!(second, LeadRate::Fine);
    assert_eq!(rates.get(now, 7).rate, LITTLE);
    rates.learn(now, 7, known(USUAL));
    assert_eq!(rates.get(now, 7).rate, LITTLE);
    rates.forget_leads_except(&[]);
    let next = lead(&mut rates, &mut now, JUDGED_AFTER, false);
    assert_eq!(next, LeadRate::Fine);
    now = now.after(JUDGING_PAUSE);
    rates.learn(now, 7, known(USUAL));
    assert_eq!(lead(&mut rates, &mut now, 2, false), FIRST);
}

/// The first leader, the second one, and a third node that leads another object.
#[test]
fn one_leader_tries_a_slow_registry_and_all_others_accept_what_it_found() {
    let [mut first, mut second, mut third] = [1, 2, 3].map(rates);
    let mut now = Time(0);
    for rates in [&mut first, &mut second, &mut third] {
        rates.learn(now, 7, known(USUAL));
        lead(rates, &mut Time(0), JUDGED_AFTER - 1, false);
    }
    now = now.after(Duration::from_secs(JUDGED_AFTER - 1));
    let found = lead(&mut first, &mut now, 1, false);
    assert_eq!(found, FIRST);
    third.learn(now, 7, first.get(now, 7));
    second.learn(now, 7, first.get(now, 7));
    assert_eq!(lead(&mut third, &mut now, 1, false), LeadRate::Fine);
    assert_eq!(lead(&mut second, &mut now, 1, true), LeadRate::Fine);
    first.learn(now, 7, second.get(now, 7));
    third.learn(now, 7, first.get(now, 7));
    now = now.after(TRIED_FOR);
    for rates in [&mut first, &mut third] {
        rates.learn(now, 7, known(USUAL));
        assert_eq!(lead(rates, &mut now, 1, false), LeadRate::Fine);
    }
}

/// It receives other objects, whose leaders share the uplink with this one.
#[test]
fn a_lead_is_not_slow_while_the_node_receives_enough_in_all() {
    let (mut rates, mut now) = (rates(1), Time(0));
    rates.learn(now, 7, known(USUAL));
    for (intake, found) in [(USUAL / 4, LeadRate::Fine), (USUAL / 5, FIRST)] {
        let mut judged = (0..JUDGED_AFTER).map(|_| {
            now = now.after(Duration::from_secs(1));
            rates.judge(now, 7, sample(now.0 * LITTLE / 1_000, intake))
        });
        let is_found = |judged: &LeadRate| *judged != LeadRate::Fine;
        let judged = judged.find(is_found).unwrap_or(LeadRate::Fine);
        assert_eq!(judged, found, "{intake}");
    }
}

/// Nodes that heard of it pass on what this node has measured itself, or what another one measures.
#[test]
fn what_this_node_measured_is_no_news_of_others() {
    for (measured_by, finds) in [(1, FIRST), (OTHER, LeadRate::Fine)] {
        let (mut rates, mut now) = (rates(1), Time(0));
        let mut found = LeadRate::Fine;
        for second in 1..=JUDGED_AFTER {
            now = now.after(Duration::from_secs(1));
            let little = KnownRate {
                age_s: 0,
                measured_by,
                ..known(LITTLE)
            };
            rates.learn(now, 7, little);
            let sample = LeadSample {
                bandwidth: Some(2 * USUAL),
                ..sample(second * LITTLE, LITTLE)
            };
            found = rates.judge(now, 7, sample);
        }
        assert_eq!(found, finds, "{measured_by}");
    }
}

/// The second leader tells what it receives, as soon as it knows.
#[test]
fn a_leader_gives_up_the_rest_once_the_registry_gives_another_node_more() {
    for measured_by in [OTHER, 1] {
        let (mut rates, mut now) = (rates(1), Time(0));
        rates.learn(now, 7, known(USUAL));
        assert_eq!(lead(&mut rates, &mut now, JUDGED_AFTER, false), FIRST);
        assert_eq!(lead(&mut rates, &mut now, 1, false), LeadRate::Fine);
        let given = KnownRate {
            age_s: 0,
            measured_by,
            ..known(USUAL / 10 * 9)
        };
        rates.learn(now, 7, given);
        let found = lead(&mut rates, &mut now, 1, false);
        let repeated = LeadRate::BelowExpected { repeated: true };
        assert_eq!(found == repeated, measured_by == OTHER, "{found:?}");
        assert_eq!(rates.is_path_slow(now, 7), measured_by == OTHER);
    }
}

#[test]
fn a_second_leader_that_is_soon_complete_was_not_in_vain() {
    let mut rates = rates(1);
    rates.learn(Time(0), 7, known(USUAL));
    rates.trial_begins(Time(0), 7);
    let second = LeadSample {
        is_second: true,
        ..sample(USUAL, USUAL)
    };
    rates.judge(Time(1_000), 7, second);
    rates.forget_leads_except(&[]);
    let later = Time(0).after(TRIED_FOR);
    rates.end_trials(later);
    assert!(rates.slow(later).is_empty());
}

/// Whose mirrors lead at once: others receive as much as ever meanwhile, or they share the uplink.
#[test]
fn a_lead_that_shares_the_uplink_is_judged_only_while_others_receive_more() {
    for (is_given, finds) in [(true, FIRST), (false, LeadRate::Fine)] {
        let (mut rates, mut now) = (rates(1), Time(0));
        rates.learn(now, 7, known(USUAL));
        let mut found = LeadRate::Fine;
        for second in 1..2 * JUDGED_AFTER {
            now = now.after(Duration::from_secs(1));
            if is_given {
                let given = KnownRate {
                    age_s: 0,
                    ..known(USUAL / 5 * 4)
                };
                rates.learn(now, 7, given);
            }
            let sample = LeadSample {
                shares_uplink: true,
                ..sample(second * LITTLE, LITTLE)
            };
            let judged = rates.judge(now, 7, sample);
            found = if found == LeadRate::Fine {
                judged
            } else {
                found
            };
        }
        assert_eq!(found, finds);
    }
}

#[test]
fn a_leader_whose_way_to_the_registry_is_slow_gives_up_the_rest_as_well() {
    let (mut rates, mut now) = (rates(1), Time(0));
    rates.learn(now, 7, known(USUAL));
    assert_eq!(lead(&mut rates, &mut now, JUDGED_AFTER, false), FIRST);
    let repeated = lead(&mut rates, &mut now, TRIED_FOR.as_secs(), false);
    assert_eq!(repeated, LeadRate::BelowExpected { repeated: true });
}

/// An uplink of 4 Mbit/s, known as such. The steps of three downloads coincide, six seconds apart.
#[test]
fn steps_of_containerd_are_no_reason_for_another_lead() {
    let (mut rates, rate) = (RegistryRates::default(), 500_000);
    rates.learn(Time(0), 7, known(rate));
    for step in 1..240 {
        let now = Time(step * 250);
        let steps = 3 * 1024 * 1024;
        let bytes = steps + now.0 * rate / 1_000 / steps * steps;
        let judged = rates.judge(now, 7, sample(bytes, rate));
        assert_eq!(judged, LeadRate::Fine, "{now:?}");
        assert!(rates.get(now, 7).rate <= rate, "{now:?}");
    }
}

#[test]
fn a_second_leader_without_a_byte_shows_that_the_registry_is_slow() {
    let mut rates = rates(1);
    rates.learn(Time(0), 7, known(USUAL));
    rates.trial_begins(Time(0), 7);
    assert!(rates.slow(Time(0)).contains(&7));
    let later = Time(0).after(TRIED_IN_VAIN);
    rates.end_trials(later);
    assert!(rates.slow(Time(0).after(2 * TRIED_FOR)).contains(&7));
    // That is no reason to wait for long.
    let over = later.after(2 * TRIED_FOR);
    assert!(rates.slow(over).is_empty());
    assert_eq!(rates.get(over, 7).rate, USUAL);
}

/// Each node that learns a rate learns its age.
#[test]
fn all_nodes_forget_a_rate_together_but_remember_how_slow_a_registry_was() {
    let [mut first, mut second] = [1, 2].map(rates);
    first.learn(Time(0), 7, known(USUAL));
    let later = Time(0).after(3 * HALF_LIFE);
    second.learn(later, 7, first.get(later, 7));
    assert_eq!(second.get(later, 7).current(), USUAL / 8);
    assert_eq!(second.first_steps(later, 7), first.first_steps(later, 7));
    assert!(!second.first_steps(later, 7).is_zero());
    let next_day = Time(0).after(REMEMBERED_FOR);
    assert!(second.first_steps(next_day, 7).is_zero());
}

/// The rates are 100 Mbit/s, 4 Mbit/s, and next to nothing.
#[test]
fn a_registry_that_is_known_as_slow_has_time_for_the_first_steps() {
    for (rate, first_steps) in [
        (12_500_000, Duration::from_millis(251)),
        (500_000, Duration::from_millis(6_291)),
        (1, FIRST_STEPS_MAX),
    ] {
        let mut rates = rates(1);
        assert!(rates.first_steps(Time(0), 7).is_zero(), "unknown");
        rates.learn(Time(0), 7, known(rate));
        assert_eq!(rates.first_steps(Time(0), 7), first_steps, "{rate}");
    }
}

#[test]
fn a_pause_in_judging_that_others_name_is_no_longer_than_a_nodes_own() {
    let (mut rates, now) = (rates(1), Time(0));
    let theirs = KnownRate {
        rate: LITTLE,
        age_s: 0,
        judging_paused_for_ms: u32::MAX,
        measured_by: OTHER,
    };
    rates.learn(now, 7, theirs);
    let judging_paused_for = u128::from(rates.get(now, 7).judging_paused_for_ms);
    assert_eq!(judging_paused_for, JUDGING_PAUSE.as_millis());
}

/// Otherwise what a registry gave long ago would be held against it.
#[test]
fn a_rate_that_has_halved_stays_so_when_it_is_measured_again() {
    let mut rates = rates(1);
    rates.learn(Time(0), 7, known(USUAL));
    let later = Time(0).after(2 * HALF_LIFE);
    let current = rates.get(later, 7).current();
    let given = KnownRate {
        age_s: 0,
        ..known(current / 10 * 9)
    };
    rates.learn(later, 7, given);
    assert_eq!(rates.get(later, 7).current(), current);
}

#[test]
fn a_rate_grows_no_younger_by_being_passed_on() {
    let [mut first, mut second] = [1, 2].map(rates);
    let mut now = Time(0);
    first.learn(
        now,
        7,
        KnownRate {
            age_s: 0,
            ..known(USUAL)
        },
    );
    for _ in 0..20 {
        now = now.after(Duration::from_millis(900));
        second.learn(now, 7, first.get(now, 7));
        first.learn(now, 7, second.get(now, 7));
    }
    assert!(first.get(now, 7).age_s >= 17);
}

/// It may be the only node that pulls.
#[test]
fn a_slow_registry_is_no_slow_path_while_nobody_receives_more() {
    let (mut rates, mut now) = (rates(1), Time(0));
    rates.learn(now, 7, known(USUAL));
    assert_eq!(lead(&mut rates, &mut now, JUDGED_AFTER, false), FIRST);
    let repeated = lead(&mut rates, &mut now, TRIED_FOR.as_secs(), false);
    assert_eq!(repeated, LeadRate::BelowExpected { repeated: true });
    assert!(!rates.is_path_slow(now, 7));
}
