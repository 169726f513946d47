//! The streams of datagrams on one connection: at most one outgoing, a few incoming.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandler, ConnectionHandlerEvent, FullyNegotiatedInbound,
    FullyNegotiatedOutbound,
};
use libp2p::swarm::{Stream, SubstreamProtocol};
use libp2p::{PeerId, StreamProtocol};
use tokio::time::{Sleep, sleep};

use super::allowance::{Allowance, STREAM_COST};
use super::frames::{Reader, Writer};
use super::{Batch, FLIGHTS_PROTOCOL, IN_USE, MAX_QUEUED, queued};

/// The limit for the peer to accept a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3);
/// The most incoming streams. A new one replaces the oldest, whose sender may have abandoned it.
const MAX_INBOUND: usize = 2;
/// The most datagrams passed to the node at once.
const MAX_BATCH: usize = 64;

/// An order to a connection.
#[derive(Debug)]
pub(crate) enum Order {
    Send(Batch),
    /// Closes the peer's streams: it sends data that cannot be decoded.
    Refuse,
}

/// A report of a connection.
#[derive(Debug)]
pub(crate) enum Report {
    Received(Vec<Bytes>),
    /// Some datagrams were lost.
    Undelivered,
}

#[derive(Debug)]
enum Outbound {
    Closed,
    Opening,
    Open(Writer<Stream>),
}

#[derive(Debug)]
pub(crate) struct Handler {
    peer: PeerId,
    queue: VecDeque<Bytes>,
    /// Held until the queue is written.
    batches: Vec<Arc<()>>,
    outbound: Outbound,
    is_undelivered: bool,
    inbound: VecDeque<Reader<Stream>>,
    allowance: Allowance,
    /// Set while the peer exceeds its rate limit.
    pause: Option<Pin<Box<Sleep>>>,
    last_used: Instant,
}

type Event = ConnectionHandlerEvent<ReadyUpgrade<StreamProtocol>, (), Report>;

impl Handler {
    pub(super) fn new(peer: PeerId) -> Self {
        Self {
            peer,
            queue: VecDeque::new(),
            batches: Vec::new(),
            outbound: Outbound::Closed,
            is_undelivered: false,
            inbound: VecDeque::new(),
            allowance: Allowance::default(),
            pause: None,
            last_used: Instant::now(),
        }
    }

    fn queue(&mut self, batch: Batch) {
        self.last_used = Instant::now();
        if queued(&self.queue) + queued(&batch.datagrams) > MAX_QUEUED {
            // The peer reads too slowly, or not at all.
            self.is_undelivered = true;
            return;
        }
        self.queue.extend(batch.datagrams);
        self.batches.push(batch.unsent);
    }

    /// Handles an outgoing stream that failed or could not be opened.
    fn lose(&mut self, why: &dyn std::fmt::Display) {
        tracing::debug!(peer = %self.peer, error = %why, "cannot send datagrams");
        self.outbound = Outbound::Closed;
        self.queue.clear();
        self.batches.clear();
        self.is_undelivered = true;
    }

    fn poll_outbound(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match &mut self.outbound {
            Outbound::Closed if !self.queue.is_empty() => {
                self.outbound = Outbound::Opening;
                let upgrade = ReadyUpgrade::new(FLIGHTS_PROTOCOL);
                let protocol = SubstreamProtocol::new(upgrade, ()).with_timeout(STREAM_TIMEOUT);
                return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
            }
            Outbound::Closed | Outbound::Opening => {}
            Outbound::Open(writer) => match writer.poll_write(cx, &mut self.queue) {
                Poll::Ready(Ok(())) => self.batches.clear(),
                Poll::Ready(Err(error)) => self.lose(&error),
                Poll::Pending => {}
            },
        }
        if std::mem::take(&mut self.is_undelivered) {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Report::Undelivered));
        }
        Poll::Pending
    }

    fn poll_inbound(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let mut received = Vec::new();
        for _ in 0..self.inbound.len() {
            let Some(mut reader) = self.inbound.pop_front() else {
                break;
            };
            match self.read(cx, &mut reader, &mut received) {
                Ok(true) => self.inbound.push_back(reader),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(peer = %self.peer, %error, "closes a stream of datagrams");
                }
            }
        }
        if received.is_empty() {
            return Poll::Pending;
        }
        self.last_used = Instant::now();
        Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Report::Received(
            received,
        )))
    }

    /// Reads what has arrived, within the rate limit. Returns whether the stream goes on.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Reader<Stream>,
        received: &mut Vec<Bytes>,
    ) -> io::Result<bool> {
        while received.len() < MAX_BATCH && self.poll_allowed(cx).is_ready() {
            match reader.poll_next(cx)? {
                Poll::Ready(Some(datagram)) => {
                    self.allowance.spend_on(Instant::now(), &datagram);
                    received.push(datagram);
                }
                Poll::Ready(None) => return Ok(false),
                Poll::Pending => break,
            }
        }
        Ok(true)
    }

    fn poll_allowed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.allowance.wait(Instant::now()) {
                None => return Poll::Ready(()),
                Some(wait) => self.pause = Some(Box::pin(sleep(wait))),
            }
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Order;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<ReadyUpgrade<StreamProtocol>> {
        SubstreamProtocol::new(ReadyUpgrade::new(FLIGHTS_PROTOCOL), ())
    }

    /// Streams stay open as long as the connection, so they do not show whether it is in use.
    fn connection_keep_alive(&self) -> bool {
        self.last_used.elapsed() < IN_USE
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let event @ Poll::Ready(_) = self.poll_outbound(cx) {
            return event;
        }
        self.poll_inbound(cx)
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Send(batch) => self.queue(batch),
            Order::Refuse => self.inbound.clear(),
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.allowance.spend(Instant::now(), STREAM_COST);
                if self.inbound.len() >= MAX_INBOUND {
                    self.inbound.pop_front();
                }
                self.inbound.push_back(Reader::new(stream));
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: mut stream,
                ..
            }) => {
                stream.ignore_for_keep_alive();
                self.outbound = Outbound::Open(Writer::new(stream));
            }
            ConnectionEvent::DialUpgradeError(failed) => self.lose(&failed.error),
            _ => {}
        }
    }
}
