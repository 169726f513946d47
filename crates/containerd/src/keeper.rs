//! Repeats sessions with containerd for as long as the store exists.

use std::sync::Arc;
use std::time::Duration;

use mirror::Health;
use tokio::task::JoinSet;

use crate::session::Session;
use crate::{Containerd, Error};

/// The pause before the first attempt to reconnect; doubled with each attempt up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

pub(crate) async fn keep(store: Arc<Containerd>) {
    let watched = store.clone();
    // Ingests are followed whether or not containerd answers.
    let watch = async move { watched.followed.watch().await };
    beside(watch, sessions(&store)).await;
}

/// Runs `work` in a task of its own beside `rest`, and ends when either ends.
///
/// # Panics
/// If one of them panics: the caller must notice, because each is useless without the other.
async fn beside(work: impl Future<Output = ()> + Send + 'static, rest: impl Future<Output = ()>) {
    let mut tasks = JoinSet::new();
    tasks.spawn(work);
    tokio::select! {
        () = rest => {}
        Some(Err(error)) = tasks.join_next() => {
            if let Ok(panic) = error.try_into_panic() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

async fn sessions(store: &Containerd) {
    let mut pause = MIN_PAUSE;
    let mut told = String::new();
    loop {
        let (was_ready, error) = session(store).await;
        let reason = format!("containerd at {} {error}", store.config.socket.display());
        if was_ready {
            pause = MIN_PAUSE;
        }
        // Once for each reason: the wait may last days.
        if was_ready || told != reason {
            tracing::warn!("{reason}; trying again");
            told.clone_from(&reason);
        }
        store.set_health(Health::Waiting(reason));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Runs a session. Returns whether the store was ready in it, and why it ended.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_task_beside_is_not_lost() {
        let fails = async { panic!("on purpose") };
        let run = tokio::spawn(beside(fails, std::future::pending()));
        let ended = tokio::time::timeout(Duration::from_secs(60), run).await;
        let error = ended.expect("in time").expect_err("a panic");
        assert!(error.is_panic());
    }
}
