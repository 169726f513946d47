//! What this node pulls right now, in flights: it tells the arbiters how that goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::budget::Budgets;
use crate::outbox::Outbox;
use crate::seeks::{HEARTBEAT, Load, Outcome, Place, SeekId, Settled};
use crate::slots::Slot;
use crate::view::View;
use crate::wire::{Message, Stage};
use crate::{Key, NodeId, Time};

/// How often a follower says that it is still there; who leads says so at every heartbeat.
const FOLLOWER_BEAT: Duration = Duration::from_secs(30);
/// A node is getting something of a registry if something came so long ago.
const GROWS: Duration = Duration::from_secs(2);
/// Pulls at once.
const MAX_PULLS: usize = 4_096;
/// An object of which nothing came for so long holds nothing else up.
const STILL: Duration = Duration::from_millis(1_500);
/// A pull of which the mirror says nothing for so long was forgotten.
const FORGOTTEN: Duration = Duration::from_secs(2 * 3600);

/// How a pull goes on, as the mirror sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The first bytes are there and can be passed on.
    Begun {
        /// Of the whole object, in bytes.
        size: u64,
    },
    /// It is complete here.
    Done,
    /// It ended, or stalled, before it was complete.
    Failed,
    /// It came whole, and its digest was another.
    Wrong,
    /// Whom this node feeds at this place of the flight takes far less than what this node could pass on, which takes in
    /// so many bytes a second, in all: nobody should have to wait behind it.
    Outrun { place: Place, rate: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Lead,
    Alone,
    Follow(NodeId),
}

#[derive(Debug)]
struct Pull {
    role: Role,
    seek: SeekId,
    /// Of the question that it came of.
    number: u64,
    group: u64,
    registry: u64,
    since: Time,
    size: Option<u64>,
    is_large: bool,
    /// Of its place, where it follows another.
    order: u32,
    /// When bytes of it came last, or it began.
    came: Time,
    beat_at: Time,
    /// The arbiter that heard of it last.
    told: Option<NodeId>,
    /// It leads, or asked another arbiter than that of its district, for all of that: so the arbiter of the whole cluster
    /// is told as well.
    is_head: bool,
}

/// What matters to others about a node besides its pull.
#[derive(Clone, Copy, Debug, Default)]
struct Condition {
    /// Other objects come to it.
    is_busy: bool,
    /// Others were held up behind it.
    lags: bool,
}

/// What is learned from a report.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// Upstream took so long to its first byte.
    FirstByte { registry: u64, took: Duration },
    /// This node went upstream in vain.
    Failed { group: u64 },
}

#[derive(Debug, Default)]
pub(crate) struct Pulls {
    pulls: BTreeMap<Key, Pull>,
    /// When something of a registry last came, by its hash.
    grew: BTreeMap<u64, Time>,
}

impl Pulls {
    /// A question is settled: so this node pulls.
    pub fn begin(&mut self, now: Time, settled: &Settled, view: &impl View, out: &mut Outbox) {
        let (role, order) = match &settled.outcome {
            Outcome::Lead => (Role::Lead, 0),
            Outcome::Alone => (Role::Alone, 0),
            Outcome::Follow { source, place, .. } => (Role::Follow(*source), place.order),
            Outcome::Later | Outcome::Found(_) => return self.stand_back(settled, view, out),
        };
        let Some(wanted) = &settled.wanted else {
            return;
        };
        if role == Role::Alone {
            self.stand_back(settled, view, out);
        }
        // What came of another source before is no sign that upstream sends anything.
        let before = self.pulls.get(&wanted.key);
        let before = before.filter(|_| matches!(role, Role::Follow(_)));
        let size = before.and_then(|pull| pull.size);
        if self.pulls.len() >= MAX_PULLS && !self.pulls.contains_key(&wanted.key) {
            return;
        }
        let arbiter = view.arbiter(&wanted.key);
        let mut pull = Pull {
            role,
            seek: settled.seek,
            number: settled.number,
            group: wanted.group,
            registry: wanted.registry,
            since: now,
            size,
            is_large: wanted.is_large(),
            order,
            came: now,
            beat_at: now.after(beat(role)),
            told: settled.by,
            is_head: role == Role::Lead || settled.by.is_some_and(|by| Some(by) != arbiter),
        };
        // Whoever granted a lead knows at once that it is taken, and so does the arbiter, if that is another one.
        if role == Role::Lead || pull.is_head {
            pull.tell(wanted.key, view, out);
        }
        self.pulls.insert(wanted.key, pull);
    }

    /// Large objects that come to this node, as it matters to who gets them for its district.
    pub fn load(&self, now: Time, view: &impl View) -> Load {
        let mut load = Load::default();
        let nearby = u32::try_from(view.nearby()).unwrap_or(u32::MAX);
        for (key, pull) in self.pulls.iter().filter(|(_, pull)| pull.is_large) {
            let behind = match pull.role {
                Role::Alone => continue,
                Role::Lead => nearby,
                Role::Follow(source) if view.is_near(&source) => nearby.saturating_sub(pull.order),
                Role::Follow(_) => {
                    if pull.is_head && now.since(pull.came) < STILL {
                        load.heads.push(*key);
                    }
                    nearby.saturating_mul(2)
                }
            };
            load.large += 1;
            load.behind = load.behind.saturating_add(behind);
        }
        load
    }

    /// Nothing that others could wait for came of a question that the arbiter of this district had sent on.
    fn stand_back(&self, settled: &Settled, view: &impl View, out: &mut Outbox) {
        let Some(wanted) = &settled.wanted else {
            return;
        };
        let (key, number) = (wanted.key, settled.number);
        if let (Some(by), Some(arbiter)) = (settled.by, view.arbiter(&key))
            && by != arbiter
        {
            out.send(arbiter, Message::Withdraw { key, number });
        }
    }

    /// An arbiter grants a lead that nobody waits for any more. Says whether this node goes upstream anyway.
    pub fn promote(&mut self, key: Key, view: &impl View, out: &mut Outbox) -> bool {
        match self.pulls.get_mut(&key) {
            Some(pull) if matches!(pull.role, Role::Lead | Role::Alone) => {
                (pull.role, pull.is_head) = (Role::Lead, true);
                pull.tell(key, view, out);
                true
            }
            _ => false,
        }
    }

    /// Whether this node pulls what this question was about, by its answer.
    pub fn came_of(&self, key: &Key, number: u64) -> bool {
        self.pulls
            .get(key)
            .is_some_and(|pull| pull.number == number)
    }

    /// The outcome of a question is not made use of.
    pub fn decline(&mut self, seek: SeekId, view: &impl View, out: &mut Outbox) {
        let mut pulls = self.pulls.iter();
        let declined = pulls.find(|(_, pull)| pull.seek == seek && pull.size.is_none());
        let key = declined.map(|(key, _)| *key);
        if let Some((key, pull)) = key.and_then(|key| self.pulls.remove_entry(&key)) {
            let number = pull.number;
            for arbiter in pull.arbiters(&key, view) {
                out.send(arbiter, Message::Withdraw { key, number });
            }
        }
    }

    /// Passes news on to the arbiter.
    pub fn report(
        &mut self,
        now: Time,
        key: Key,
        news: News,
        view: &impl View,
        out: &mut Outbox,
    ) -> Option<Lesson> {
        let pull = self.pulls.get_mut(&key)?;
        let mut lesson = None;
        // Wherever it came from: a node that gets much from peers begins the next of its downloads late as well.
        if matches!(news, News::Begun { .. } | News::Done) {
            self.grew.insert(pull.registry, now);
        }
        let stage = match news {
            News::Begun { size } => {
                if pull.size.is_none() && pull.role == Role::Lead {
                    let (registry, took) = (pull.registry, now.since(pull.since));
                    lesson = Some(Lesson::FirstByte { registry, took });
                }
                pull.came = now;
                let goes_on = pull.size.replace(size).is_some();
                if goes_on {
                    // The next heartbeats say so.
                    return None;
                }
                pull.stage(Condition::default())
            }
            News::Done => Stage::Done,
            News::Failed | News::Wrong => {
                if pull.is_upstream() {
                    let group = pull.group;
                    lesson = Some(Lesson::Failed { group });
                }
                if news == News::Wrong {
                    Stage::Wrong
                } else {
                    Stage::Failed
                }
            }
            News::Outrun { place, rate } => Stage::Outrun {
                order: place.order,
                rate,
            },
        };
        pull.beat_at = now.after(beat(pull.role));
        pull.report(key, stage, view, out);
        if matches!(stage, Stage::Done | Stage::Failed | Stage::Wrong) {
            self.pulls.remove(&key);
        }
        lesson
    }

    /// These slots (a bit each) have another arbiter: it is told what this node pulls.
    pub fn moved(&mut self, slots: u64, view: &impl View, out: &mut Outbox) {
        for (key, pull) in &mut self.pulls {
            if slots >> Slot::of(&key.0).index() & 1 == 1 {
                pull.tell(*key, view, out);
            }
        }
    }

    /// Whether somebody feeds this node, and this is who says what the arbiter has to say about it.
    pub fn is_fed(&self, key: &Key, says: NodeId, view: &impl View) -> bool {
        let is_so = |pull: &Pull| {
            matches!(pull.role, Role::Follow(_))
                && [pull.told, view.arbiter(key), view.root(key)].contains(&Some(says))
        };
        self.pulls.get(key).is_some_and(is_so)
    }

    /// Others are held up behind this node: arbiters are told.
    pub fn lag(&mut self, view: &impl View, out: &mut Outbox) {
        let condition = Condition {
            is_busy: false,
            lags: true,
        };
        for (key, pull) in &mut self.pulls {
            if matches!(pull.role, Role::Follow(_)) {
                pull.tell_as(*key, condition, view, out);
            }
        }
    }

    /// An arbiter cannot be reached: the next one is told what this one was.
    pub fn undelivered(&mut self, to: NodeId, view: &impl View, out: &mut Outbox) {
        for (key, pull) in &mut self.pulls {
            if pull.told == Some(to) && view.arbiter(key) != Some(to) {
                pull.tell(*key, view, out);
            }
        }
    }

    pub fn next_deadline(&self) -> Option<Time> {
        self.pulls.values().map(|pull| pull.beat_at).min()
    }

    pub fn tick(&mut self, now: Time, budgets: &mut Budgets, view: &impl View, out: &mut Outbox) {
        self.pulls
            .retain(|_, pull| now.since(pull.since) < FORGOTTEN);
        self.grew.retain(|_, at| now.since(*at) < GROWS);
        for (key, pull) in &mut self.pulls {
            if pull.beat_at <= now {
                pull.beat_at = now.after(beat(pull.role));
                let condition = Condition {
                    is_busy: self.grew.contains_key(&pull.registry),
                    lags: budgets.lags,
                };
                pull.tell_as(*key, condition, view, out);
                // While objects move the pull of their image is not over.
                budgets.touch(now, pull.group);
            }
        }
    }
}

impl Pull {
    fn is_upstream(&self) -> bool {
        matches!(self.role, Role::Lead | Role::Alone)
    }

    fn stage(&self, condition: Condition) -> Stage {
        let Condition { is_busy, lags } = condition;
        let source = match self.role {
            Role::Lead | Role::Alone => None,
            Role::Follow(source) => Some(source),
        };
        let size = self.size;
        Stage::Alive {
            size,
            source,
            is_busy,
            lags,
        }
    }

    fn tell(&mut self, key: Key, view: &impl View, out: &mut Outbox) {
        self.tell_as(key, Condition::default(), view, out);
    }

    fn tell_as(&mut self, key: Key, condition: Condition, view: &impl View, out: &mut Outbox) {
        // Who pulls for itself is of use to others from its first byte on.
        if self.role == Role::Alone && self.size.is_none() {
            return;
        }
        self.report(key, self.stage(condition), view, out);
    }

    fn report(&mut self, key: Key, stage: Stage, view: &impl View, out: &mut Outbox) {
        let number = self.number;
        self.told = view.arbiter(&key).or(self.told);
        for arbiter in self.arbiters(&key, view) {
            out.send(arbiter, Message::Report { key, number, stage });
        }
    }

    /// Who is told of it.
    fn arbiters(&self, key: &Key, view: &impl View) -> impl Iterator<Item = NodeId> {
        let root = view.root(key).filter(|_| self.is_head);
        view.arbiter(key).into_iter().chain(root)
    }
}

fn beat(role: Role) -> Duration {
    match role {
        Role::Lead | Role::Alone => HEARTBEAT,
        Role::Follow(_) => FOLLOWER_BEAT,
    }
}
