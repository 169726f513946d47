//! Session after session with containerd, for as long as the store is wanted.

use std::sync::Arc;
use std::time::Duration;

use mirror::Health;
use tokio::task::JoinSet;

use crate::session::Session;
use crate::{Containerd, Error};

/// Before the first try to connect again; doubled with each until [`PAUSE_MOST`].
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(5);

pub(crate) async fn keep(store: Arc<Containerd>) {
    let mut tasks = JoinSet::new();
    let watched = store.clone();
    // Whoever follows an ingest does so whether or not containerd answers.
    tasks.spawn(async move { watched.followed.watch().await });
    let mut pause = PAUSE_LEAST;
    let mut told = String::new();
    loop {
        let (was_ready, error) = session(&store).await;
        let reason = format!("containerd at {} {error}", store.config.socket.display());
        if was_ready {
            pause = PAUSE_LEAST;
        }
        // Once for each reason: waiting may take days.
        if was_ready || told != reason {
            tracing::warn!("{reason}; trying again");
            told.clone_from(&reason);
        }
        store.set_health(Health::Waiting(reason));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

/// Whether the store was ready in this session, and what ended it.
async fn session(store: &Containerd) -> (bool, Error) {
    match Session::open(store).await {
        Ok(mut session) => {
            store.metrics.connections.inc();
            let error = session.run().await;
            (session.was_ready(), error)
        }
        Err(error) => (false, error),
    }
}
