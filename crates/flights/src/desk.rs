//! A node's part in flights, given who the members are: owner, holder, seeker in one.

use crate::arbiter::{Arbiter, Teller};
use crate::holdings::Holdings;
use crate::outbox::Outbox;
use crate::pulls::{Lesson, News, Pulls};
use crate::seeks::{Outcome, SeekId, Seeks, Wanted};
use crate::slots::{Slot, SlotChange};
use crate::view::View;
use crate::wire::{Message, Seek, Verdict};
use crate::{DecodeError, Key, NodeId, Time};
use bytes::Bytes;

#[cfg(test)]
mod tests;

/// Everything but membership: [`crate::Node`] puts the two together. Apart, because the simulator lets ten thousand
/// desks share one view.
#[derive(Debug)]
pub struct Desk {
    arbiter: Arbiter,
    holdings: Holdings,
    /// What this node's district holds, as far as this node owns it.
    district: Holdings,
    seeks: Seeks,
    pulls: Pulls,
    out: Outbox,
    datagrams: Vec<(NodeId, Bytes)>,
    outcomes: Vec<(SeekId, Outcome)>,
    /// Members of whom another one says that they are silent.
    doubted: Vec<NodeId>,
    /// What somebody who feeds this node takes in, whom it stays far behind.
    outrun: Option<u64>,
}

impl Desk {
    pub fn new(me: NodeId, seed: u64) -> Self {
        let mut desk = Self {
            arbiter: Arbiter::default(),
            holdings: Holdings::default(),
            district: Holdings::of_district(),
            seeks: Seeks::default(),
            pulls: Pulls::default(),
            out: Outbox::default(),
            datagrams: Vec::new(),
            outcomes: Vec::new(),
            doubted: Vec::new(),
            outrun: None,
        };
        desk.arbiter.seed(me, seed);
        desk.seeks.seed(seed);
        desk
    }

    /// See [`crate::Node::hold`].
    pub fn hold(&mut self, now: Time, keys: &[Key]) {
        self.holdings.add(now, keys);
    }

    /// See [`crate::Node::release`].
    pub fn release(&mut self, now: Time, keys: &[Key]) {
        self.holdings.remove(now, keys);
    }

    /// See [`crate::Node::seek`].
    pub fn seek(&mut self, now: Time, wanted: Wanted, view: &impl View) -> SeekId {
        let id = self.seeks.seek(now, wanted, view, &mut self.out);
        self.deliver_own(now, view);
        id
    }

    /// See [`crate::Node::find`].
    pub fn find(&mut self, now: Time, key: Key, view: &impl View) -> SeekId {
        let id = self.seeks.find(now, key, view, &mut self.out);
        self.deliver_own(now, view);
        id
    }

    /// See [`crate::Node::cancel`].
    pub fn cancel(&mut self, now: Time, id: SeekId, view: &impl View) {
        if !self.seeks.cancel(now, id, view, &mut self.out) {
            self.outcomes.retain(|(settled, _)| *settled != id);
            self.pulls.decline(id, view, &mut self.out);
        }
        self.deliver_own(now, view);
    }

    /// See [`crate::Node::report`].
    pub fn report(&mut self, now: Time, key: Key, news: News, view: &impl View) {
        match self.pulls.report(now, key, news, view, &mut self.out) {
            Some(Lesson::FirstByte { registry, took }) => self.seeks.budgets.learn(registry, took),
            Some(Lesson::Failed { group }) => self.seeks.bar(now, group, view, &mut self.out),
            None => {}
        }
        self.deliver_own(now, view);
    }

    /// Questions that wait for an answer.
    pub fn open_questions(&self) -> usize {
        self.seeks.len()
    }

    pub fn take_datagrams(&mut self) -> Vec<(NodeId, Bytes)> {
        std::mem::take(&mut self.datagrams)
    }

    pub fn take_outcomes(&mut self) -> Vec<(SeekId, Outcome)> {
        std::mem::take(&mut self.outcomes)
    }

    /// See [`crate::Node::take_outrun`].
    pub fn take_outrun(&mut self) -> Option<u64> {
        self.outrun.take()
    }

    /// See [`crate::Node::lag`].
    pub fn lag(&mut self, now: Time, lags: bool, view: &impl View) {
        self.seeks.budgets.lags = lags;
        if lags {
            self.pulls.lag(view, &mut self.out);
        }
        self.deliver_own(now, view);
    }

    /// Members who should be probed at once.
    pub(crate) fn take_doubted(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.doubted)
    }

    /// Takes a message about keys.
    ///
    /// # Errors
    /// It cannot be read; nothing has changed.
    pub fn receive(
        &mut self,
        now: Time,
        from: NodeId,
        datagram: &[u8],
        view: &impl View,
    ) -> Result<(), DecodeError> {
        self.accept(now, from, Message::decode(datagram)?, view);
        Ok(())
    }

    pub(crate) fn accept(&mut self, now: Time, from: NodeId, message: Message, view: &impl View) {
        self.take(now, from, message, view);
        self.deliver_own(now, view);
    }

    fn take(&mut self, now: Time, from: NodeId, message: Message, view: &impl View) {
        let Self {
            arbiter,
            seeks,
            out,
            ..
        } = self;
        match message {
            Message::Members(_) => {}
            Message::Announce {
                of_district,
                forget,
                add,
                remove,
            } => {
                let teller = Teller::new(from, of_district);
                arbiter.announced(now, teller, (forget, &add, &remove), view, out);
            }
            Message::Renew {
                of_district,
                slots,
                hashes,
            } => {
                let teller = Teller::new(from, of_district);
                let slots = arbiter.renewed(teller, slots, &hashes);
                if slots != 0 {
                    out.send(from, Message::Resync { of_district, slots });
                }
            }
            Message::Resync { of_district, slots } => {
                let holdings = if of_district {
                    &mut self.district
                } else {
                    &mut self.holdings
                };
                holdings.tell_whole(now, from, slots);
            }
            Message::Seek(seek) => self.sought(now, from, seek, view),
            Message::Withdraw { key, number } => {
                arbiter.withdrawn(now, from, (key, number), view, out);
            }
            Message::Answer {
                key,
                number,
                verdict,
            } => self.answered(now, from, key, number, verdict, view),
            Message::Report { key, number, stage } => {
                arbiter.reported(now, from, (key, number), stage, view, out);
            }
            Message::Find { key, number } => {
                let owners = view.owners(Slot::of(&key.0));
                let me = view.me();
                let is_owner = owners.contains(&me) || view.roots(Slot::of(&key.0)).contains(&me);
                let holders = arbiter.holders(&key, from);
                let redirect = match view.root(&key) {
                    _ if !is_owner => owners.arbiter(),
                    _ if !holders.is_empty() => None,
                    Some(root) => Some(root).filter(|_| view.is_near(&from)),
                    None => arbiter.district_of(&key, &from, view),
                };
                out.send(
                    from,
                    Message::Found {
                        number,
                        holders,
                        redirect,
                    },
                );
            }
            Message::Found {
                number,
                holders,
                redirect,
            } => seeks.found(now, from, number, (holders, redirect), view, out),
            Message::Outrun { key, rate } => {
                if self.pulls.is_fed(&key, from, view) {
                    self.outrun = self.outrun.max(Some(rate));
                }
            }
        }
    }

    /// Somebody asks what to do about a key.
    fn sought(&mut self, now: Time, from: NodeId, mut seek: Seek, view: &impl View) {
        let Self { arbiter, out, .. } = self;
        let key = seek.key;
        if let Some(asker) = seek.asker.take() {
            // Passed on by the arbiter after this one, which knows nothing yet.
            arbiter.seek(now, asker, seek, view, out);
            return;
        }
        let owners = view.owners(Slot::of(&key.0));
        let is_root = |node: &NodeId| view.roots(Slot::of(&key.0)).contains(node);
        self.doubted.extend(seek.silent.filter(is_root));
        match owners.arbiter() {
            Some(first) if first == view.me() => {
                let before = view.before(Slot::of(&key.0));
                let before = before.filter(|before| view.is_member(before));
                match before.filter(|before| *before != view.me() && !arbiter.knows(&key)) {
                    Some(before) => {
                        seek.asker = Some(from);
                        out.send(before, Message::Seek(seek));
                    }
                    None => arbiter.seek(now, from, seek, view, out),
                }
            }
            Some(first) if seek.silent == Some(first) && owners.contains(&view.me()) => {
                self.doubted.push(first);
                arbiter.keep(now, from, seek, view, out);
            }
            Some(first) => out.send(
                from,
                Message::Answer {
                    key,
                    number: seek.number,
                    verdict: Verdict::Redirect(first),
                },
            ),
            None => {}
        }
    }

    fn answered(
        &mut self,
        now: Time,
        from: NodeId,
        key: Key,
        number: u64,
        verdict: Verdict,
        view: &impl View,
    ) {
        let Self {
            seeks, pulls, out, ..
        } = self;
        let is_awaited = seeks.answered(now, from, (key, number), verdict, view, out);
        let is_granted = matches!(verdict, Verdict::Lead | Verdict::Follow { .. });
        let is_used = verdict == Verdict::Lead && !is_awaited && pulls.promote(key, view, out);
        if is_granted && !is_awaited && !is_used && !pulls.came_of(&key, number) {
            // Others must not wait for this node.
            out.send(from, Message::Withdraw { key, number });
        }
    }

    /// A message to `to` could not be delivered.
    pub fn undelivered(&mut self, now: Time, to: NodeId, view: &impl View) {
        self.arbiter.undelivered(now, to, view, &mut self.out);
        self.silent(now, to, view);
    }

    /// This node is the arbiter of slots whose arbiter it cannot ask.
    pub(crate) fn takes_over(&mut self, now: Time) {
        self.arbiter.learn(now);
    }

    /// A member does not answer.
    pub(crate) fn silent(&mut self, now: Time, node: NodeId, view: &impl View) {
        // The flights of which it was the arbiter are made known to whoever is now.
        self.pulls.undelivered(node, view, &mut self.out);
        self.seeks.undelivered(now, node, view, &mut self.out);
        self.deliver_own(now, view);
    }

    /// Slots have other owners than before.
    pub fn moved(&mut self, now: Time, changes: &[SlotChange], view: &impl View) {
        let me = view.me();
        let (mut arbiters, mut disowned, mut gained) = (0, 0, false);
        for change in changes {
            let bit = 1 << change.slot.index();
            if change.before.arbiter() != change.after.arbiter() {
                arbiters |= bit;
                if change.after.arbiter() == Some(me) {
                    for root in view.roots(change.slot).iter() {
                        self.district.tell_whole(now, *root, bit);
                    }
                }
                gained |= change.before.arbiter().is_some() && change.after.arbiter() == Some(me);
            }
            if change.before.contains(&me) && !change.after.contains(&me) {
                disowned |= bit;
            }
            let fresh = |owner: &&NodeId| !change.before.contains(owner);
            for owner in change.after.iter().filter(fresh) {
                self.holdings.tell_whole(now, *owner, bit);
            }
        }
        if gained {
            self.arbiter.learn(now);
        }
        if view.districts() == 1 {
            self.district = Holdings::of_district();
        }
        self.arbiter.disowned(disowned);
        self.pulls.moved(arbiters, view, &mut self.out);
        self.deliver_own(now, view);
    }

    /// Slots have other owners in the whole cluster than before.
    pub fn roots_moved(&mut self, now: Time, changes: &[SlotChange], view: &impl View) {
        let mut arbiters = 0;
        for change in changes {
            let bit = 1 << change.slot.index();
            if change.before.arbiter() != change.after.arbiter() {
                arbiters |= bit;
            }
            if change.before.is_empty() {
                self.district.add(now, &self.arbiter.held(change.slot));
            }
            let fresh = |owner: &&NodeId| !change.before.contains(owner);
            for owner in change.after.iter().filter(fresh) {
                self.district.tell_whole(now, *owner, bit);
            }
        }
        self.pulls.moved(arbiters, view, &mut self.out);
        self.deliver_own(now, view);
    }

    /// A member has left, or is dead.
    pub fn left(&mut self, now: Time, node: NodeId, view: &impl View) {
        self.arbiter.left(now, node, view, &mut self.out);
        self.deliver_own(now, view);
    }

    /// This node has its first list of members.
    pub fn joined(&mut self, now: Time, view: &impl View) {
        if view.members() > 1 {
            self.arbiter.learn(now);
        }
        self.seeks.joined(now, view, &mut self.out);
        self.deliver_own(now, view);
    }

    pub fn next_deadline(&self) -> Option<Time> {
        let deadlines = [
            self.arbiter.next_deadline(),
            self.holdings.next_deadline(),
            self.district.next_deadline(),
            self.seeks.next_deadline(),
            self.pulls.next_deadline(),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// Does what is due by now.
    pub fn tick(&mut self, now: Time, view: &impl View) {
        self.seeks.tick(now, view, &mut self.out);
        self.holdings.tick(now, view, &mut self.out);
        self.district.tick(now, view, &mut self.out);
        self.pulls
            .tick(now, &mut self.seeks.budgets, view, &mut self.out);
        self.arbiter.tick(now, view, &mut self.out);
        self.deliver_own(now, view);
    }

    /// What this node has to say to itself it is told at once; the rest goes out.
    fn deliver_own(&mut self, now: Time, view: &impl View) {
        let me = view.me();
        loop {
            for settled in self.seeks.take_settled() {
                self.pulls.begin(now, &settled, view, &mut self.out);
                self.outcomes.push((settled.seek, settled.outcome));
            }
            let load = self.pulls.load(now, view);
            self.seeks.bears(now, load, view, &mut self.out);
            let held = self.arbiter.take_held().into_iter();
            for (key, is_held) in held.filter(|_| view.districts() > 1) {
                if is_held {
                    self.district.add(now, &[key]);
                } else {
                    self.district.remove(now, &[key]);
                }
            }
            match self.out.next() {
                Some((to, message)) if to == me => self.take(now, me, message, view),
                Some((to, message)) => self.datagrams.push((to, message.encode())),
                None => return,
            }
        }
    }
}
