//! Compares lists of members: how a node joins, how updates missed by gossip are found, how a partition heals.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Members;
use super::apply::Source;
use super::member::NodeId;
use super::roster::{Entry, MAX_DEAD, MAX_MEMBERS, bucket};
use super::timing::{JOIN_RETRY, LIST_AGAIN, LIST_WAIT, SYNC_AGAIN, sync_every};
use super::wire::{Claim, Draft, Kind, List, MAX_MESSAGE, Sync};
use crate::time::millis;
use crate::{DecodeError, Time};

/// The most nodes that are asked for lists, or sent lists, within their time.
const MAX_ASKED: usize = 4_096;
/// The most records of a list.
const MAX_LIST: usize = MAX_MEMBERS + MAX_DEAD;

/// A node that was asked for its list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// Until when it may send it.
    pub(super) until: Time,
    /// The number of its records that are verified beyond the allowance of their sender.
    pub(super) verifications: usize,
}

impl Members {
    /// Compares lists: with a seed while this node joins, then with a random member. One in four times, and always if no
    /// member is alive, with a dead member or a seed that is no member.
    pub(super) fn sync(&mut self, now: Time) {
        if let Some(seed) = self.seed_to_join(now) {
            self.next_sync = now.after(JOIN_RETRY);
            return self.send_sync(now, seed, MAX_LIST);
        }
        let every = sync_every(self.len());
        self.next_sync = self.jittered(now, every);
        let look_for_lost = self.len() == 1 || self.random.below(4) == 0;
        let lost = if look_for_lost {
            self.pick_lost()
        } else {
            None
        };
        if let Some(to) = lost.or_else(|| self.roster.pick(1, &mut self.random).pop()) {
            // A seed that is no member has been met by the transport.
            if self.roster.get(&to).is_none() || self.contacts.admits(now, &to) {
                self.send_sync(now, to, MAX_LIST);
            }
        }
    }

    fn pick_lost(&mut self) -> Option<NodeId> {
        let dead = self.roster.pick_dead(&mut self.random);
        let by_seed = dead.is_none() || self.random.below(2) == 0;
        let seed = if by_seed { self.next_seed() } else { None };
        seed.or(dead)
    }

    /// The time about `wait` from now, with jitter, so that nodes that started together do not all ask together.
    fn jittered(&mut self, now: Time, wait: Duration) -> Time {
        let spread = self
            .random
            .below(usize::try_from(millis(wait)).unwrap_or(0));
        Time(now.after(wait / 2).0.saturating_add(spread as u64))
    }

    /// Asks a node for its list. This many of its records are verified beyond the allowance of their sender.
    pub(super) fn send_sync(&mut self, now: Time, to: NodeId, verifications: usize) {
        let mut message = Draft::new(Some(Kind::Sync(Sync {
            joining: !self.has_joined(),
            bucket_hashes: self.roster.hashes().to_vec(),
        })));
        message.push(self.update_about_self(now), MAX_MESSAGE);
        self.asked.retain(|_, asked| asked.until > now);
        if self.asked.len() >= MAX_ASKED {
            return;
        }
        let before = self.asked.get(&to).map(|asked| asked.verifications);
        let asked = Asked {
            until: now.after(LIST_WAIT),
            verifications: before.unwrap_or_default().max(verifications),
        };
        self.asked.insert(to, asked);
        self.send(now, to, message);
    }

    /// Answers with everything that this node knows about the buckets that differ.
    pub(super) fn answer_sync(&mut self, now: Time, from: NodeId, sync: &Sync) {
        let mut differ = 0_u64;
        let pairs = self.roster.hashes().iter().zip(&sync.bucket_hashes);
        for (bucket, (ours, theirs)) in pairs.enumerate() {
            differ |= u64::from(ours != theirs) << bucket;
        }
        self.listed.retain(|_, until| *until > now);
        let is_soon = self.listed.contains_key(&from) || self.listed.len() >= MAX_ASKED;
        if (differ != 0 || sync.joining) && !is_soon {
            self.listed.insert(from, now.after(LIST_AGAIN));
            self.send_list(now, from, differ, |entry| is_in(differ, &entry.member.id));
        }
    }

    /// Sends the entries that `choose` selects, in as many messages as they need. A bucket of `whole` that is split
    /// between messages is not marked as whole.
    fn send_list(&mut self, now: Time, to: NodeId, whole: u64, choose: impl Fn(&Entry) -> bool) {
        let mut entries: Vec<_> = self.roster.entries().filter(|it| choose(it)).collect();
        entries.sort_by_key(|entry| bucket(&entry.member.id));
        let members = u32::try_from(self.len()).unwrap_or(u32::MAX);
        let kind = |whole_buckets| {
            Some(Kind::List(List {
                members,
                whole_buckets,
            }))
        };
        let mut parts = Vec::new();
        let (mut part, mut rest) = (Draft::new(kind(whole)), whole);
        for entry in entries {
            if !part.push(entry.update(now), MAX_MESSAGE) {
                let split = 1_u64 << bucket(&entry.member.id);
                let before = split - 1;
                parts.push(part.with_kind(kind(rest & before)));
                rest &= !(before | split);
                part = Draft::new(kind(whole));
                part.push(entry.update(now), MAX_MESSAGE);
            }
        }
        parts.push(part.with_kind(kind(rest)));
        for part in parts {
            self.send_to_all([to], part);
        }
    }

    /// Applies a list, and sends back what its sender lacks in the buckets that it sent whole.
    pub(super) fn take_list(
        &mut self,
        now: Time,
        from: NodeId,
        list: &List,
        claims: Vec<Claim>,
    ) -> Result<(), DecodeError> {
        let theirs = claims.iter();
        let theirs = theirs.map(|it| (it.member.id, (it.member.incarnation, it.status)));
        let theirs: BTreeMap<_, _> = theirs.collect();
        let before = (self.changes.len(), self.newcomers.named());
        let is_asked = self.asked.get(&from).is_some_and(|it| it.until > now);
        self.learn_all(now, from, claims, Source::List, is_asked)?;
        if !is_asked && self.get(&from).is_none() {
            return Ok(());
        }
        if (self.changes.len(), self.newcomers.named()) != before {
            // Gossip does not suffice here: a crowd joins, or a partition heals.
            let again = self.jittered(now, SYNC_AGAIN);
            self.next_sync = self.next_sync.min(again);
        }
        let is_lacking = |entry: &Entry| {
            let theirs = theirs.get(&entry.member.id);
            is_in(list.whole_buckets, &entry.member.id)
                && theirs.map_or(entry.status.is_live(), |theirs| {
                    entry.precedence() > *theirs
                })
        };
        if self.roster.entries().any(is_lacking) {
            self.send_list(now, from, 0, is_lacking);
        }
        self.advance_joining(now, from, list.members);
        Ok(())
    }
}

fn is_in(buckets: u64, id: &NodeId) -> bool {
    buckets >> bucket(id) & 1 == 1
}
