//! What this node asks owners, until they answer or the time is up.

mod answers;
mod charge;
mod heading;
mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::arbiter::SMALL;
use crate::budget::Budgets;
use crate::outbox::Outbox;
use crate::random::mix;
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{MAX_NODES, Message, Seek};
use crate::{Key, NodeId, Time};
use heading::Heading;
pub(crate) use heading::Load;
pub(crate) use open::HEART_SILENCE;
use open::{Open, Question, withdraw};

/// An owner says that often at least that somebody is being waited for.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// So long a question waits at no charge, if it ends with a source.
const GRACE: Duration = Duration::from_millis(250);
/// Of a budget so much is kept for such questions.
const RESERVE: Duration = Duration::from_millis(500);
/// A look-up may take that long.
const FIND_LIMIT: Duration = Duration::from_millis(900);
/// Owners may send a question on to another that often: to who is the arbiter, to that of the whole cluster, to that of
/// another district.
const MAX_REDIRECTS: u8 = 3;
/// Questions open at once. A node pulls a dozen objects at the same moment.
const MAX_OPEN: usize = 4_096;

/// Whether a question is an earlier one of the same process than another: the upper half of a number is that of the
/// process, the lower half counts.
pub(crate) fn is_earlier(number: u64, than: u64) -> bool {
    number >> 32 == than >> 32 && number < than
}

/// A question of this node, by a number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeekId(pub(crate) u64);

/// An object that this node's containerd asks for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub key: Key,
    /// A hash of registry and repository, the same on all nodes. A budget and a leader's bad luck belong to a group.
    pub group: u64,
    /// A hash of the registry.
    pub registry: u64,
    /// Of the whole object in bytes, where known.
    pub size: Option<u64>,
    /// Objects of this image that are likely to move to this node at the same moment: at least 1.
    pub streams: u8,
    /// Who should lead, if nobody does yet.
    pub prefer: Option<NodeId>,
    /// Bytes that this node has already.
    pub offset: u64,
    /// Sources that were of no use, the latest last.
    pub failed: Vec<NodeId>,
    /// After how long this node would rather ask again, when its other downloads have had their turn
    /// ([`Outcome::Later`]).
    pub yields: Option<Duration>,
    /// A source that gives far less than others did lately: any other is better.
    pub slow: Option<NodeId>,
    /// Who leads, and gives far less than leads did lately: this node should lead as well.
    pub slow_lead: Option<NodeId>,
}

/// A place in the order in which the nodes of a flight get their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which flight: odd if it is one of a district, whose first node has a place in the flight of the whole cluster.
    pub epoch: u64,
    pub order: u32,
}

impl Place {
    /// Whether a node at this place gets its bytes before one at another: so that no two feed each other before either
    /// has a byte.
    pub fn is_before(&self, other: &Self) -> bool {
        let is_above = !self.is_of_district() && other.is_of_district();
        is_above || (self.epoch == other.epoch && self.order < other.order)
    }

    /// Whether its flight is one of a district.
    pub fn is_of_district(&self) -> bool {
        self.epoch % 2 == 1
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Take it from `source`, who has it or is on its way to have it.
    Follow {
        source: NodeId,
        place: Place,
        /// Who pulls or pulled it from upstream, if that is known.
        leader: Option<NodeId>,
        /// For how long bytes have come from upstream to whoever leads, if one does.
        led_for: Option<Duration>,
    },
    /// Pull it from upstream, for all.
    Lead,
    /// Pull it from upstream: there is no time left to wait, or nobody to ask.
    Alone,
    /// Ask again later: nobody pulls it yet, and who should is busy with others of its image. For who
    /// [yields](Wanted::yields) alone.
    Later,
    /// These have it. The answer to a look-up.
    Found(Vec<NodeId>),
}

/// A question that has its answer.
#[derive(Debug)]
pub(crate) struct Settled {
    pub seek: SeekId,
    /// By which it was asked.
    pub number: u64,
    /// What was wanted, unless it was a look-up.
    pub wanted: Option<Wanted>,
    /// Who answered, if anybody did.
    pub by: Option<NodeId>,
    pub outcome: Outcome,
}

#[derive(Debug, Default)]
pub(crate) struct Seeks {
    open: BTreeMap<u64, Open>,
    last: u64,
    pub budgets: Budgets,
    /// A large object that this node gets for its district.
    heading: Option<Heading>,
    load: Load,
    settled: Vec<Settled>,
}

impl Wanted {
    /// Whether it is of a size at which it matters how many copies a node sends at once.
    pub(crate) fn is_large(&self) -> bool {
        self.size.is_some_and(|size| size > SMALL)
    }
}

impl Seeks {
    /// Names questions unlike those of an earlier process.
    pub fn seed(&mut self, seed: u64) {
        self.last = mix(seed) << 32;
    }

    pub fn seek(
        &mut self,
        now: Time,
        wanted: Wanted,
        view: &impl View,
        out: &mut Outbox,
    ) -> SeekId {
        let group = wanted.group;
        self.meter(now, group);
        let left = self.budgets.left(group);
        let number = self.open(now, Question::Seek(wanted), left > RESERVE, now);
        self.meter(now, group);
        // When nothing is left, what can be had at once is taken, as long as owners answer at once.
        let has_time = !left.is_zero() || !self.budgets.is_mute(group);
        self.begin(now, number, has_time, view, out)
    }

    pub fn find(&mut self, now: Time, key: Key, view: &impl View, out: &mut Outbox) -> SeekId {
        let number = self.open(now, Question::Find(key), false, now.after(FIND_LIMIT));
        self.begin(now, number, true, view, out)
    }

    fn open(&mut self, now: Time, question: Question, is_patient: bool, deadline: Time) -> u64 {
        let number = self.number();
        let open = Open {
            seek: SeekId(number),
            question,
            started: now,
            is_patient,
            deadline,
            metered: now,
            asked: None,
            heard: None,
            lead: None,
            held: None,
            is_for_district: false,
            declines: false,
            redirects: 0,
            silent: Vec::new(),
        };
        self.open.insert(number, open);
        number
    }

    /// Another one than all before.
    fn number(&mut self) -> u64 {
        self.last = self.last.wrapping_add(1);
        self.last
    }

    fn begin(
        &mut self,
        now: Time,
        number: u64,
        has_time: bool,
        view: &impl View,
        out: &mut Outbox,
    ) -> SeekId {
        if has_time && self.open.len() <= MAX_OPEN {
            if !self.hold_back(now, number, view, out) {
                self.ask(now, number, None, view, out);
            }
        } else {
            self.give_up(now, number, view, out);
        }
        SeekId(number)
    }

    /// Nobody waits for the answer any more. Says whether somebody did.
    pub fn cancel(&mut self, now: Time, id: SeekId, view: &impl View, out: &mut Outbox) -> bool {
        let Some(number) = self.numbers(|open| open.seek == id).pop() else {
            return false;
        };
        if let Some(open) = self.close(now, number, false) {
            withdraw(&open, number, view, out);
        }
        true
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    /// Asks `to`, or the first owner that is not silent; gives up where there is none.
    fn ask(
        &mut self,
        now: Time,
        number: u64,
        to: Option<NodeId>,
        view: &impl View,
        out: &mut Outbox,
    ) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if !view.has_joined() {
            // As soon as it has, or never.
            return;
        }
        let owners = view.owners(Slot::of(&open.question.key().0));
        let to = to.or_else(|| owners.iter().find(|o| !open.silent.contains(o)).copied());
        let Some(to) = to else {
            self.give_up(now, number, view, out);
            return;
        };
        open.asked = match open.asked {
            Some((asked, since, times)) if asked == to => {
                Some((to, since, times.saturating_add(1)))
            }
            _ => Some((to, now, 1)),
        };
        let message = match &open.question {
            Question::Find(key) => Message::Find { key: *key, number },
            Question::Seek(wanted) => {
                let failed = wanted.failed.iter().rev().take(MAX_NODES);
                Message::Seek(Seek {
                    key: wanted.key,
                    number,
                    group: wanted.group,
                    size: wanted.size,
                    streams: wanted.streams,
                    prefer: wanted.prefer,
                    failed: failed.copied().collect(),
                    offset: wanted.offset,
                    yields: wanted.yields.map_or(0, |wait| {
                        u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
                    }),
                    patient: open.is_patient,
                    barred: self.budgets.is_barred(now, wanted.group),
                    lags: self.budgets.lags,
                    behind: self.load.behind,
                    slow: wanted.slow,
                    slow_lead: wanted.slow_lead,
                    silent: open.silent.last().copied(),
                    asker: None,
                })
            }
        };
        out.send(to, message);
    }

    fn give_up(&mut self, now: Time, number: u64, view: &impl View, out: &mut Outbox) {
        if let Some(open) = self.close(now, number, false) {
            withdraw(&open, number, view, out);
            let outcome = match &open.question {
                Question::Seek(wanted) => {
                    self.budgets.mute(wanted.group, true);
                    Outcome::Alone
                }
                Question::Find(_) => Outcome::Found(Vec::new()),
            };
            self.settle(number, open, None, outcome);
        }
    }

    fn settle(&mut self, number: u64, open: Open, by: Option<NodeId>, outcome: Outcome) {
        let wanted = match open.question {
            Question::Seek(wanted) => Some(wanted),
            Question::Find(_) => None,
        };
        self.settled.push(Settled {
            seek: open.seek,
            number,
            wanted,
            by,
            outcome,
        });
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.open.values().map(Open::due).min()
    }

    pub fn tick(&mut self, now: Time, view: &impl View, out: &mut Outbox) {
        let due = self.numbers(|open| open.due() <= now);
        let groups = due
            .iter()
            .filter_map(|number| self.open.get(number)?.group());
        for group in groups.collect::<BTreeSet<_>>() {
            self.meter(now, group);
        }
        for number in due {
            let Some(open) = self.open.get(&number) else {
                continue;
            };
            match open.asked {
                _ if open.held.is_some() => self.look(now, number, view, out),
                _ if open.deadline <= now => self.give_up(now, number, view, out),
                Some((owner, ..)) if open.silence() <= now => {
                    self.is_silent(now, number, owner, view, out);
                }
                Some((owner, ..)) if open.due() <= now => {
                    self.ask(now, number, Some(owner), view, out);
                }
                _ => {}
            }
        }
    }

    /// This node has joined: what waited for that is asked now.
    pub fn joined(&mut self, now: Time, view: &impl View, out: &mut Outbox) {
        for number in self.numbers(|open| open.asked.is_none() && open.held.is_none()) {
            self.ask(now, number, None, view, out);
        }
    }

    /// This node has led in vain: owners who were asked about the same pull are told that others should lead.
    pub fn bar(&mut self, now: Time, group: u64, view: &impl View, out: &mut Outbox) {
        self.budgets.bar(now, group);
        for number in self.numbers(|open| open.group() == Some(group)) {
            let asked = self.open.get(&number).and_then(|open| open.asked);
            if let Some((owner, ..)) = asked {
                self.ask(now, number, Some(owner), view, out);
            }
        }
    }

    fn numbers(&self, which: impl Fn(&Open) -> bool) -> Vec<u64> {
        let open = self.open.iter().filter(|(_, open)| which(open));
        open.map(|(number, _)| *number).collect()
    }
}
