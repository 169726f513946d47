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

/// Whether another node leads beside this one, to find out what the registry gives it.
#[derive(Clone, Copy, Debug, Default)]
enum Tried {
    #[default]
    No,
    Since(Time),
    /// It has shown, or the time for it has passed.
    Over,
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
    tried: Tried,
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
            // Rounded up: otherwise a rate would grow younger by being passed on.
            age_s: u32::try_from(age.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX),
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
            let rate = known.current();
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
        matches!(self.tried, Tried::Since(at) if age <= now.since(at))
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
        let has_shown = matches!(known.tried, Tried::Since(at) if gives_others(now.since(at)));
        let is_paused = now < known.judging_paused_until && !has_shown;
        let settled = slow_since.after(SETTLES_AFTER);
        let gives_others_now = now > settled && gives_others(now.since(settled));
        let shares_uplink = sample.shares_uplink && !gives_others_now;
        if is_paused || shares_uplink || !is_little(&sample.intake) {
            return LeadRate::Fine;
        }
        let gives_others_more = gives_others(now.since(slow_since));
        known.judging_paused_until = now.after(TRIED_FOR);
        if gives_others_more {
            known.path_slow_until = now.after(LEADER_COOLDOWN);
        }
        let repeated = !matches!(known.tried, Tried::No);
        known.tried = if repeated {
            Tried::Over
        } else {
            Tried::Since(now)
        };
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
                (known.lead, known.slow_since, known.tried) = (None, None, Tried::No);
            }
        }
    }
}

#[cfg(test)]
mod tests;
