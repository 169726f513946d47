use std::cell::Cell;

use super::*;

const MILLI: Duration = Duration::from_millis(1);

fn left(ledger: &Ledger, repository: u64) -> Duration {
    ledger.left(repository, Duration::ZERO)
}

fn waits(from: u64) -> Waits {
    Waits {
        started: Time(from),
        free_until: Time(from),
    }
}

/// Charges a wait of repository 1.
fn charge(ledger: &mut Ledger, from: u64, to: u64) {
    ledger.settle(Time(from), 1, None);
    ledger.settle(Time(to), 1, Some(waits(from)));
}

#[test]
fn a_pull_may_lose_two_seconds_and_the_next_one_again() {
    let mut ledger = Ledger::default();
    assert_eq!(
        left(&ledger, 1),
        Duration::ZERO,
        "no account before the first request"
    );
    ledger.touch(Time(0), 1);
    ledger.touch(Time(0), 2);
    charge(&mut ledger, 0, 500);
    charge(&mut ledger, 600, 700);
    assert_eq!(left(&ledger, 1), 1_400 * MILLI);
    assert_eq!(left(&ledger, 2), BUDGET, "another pull");
    charge(&mut ledger, 700, 9_000);
    assert_eq!(left(&ledger, 1), Duration::ZERO);
    ledger.touch(Time(9_000), 1);
    ledger.touch(Time(9_000).after(RESET), 1);
    assert_eq!(left(&ledger, 1), BUDGET);
}

#[test]
fn a_node_that_upstream_sends_something_can_lead_again() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    ledger.start_leader_cooldown(Time(0), 1);
    ledger.start_leader_cooldown(Time(0), 2);
    ledger.record_upstream(1, false);
    assert!(ledger.in_leader_cooldown(Time(1), 1));
    ledger.record_upstream(1, true);
    assert!(!ledger.in_leader_cooldown(Time(1), 1));
    assert!(ledger.in_leader_cooldown(Time(1), 2), "another repository");
}

#[test]
fn where_upstream_has_failed_other_nodes_are_waited_for() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    charge(&mut ledger, 0, 9_000);
    assert_eq!(left(&ledger, 1), Duration::ZERO);
    ledger.record_upstream(1, false);
    let waited = 500 * MILLI;
    assert_eq!(ledger.left(1, waited), BUDGET - waited, "each request");
    ledger.record_upstream(1, true);
    assert_eq!(left(&ledger, 1), Duration::ZERO);
}

#[test]
fn waiting_costs_nothing_while_something_arrives() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    let mut wait = |intake| {
        ledger.intake = Intake::default();
        ledger.has_pull = true;
        ledger.refund(1, BUDGET);
        ledger.observe(Time(0), intake);
        ledger.settle(Time(0), 1, None);
        ledger.settle(Time(400), 1, Some(waits(0)));
        ledger.accounts.get_mut(&1).expect("touched").settled = Time(0);
        BUDGET - left(&ledger, 1)
    };
    assert_eq!(wait(MIN_INTAKE), Duration::ZERO);
    assert_eq!(wait(MIN_INTAKE - 1), 400 * MILLI);
}

/// The links have 100 Mbit/s, 4 Mbit/s, and the lowest rate that counts. Bytes come in steps.
#[test]
fn the_next_step_is_waited_for_in_proportion_to_the_rate() {
    for (rate, covered) in [
        (12_500_000, STEP_MIN),
        (500_000, Duration::from_millis(6_291)),
        (MIN_INTAKE, STEP_MAX),
    ] {
        let mut intake = Intake::default();
        for at in (0..60_000).step_by(250) {
            intake.observe(Time(at), rate);
        }
        // The average is rounded.
        let (before, after) = (Time(59_740), Time(59_760));
        assert!(intake.receives(before.after(covered)), "{rate}");
        assert!(!intake.receives(after.after(covered)), "{rate}");
    }
    let mut intake = Intake::default();
    for step in 0..40 {
        // A step of 1 MiB in a second, then nothing for three.
        for at in 0..16 {
            let now = Time(step * 4_000 + at * 250);
            assert!(step < 2 || intake.receives(now), "{step}, {at}");
            intake.observe(now, if at < 4 { 1024 * 1024 } else { 0 });
        }
    }
}

#[test]
fn what_one_request_has_waited_in_vain_is_charged_whatever_another_one_found() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    let before = ledger.non_refundable(1);
    charge(&mut ledger, 0, 1_000);
    ledger.refund(1, 900 * MILLI);
    assert_eq!(left(&ledger, 1), BUDGET - 100 * MILLI);
    ledger.charge_in_vain(1, before, 1_000 * MILLI);
    ledger.refund(1, 900 * MILLI);
    assert_eq!(left(&ledger, 1), BUDGET - 1_000 * MILLI);
}

#[test]
fn what_peers_have_cost_is_lost_here_too() {
    let mut ledger = Ledger::default();
    ledger.charge(Time(0), 1, 700 * MILLI);
    assert_eq!(left(&ledger, 1), BUDGET - 700 * MILLI);
    charge(&mut ledger, 0, 1_000);
    ledger.refund(1, BUDGET);
    assert_eq!(
        left(&ledger, 1),
        BUDGET - 700 * MILLI,
        "it is not taken back"
    );
    ledger.charge(Time(0), 1, BUDGET);
    assert_eq!(left(&ledger, 1), Duration::ZERO);
}

fn free_wait(ledger: &Ledger) -> Duration {
    ledger.free_wait((1, 7), Duration::ZERO, Duration::ZERO)
}

#[test]
fn a_slow_upstream_is_learned_and_forgotten_again() {
    let mut ledger = Ledger::default();
    for _ in 0..20 {
        ledger.learn_first_byte(7, Duration::from_secs(4));
    }
    assert!(ledger.first_byte(7) > Duration::from_secs(7));
    assert!(free_wait(&ledger) > Duration::from_secs(6));
    ledger.learn_first_byte(7, 50 * MILLI);
    assert_eq!(ledger.first_byte(7), FIRST_BYTE_GUESS);
    assert_eq!(ledger.first_byte(8), FIRST_BYTE_GUESS);
}

/// Three layers begin. The others wait until one of them is complete, or upstream fails for a while.
#[test]
fn what_waits_for_a_slot_or_during_an_outage_makes_no_registry_slow() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    ledger.learn_first_byte(7, Duration::from_secs(15));
    assert_eq!(free_wait(&ledger), Duration::ZERO, "a single one");
    for _ in 0..9 {
        ledger.learn_first_byte(7, 200 * MILLI);
        for _ in 0..3 {
            ledger.learn_first_byte(7, Duration::from_secs(15));
        }
        assert_eq!(free_wait(&ledger), Duration::ZERO);
    }
}

#[test]
fn after_a_lead_that_failed_nothing_is_free() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    for _ in 0..2 {
        ledger.learn_first_byte(7, Duration::from_secs(4));
    }
    assert!(free_wait(&ledger) > FIRST_BYTE_GUESS);
    ledger.record_lead(1, false);
    assert_eq!(
        ledger.free_wait((1, 7), BUDGET, Duration::ZERO),
        Duration::ZERO
    );
    ledger.record_lead(1, true);
    assert!(free_wait(&ledger) > FIRST_BYTE_GUESS);
}

#[test]
fn what_a_slow_upstream_makes_free_is_free_once_and_again_for_as_long_as_bytes_arrive() {
    let mut ledger = Ledger::default();
    ledger.touch(Time(0), 1);
    let first_steps = Duration::from_secs(12);
    let now = Cell::new(0);
    let wait = |ledger: &mut Ledger| {
        let before = ledger.waited_free(1);
        let free = ledger.free_wait((1, 7), first_steps, before);
        let waits = Waits {
            started: Time(now.get()),
            free_until: Time(now.get()).after(free),
        };
        ledger.settle(waits.started, 1, None);
        now.set(waits.free_until.0);
        ledger.settle(waits.free_until, 1, Some(waits));
        free
    };
    assert_eq!(wait(&mut ledger), first_steps);
    assert_eq!(wait(&mut ledger), Duration::ZERO, "the next object");
    assert_eq!(left(&ledger, 1), BUDGET);
    ledger.has_pull = true;
    ledger.observe(Time(12_000), MIN_INTAKE);
    ledger.settle(Time(17_000), 1, None);
    ledger.has_pull = false;
    now.set(17_000);
    let received_for = Duration::from_secs(5);
    assert_eq!(wait(&mut ledger), received_for, "bytes have arrived");
}
