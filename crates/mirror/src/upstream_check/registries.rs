//! How the registries are that are asked: whether they can be reached, and whether they answer in time.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::Registry;
use tokio::time::Instant;

use super::Answer;
use super::answers::Plan;

/// The most registries to remember.
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// The interval between two attempts to reach a registry that cannot be reached.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// A registry that answered this lately is slow, not out of reach, while an answer is awaited.
const REACHABLE_FOR: Duration = Duration::from_secs(60 * 60);
/// How long nobody waits again for a registry that was waited for in vain.
const NO_WAIT_FOR: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, Default)]
struct Contact {
    answered: Option<Instant>,
    /// When it could not be reached, if nothing was heard of it since.
    failed: Option<Instant>,
    waited_in_vain: Option<Instant>,
    /// When it answered with neither yes nor no, if nothing better was heard of it since.
    gave_no_answer: Option<Instant>,
}

impl Contact {
    fn is_worth_waiting(&self) -> bool {
        let in_vain = self.waited_in_vain;
        in_vain.is_none_or(|at| at.elapsed() >= NO_WAIT_FOR)
    }
}

/// How a registry is that tags and visibility are checked at. Times are those since it was found so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryState {
    pub name: Registry,
    pub unreachable_for: Option<Duration>,
    pub slow_for: Option<Duration>,
    /// It answered 429, 5xx, or against the specification.
    pub gave_no_answer_for: Option<Duration>,
}

/// The registries that were asked lately.
#[derive(Debug)]
pub struct Registries(LruCache<Registry, Contact>);

impl Default for Registries {
    fn default() -> Self {
        Self(LruCache::new(MAX_REGISTRIES))
    }
}

impl Registries {
    /// Whether a registry is asked now, and whether its answer is waited for.
    pub fn plan(&mut self, registry: &Registry) -> Plan {
        let contact = self.contact(registry);
        match contact.failed {
            Some(at) if at.elapsed() < RETRY_AFTER => Plan::Known(Answer::Unreachable),
            // Somebody tries again, and nobody waits for it: what is down is mostly down.
            Some(_) => Plan::Ask { wait: false },
            None => Plan::Ask {
                wait: contact.is_worth_waiting(),
            },
        }
    }

    /// Whether an answer of a registry is waited for.
    pub fn is_worth_waiting(&mut self, registry: &Registry) -> bool {
        let contact = self.contact(registry);
        contact.failed.is_none() && contact.is_worth_waiting()
    }

    /// Whether a registry cannot be reached, as far as is known.
    pub fn is_away(&mut self, registry: &Registry) -> bool {
        self.contact(registry).failed.is_some()
    }

    /// Whether a registry has ever answered.
    pub fn has_answered(&mut self, registry: &Registry) -> bool {
        self.contact(registry).answered.is_some()
    }

    /// What holds of a registry that is not asked now.
    pub fn unasked(&mut self, registry: &Registry) -> Answer {
        match self.is_away(registry) {
            true => Answer::Unreachable,
            false => Answer::Slow,
        }
    }

    /// What holds while an answer does not come: the registry is slow, or out of reach.
    pub fn late(&mut self, registry: &Registry, waited: bool) -> Answer {
        let contact = self.contact_mut(registry);
        if waited {
            contact.waited_in_vain = Some(Instant::now());
        }
        let answered = contact.answered;
        if contact.failed.is_none() && answered.is_some_and(|at| at.elapsed() < REACHABLE_FOR) {
            Answer::Slow
        } else {
            Answer::Unreachable
        }
    }

    /// Learns from an answer.
    pub fn record(&mut self, registry: &Registry, answer: &Answer) {
        let (now, contact) = (Instant::now(), self.contact_mut(registry));
        match answer {
            Answer::Unreachable => contact.failed = Some(now),
            Answer::Slow => {}
            Answer::Granted(_) | Answer::Refused | Answer::NotFound | Answer::Failed => {
                *contact = Contact {
                    answered: Some(now),
                    gave_no_answer: (*answer == Answer::Failed).then_some(now),
                    ..Contact::default()
                }
            }
        }
    }

    /// How the registries are that were asked, the one asked last first.
    pub fn states(&self) -> Vec<RegistryState> {
        let state = |(name, contact): (&Registry, &Contact)| {
            let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
            RegistryState {
                name: name.clone(),
                unreachable_for: ago(contact.failed),
                slow_for: ago(contact.waited_in_vain).filter(|ago| *ago < NO_WAIT_FOR),
                gave_no_answer_for: ago(contact.gave_no_answer),
            }
        };
        self.0.iter().map(state).collect()
    }

    fn contact(&mut self, registry: &Registry) -> Contact {
        self.0.get(registry).copied().unwrap_or_default()
    }

    fn contact_mut(&mut self, registry: &Registry) -> &mut Contact {
        self.0.get_or_insert_mut(registry.clone(), Contact::default)
    }
}
