//! Server-sent events with the content of a page, for as long as a browser is connected.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::status::page;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use mirror::BodyError;
use tokio::time::{Instant, sleep_until, timeout};

use super::views::Views;

/// The interval between events while anything is pulled.
const PERIOD: Duration = Duration::from_secs(1);
/// The interval between checks of values without notifications: peers, findings, times since something.
const IDLE_PERIOD: Duration = Duration::from_secs(5);
/// After this long without an event a comment is sent, by which the server detects that the browser is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub type Events = BoxStream<'static, Result<Bytes, BodyError>>;

/// The present content of a page, and whether it is about to change.
type Shown = Pin<Box<dyn Future<Output = (String, bool)> + Send>>;

/// The events of the page of this node.
pub fn of_node(views: Arc<Views>) -> Events {
    events(views, |views| {
        Box::pin(async move {
            let status = views.status().await;
            (page::event(&status), !status.pulls.is_empty())
        })
    })
}

/// The events of the page of the cluster.
pub fn of_cluster(views: Arc<Views>) -> Events {
    events(views, |views| {
        Box::pin(async move {
            let cluster = views.cluster_at_once().await;
            (page::cluster_event(&cluster), !cluster.flights.is_empty())
        })
    })
}

fn events(views: Arc<Views>, show: fn(Arc<Views>) -> Shown) -> Events {
    struct Listening {
        changes: tokio::sync::watch::Receiver<u64>,
        last: String,
        next: Instant,
    }
    let listening = Listening {
        changes: views.changes(),
        last: String::new(),
        next: Instant::now(),
    };
    let events = stream::unfold(
        (views, listening),
        move |(views, mut listening)| async move {
            let give_up = Instant::now() + KEEP_ALIVE;
            loop {
                sleep_until(listening.next).await;
                listening.next = Instant::now() + PERIOD;
                listening.changes.mark_unchanged();
                let (event, is_changing) = show(views.clone()).await;
                if event != listening.last {
                    let text = format!("data: {event}\n\n");
                    listening.last = event;
                    return Some((Ok(Bytes::from(text)), (views, listening)));
                }
                if !is_changing {
                    let left = give_up.saturating_duration_since(Instant::now());
                    let _ = timeout(left.min(IDLE_PERIOD), listening.changes.changed()).await;
                }
                if Instant::now() >= give_up {
                    return Some((Ok(Bytes::from_static(b":\n\n")), (views, listening)));
                }
            }
        },
    );
    events.boxed()
}
