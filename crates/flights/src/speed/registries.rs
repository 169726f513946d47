//! What registries give, as far as the cluster knows: nodes pass it on with their requests and answers.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::Time;

/// A rate below 1/LOW of the known one is far too low. A registry that limits each connection gives a third of it once
/// one of three downloads is left.
const LOW: u64 = 4;
/// What is known of a registry halves after this time, so that all nodes forget it together.
const HALF_LIFE: Duration = Duration::from_secs(10 * 60);
/// A lead is judged only after this time: connections speed up.
const JUDGED_AFTER: Duration = Duration::from_secs(2);
/// A second leader knows after this time whether the registry gives it more. Until then no other lead is judged, here or
/// at nodes that are told so.
const TRIED_FOR: Duration = Duration::from_secs(6);
/// After it was found that the registry gives no more, no lead is judged for this long: the leaders share it, and some
/// nodes may still pass on what it gave before.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);
/// An acceptance that ends this much later than the known one is a new one.
const NEWER: Duration = Duration::from_millis(500);
/// The most registries to remember.
const MAX_REGISTRIES: usize = 1_024;

/// What a leader's rate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeadRate {
    /// Nothing is wrong, or nothing is known.
    Fine,
    /// The registry gives others far more, or it is little for this node's link and nobody knows whether others get more:
    /// another node should lead one object, to find out. It is known by now if `again`.
    Little { again: bool },
}

/// What a registry gives, as nodes tell each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownRate {
    /// In bytes per second; 0: unknown.
    pub rate: u64,
    /// No lead is judged for this long.
    pub accepted_for_ms: u32,
}

impl KnownRate {
    /// Whether a node that knows `theirs` should be told.
    pub fn is_news_for(self, theirs: Self) -> bool {
        let newer = self.accepted_for_ms.saturating_sub(theirs.accepted_for_ms);
        let is_accepted = theirs.accepted_for_ms > 0;
        u128::from(newer) > NEWER.as_millis() || (!is_accepted && self.rate / 4 * 3 > theirs.rate)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Registry {
    /// The best rate, in bytes per second, and when it was learned.
    rate: u64,
    at: Time,
    /// Another node has pulled from it.
    is_confirmed: bool,
    /// No lead is judged until then.
    accepted_until: Time,
    /// Since when this node leads from it.
    leading_since: Option<Time>,
    /// Another node has led since then, to find out what it gives.
    was_tried: bool,
}

impl Registry {
    fn rate(&self, now: Time) -> u64 {
        let half_lives = now.since(self.at).as_secs() / HALF_LIFE.as_secs();
        self.rate.checked_shr(half_lives as u32).unwrap_or(0)
    }

    fn learn(&mut self, now: Time, rate: u64) {
        if rate >= self.rate(now) {
            (self.rate, self.at) = (rate, now);
        }
    }
}

/// The rates of all registries, by their hash.
#[derive(Debug, Default)]
pub(crate) struct RegistryRates(BTreeMap<u64, Registry>);

impl RegistryRates {
    fn entry(&mut self, registry: u64) -> Option<&mut Registry> {
        let is_known = self.0.contains_key(&registry);
        (registry != 0 && (is_known || self.0.len() < MAX_REGISTRIES))
            .then(|| self.0.entry(registry).or_default())
    }

    /// What the registry gives a node.
    pub fn get(&self, now: Time, registry: u64) -> KnownRate {
        let known = self.0.get(&registry).copied().unwrap_or_default();
        let accepted_for = known.accepted_until.since(now).as_millis();
        KnownRate {
            rate: known.rate(now),
            accepted_for_ms: u32::try_from(accepted_for).unwrap_or(u32::MAX),
        }
    }

    /// Records what another node knows.
    pub fn learn(&mut self, now: Time, registry: u64, theirs: KnownRate) {
        if theirs.rate == 0 {
            return;
        }
        let Some(known) = self.entry(registry) else {
            return;
        };
        known.is_confirmed = true;
        let accepted_for = Duration::from_millis(theirs.accepted_for_ms.into());
        let accepted_until = now.after(accepted_for.min(ACCEPTED_FOR));
        if accepted_until.since(known.accepted_until.max(now)) > NEWER {
            (known.rate, known.at) = (theirs.rate, now);
            known.accepted_until = accepted_until;
        } else if now >= known.accepted_until {
            known.learn(now, theirs.rate);
        }
    }

    /// Judges what this node receives from a registry as a leader. `bandwidth`: of its link, which is good. `is_second`:
    /// it leads beside another node. If that gives little as well, it is what the registry gives.
    pub fn judge(
        &mut self,
        now: Time,
        registry: u64,
        rate: u64,
        bandwidth: Option<u64>,
        is_second: bool,
    ) -> LeadRate {
        let Some(known) = self.entry(registry) else {
            return LeadRate::Fine;
        };
        let since = *known.leading_since.get_or_insert(now);
        if now.since(since) < JUDGED_AFTER {
            return LeadRate::Fine;
        }
        let usual = known.rate(now);
        known.learn(now, rate);
        let usual = if known.is_confirmed {
            Some(usual)
        } else {
            bandwidth
        };
        let is_little = usual.is_some_and(|usual| rate.saturating_mul(LOW) < usual);
        if !is_little || (now < known.accepted_until && !is_second) {
            return LeadRate::Fine;
        }
        if is_second {
            (known.rate, known.at, known.is_confirmed) = (rate, now, true);
            known.accepted_until = now.after(ACCEPTED_FOR);
            return LeadRate::Fine;
        }
        known.accepted_until = now.after(TRIED_FOR);
        let again = std::mem::replace(&mut known.was_tried, true);
        LeadRate::Little { again }
    }

    /// This node leads nothing from registries other than these.
    pub fn leads_from(&mut self, registries: &[(u64, u64)]) {
        for (registry, known) in &mut self.0 {
            if !registries.iter().any(|(led, _)| led == registry) {
                (known.leading_since, known.was_tried) = (None, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: u64 = 8_000_000;
    const LITTLE: u64 = 1_000_000;

    fn known(rate: u64) -> KnownRate {
        KnownRate {
            rate,
            accepted_for_ms: 0,
        }
    }

    /// A leader that has received `LITTLE` for long enough, where others know `USUAL`.
    fn judged(rates: &mut RegistryRates, now: &mut Time, is_second: bool) -> LeadRate {
        rates.judge(*now, 7, LITTLE, None, is_second);
        *now = now.after(JUDGED_AFTER);
        rates.judge(*now, 7, LITTLE, None, is_second)
    }

    #[test]
    fn what_others_remember_is_not_held_against_the_next_lead() {
        let (mut rates, mut now) = (RegistryRates::default(), Time(0));
        rates.learn(now, 7, known(USUAL));
        assert_eq!(judged(&mut rates, &mut now, true), LeadRate::Fine);
        assert_eq!(rates.get(now, 7).rate, LITTLE);
        rates.learn(now, 7, known(USUAL));
        assert_eq!(rates.get(now, 7).rate, LITTLE);
        rates.leads_from(&[]);
        assert_eq!(judged(&mut rates, &mut now, false), LeadRate::Fine);
        now = now.after(ACCEPTED_FOR);
        rates.learn(now, 7, known(USUAL));
        let little = LeadRate::Little { again: false };
        assert_eq!(rates.judge(now, 7, LITTLE, None, false), little);
    }

    /// The first leader, the second one, and a third node that leads another object.
    #[test]
    fn one_leader_tries_a_slow_registry_and_all_others_accept_what_it_found() {
        let [mut first, mut second, mut third] = [(); 3].map(|()| RegistryRates::default());
        let mut now = Time(0);
        for rates in [&mut first, &mut second, &mut third] {
            rates.learn(now, 7, known(USUAL));
            rates.judge(now, 7, LITTLE, None, false);
        }
        now = now.after(JUDGED_AFTER);
        let little = LeadRate::Little { again: false };
        assert_eq!(first.judge(now, 7, LITTLE, None, false), little);
        third.learn(now, 7, first.get(now, 7));
        second.learn(now, 7, first.get(now, 7));
        assert_eq!(third.judge(now, 7, LITTLE, None, false), LeadRate::Fine);
        now = now.after(JUDGED_AFTER);
        assert_eq!(second.judge(now, 7, LITTLE, None, true), LeadRate::Fine);
        first.learn(now, 7, second.get(now, 7));
        third.learn(now, 7, first.get(now, 7));
        now = now.after(TRIED_FOR);
        for rates in [&mut first, &mut third] {
            rates.learn(now, 7, known(USUAL));
            assert_eq!(rates.judge(now, 7, LITTLE, None, false), LeadRate::Fine);
        }
    }

    #[test]
    fn a_leader_whose_way_to_the_registry_is_slow_gives_up_the_rest_as_well() {
        let (mut rates, mut now) = (RegistryRates::default(), Time(0));
        rates.learn(now, 7, known(USUAL));
        let first = LeadRate::Little { again: false };
        assert_eq!(judged(&mut rates, &mut now, false), first);
        now = now.after(TRIED_FOR);
        let again = LeadRate::Little { again: true };
        assert_eq!(rates.judge(now, 7, LITTLE, None, false), again);
    }

    #[test]
    fn nobody_has_a_rate_accepted_for_longer_than_any_node_would() {
        let (mut rates, now) = (RegistryRates::default(), Time(0));
        let theirs = KnownRate {
            rate: LITTLE,
            accepted_for_ms: u32::MAX,
        };
        rates.learn(now, 7, theirs);
        let accepted_for = u128::from(rates.get(now, 7).accepted_for_ms);
        assert_eq!(accepted_for, ACCEPTED_FOR.as_millis());
    }
}
