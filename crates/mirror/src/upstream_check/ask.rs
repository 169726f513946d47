//! A running question to upstream: asked once, awaited for a moment, and continued in the background.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::join_all;
use oci::{Digest, Origin, Ranges};
use tokio::sync::watch;
use tokio::time::timeout;

use super::answers::Plan;
use super::{Answer, Asker, Inner, Question, UpstreamCheck, WAIT};
use crate::{Store, UpstreamError, UpstreamHead, UpstreamRepository, local};

/// The limit of a question in the background.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The most running questions, in all and to one registry. Half of each is reserved for this node's own client.
const MAX_RUNNING: usize = 64;
const MAX_RUNNING_OF_ONE: usize = 16;
/// The most registries that are asked again at a time, and the limit of the wait for them.
const MAX_RETRIED: usize = 8;
const RETRY_WAIT: Duration = Duration::from_secs(2);
/// The bytes of an object that are compared with upstream's.
const SAMPLE: u64 = 64;

/// A running question, until this is dropped.
struct Asked {
    inner: Arc<Inner>,
    question: Question,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.inner.running.lock().remove(&self.question);
    }
}

type Running = watch::Receiver<Option<Answer>>;

impl UpstreamCheck {
    pub(super) async fn ask(&self, question: &Question, asker: Asker) -> Answer {
        let registry = &question.origin().registry;
        let plan = self.0.answers.lock().plan(question);
        let answer = match plan {
            Plan::Known(answer) => answer,
            Plan::Ask { wait } => match self.run(question, asker) {
                None => self.0.answers.lock().registries.unasked(registry),
                Some(mut running) => {
                    let limit = if wait { WAIT } else { Duration::ZERO };
                    let answered = timeout(limit, running.wait_for(Option::is_some)).await;
                    let answer = answered.ok().and_then(|a| a.ok()?.clone());
                    answer.unwrap_or_else(|| self.0.answers.lock().registries.late(registry, wait))
                }
            },
        };
        self.0.metrics.count_check(answer.label());
        answer
    }

    /// Joins a running question, or asks it. `None`: too many are running, or it is not asked for this client.
    fn run(&self, question: &Question, asker: Asker) -> Option<Running> {
        let mut running = self.0.running.lock();
        if let Some(joined) = running.get(question) {
            return Some(joined.clone());
        }
        let registry = &question.origin().registry;
        let of_one = running.keys().filter(|q| q.origin().registry == *registry);
        let part = if asker.is_own() { 1 } else { 2 };
        let is_full =
            running.len() >= MAX_RUNNING / part || of_one.count() >= MAX_RUNNING_OF_ONE / part;
        if is_full || !self.may_ask(question.origin(), asker) {
            return None;
        }
        let (told, answer) = watch::channel(None);
        running.insert(question.clone(), answer.clone());
        let asked = Asked {
            inner: self.0.clone(),
            question: question.clone(),
        };
        self.0.tasks.spawn(async move {
            let (inner, question) = (&asked.inner, &asked.question);
            let answer = timeout(ANSWER_LIMIT, inner.put(question)).await;
            // It may have waited for its turn all the time, which says nothing about the registry.
            let answer = answer.unwrap_or(Answer::Slow);
            let is_held = inner.holds(question);
            inner.answers.lock().record(question, &answer, is_held);
            drop(asked);
            // There may be no request left that waits for it.
            let _ = told.send(Some(answer));
        });
        Some(answer)
    }

    /// Asks the last unreachable registries again what they were asked. Takes 2 s at most.
    pub async fn retry_unreachable(&self) {
        let questions = self.0.answers.lock().registries.unanswered_questions();
        let running = questions
            .iter()
            .take(MAX_RETRIED)
            .filter_map(|question| self.run(question, Asker::Own));
        let answers =
            running.map(async |mut running| drop(running.wait_for(Option::is_some).await));
        // What has no answer by then goes on in the background.
        let _ = timeout(RETRY_WAIT, join_all(answers)).await;
    }

    /// Whether upstream is asked about a repository for this client.
    pub(super) fn may_ask(&self, origin: &Origin, asker: Asker) -> bool {
        match asker {
            Asker::ProvenOwn | Asker::Own => true,
            Asker::Anybody | Asker::Holder => {
                let mut answers = self.0.answers.lock();
                answers.may_ask_for_anybody(&origin.registry)
            }
            Asker::Unauthenticated => false,
        }
    }
}

impl Inner {
    async fn put(&self, question: &Question) -> Answer {
        let repository = UpstreamRepository::anonymous(question.origin());
        let answered = match question {
            Question::Bytes(_, digest) => match self.sample(digest).await {
                Some(sample) => self.compare(&repository, digest, sample).await,
                // Upstream was not asked.
                None => return Answer::Slow,
            },
            Question::Tag(_) | Question::Manifest(..) => {
                self.upstream.head(&repository, &question.reference()).await
            }
        };
        let answer = match answered {
            Ok(head) => Answer::Granted(head),
            Err(UpstreamError::Denied { .. }) => Answer::Refused,
            Err(UpstreamError::NotFound(_)) => Answer::NotFound,
            Err(
                ref error @ (UpstreamError::Unreachable(_, ref why)
                | UpstreamError::Forbidden(_, ref why)),
            ) => {
                tracing::info!(
                    %error,
                    "cannot reach the registry to check tags and visibility; using what this node and its peers know"
                );
                let why = why.clone();
                self.answers.lock().registries.unanswered(question, why);
                return Answer::Unreachable;
            }
            Err(error) => {
                tracing::debug!(%error, "a check upstream has no result");
                return Answer::Failed;
            }
        };
        tracing::debug!(origin = %repository.origin, answer = answer.label(), "checked upstream");
        answer
    }

    /// Unpredictable bytes of an object of this node, and their offset.
    async fn sample(&self, digest: &Digest) -> Option<(u64, Bytes)> {
        let digest = digest.clone();
        let read = move |store: &dyn Store| local::sample(store, &digest, SAMPLE);
        local::read_store(&self.store, read).await.ok()?
    }

    /// Whether a repository gives these bytes of an object to an anonymous client. Other bytes prove nothing.
    async fn compare(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        (offset, expected): (u64, Bytes),
    ) -> Result<UpstreamHead, UpstreamError> {
        let wrong = |text: String| UpstreamError::Protocol(repository.origin.clone(), text);
        let last = offset + (expected.len() as u64).saturating_sub(1);
        let ranges = Ranges::parse(&format!("bytes={offset}-{last}"));
        let ranges = ranges.ok().flatten();
        let asked = self.upstream.blob(repository, digest, ranges.as_ref());
        let mut blob = asked.await?;
        let mut given = Vec::new();
        while given.len() < expected.len()
            && let Some(bytes) = blob.body.next().await
        {
            given.extend_from_slice(&bytes?);
        }
        given.truncate(expected.len());
        if blob.offset == offset && given == *expected {
            return Ok(UpstreamHead {
                digest: Some(digest.clone()),
                size: blob.size,
                media_type: None,
                visibility: blob.visibility,
            });
        }
        Err(wrong(format!("other bytes than those of {digest}")))
    }

    /// Whether this node holds the object of the question, under the repository that is asked.
    fn holds(&self, question: &Question) -> bool {
        let catalog = self.store.catalog();
        match question {
            Question::Tag(name) => catalog.resolve(name).is_some(),
            Question::Manifest(origin, digest) | Question::Bytes(origin, digest) => {
                let object = catalog.object(digest);
                object.is_some_and(|object| object.origins.contains(origin))
            }
        }
    }
}
