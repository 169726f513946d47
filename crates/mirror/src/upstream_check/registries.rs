//! The states of the registries that are asked: whether they can be reached, and whether they answer in time.

use std::num::NonZeroUsize;
use std::time::Duration;

use lru::LruCache;
use oci::Registry;
use tokio::time::Instant;

use super::answers::Plan;
use super::{Answer, Question};

/// The most registries to remember.
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// The interval between attempts to reach an unreachable registry.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// A registry that answered this lately counts as slow, not as unreachable, while an answer is awaited.
const REACHABLE_FOR: Duration = Duration::from_secs(60 * 60);
/// The time for which requests do not wait again for a registry that did not answer in time.
const NO_WAIT_FOR: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, Default)]
struct Contact {
    answered: Option<Instant>,
    /// When it was unreachable, if it has not been heard from since.
    failed: Option<Instant>,
    /// What it was asked then, and the error.
    unanswered: Option<(Question, String)>,
    waited_in_vain: Option<Instant>,
    /// When it neither granted nor refused, if it has given no better answer since.
    gave_no_answer: Option<Instant>,
}

impl Contact {
    fn is_worth_waiting(&self) -> bool {
        let in_vain = self.waited_in_vain;
        in_vain.is_none_or(|at| at.elapsed() >= NO_WAIT_FOR)
    }
}

/// The state of a registry at which tags and visibility are checked. Times are those since the state was observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryState {
    pub name: Registry,
    pub unreachable_for: Option<Duration>,
    /// The error, if it is unreachable.
    pub error: Option<String>,
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
            // One request tries again, without any waiting for it: the registry is probably still down.
            Some(_) => Plan::Ask { wait: false },
            None => Plan::Ask {
                wait: contact.is_worth_waiting(),
            },
        }
    }

    /// Whether to wait for an answer of a registry.
    pub fn is_worth_waiting(&mut self, registry: &Registry) -> bool {
        let contact = self.contact(registry);
        contact.failed.is_none() && contact.is_worth_waiting()
    }

    /// Whether a registry is unreachable, as far as is known.
    pub fn is_away(&mut self, registry: &Registry) -> bool {
        self.contact(registry).failed.is_some()
    }

    /// Whether a registry has ever answered.
    pub fn has_answered(&mut self, registry: &Registry) -> bool {
        self.contact(registry).answered.is_some()
    }

    /// The answer that counts for a registry that is not asked now.
    pub fn unasked(&mut self, registry: &Registry) -> Answer {
        match self.is_away(registry) {
            true => Answer::Unreachable,
            false => Answer::Slow,
        }
    }

    /// The answer that counts while there is none: the registry is slow, or unreachable.
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

    /// Records an answer.
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

    /// Records the error of a question to an unreachable registry.
    pub fn unanswered(&mut self, question: &Question, error: String) {
        let contact = self.contact_mut(&question.origin().registry);
        contact.unanswered = Some((question.clone(), error));
    }

    /// What the unreachable registries were asked last.
    pub fn unanswered_questions(&self) -> Vec<Question> {
        let questions = self.0.iter();
        let questions =
            questions.filter_map(|(_, contact)| Some(contact.unanswered.as_ref()?.0.clone()));
        questions.collect()
    }

    /// The states of the registries that were asked, the most recently asked first.
    pub fn states(&self) -> Vec<RegistryState> {
        let state = |(name, contact): (&Registry, &Contact)| {
            let ago = |at: Option<Instant>| at.map(|at| at.elapsed());
            RegistryState {
                name: name.clone(),
                unreachable_for: ago(contact.failed),
                error: contact.unanswered.as_ref().map(|(_, error)| error.clone()),
                slow_for: ago(contact.waited_in_vain).filter(|ago| *ago < NO_WAIT_FOR),
                gave_no_answer_for: ago(contact.gave_no_answer),
            }
        };
        self.0.iter().map(state).collect()
    }

    fn contact(&mut self, registry: &Registry) -> Contact {
        self.0.get(registry).cloned().unwrap_or_default()
    }

    fn contact_mut(&mut self, registry: &Registry) -> &mut Contact {
        self.0.get_or_insert_mut(registry.clone(), Contact::default)
    }
}
