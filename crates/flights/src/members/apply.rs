//! Applies what is reported and observed about members.
//!
//! A member's record counts with its own signature only, whoever passes it on. Another node's opinion of a member
//! changes nothing: this node probes the member itself. So no claim of one node removes a member.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use super::member::{Member, NodeId};
use super::roster::Entry;
use super::timing::{GOSSIP_BATCH, REFUTE_EVERY, REMEMBER_DEAD, SUSPICION};
use super::wire::{Claim, Draft, MAX_MESSAGE, MemberUpdate, Status, signed_bytes};
use super::{Change, Members};
use crate::{Born, DecodeError, Time};

/// An age that differs from the known one by less than this, in milliseconds, counts as the same: messages take that
/// long.
const AGE_SLACK_MILLIS: u64 = 50;

/// By how much others may claim that a member is older than this node has seen, in milliseconds: news takes that long
/// to reach all nodes.
const AGE_CLAIM_MILLIS: u64 = 10_000;
/// In a cluster of more hosts than this, members that others name are taken unprobed.
const MAX_PROBED_CLUSTER: usize = 256;

/// How a node learns something about a member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Another node has passed it on.
    Gossip,
    /// It was in another node's list.
    List,
}

impl Members {
    /// Applies the claims of a message, up to the first one with a false signature. From a node that is no member, only
    /// its claims about itself count, unless `was_asked`: this node has asked it for its list.
    pub(super) fn learn_all(
        &mut self,
        now: Time,
        from: NodeId,
        claims: Vec<Claim>,
        source: Source,
        was_asked: bool,
    ) -> Result<(), DecodeError> {
        let mut must_refute = false;
        // A node that introduces itself is a member for the rest of the message.
        let (about_itself, others): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .partition(|claim| claim.member.id == from);
        for claim in about_itself {
            self.learn(now, from, claim, source)?;
        }
        let is_trusted = was_asked || self.get(&from).is_some();
        for claim in others {
            if claim.member.id == self.me().id {
                must_refute |= !self.check_claim_about_self(now, from, &claim)?;
            } else if is_trusted {
                self.learn(now, from, claim, source)?;
            }
        }
        if must_refute {
            // The sender is answered first: it may be about to declare this node dead.
            let mut message = Draft::new(None);
            message.push(self.update_about_self(now), MAX_MESSAGE);
            self.send(now, from, message);
        }
        Ok(())
    }

    /// Applies a claim about another node. Its signature is verified only if something follows from it.
    fn learn(
        &mut self,
        now: Time,
        from: NodeId,
        mut claim: Claim,
        source: Source,
    ) -> Result<(), DecodeError> {
        let id = claim.member.id;
        let known = self.roster.get(&id);
        let order = known.map_or(Ordering::Greater, |known| {
            claim.member.incarnation.cmp(&known.member.incarnation)
        });
        let was_live = known.is_some_and(|known| known.status.is_live());
        match order {
            Ordering::Less => {}
            // Only a higher incarnation brings a member back.
            Ordering::Equal if !was_live => {}
            Ordering::Equal => self.learn_about_same(now, from, claim, source)?,
            Ordering::Greater if was_live => {
                if self.verify(now, from, &claim)? {
                    self.learn_newer(now, claim, source);
                }
            }
            // A claim that a life which was never seen has ended is ignored.
            Ordering::Greater if !claim.status.is_live() => {}
            Ordering::Greater if !self.has_joined() && source == Source::List => {
                if self.roster.has_room() && self.verify(now, from, &claim)? {
                    self.learn_newer(now, claim, source);
                }
            }
            Ordering::Greater if id == from || self.takes_unprobed() => {
                if self.has_room_for(&id) && self.verify(now, from, &claim)? {
                    self.limit_age(&mut claim.member, now);
                    self.learn_newer(now, claim, source);
                }
            }
            Ordering::Greater => {
                if self.newcomers.takes(&claim, &from) && self.verify(now, from, &claim)? {
                    self.newcomers.add(now, from, claim);
                }
            }
        }
        Ok(())
    }

    /// Whether the member has signed a record that another node sends. `false`: the allowance of that node is used up.
    fn verify(&mut self, now: Time, from: NodeId, claim: &Claim) -> Result<bool, DecodeError> {
        let is_member = self.get(&from).is_some();
        let asked = self.asked.get_mut(&from).filter(|asked| asked.until > now);
        let of_list = asked.and_then(|asked| {
            asked.verifications = asked.verifications.checked_sub(1)?;
            Some(())
        });
        if of_list.is_none() && !self.verifications.admits(now, from, is_member) {
            return Ok(false);
        }
        let Claim {
            member,
            status,
            signature,
        } = claim;
        let record = signed_bytes(member, *status == Status::Left);
        match self.signatures.verify(&member.id, &record, signature) {
            true => Ok(true),
            false => Err(DecodeError::Signature(member.id)),
        }
    }

    /// Limits the age of a node that this one first heard of at this time, unless it has known it before.
    pub(super) fn limit_age(&self, member: &mut Member, first_heard: Time) {
        if self.roster.get(&member.id).is_none() {
            let first_heard = Born::from_age(first_heard, Duration::ZERO);
            member.born = member.born.max(oldest_claim(first_heard));
        }
    }

    /// Whether a node may become a member.
    pub(super) fn has_room_for(&self, id: &NodeId) -> bool {
        self.roster.has_room() && self.contacts.host_has_room(id)
    }

    /// Whether members that others name are taken without a probe: in a large cluster, it would cost too much if every
    /// node probed every other.
    pub(super) fn takes_unprobed(&self) -> bool {
        self.contacts.heard_hosts() > MAX_PROBED_CLUSTER
    }

    /// Applies a claim about the incarnation that is known of a live member.
    fn learn_about_same(
        &mut self,
        now: Time,
        from: NodeId,
        claim: Claim,
        source: Source,
    ) -> Result<(), DecodeError> {
        let Some(known) = self.roster.get(&claim.member.id).cloned() else {
            return Ok(());
        };
        match claim.status {
            Status::Alive => {
                let mut told = claim.member;
                told.born = told.born.max(known.oldest);
                if known.member.born.millis_after(told.born) > AGE_SLACK_MILLIS {
                    let born = told.born;
                    let member = Member {
                        born,
                        ..known.member
                    };
                    self.changes.push(Change::Updated(member.clone()));
                    self.roster.put(Entry { member, ..known }, &mut self.random);
                }
            }
            Status::Suspect | Status::Dead => self.doubts.add(now, claim.member.id),
            Status::Left => {
                if self.verify(now, from, &claim)? {
                    self.learn_newer(now, claim, source);
                }
            }
        }
        Ok(())
    }

    /// Applies a record that is newer than the known one, or says that a live member leaves. Its signature is verified
    /// already.
    pub(super) fn learn_newer(&mut self, now: Time, claim: Claim, source: Source) {
        let Claim {
            mut member,
            status,
            signature,
        } = claim;
        let leaves = status == Status::Left;
        let id = member.id;
        let known = self.roster.get(&id);
        let was_live = known.is_some_and(|known| known.status.is_live());
        let mut oldest = oldest_claim(member.born);
        if let Some(known) = known {
            oldest = known.oldest;
            member.born = member.born.max(oldest);
            keep_age(&mut member, &known.member);
            if was_live && !leaves && is_changed(&member, &known.member) {
                self.changes.push(Change::Updated(member.clone()));
            }
        }
        match (was_live, leaves) {
            (false, _) => self.changes.push(Change::Joined(member.clone())),
            (true, true) => {
                self.contacts.forget(&id);
                self.changes.push(Change::Left(id));
            }
            (true, false) => {}
        }
        let entry = Entry {
            member,
            status: if leaves { status } else { Status::Alive },
            signature,
            oldest,
            deadline: leaves.then(|| now.after(REMEMBER_DEAD)),
        };
        self.roster.put(entry, &mut self.random);
        if matches!(status, Status::Suspect | Status::Dead) {
            self.doubts.add(now, id);
        }
        // The senders of the first list know its members already.
        if source != Source::List || self.has_joined() {
            self.spread(now, id);
        }
    }

    /// Records what this node itself has found out about a member, and tells the others.
    pub(super) fn set_status(&mut self, now: Time, id: NodeId, status: Status) {
        let Some(known) = self.roster.get_live(&id).cloned() else {
            return;
        };
        let deadline = match status {
            Status::Alive => None,
            Status::Suspect => {
                let told = self.doubts.end(now, &id);
                Some(told.unwrap_or(now.after(SUSPICION)))
            }
            Status::Dead | Status::Left => Some(now.after(REMEMBER_DEAD)),
        };
        if !status.is_live() {
            self.contacts.forget(&id);
            self.changes.push(Change::Left(id));
        }
        let entry = Entry {
            status,
            deadline,
            ..known
        };
        self.roster.put(entry, &mut self.random);
        if status != Status::Alive {
            self.spread(now, id);
        }
    }

    /// Ends this node's suspicion of a member from which it has heard.
    pub(super) fn clear_suspicion(&mut self, now: Time, id: NodeId) {
        let entry = self.roster.get(&id);
        if entry.is_some_and(|entry| entry.status == Status::Suspect) {
            self.set_status(now, id, Status::Alive);
        }
    }

    /// Refutes a wrong claim about this node. Returns whether the claim is true.
    ///
    /// A higher incarnation than this node's counts only with its own signature: it is that of an earlier process. So
    /// others cannot use up the incarnations.
    fn check_claim_about_self(
        &mut self,
        now: Time,
        from: NodeId,
        claim: &Claim,
    ) -> Result<bool, DecodeError> {
        let me = self.me();
        let (told, incarnation) = (&claim.member, me.incarnation);
        // Ages are never too high: an older one belongs to an earlier process with this key.
        let is_same_life =
            told.contact == me.contact && me.born.millis_after(told.born) <= AGE_SLACK_MILLIS;
        let is_alive = claim.status == Status::Alive;
        Ok(match told.incarnation.cmp(&incarnation) {
            Ordering::Less => false,
            Ordering::Equal if is_alive && is_same_life => true,
            Ordering::Equal => {
                if self.next_refutation <= now {
                    self.next_refutation = now.after(REFUTE_EVERY);
                    self.reincarnate(now, incarnation);
                }
                false
            }
            Ordering::Greater => {
                let is_own = self.verify(now, from, claim)?;
                if is_own {
                    self.reincarnate(now, told.incarnation);
                }
                !is_own
            }
        })
    }

    /// Raises this node's incarnation above `incarnation` and tells all members.
    pub(super) fn reincarnate(&mut self, now: Time, incarnation: u32) {
        let mut me = self.me().clone();
        me.incarnation = incarnation.saturating_add(1);
        let id = me.id;
        let signature = self.signatures.sign(&signed_bytes(&me, false));
        self.roster.set_me(me, signature);
        self.spread(now, id);
    }

    pub(super) fn update_about_self(&self, now: Time) -> MemberUpdate {
        self.roster.my_entry().update(now)
    }

    fn spread(&mut self, now: Time, id: NodeId) {
        self.rumors.add(id);
        self.next_gossip.get_or_insert(now.after(GOSSIP_BATCH));
    }
}

/// The earliest birth that others may claim of a member first heard of at this birth.
fn oldest_claim(born: Born) -> Born {
    born.minus_millis(AGE_CLAIM_MILLIS)
}

/// Takes the age from what is known, unless that of the newer record differs.
fn keep_age(told: &mut Member, known: &Member) {
    let is_older = known.born.millis_after(told.born) > AGE_SLACK_MILLIS;
    let is_younger = told.born.millis_after(known.born) > AGE_SLACK_MILLIS;
    if !is_older && !is_younger {
        told.born = known.born;
    }
    if *told.contact == *known.contact {
        told.contact = Arc::clone(&known.contact);
    }
}

fn is_changed(told: &Member, known: &Member) -> bool {
    told.contact != known.contact || told.born != known.born
}
