//! What registries give, as far as the cluster knows: nodes pass it on with their requests and answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::lead::LeadMeter;
use crate::ledger::LEADER_COOLDOWN;
use crate::pull_rules::STEPS;
use crate::wire::KnownRate;
use crate::{Born, Time};

/// A rate below 1/LOW_RATIO of the known one is far too low. A registry that limits each connection gives a third of it
/// once one of three downloads is left.
const LOW_RATIO: u64 = 4;
/// What is known of a registry halves after this time, so that all nodes forget it together.
const HALF_LIFE: Duration = Duration::from_secs(10 * 60);
/// The length of a trial, after which a second leader knows whether the registry gives it more. Until then no other
/// lead is judged, on this node or on others that know of the trial.
const TRIED_FOR: Duration = Duration::from_secs(6);
/// A second leader without a byte after this time shows that the registry gives others no more. That holds for twice as
/// long as a trial, as the cause may be the second leader itself.
const TRIED_IN_VAIN: Duration = Duration::from_secs(3);
/// No lead is judged for this long after it was found that the registry gives no more: the leaders share it, and some
/// nodes may still pass on the earlier rate.
const JUDGING_PAUSE: Duration = Duration::from_secs(60);
/// A rate that was measured this recently is news to those who know an older one.
const FRESH: Duration = Duration::from_secs(3);
/// Where many nodes lead at once, a lead is judged only if others received more since this long after it became slow: what
/// they measure is an average over some seconds.
const SETTLES_AFTER: Duration = Duration::from_secs(2);
/// A rate of at least this part of the known one confirms it.
const CONFIRMS: (u64, u64) = (3, 4);
/// The longest time over which a leader measures a rate that confirms the known one.
const CONFIRMED_OVER: Duration = Duration::from_secs(4);
/// A pause in judging that ends this much later than the known one is a new one.
const NEWER: Duration = Duration::from_millis(500);
/// The time for which a known rate of a registry predicts how long its bytes may take, and what limits a lead.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// The most time that a slow registry justifies waiting for its first steps.
pub(crate) const FIRST_STEPS_MAX: Duration = Duration::from_secs(12);
/// The most registries to remember.
const MAX_REGISTRIES: usize = 1_024;

/// What a leader's rate shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeadRate {
    /// Nothing is wrong, or nothing is known.
    Fine,
    /// The registry gives others far more, or it gives little for this node's link and the rate of others is unknown:
    /// another node should lead one object, to find out. `repeated`: that is known by now.
    BelowExpected { repeated: bool },
}

/// What a node that leads from a registry receives, in bytes and bytes per second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeadSample {
    /// The bytes received since it leads.
    pub bytes: u64,
    /// The rate from all sources. If that is enough, its leads share the uplink with those of others.
    pub intake: u64,
    /// The bandwidth of its link, if the link is good and the node receives far less.
    pub bandwidth: Option<u64>,
    /// It leads beside another node. If its rate is low as well, it is that of the registry.
    pub is_second: bool,
    /// Many nodes lead objects at once, so its rate shows nothing.
    pub shares_uplink: bool,
}

impl KnownRate {
    /// The rate, as far as it still counts.
    pub fn current(self) -> u64 {
        let half_lives = u64::from(self.age_s) / HALF_LIFE.as_secs();
        self.rate.checked_shr(half_lives as u32).unwrap_or(0)
    }

    /// Whether a link of this bandwidth, in bytes per second, is what limits a node that leads.
    pub fn fills(self, bandwidth: u64) -> bool {
        self.is_remembered() && self.rate > bandwidth / 4 * 3
    }

    fn is_remembered(self) -> bool {
        u64::from(self.age_s) < REMEMBERED_FOR.as_secs()
    }

    /// Whether a node that knows `theirs` should learn this rate.
    pub fn is_news_for(self, theirs: Self) -> bool {
        let newer = self
            .judging_paused_for_ms
            .saturating_sub(theirs.judging_paused_for_ms);
        let is_fresh = u64::from(self.age_s) < FRESH.as_secs()
            && self.measured_by != theirs.measured_by
            && self.age_s < theirs.age_s
            && self.confirms(theirs);
        let is_more = !theirs.confirms(self);
        u128::from(newer) > NEWER.as_millis()
            || is_fresh
            || theirs.judging_paused_for_ms == 0 && is_more
    }

    /// Whether it is about as high as another one, or higher.
    fn confirms(self, other: Self) -> bool {
        let (part, whole) = CONFIRMS;
        self.current() >= other.current() / whole * part
    }
}

#[derive(Clone, Debug, Default)]
struct Registry {
    /// The best rate, in bytes per second, when it or nearly as much was last measured, and by which node; see
    /// [`KnownRate::measured_by`].
    rate: u64,
    measured: Option<Born>,
    measured_by: u64,
    /// Another node has pulled from it.
    is_confirmed: bool,
    /// This node has pulled from it, or wanted to.
    is_used: bool,
    /// No lead is judged until then.
    judging_paused_until: Time,
    /// When this node began to lead beside another one, until its result is known.
    trial: Option<Time>,
    /// The bytes received since this node leads from it.
    lead: Option<LeadMeter>,
    /// Since when this node receives far less than others, as a leader.
    slow_since: Option<Time>,
    /// When another node was asked to lead as well, to find out what the registry gives it.
    tried: Option<Time>,
    /// That has shown, or the time for it has passed.
    was_tried: bool,
    /// Until when this node's path to it counts as slow.
    path_slow_until: Time,
}

impl Registry {
    fn known(&self, now: Time) -> KnownRate {
        let age = self
            .measured
            .map_or(Duration::ZERO, |measured| measured.age(now));
        let judging_paused_for = self.judging_paused_until.since(now).as_millis();
        KnownRate {
            rate: self.rate,
            age_s: u32::try_from(age.as_secs()).unwrap_or(u32::MAX),
            judging_paused_for_ms: u32::try_from(judging_paused_for).unwrap_or(u32::MAX),
            measured_by: self.measured_by,
        }
    }

    /// Learns a rate if it is the best one, and when it was measured if it is nearly that.
    fn learn(&mut self, now: Time, measured: KnownRate) {
        let known = self.known(now);
        let is_newer = measured.age_s < known.age_s;
        if measured.current() >= known.current() {
            self.set(now, measured);
        } else if is_newer && measured.confirms(known) {
            let rate = known.rate;
            self.set(now, KnownRate { rate, ..measured });
        }
    }

    /// Learns what this node measures as a leader: the best rate, and that of the last seconds.
    fn measure(&mut self, now: Time, [best, latest]: [KnownRate; 2]) {
        let is_best = best.rate >= self.known(now).current();
        self.learn(now, if is_best { best } else { latest });
    }

    fn set(&mut self, now: Time, measured: KnownRate) {
        let age = Duration::from_secs(measured.age_s.into());
        self.rate = measured.rate;
        self.measured = Some(Born::from_age(now, age));
        self.measured_by = measured.measured_by;
    }

    /// Whether a rate was measured since another node was asked to find it out.
    fn is_result(&self, now: Time, measured: KnownRate) -> bool {
        let age = Duration::from_secs(measured.age_s.into());
        self.tried.is_some_and(|at| age <= now.since(at))
    }

    /// Whether the rate was measured by a node other than `me` in the time `lately` up to now.
    fn is_given_to_others(&self, me: u64, now: Time, lately: Duration) -> bool {
        let is_fresh = |measured: Born| measured.age(now) <= lately;
        self.measured_by != me && self.measured.is_some_and(is_fresh)
    }
}

/// The rates of all registries, by their hash.
#[derive(Debug, Default)]
pub(crate) struct RegistryRates {
    registries: BTreeMap<u64, Registry>,
    /// See [`KnownRate::measured_by`].
    me: u64,
}

impl RegistryRates {
    /// Sets the number by which this node recognises what it has measured itself.
    pub fn seed(&mut self, me: u64) {
        self.me = me;
    }

    /// The rates of a registry. If there are too many registries, it replaces the oldest that this node never asked
    /// for: other nodes can name any number.
    fn entry(&mut self, registry: u64) -> Option<&mut Registry> {
        if registry == 0 {
            return None;
        }
        if !self.registries.contains_key(&registry) && self.registries.len() >= MAX_REGISTRIES {
            let others = self.registries.iter().filter(|(_, known)| !known.is_used);
            let oldest = others.min_by_key(|(_, known)| known.measured);
            let oldest = oldest.map(|(registry, _)| *registry)?;
            self.registries.remove(&oldest);
        }
        Some(self.registries.entry(registry).or_default())
    }

    /// Records that this node pulls from a registry.
    pub fn mark_used(&mut self, registry: u64) {
        if let Some(known) = self.entry(registry) {
            known.is_used = true;
        }
    }

    /// What the registry gives a node.
    pub fn get(&self, now: Time, registry: u64) -> KnownRate {
        let known = self.registries.get(&registry);
        known.map_or_else(KnownRate::default, |known| known.known(now))
    }

    /// The time that the first steps of a leader take, at the latest measured rate of the registry; [`FIRST_STEPS_MAX`]
    /// at most. Zero if that rate is unknown.
    pub fn first_steps(&self, now: Time, registry: u64) -> Duration {
        let known = self.get(now, registry);
        let millis = STEPS.saturating_mul(1_000).checked_div(known.rate);
        let took = Duration::from_millis(millis.filter(|_| known.is_remembered()).unwrap_or(0));
        took.min(FIRST_STEPS_MAX)
    }

    /// Records what another node knows.
    pub fn learn(&mut self, now: Time, registry: u64, theirs: KnownRate) {
        let is_own = theirs.measured_by == self.me;
        if theirs.rate == 0 {
            return;
        }
        let Some(known) = self.entry(registry) else {
            return;
        };
        let judging_paused_for = Duration::from_millis(theirs.judging_paused_for_ms.into());
        let judging_paused_until = now.after(judging_paused_for.min(JUDGING_PAUSE));
        let is_newer = judging_paused_until.since(known.judging_paused_until.max(now)) > NEWER;
        known.is_confirmed |= is_newer || !is_own;
        if is_newer {
            known.set(now, theirs);
            known.judging_paused_until = judging_paused_until;
        } else if !is_own && (now >= known.judging_paused_until || known.is_result(now, theirs)) {
            known.learn(now, theirs);
        }
    }

    /// Judges the rate of a registry to this node as a leader.
    pub fn judge(&mut self, now: Time, registry: u64, sample: LeadSample) -> LeadRate {
        let me = self.me;
        let Some(known) = self.entry(registry) else {
            return LeadRate::Fine;
        };
        let usual = known.known(now).current();
        let usual = if known.is_confirmed {
            Some(usual)
        } else {
            sample.bandwidth
        };
        if sample.is_second {
            // It has begun.
            known.trial = None;
        }
        // It has ended meanwhile, and another one has begun.
        known.lead.take_if(|lead| sample.bytes < lead.bytes());
        let lead = known
            .lead
            .get_or_insert_with(|| LeadMeter::begin(now, sample.bytes));
        lead.record(now, sample.bytes);
        let upper_bound = lead.upper_bound(now, usual.unwrap_or(0));
        let bounds = [Duration::MAX, CONFIRMED_OVER].map(|over| lead.lower_bound(now, over));
        let measured = |rate| KnownRate {
            rate,
            age_s: 0,
            judging_paused_for_ms: 0,
            measured_by: me,
        };
        known.measure(now, bounds.map(measured));
        let is_little =
            |rate: &u64| usual.is_some_and(|usual| rate.saturating_mul(LOW_RATIO) < usual);
        let Some(little) = upper_bound.filter(is_little) else {
            if upper_bound.is_some() {
                (known.slow_since, known.path_slow_until) = (None, now);
            }
            return LeadRate::Fine;
        };
        let slow_since = *known.slow_since.get_or_insert(now);
        if sample.is_second {
            if !sample.shares_uplink {
                // 0 means unknown.
                known.set(now, measured(little.max(1)));
                known.is_confirmed = true;
                known.judging_paused_until = now.after(JUDGING_PAUSE);
            }
            return LeadRate::Fine;
        }
        let gives_others = |lately| known.is_given_to_others(me, now, lately);
        let has_shown = known.tried.is_some_and(|at| gives_others(now.since(at)));
        let is_paused = now < known.judging_paused_until && !has_shown;
        let settled = slow_since.after(SETTLES_AFTER);
        let gives_others_now = now > settled && gives_others(now.since(settled));
        let shares_uplink = sample.shares_uplink && !gives_others_now;
        if is_paused || shares_uplink || !is_little(&sample.intake) {
            return LeadRate::Fine;
        }
        known.judging_paused_until = now.after(TRIED_FOR);
        let repeated = std::mem::replace(&mut known.was_tried, true);
        if repeated {
            known.tried = None;
            known.path_slow_until = now.after(LEADER_COOLDOWN);
        } else {
            known.tried = Some(now);
        }
        LeadRate::BelowExpected { repeated }
    }

    /// Whether a registry gives this node far less than others.
    pub fn is_path_slow(&self, now: Time, registry: u64) -> bool {
        let known = self.registries.get(&registry);
        known.is_some_and(|known| now < known.path_slow_until)
    }

    /// Records that this node begins to lead beside another one, and will find out what the registry gives: no other
    /// lead is judged meanwhile.
    pub fn trial_begins(&mut self, now: Time, registry: u64) {
        if let Some(known) = self.entry(registry) {
            let until = now.after(TRIED_FOR);
            known.judging_paused_until = known.judging_paused_until.max(until);
            known.trial = Some(now);
        }
    }

    /// Ends trials in which no byte has come: the registry gives the other leader more than that.
    pub fn end_trials(&mut self, now: Time) {
        for known in self.registries.values_mut() {
            let is_over = |began: &mut Time| now.since(*began) >= TRIED_IN_VAIN;
            if known.lead.is_none() && known.trial.take_if(is_over).is_some() {
                let until = now.after(2 * TRIED_FOR);
                known.judging_paused_until = known.judging_paused_until.max(until);
            }
        }
    }

    /// The registries that are slow now, as far as is known, or that a second leader tries.
    pub fn slow(&self, now: Time) -> BTreeSet<u64> {
        let slow = self.registries.iter();
        let slow = slow.filter(|(_, known)| now < known.judging_paused_until);
        slow.map(|(registry, _)| *registry).collect()
    }

    /// Records that this node leads nothing from registries other than these.
    pub fn forget_leads_except(&mut self, registries: &[(u64, u64)]) {
        for (registry, known) in &mut self.registries {
            if !registries.iter().any(|(led, _)| led == registry) {
                (known.lead, known.slow_since) = (None, None);
                (known.tried, known.was_tried) = (None, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
}
