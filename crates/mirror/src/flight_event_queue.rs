//! The queue of events from flights to the mirror: bounded, and without loss. A newer event replaces a queued one of
//! the same kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::flights::{Key, LinkState};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Candidate;

/// The most objects queued. A node pulls a dozen at a time.
const MAX_SLOW_LEADS: usize = 1024;

/// A request or message of the flights to the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlightEvent {
    /// What is known of this node's link has changed. While the node is slow, it serves no incomplete objects.
    Link(LinkState),
    /// This node leads too slowly: its followers should go elsewhere.
    LeaderIsSlow(Key),
    /// Test this node's link against these, and call [`Flights::link_tested`](crate::Flights::link_tested).
    TestLink(Vec<Candidate>),
}

/// The receiving end of the queue.
#[derive(Debug)]
pub struct FlightEvents(Arc<Queue>);

/// The sending end of the queue. Dropping it ends the events.
#[derive(Debug)]
pub struct FlightEventSender(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    link: Option<LinkState>,
    slow_leads: BTreeSet<Key>,
    test_link: Option<Vec<Candidate>>,
    is_closed: bool,
}

/// Returns both ends of a new queue.
pub fn flight_events() -> (FlightEventSender, FlightEvents) {
    let queue = Arc::new(Queue::default());
    (FlightEventSender(queue.clone()), FlightEvents(queue))
}

impl FlightEventSender {
    /// Queues an event. Never blocks.
    pub fn send(&self, event: FlightEvent) {
        let mut waiting = self.0.waiting.lock();
        match event {
            FlightEvent::Link(state) => waiting.link = Some(state),
            FlightEvent::TestLink(peers) => waiting.test_link = Some(peers),
            FlightEvent::LeaderIsSlow(key) => {
                if waiting.slow_leads.len() >= MAX_SLOW_LEADS {
                    waiting.slow_leads.pop_first();
                    tracing::warn!(
                        "event queue full: followers of a slow leader were not told to change their source"
                    );
                }
                waiting.slow_leads.insert(key);
            }
        }
        self.0.changed.notify_one();
    }
}

impl Drop for FlightEventSender {
    fn drop(&mut self) {
        self.0.waiting.lock().is_closed = true;
        self.0.changed.notify_one();
    }
}

impl FlightEvents {
    /// The next event. `None`: there will be no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<FlightEvent> {
        loop {
            {
                let mut waiting = self.0.waiting.lock();
                if let Some(event) = waiting.take() {
                    return Some(event);
                }
                if waiting.is_closed {
                    return None;
                }
            }
            self.0.changed.notified().await;
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Option<FlightEvent> {
        let link = self.link.take().map(FlightEvent::Link);
        let mut slow_lead = || self.slow_leads.pop_first();
        let event = link.or_else(|| slow_lead().map(FlightEvent::LeaderIsSlow));
        event.or_else(|| self.test_link.take().map(FlightEvent::TestLink))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn however_far_the_mirror_is_behind_it_learns_of_everything_once() {
        let (sender, mut events) = flight_events();
        let key = |number: u8| Key([number; 16]);
        for number in 0..500 {
            let number = u8::try_from(number % 100).expect("small");
            sender.send(FlightEvent::LeaderIsSlow(key(number)));
            sender.send(FlightEvent::TestLink(Vec::new()));
            sender.send(FlightEvent::Link(LinkState::default()));
        }
        let last = LinkState {
            bandwidth: Some(7),
            ..LinkState::default()
        };
        sender.send(FlightEvent::Link(last));
        drop(sender);
        let first = events.next().await;
        assert_eq!(first, Some(FlightEvent::Link(last)));
        for number in 0..100 {
            let next = events.next().await;
            assert_eq!(next, Some(FlightEvent::LeaderIsSlow(key(number))));
        }
        let last = events.next().await;
        assert_eq!(last, Some(FlightEvent::TestLink(Vec::new())));
        assert_eq!(events.next().await, None);
    }

    #[tokio::test]
    async fn an_event_wakes_who_waits() {
        let (sender, mut events) = flight_events();
        let waiting = tokio::spawn(async move { events.next().await });
        tokio::task::yield_now().await;
        sender.send(FlightEvent::LeaderIsSlow(Key([7; 16])));
        let event = waiting.await.expect("no panic");
        assert_eq!(event, Some(FlightEvent::LeaderIsSlow(Key([7; 16]))));
    }
}
