//! Compares lists of members: how a node joins, how updates missed by gossip are found, how a partition heals.

use std::collections::BTreeMap;
use std::time::Duration;

use super::member::NodeId;
use super::roster::{Entry, Status, bucket};
use super::timing::{JOIN_PATIENCE, JOIN_RETRY, SYNC_AGAIN, sync_every};
use super::wire::{Claim, Digest, Kind, MAX_MESSAGE, MemberUpdate, Message};
use super::{Datagram, Members, alive, update_about};
use crate::Time;
use crate::time::millis;

/// The state of joining.
#[derive(Debug, Default)]
pub(super) struct Joining {
    seeds: Vec<NodeId>,
    next_seed: usize,
    /// The first list has not arrived yet.
    is_waiting: bool,
    /// When the next seed is asked, if there is one.
    retry: Option<Time>,
    give_up: Time,
    /// The messages of the first list that have arrived.
    parts: u8,
}

impl Joining {
    pub(super) fn is_over(&self) -> bool {
        !self.is_waiting
    }

    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.retry
    }
}

impl Members {
    /// Joins the cluster of `seeds`: nodes that the transport can reach already.
    ///
    /// The seeds are asked in turn until one sends its list. Seeds that are not on the list are asked too; otherwise
    /// nodes that all start together would form clusters around their seeds. Without seeds this node is a cluster of
    /// its own until another one joins it. May be called again with other seeds; known members stay.
    pub fn join(&mut self, now: Time, seeds: impl IntoIterator<Item = NodeId>) {
        let me = self.me.id;
        let mut seeds: Vec<_> = seeds.into_iter().filter(|seed| *seed != me).collect();
        self.random.shuffle(&mut seeds);
        let has_any = !seeds.is_empty();
        self.joining = Joining {
            seeds,
            is_waiting: has_any && self.roster.live().is_empty(),
            retry: has_any.then_some(now),
            give_up: now.after(JOIN_PATIENCE),
            ..Joining::default()
        };
        self.ask_seed(now);
    }

    pub(super) fn ask_seed(&mut self, now: Time) {
        if self.joining.retry.is_none_or(|retry| retry > now) {
            return;
        }
        self.joining.retry = None;
        if self.joining.give_up <= now {
            self.joining.is_waiting = false;
        } else if let Some(seed) = self.seed() {
            self.joining.retry = Some(now.after(JOIN_RETRY));
            self.send_sync(now, seed);
        }
    }

    /// The next seed to ask. Once this node has joined, only seeds that are not members.
    fn seed(&mut self) -> Option<NodeId> {
        let Joining {
            seeds,
            next_seed,
            is_waiting,
            ..
        } = &mut self.joining;
        for _ in 0..seeds.len() {
            let seed = seeds.get(*next_seed % seeds.len()).copied()?;
            *next_seed = next_seed.wrapping_add(1);
            let is_known = self
                .roster
                .get(&seed)
                .is_some_and(|entry| entry.status.is_live());
            if *is_waiting || !is_known {
                return Some(seed);
            }
        }
        None
    }

    /// Compares lists with a random member. One in four times, and always if no member is alive, with a dead member or
    /// a seed that is no member.
    pub(super) fn sync(&mut self, now: Time) {
        let every = sync_every(self.len());
        self.next_sync = self.jittered(now, every);
        let look_for_lost = self.roster.live().is_empty() || self.random.below(4) == 0;
        let pick_lost = if look_for_lost {
            self.pick_lost()
        } else {
            None
        };
        let anybody = || self.roster.pick(1, &mut self.random).pop();
        if let Some(to) = pick_lost.or_else(anybody) {
            self.send_sync(now, to);
        }
    }

    fn pick_lost(&mut self) -> Option<NodeId> {
        let down = self.roster.down();
        let down = down.get(self.random.below(down.len())).copied();
        let by_seed = down.is_none() || self.random.below(2) == 0;
        let seed = if by_seed { self.seed() } else { None };
        seed.or(down)
    }

    /// The time after about `wait`, with jitter, so that nodes that started together do not all ask together.
    fn jittered(&mut self, now: Time, wait: Duration) -> Time {
        let spread = self
            .random
            .below(usize::try_from(millis(wait)).unwrap_or(0));
        Time(now.after(wait / 2).0.saturating_add(spread as u64))
    }

    pub(super) fn send_sync(&mut self, now: Time, to: NodeId) {
        let digest = Box::new(*self.roster.digest());
        let mut message = Message::new(&Kind::Sync {
            joining: !self.has_joined(),
            digest,
        });
        message.push(&alive(now, &self.me), MAX_MESSAGE);
        if let Some(update) = self.claim_to_refute(now, &to) {
            message.push(&update, MAX_MESSAGE);
        }
        self.datagrams.push(Datagram {
            to,
            bytes: message.finish(),
        });
    }

    /// Answers with everything that this node knows about the buckets that differ.
    pub(super) fn answer_sync(&mut self, now: Time, from: NodeId, joining: bool, theirs: &Digest) {
        let ours = self.roster.digest();
        let mut differ = 0_u64;
        for (bucket, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            differ |= u64::from(ours != theirs) << bucket;
        }
        if differ != 0 || joining {
            let is_wanted = |entry: &&Entry| differ >> bucket(&entry.member.id) & 1 == 1;
            let mut wanted: Vec<_> = self.roster.entries().filter(is_wanted).collect();
            wanted.sort_by_key(|entry| bucket(&entry.member.id));
            self.send_list(from, list(now, &self.me, &wanted), differ);
        }
    }

    /// Sends updates in as many messages as they need. A bucket that is split between messages is not marked as whole.
    fn send_list(&mut self, to: NodeId, updates: Vec<MemberUpdate>, differ: u64) {
        // The number of messages is known only at the end, so they are planned first.
        let empty = Message::new(&Kind::List { parts: 0, whole: 0 });
        let mut parts: Vec<(u64, Vec<MemberUpdate>)> = vec![(differ, Vec::new())];
        let mut size = empty.clone();
        for item in updates {
            if !size.push(&item, MAX_MESSAGE) {
                let cut = 1_u64 << bucket(&item.id);
                let later = !(cut | (cut - 1));
                if let Some((whole, _)) = parts.last_mut() {
                    let before = *whole;
                    *whole &= cut - 1;
                    parts.push((before & later, Vec::new()));
                }
                size = empty.clone();
                size.push(&item, MAX_MESSAGE);
            }
            if let Some((_, part)) = parts.last_mut() {
                part.push(item);
            }
        }
        let count = u8::try_from(parts.len()).unwrap_or(u8::MAX);
        for (whole, part) in parts {
            let mut message = Message::new(&Kind::List {
                parts: count,
                whole,
            });
            for item in &part {
                message.push(item, MAX_MESSAGE);
            }
            self.datagrams.push(Datagram {
                to,
                bytes: message.finish(),
            });
        }
    }

    /// Applies a list, and sends back what its sender lacks in the buckets that it sent whole.
    pub(super) fn take_list(
        &mut self,
        now: Time,
        from: NodeId,
        parts: u8,
        whole: u64,
        updates: Vec<MemberUpdate>,
    ) {
        let theirs: BTreeMap<NodeId, (u32, bool)> = updates
            .iter()
            .map(|update| {
                (
                    update.id,
                    (
                        update.incarnation,
                        matches!(update.claim, Claim::Alive { .. }),
                    ),
                )
            })
            .collect();
        let before = self.changes.len();
        self.learn_all(now, from, updates, true);
        if self.changes.len() > before {
            // Gossip does not suffice here: a crowd joins, or a partition heals.
            let again = self.jittered(now, SYNC_AGAIN);
            self.next_sync = self.next_sync.min(again);
        }
        if whole != 0 {
            let lacks = |entry: &&Entry| {
                let member = &entry.member;
                if whole >> bucket(&member.id) & 1 == 0 {
                    return false;
                }
                theirs
                    .get(&member.id)
                    .map_or(entry.status.is_live(), |(incarnation, alive)| {
                        let dead_here = !entry.status.is_live() && *alive;
                        member.incarnation > *incarnation
                            || (member.incarnation == *incarnation && dead_here)
                    })
            };
            let lacking: Vec<_> = self.roster.entries().filter(lacks).collect();
            let is_self_unknown = !theirs
                .get(&self.me.id)
                .is_some_and(|(incarnation, alive)| *alive && *incarnation == self.me.incarnation);
            if !lacking.is_empty() || is_self_unknown {
                self.send_list(from, list(now, &self.me, &lacking), 0);
            }
        }
        self.advance_joining(now, from, parts);
    }

    fn advance_joining(&mut self, now: Time, from: NodeId, parts: u8) {
        if !self.joining.is_waiting || !self.joining.seeds.contains(&from) {
            return;
        }
        self.joining.parts = self.joining.parts.saturating_add(1);
        if self.joining.parts >= parts {
            self.joining.is_waiting = false;
            self.joining.retry = Some(now);
        }
    }
}

/// Updates about this node and `entries`. A suspect is listed as alive and then as suspect, for nodes that do not know
/// it yet.
fn list(now: Time, me: &super::Member, entries: &[&Entry]) -> Vec<MemberUpdate> {
    let mut all = vec![alive(now, me)];
    for entry in entries {
        if entry.status == Status::Suspect {
            all.push(alive(now, &entry.member));
        }
        all.push(update_about(now, entry));
    }
    all
}
