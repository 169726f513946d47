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
/// After a lead was found far too slow, no other one is judged for this long: the nodes that lead instead share the
/// registry with it, and others still pass on what it gave before.
const ACCEPTED_FOR: Duration = Duration::from_secs(60);
/// The most registries to remember.
const MAX_REGISTRIES: usize = 1_024;

/// What a leader's rate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeadRate {
    /// Nothing is wrong, or nothing is known.
    Fine,
    /// The registry gives others far more.
    FarBelow,
    /// It is little for this node's link, and nobody knows whether others get more.
    Unknown,
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

    /// What the registry gives a node, in bytes per second; 0: unknown.
    pub fn get(&self, now: Time, registry: u64) -> u64 {
        self.0.get(&registry).map_or(0, |known| known.rate(now))
    }

    /// Records what another node knows.
    pub fn learn(&mut self, now: Time, registry: u64, rate: u64) {
        if rate > 0
            && let Some(known) = self.entry(registry)
        {
            known.is_confirmed = true;
            known.learn(now, rate);
        }
    }

    /// Judges what this node receives from a registry as a leader. `bandwidth`: of its link, which is good.
    pub fn judge(
        &mut self,
        now: Time,
        registry: u64,
        rate: u64,
        bandwidth: Option<u64>,
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
        if now < known.accepted_until {
            return LeadRate::Fine;
        }
        let is_below = |usual: u64| rate.saturating_mul(LOW) < usual;
        match bandwidth {
            _ if known.is_confirmed && is_below(usual) => LeadRate::FarBelow,
            Some(bandwidth) if !known.is_confirmed && is_below(bandwidth) => LeadRate::Unknown,
            _ => LeadRate::Fine,
        }
    }

    /// Accepts what this node receives as what the registry gives: a second leader receives no more, or another node is
    /// about to find out.
    pub fn accept(&mut self, now: Time, registry: u64, rate: u64) {
        if let Some(known) = self.entry(registry) {
            (known.rate, known.at, known.is_confirmed) = (rate, now, true);
            known.accepted_until = now.after(ACCEPTED_FOR);
        }
    }

    /// This node leads nothing from registries other than these.
    pub fn leads_from(&mut self, registries: &[(u64, u64)]) {
        for (registry, known) in &mut self.0 {
            if !registries.iter().any(|(led, _)| led == registry) {
                known.leading_since = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_remember_is_not_held_against_the_next_lead() {
        let (mut rates, mut now) = (RegistryRates::default(), Time(0));
        rates.learn(now, 7, 8_000_000);
        rates.judge(now, 7, 1_000_000, None);
        now = now.after(JUDGED_AFTER);
        assert_eq!(rates.judge(now, 7, 1_000_000, None), LeadRate::FarBelow);
        rates.accept(now, 7, 1_000_000);
        rates.learn(now, 7, 8_000_000);
        assert_eq!(rates.judge(now, 7, 1_000_000, None), LeadRate::Fine);
        now = now.after(ACCEPTED_FOR);
        assert_eq!(rates.judge(now, 7, 1_000_000, None), LeadRate::FarBelow);
    }
}
