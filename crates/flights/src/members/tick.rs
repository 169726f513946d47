//! Acts on deadlines of the membership as time passes.

use super::probes::Due;
use super::roster::Entry;
use super::timing::{FANOUT, GOSSIP_EVERY, INDIRECT_PROBES, LATE_TICK, SUSPICION, probe_every};
use super::wire::{Draft, Kind, MAX_MESSAGE, MemberUpdate, Probe, Status};
use super::{GOSSIP, Members, NodeId};
use crate::Time;
use crate::wire::node_field;

impl Members {
    /// When [`Members::tick`] must be called next. Calling it late does little harm, early none.
    pub fn next_deadline(&self) -> Time {
        let by_others = [self.next_doubt(), self.newcomers.next_deadline()];
        by_others
            .into_iter()
            .flatten()
            .fold(self.next_timer(), Time::min)
    }

    /// The next deadline, without those of doubts and newcomers, which may lie in the past while nothing is due.
    fn next_timer(&self) -> Time {
        let deadlines = [
            Some(self.next_probe),
            Some(self.next_sync),
            self.next_gossip,
            self.probes.next_deadline(),
            self.roster.next_deadline(),
        ];
        deadlines
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(self.next_probe)
    }

    /// Performs all actions that are due.
    pub fn tick(&mut self, now: Time) {
        if self.has_left {
            return;
        }
        let overslept = now.since(self.next_timer()) > LATE_TICK;
        if overslept {
            self.probes.clear();
        }
        while let Some(due) = self.probes.due(now) {
            match due {
                Due::Help {
                    target,
                    incarnation,
                    number,
                } => {
                    // Another node got no answer either. The others are told before the probe ends.
                    if self.doubts.end(now, &target).is_some() {
                        self.suspect(now, target, incarnation);
                    }
                    self.ask_others(now, target, number);
                }
                Due::Failed {
                    target,
                    incarnation,
                } => self.suspect(now, target, incarnation),
            }
        }
        while let Some(entry) = self.roster.due(now).cloned() {
            self.expire(now, entry, overslept);
        }
        while self.next_doubt().is_some_and(|at| at <= now) {
            if let Some(target) = self.doubts.take(now) {
                self.probe_doubted(now, target);
            }
        }
        while let Some(target) = self.newcomers.take(now) {
            let mut message = Draft::new(Some(Kind::Ping(Probe::default())));
            message.push(self.update_about_self(now), MAX_MESSAGE);
            self.send(now, target, message);
        }
        if self.next_probe <= now {
            self.next_probe = now.after(probe_every(self.len()));
            if let Some(target) = self.roster.next_to_probe(&mut self.random) {
                self.probe_now(now, target);
            }
        }
        if self.next_sync <= now {
            self.sync(now);
        }
        if self.next_gossip.is_some_and(|at| at <= now) {
            self.gossip(now);
        }
    }

    fn next_doubt(&self) -> Option<Time> {
        let deadline = self.doubts.next_deadline();
        deadline.filter(|_| self.probes.has_room_for_doubt())
    }

    /// Probes a member about which another node says something bad, and tells it what was said, so that it can refute
    /// that.
    fn probe_doubted(&mut self, now: Time, target: NodeId) {
        if let Some(entry) = self.roster.get_live(&target) {
            let status = Status::Suspect;
            let update = MemberUpdate::new(now, &entry.member, status, &entry.signature);
            self.probe(now, target, Some(update));
        }
    }

    fn ask_others(&mut self, now: Time, target: NodeId, number: u32) {
        let mut helpers = self.roster.pick(INDIRECT_PROBES + 1, &mut self.random);
        helpers.retain(|helper| *helper != target && self.contacts.admits(now, helper));
        helpers.truncate(INDIRECT_PROBES);
        for helper in &helpers {
            let probe = Probe {
                number,
                target: node_field(Some(target)),
                ..Probe::default()
            };
            self.send(now, *helper, Draft::new(Some(Kind::Ping(probe))));
        }
        self.probes.helped_by(number, helpers);
    }

    /// Suspects a member that did not answer. It is told at once, so that it can refute this.
    fn suspect(&mut self, now: Time, target: NodeId, incarnation: u32) {
        let entry = self.roster.get_live(&target);
        // With another incarnation it has been heard from since the probe began.
        let is_news = |entry: &Entry| {
            entry.member.incarnation == incarnation && entry.status != Status::Suspect
        };
        if !entry.is_some_and(is_news) {
            return;
        }
        self.set_status(now, target, Status::Suspect);
        self.send(now, target, Draft::new(None));
    }

    /// Handles the deadline of a suspect or dead member.
    fn expire(&mut self, now: Time, entry: Entry, overslept: bool) {
        match entry.status {
            // It may have refuted the suspicion meanwhile.
            Status::Suspect if overslept => {
                let deadline = Some(now.after(SUSPICION));
                let entry = Entry { deadline, ..entry };
                self.roster.put(entry, &mut self.random);
            }
            Status::Suspect => self.set_status(now, entry.member.id, Status::Dead),
            _ => self.roster.forget(&entry.member.id),
        }
    }

    /// Sends updates to a few members, and schedules the next round if there are more.
    fn gossip(&mut self, now: Time) {
        self.next_gossip = None;
        let is_alone = self.roster.live() == 0;
        let mut targets = self.roster.pick(FANOUT, &mut self.random);
        targets.retain(|target| self.contacts.admits(now, target));
        let times = u8::try_from(targets.len()).unwrap_or(u8::MAX);
        if is_alone {
            // There is no member to tell; a joining member gets the whole list.
            self.rumors = Default::default();
            return;
        }
        if times > 0 {
            let mut message = Draft::new(None);
            self.add_rumors(now, &mut message, times, GOSSIP);
            if message.has_updates() {
                self.send_to_all(targets, message);
            }
        }
        if !self.rumors.is_empty() {
            self.next_gossip = Some(now.after(GOSSIP_EVERY));
        }
    }
}
