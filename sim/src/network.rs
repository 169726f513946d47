//! Datagrams between nodes: connections, latency and CPU.

use bytes::Bytes;

use crate::event::Event;
use crate::setup::{MILLI, Micros, SECOND};
use crate::world::World;

/// The round trips within a zone and between zones.
const NEAR: Micros = 250;
const FAR: Micros = MILLI;
const ZONES: u32 = 3;
/// The CPU of a connection on each side, and the number of cores.
const HANDSHAKE: Micros = 400;
const CORES: Micros = 4;
/// The CPU of a datagram on each side, in the one task that handles them.
const DATAGRAM: Micros = 50;
/// The round trips until a libp2p connection carries datagrams: TCP, Noise, yamux.
const LIBP2P_TRIPS: Micros = 4;
/// The connection timeout.
const CONNECT_LIMIT: Micros = SECOND;

impl World {
    /// The round trip between two nodes.
    pub fn round_trip(&self, a: u32, b: u32) -> Micros {
        if a % ZONES == b % ZONES { NEAR } else { FAR }
    }

    /// When both nodes have finished their part of a handshake that begins now.
    pub fn handshake(&mut self, a: u32, b: u32) -> Micros {
        let mut done = self.now;
        for node in [a, b] {
            let member = &mut self.members[node as usize];
            member.cores_free = member.cores_free.max(self.now) + HANDSHAKE / CORES;
            done = done.max(member.cores_free + HANDSHAKE - HANDSHAKE / CORES);
        }
        done
    }

    /// Sends a datagram.
    pub fn send_datagram(&mut self, from: u32, to: u32, bytes: Bytes) {
        self.counts.datagrams += 1;
        if !self.members[to as usize].alive {
            return self.push(self.now, Event::Undelivered { from, to });
        }
        if self.is_cut(from, to) {
            return self.push(self.now + CONNECT_LIMIT, Event::Undelivered { from, to });
        }
        let round_trip = self.round_trip(from, to);
        let sender = &mut self.members[from as usize];
        sender.free = sender.free.max(self.now) + DATAGRAM;
        let leaves = sender.free;
        let pair = (from.min(to), from.max(to));
        let ready = match self.connections.get(&pair) {
            Some(ready) => *ready,
            None => {
                let ready = self.handshake(from, to) + LIBP2P_TRIPS * round_trip;
                self.connections.insert(pair, ready);
                ready
            }
        };
        let arrives = leaves.max(ready) + round_trip / 2;
        self.push(arrives, Event::Arrives { from, to, bytes });
    }

    /// Queues a datagram for the node's task, which first handles what came or was sent before.
    pub fn arrives(&mut self, from: u32, to: u32, bytes: Bytes) {
        let receiver = &mut self.members[to as usize];
        receiver.free = receiver.free.max(self.now) + DATAGRAM;
        let at = receiver.free;
        self.push(at, Event::Deliver { from, to, bytes });
    }
}
