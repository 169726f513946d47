//! What this node asks owners, until they answer or the time is up.

mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::budget::Budgets;
use crate::outbox::Outbox;
use crate::random::mix;
use crate::slots::{OWNERS, Slot};
use crate::view::View;
use crate::wire::{MAX_NODES, Message, Seek, Verdict};
use crate::{Key, NodeId, Time};
use open::{Lead, Open, Question, withdraw};

/// An owner says that often at least that somebody is being waited for.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// A lead that has not begun is waited for at no charge so long at most, while its node gets other objects.
const BUSY_MOST: Duration = Duration::from_secs(15);
/// A question for which there is no time to wait: a round trip or two.
const IMPATIENCE: Duration = Duration::from_millis(250);
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
    /// Whether what its sources give is far less than what this node got of others lately.
    pub too_slow: bool,
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
        /// Who pulls it from upstream, if somebody does.
        leader: Option<NodeId>,
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
    settled: Vec<Settled>,
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
        self.last = self.last.wrapping_add(1);
        let open = Open {
            question,
            started: now,
            is_patient,
            deadline,
            metered: now,
            asked: None,
            heard: None,
            lead: None,
            redirects: 0,
            silent: Vec::new(),
        };
        self.open.insert(self.last, open);
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
            self.ask(now, number, None, view, out);
        } else {
            self.give_up(now, number, out);
        }
        SeekId(number)
    }

    /// Nobody waits for the answer any more. Says whether somebody did.
    pub fn cancel(&mut self, now: Time, id: SeekId, out: &mut Outbox) -> bool {
        let open = self.close(now, id.0, false);
        if let Some(open) = &open {
            withdraw(open, id.0, out);
        }
        open.is_some()
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn take_settled(&mut self) -> Vec<Settled> {
        std::mem::take(&mut self.settled)
    }

    /// Charges what the questions of a pull have waited, and works out how long they may yet.
    fn meter(&mut self, now: Time, group: u64) {
        let Self { open, budgets, .. } = self;
        budgets.touch(now, group);
        let of_group = |open: &&mut Open| match &open.question {
            Question::Seek(wanted) => wanted.group == group,
            Question::Find(_) => false,
        };
        for open in open.values_mut().filter(of_group) {
            budgets.charge(group, open.metered.max(open.free_until()), now);
            open.metered = now;
        }
        let left = budgets.left(group);
        for open in open.values_mut().filter(of_group) {
            open.deadline = if open.is_patient {
                let charged_from = now.max(open.free_until());
                charged_from.after(left.saturating_sub(RESERVE))
            } else {
                open.started.after(IMPATIENCE)
            };
        }
    }

    /// The lead that a question waits for has come to nothing: that was in vain.
    fn lost_lead(&mut self, now: Time, number: u64) {
        if let Some(open) = self.open.get_mut(&number)
            && let Question::Seek(wanted) = &open.question
            && let Some(lead) = open.lead.take()
        {
            self.budgets
                .charge_lost(wanted.group, lead.from, lead.until.min(now), RESERVE);
            self.budgets.led(wanted.group, false);
        }
    }

    /// Takes a question off the list; `well` if a lead that it waited for came to something.
    fn close(&mut self, now: Time, number: u64, well: bool) -> Option<Open> {
        let group = match &self.open.get(&number)?.question {
            Question::Seek(wanted) => wanted.group,
            Question::Find(_) => return self.open.remove(&number),
        };
        self.meter(now, group);
        if !well {
            self.lost_lead(now, number);
        }
        let open = self.open.remove(&number)?;
        if !well {
            let grace = open.started.after(GRACE).min(now);
            self.budgets
                .charge_lost(group, open.started, grace, RESERVE);
        }
        if open.lead.is_some() {
            self.budgets.led(group, true);
        }
        self.meter(now, group);
        Some(open)
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
            self.give_up(now, number, out);
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
                    lags: self.budgets.lags(now),
                    too_slow: wanted.too_slow,
                    silent: open.silent.last().copied(),
                    asker: None,
                })
            }
        };
        out.send(to, message);
    }

    fn give_up(&mut self, now: Time, number: u64, out: &mut Outbox) {
        if let Some(open) = self.close(now, number, false) {
            withdraw(&open, number, out);
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
            seek: SeekId(number),
            wanted,
            by,
            outcome,
        });
    }

    /// An owner has answered. Says whether anybody waits for that.
    pub fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        (key, number): (Key, u64),
        verdict: Verdict,
        view: &impl View,
        out: &mut Outbox,
    ) -> bool {
        let open = self.open.get_mut(&number);
        let Some(open) = open.filter(|open| open.is_seek_for(&key)) else {
            return false;
        };
        let outcome = match verdict {
            Verdict::Wait { lead, is_busy } => {
                open.heard = Some(now);
                // Another than who was asked, if the question was passed on.
                open.asked = Some((from, now, 1));
                self.waits_for(now, number, lead);
                if is_busy {
                    self.spare(now, number);
                }
                return true;
            }
            Verdict::Redirect(to) => {
                self.redirected(now, number, from, to, view, out);
                return true;
            }
            Verdict::Follow {
                source,
                epoch,
                order,
                leader,
            } => Outcome::Follow {
                source,
                place: Place { epoch, order },
                leader,
            },
            Verdict::Lead => Outcome::Lead,
            Verdict::Alone => Outcome::Alone,
            Verdict::Later => Outcome::Later,
        };
        // Waiting for a lead that has begun cost nothing but what was beyond upstream's own time.
        // What is asked again later gave its place to others, who are as near.
        let well = matches!(outcome, Outcome::Follow { .. } | Outcome::Later);
        if let Some(open) = self.close(now, number, well) {
            if let Question::Seek(wanted) = &open.question {
                self.budgets.mute(wanted.group, false);
            }
            self.settle(number, open, Some(from), outcome);
        }
        true
    }

    /// The owner says for whom a question waits.
    fn waits_for(&mut self, now: Time, number: u64, lead: Option<NodeId>) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let Question::Seek(wanted) = &open.question else {
            return;
        };
        if open.lead.map(|lead| lead.node) == lead {
            return;
        }
        let (group, registry) = (wanted.group, wanted.registry);
        self.meter(now, group);
        self.lost_lead(now, number);
        let credit = self.budgets.credit(group, registry);
        // Who waits for several leads, one after the other, has the credit once.
        let of_group = |open: &&Open| match &open.question {
            Question::Seek(wanted) => wanted.group == group,
            Question::Find(_) => false,
        };
        let waits_since = self.open.values().filter(of_group).map(|open| open.started);
        let until = waits_since.min().unwrap_or(now).after(credit).max(now);
        if let (Some(open), Some(node)) = (self.open.get_mut(&number), lead) {
            // Upstream would not have been quicker for this node.
            let from = now;
            open.lead = Some(Lead { node, from, until });
        }
        self.meter(now, group);
    }

    /// The lead that a question waits for gets other objects from upstream meanwhile: this node would have to share its
    /// link in the same way, so waiting costs nothing for now.
    fn spare(&mut self, now: Time, number: u64) {
        let Some(open) = self.open.get(&number) else {
            return;
        };
        let (Question::Seek(wanted), Some(lead)) = (&open.question, open.lead) else {
            return;
        };
        let group = wanted.group;
        let until = now
            .after(open::HEART_SILENCE)
            .min(lead.from.after(BUSY_MOST));
        if until <= lead.until {
            return;
        }
        self.meter(now, group);
        if let Some(open) = self.open.get_mut(&number) {
            open.lead = Some(Lead { until, ..lead });
        }
        self.meter(now, group);
    }

    fn redirected(
        &mut self,
        now: Time,
        number: u64,
        from: NodeId,
        to: NodeId,
        view: &impl View,
        out: &mut Outbox,
    ) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if open.asked.is_none_or(|(asked, ..)| asked != from) {
            return;
        }
        open.heard = None;
        if open.redirects >= MAX_REDIRECTS || to == from {
            self.is_silent(now, number, from, view, out);
        } else {
            open.redirects += 1;
            open.silent.retain(|silent| *silent != to);
            self.ask(now, number, Some(to), view, out);
        }
    }

    /// An owner has answered a look-up.
    pub fn found(
        &mut self,
        now: Time,
        from: NodeId,
        number: u64,
        (holders, redirect): (Vec<NodeId>, Option<NodeId>),
        view: &impl View,
        out: &mut Outbox,
    ) {
        let Some(open) = self.open.get_mut(&number) else {
            return;
        };
        if !matches!(open.question, Question::Find(_)) {
            return;
        }
        if let Some(to) = redirect.filter(|to| *to != from && open.redirects < MAX_REDIRECTS) {
            open.redirects += 1;
            self.ask(now, number, Some(to), view, out);
        } else if let Some(open) = self.open.remove(&number) {
            self.settle(number, open, Some(from), Outcome::Found(holders));
        }
    }

    /// A message to `to` could not be delivered: what it was asked, others are asked now.
    pub fn undelivered(&mut self, now: Time, to: NodeId, view: &impl View, out: &mut Outbox) {
        let is_asked = |open: &Open| open.asked.is_some_and(|(asked, ..)| asked == to);
        for number in self.numbers(is_asked) {
            self.is_silent(now, number, to, view, out);
        }
    }

    fn is_silent(
        &mut self,
        now: Time,
        number: u64,
        owner: NodeId,
        view: &impl View,
        out: &mut Outbox,
    ) {
        if let Some(open) = self.open.get_mut(&number) {
            open.silent.push(owner);
            open.heard = None;
            if open.silent.len() > OWNERS + usize::from(MAX_REDIRECTS) {
                self.give_up(now, number, out);
            } else {
                self.ask(now, number, None, view, out);
            }
        }
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
                _ if open.deadline <= now => self.give_up(now, number, out),
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
        for number in self.numbers(|open| open.asked.is_none()) {
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
