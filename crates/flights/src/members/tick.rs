//! What happens as time passes.

use super::probes::Due;
use super::roster::Status;
use super::timing::{
    FANOUT, GOSSIP_EVERY, INDIRECT_PROBES, OVERSLEPT, REMEMBER_DEAD, SUSPICION, probe_every,
};
use super::wire::{Kind, MAX_MESSAGE, Message};
use super::{Datagram, GOSSIP, Members, NodeId};
use crate::Time;

impl Members {
    /// When [`Members::tick`] must be called next. Calling it late does little harm, early none.
    pub fn next_deadline(&self) -> Time {
        let deadlines = [
            Some(self.next_probe),
            Some(self.next_sync),
            self.next_gossip,
            self.probes.next_deadline(),
            self.roster.next_deadline(),
            self.joining.next_deadline(),
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
        if now.since(self.next_deadline()) > OVERSLEPT {
            self.probes.void();
            self.roster.spare_suspects(now.after(SUSPICION));
        }
        while let Some(due) = self.probes.due(now) {
            match due {
                Due::Help { target, number } => self.ask_others(now, target, number),
                Due::Failed {
                    target,
                    incarnation,
                } => self.suspect(now, target, incarnation),
            }
        }
        while let Some(id) = self.roster.due(now) {
            self.expire(now, id);
        }
        if self.next_probe <= now {
            self.next_probe = now.after(probe_every(self.len()));
            if let Some(target) = self.roster.next_to_probe(&mut self.random) {
                self.probe(now, target);
            }
        }
        self.ask_seed(now);
        if self.next_sync <= now {
            self.sync(now);
        }
        if self.next_gossip.is_some_and(|at| at <= now) {
            self.gossip(now);
        }
    }

    fn ask_others(&mut self, now: Time, target: NodeId, number: u32) {
        let mut helpers = self.roster.pick(INDIRECT_PROBES + 1, &mut self.random);
        helpers.retain(|helper| *helper != target);
        helpers.truncate(INDIRECT_PROBES);
        self.probes.helped_by(number, &helpers);
        for helper in helpers {
            self.send_with_updates(now, helper, &Kind::PingFor { target, number });
        }
    }

    /// Suspects a member that did not answer. It is told at once, so that it can refute this.
    fn suspect(&mut self, now: Time, target: NodeId, incarnation: u32) {
        self.learn_not_alive(now, target, incarnation, Status::Suspect, SUSPICION);
        if let Some(update) = self.claim_to_refute(now, &target) {
            let mut message = Message::new(&Kind::Gossip);
            message.push(&update, MAX_MESSAGE);
            self.datagrams.push(Datagram {
                to: target,
                bytes: message.finish(),
            });
        }
    }

    /// Handles the deadline of a suspect or dead member.
    fn expire(&mut self, now: Time, id: NodeId) {
        match self.roster.get(&id) {
            Some(entry) if entry.status == Status::Suspect => {
                let incarnation = entry.member.incarnation;
                self.learn_not_alive(now, id, incarnation, Status::Down, REMEMBER_DEAD);
            }
            _ => self.roster.remove(&id),
        }
    }

    /// Sends updates to a few members, and schedules the next round if there are more.
    fn gossip(&mut self, now: Time) {
        self.next_gossip = None;
        let targets = self.roster.pick(FANOUT, &mut self.random);
        let times = u8::try_from(targets.len()).unwrap_or(u8::MAX);
        if times == 0 {
            // There is nobody to tell; a joining member gets the whole list.
            self.rumors = Default::default();
            return;
        }
        let mut message = Message::new(&Kind::Gossip);
        let empty = message.len();
        self.add_rumors(now, &mut message, times, GOSSIP);
        if message.len() > empty {
            let bytes = message.finish();
            let to_each = |to| Datagram {
                to,
                bytes: bytes.clone(),
            };
            self.datagrams.extend(targets.into_iter().map(to_each));
        }
        if !self.rumors.is_empty() {
            self.next_gossip = Some(now.after(GOSSIP_EVERY));
        }
    }
}
