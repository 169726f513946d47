//! Reads the answer of a source, and watches the source meanwhile: a dead one is left within about a second.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::activity::PullSource;
use crate::fetch::{Answer, Question};
use crate::flights::now;
use crate::source_provider::SourceProvider;
use crate::{SourceStatus, SourceWatch, WatchAction};

/// The result of a wait for bytes.
pub enum Next {
    /// Bytes, and how long the wait for them was.
    Bytes(Bytes, Duration),
    End,
    /// The connection broke, or the source is useless.
    Broken,
}

/// An answer that is being read.
pub struct SourceReader {
    provider: Arc<dyn SourceProvider>,
    question: Question,
    pub answer: Answer,
    watch: SourceWatch,
    /// The question to the source that is waiting for an answer.
    asking: Option<AbortOnDropHandle<SourceStatus>>,
}

impl SourceReader {
    pub fn new(provider: Arc<dyn SourceProvider>, question: Question, answer: Answer) -> Self {
        if let Some(activity) = &question.target.pull.activity {
            activity.set_source(PullSource::Peer(answer.candidate.clone()));
        }
        Self {
            provider,
            question,
            answer,
            watch: SourceWatch::new(now()),
            asking: None,
        }
    }

    /// Waits for the bytes at `offset` of the object.
    pub async fn next(&mut self, offset: u64) -> Next {
        // While the client does not read, nothing is expected from the source.
        self.watch.begin_wait(now());
        let began = Instant::now();
        loop {
            let wait = match self.watch.next(now()) {
                WatchAction::Leave => return Next::Broken,
                WatchAction::Ask => {
                    self.ask();
                    SourceWatch::answer_limit()
                }
                WatchAction::WaitUntil(at) => at.since(now()),
            };
            let Self { answer, asking, .. } = self;
            let status = async {
                match asking {
                    Some(asking) => asking.await.unwrap_or(SourceStatus::Silent),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                frame = answer.body.frame() => match frame {
                    Some(Ok(frame)) => {
                        let Ok(bytes) = frame.into_data() else {
                            continue;
                        };
                        let waited = began.elapsed();
                        self.watch.received(waited, self.provider.starved());
                        self.count(bytes.len() as u64);
                        return Next::Bytes(bytes, waited);
                    }
                    Some(Err(_)) => return Next::Broken,
                    None => return Next::End,
                },
                status = status => {
                    self.asking = None;
                    self.watch.answered(now(), offset, status);
                }
                () = sleep(wait) => {}
            }
        }
    }

    /// Whether the source is still receiving the object.
    pub fn grows(&self) -> bool {
        self.provider.grows()
    }

    fn count(&self, bytes: u64) {
        self.answer.received(bytes);
        if let Some(activity) = &self.question.target.pull.activity {
            activity.bytes.peers.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Asks the source for its status, unless the last question is still unanswered.
    fn ask(&mut self) {
        self.asking.get_or_insert_with(|| {
            let (provider, question) = (self.provider.clone(), self.question.clone());
            let source = self.answer.candidate.clone();
            AbortOnDropHandle::new(tokio::spawn(async move {
                let status = provider.status(&question, &source);
                let status = timeout(SourceWatch::answer_limit(), status).await;
                status.unwrap_or(SourceStatus::Silent)
            }))
        });
    }

    /// Whether to leave the source because it sends far less than it has.
    pub fn is_slow(&self) -> bool {
        self.watch.is_slow(now()) && self.provider.leave_slow(&self.answer.candidate.peer)
    }
}
