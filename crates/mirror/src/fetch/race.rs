//! One search with its requests: candidates are taken as they come, the best is asked, and a further one if the first
//! is slow. The first answer wins.

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::{Answer, FetchError, Fetcher, Question};
use crate::peers::Fault;
use crate::trace::SpanKind;
use crate::{Candidate, Search};

/// The most concurrent requests to peers for one answer.
const RACERS: usize = 3;

type Attempt<'a> = BoxFuture<'a, Result<Answer, (Candidate, Fault, String)>>;

/// A search and its requests.
pub struct Race<'a> {
    fetcher: &'a Fetcher,
    question: &'a Question,
    /// The candidates that were found and not asked yet.
    waiting: Vec<Candidate>,
    asked: usize,
    last: Option<String>,
}

impl<'a> Race<'a> {
    pub fn new(fetcher: &'a Fetcher, question: &'a Question) -> Self {
        Self {
            fetcher,
            question,
            waiting: Vec::new(),
            asked: 0,
            last: None,
        }
    }

    /// # Errors
    /// No peer has it, or none of those asked could send it.
    pub async fn run(mut self, search: Search) -> Result<Answer, FetchError> {
        let mut search = Some(search);
        let trace = &self.question.target.pull.trace;
        let mut lookup = trace.span("lookup", SpanKind::Internal);
        let mut running: FuturesUnordered<Attempt<'a>> = FuturesUnordered::new();
        let mut hedge_at: Option<Instant> = None;
        let give_up_at = Instant::now() + self.fetcher.limits.resolve_timeout;
        loop {
            let due = running.is_empty() || hedge_at.is_some_and(|at| at <= Instant::now());
            if due
                && running.len() < RACERS
                && let Some(candidate) = self.best()
            {
                if !running.is_empty() {
                    self.fetcher.metrics.hedged.inc();
                }
                self.asked += 1;
                hedge_at = Some(Instant::now() + self.fetcher.hedge_after(&candidate));
                running.push(Box::pin(self.fetcher.ask(self.question, candidate)));
            }
            if running.is_empty() && (search.is_none() || !self.may_ask()) {
                return Err(self.lost());
            }
            let may_hedge = running.len() < RACERS && self.may_ask() && !self.waiting.is_empty();
            let hedge = hedge_at.filter(|_| !running.is_empty() && may_hedge);
            tokio::select! {
                Some(result) = running.next() => match result {
                    Ok(answer) => return answer.satisfied(),
                    Err((candidate, fault, why)) => {
                        tracing::debug!(peer = %candidate.peer, key = %self.question.key, error = why, "peer failed");
                        self.fetcher.report_fault(&candidate.peer, &self.question.key, fault);
                        self.last = Some(why);
                    }
                },
                found = next(&mut search) => {
                    // The lookup lasts until a candidate is found.
                    std::mem::take(&mut lookup).end();
                    match found {
                        Some(candidate) => self.consider(candidate),
                        None => search = None,
                    }
                }
                () = sleep_until(give_up_at), if running.is_empty() => search = None,
                () = sleep_until(hedge.unwrap_or(give_up_at)), if hedge.is_some() => {}
            }
            // Candidates come in groups, one for each answer of the router: all of a group are compared.
            while let Some(Some(Some(candidate))) = search
                .as_mut()
                .map(|s| futures::FutureExt::now_or_never(s.next()))
            {
                self.consider(candidate);
            }
        }
    }

    fn consider(&mut self, candidate: Candidate) {
        if self
            .fetcher
            .peers
            .may_ask(&candidate, &self.question.key, Instant::now())
        {
            // Equal candidates are chosen at random, or all nodes would ask the same one.
            let place = rand::random_range(0..=self.waiting.len());
            self.waiting.insert(place, candidate);
        }
    }

    fn may_ask(&self) -> bool {
        self.asked < self.fetcher.limits.attempts
    }

    /// Takes the candidate that will probably answer first.
    fn best(&mut self) -> Option<Candidate> {
        if !self.may_ask() {
            return None;
        }
        let cost = |index: &usize| self.fetcher.peers.cost(&self.waiting[*index].peer);
        let index = (0..self.waiting.len()).min_by_key(cost)?;
        Some(self.waiting.swap_remove(index))
    }

    fn lost(self) -> FetchError {
        match self.last {
            None => FetchError::NoCandidate,
            Some(last) => FetchError::AllFailed {
                asked: self.asked,
                last,
            },
        }
    }
}

/// The next candidate. Pending for ever once the search has ended and was dropped.
async fn next(search: &mut Option<Search>) -> Option<Candidate> {
    match search {
        Some(search) => search.next().await,
        None => std::future::pending().await,
    }
}
