//! Who is getting it: the step of a pull between *have we got it* and *who has it*, in which the nodes that pull the
//! same object agree on one that pulls it from upstream while the others follow (docs/decisions/0005).
//!
//! What this node's own client wants is sought among the nodes of the flight; it is taken from the source they name, or
//! the client is sent upstream. Either way a watcher tells the others how the pull goes on, and what has come so far is
//! served to whoever follows.

mod aside;
mod complaint;
mod course;
mod feed;
mod gauge;
mod lag;
mod offer;
mod pulls;
mod queue;
mod range;
mod rate;
mod uploads;
mod usual;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, MediaType};
use parking_lot::Mutex;
use tokio::sync::watch::Sender;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::fetch::Fetcher;
use crate::finder::Finder;
use crate::found::{Found, Payload, Source};
use crate::from_peers::FromPeers;
use crate::images::{About, Images};
use crate::metrics::Metrics;
use crate::refusal::Refusal;
use crate::request::{Caller, Kind, Target};
use crate::{Flights, Growing, News, Store, Turn};

use aside::Aside;
use complaint::SlowLead;
use course::Course;
use gauge::Scales;
use pulls::{Entry, Pull, Pulls, Standing};
use queue::Queue;
pub use range::all_from;
use rate::Rate;
use uploads::Uploads;
use usual::{Usual, Way, Window};
use watch::Watcher;

pub use feed::{Feed, LetGo};
pub use gauge::Weighing;
pub use pulls::Sharing;
pub use queue::Ending;
pub use uploads::Upload;

/// What seeking and following may take until there is an answer: containerd from 2.3 on waits 30 s for its head.
const FIND_LIMIT: Duration = Duration::from_secs(25);

/// The step.
pub struct Flight {
    shared: Arc<Shared>,
    from_peers: Arc<FromPeers>,
    /// Tasks end with the mirror.
    _stops: DropGuard,
}

/// What requests, bodies and watchers share.
struct Shared {
    flights: Arc<dyn Flights>,
    store: Arc<dyn Store>,
    fetcher: Arc<Fetcher>,
    metrics: Arc<Metrics>,
    images: Images,
    pulls: Pulls,
    queue: Arc<Queue>,
    uploads: Arc<Uploads>,
    /// What this node takes in.
    rate: Mutex<Rate>,
    /// What it usually does.
    usual: Mutex<Usual>,
    /// The last lead that was found far too slow.
    slow_lead: Sender<Option<SlowLead>>,
    aside: Aside,
    scales: Scales,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Shared {
    fn about(&self, digest: &Digest) -> About {
        let mut about = self.images.about(&*self.store, digest);
        if about.size.is_none() {
            about.size = self.open(digest, None).and_then(|g| g.progress().total);
        }
        about
    }

    /// The pull that a request belongs to, watched from now on. `None`: too many are.
    fn watch(
        self: &Arc<Self>,
        target: &Target,
        digest: &Digest,
        sharing: Sharing,
    ) -> Option<Arc<Pull>> {
        let (origin, written) = (target.origin.as_ref(), self.written(digest));
        match self.pulls.enter(digest, origin, sharing, written) {
            Entry::Watched(pull) => Some(pull),
            Entry::Full => None,
            Entry::New(pull) => {
                let watcher = Watcher::new(self.clone(), digest.clone(), pull.clone());
                self.spawn(watcher.run());
                Some(pull)
            }
        }
    }

    /// Has a task run until it ends, or the mirror does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(stop.run_until_cancelled_owned(task));
    }

    /// What has come of an object so far.
    fn ingest(&self, digest: &Digest) -> Option<Growing> {
        self.open(digest, self.images.about(&*self.store, digest).size)
    }

    /// Bytes of one object came that had been `waited` for. See [`Usual::came`].
    fn came(&self, way: Option<(&Way, &mut Window)>, bytes: u64, waited: Duration) -> bool {
        let now = Instant::now();
        self.rate.lock().came(now, bytes);
        way.is_some_and(|way| self.usual.lock().came(way, now, bytes, waited))
    }

    /// Bytes of an object that are here.
    fn written(&self, digest: &Digest) -> u64 {
        let growing = self.open(digest, None);
        growing.map_or(0, |growing| growing.progress().written)
    }

    fn open(&self, digest: &Digest, size: Option<u64>) -> Option<Growing> {
        self.store
            .ingest(digest, size)
            .unwrap_or_else(|error| {
                tracing::warn!(%digest, %error, "cannot read what is being fetched; it is not passed on");
                None
            })
    }
}

impl Flight {
    pub fn new(
        flights: Arc<dyn Flights>,
        store: Arc<dyn Store>,
        fetcher: Arc<Fetcher>,
        from_peers: Arc<FromPeers>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        let shared = Arc::new(Shared {
            flights,
            store,
            fetcher,
            metrics,
            images: Images::default(),
            pulls: Pulls::default(),
            queue: Arc::default(),
            uploads: Arc::default(),
            rate: Mutex::default(),
            usual: Mutex::default(),
            slow_lead: Sender::default(),
            aside: Aside::default(),
            scales: Scales::default(),
            tasks: TaskTracker::new(),
            stop,
        });
        let outrun = shared.flights.outrun();
        shared.spawn(aside::run(shared.clone(), outrun));
        shared.spawn(gauge::run(shared.clone()));
        Self {
            shared,
            from_peers,
            _stops,
        }
    }

    /// Whether a request is one of this node's containerd that takes part in a flight.
    pub fn concerns(&self, target: &Target) -> bool {
        target.caller == Caller::Own
            && !target.head_only
            && all_from(target.ranges.as_ref()).is_some()
            && target
                .digest()
                .is_some_and(|digest| self.shared.store.is_ingesting(digest))
    }

    /// Has a request that asks for all of an object by a range answered with the whole (a server may ignore a range, RFC
    /// 9110, 14.2): containerd then leaves it at one stream, which a flight serves best.
    pub fn ignore_range_of_all(target: &mut Target) {
        target.ranges.take_if(|r| all_from(Some(r)) == Some(0));
    }

    /// What is to be told how the body of the answer ends.
    pub fn ending(&self, target: &Target) -> Option<Ending> {
        let digest = target.digest()?;
        Some(self.shared.queue.ending(digest))
    }

    /// Finds what the node's own client asks for at the source that the flight names. `sharing`: whether others may
    /// have what comes; [`Self::share`] tells it later.
    ///
    /// # Errors
    /// The client has to go upstream ([`Refusal::Leads`], [`Refusal::Alone`]), within [`FIND_LIMIT`].
    pub async fn find(&self, target: &Target, sharing: Sharing) -> Result<Found, Refusal> {
        let kind = target.kind;
        let (Some(digest), Some(offset)) = (target.digest(), all_from(target.ranges.as_ref()))
        else {
            return Err(Refusal::NoPeer(kind));
        };
        let following = self.follow(target, digest, offset, sharing);
        let result = match timeout(FIND_LIMIT, following).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Alone(kind)),
        };
        if matches!(result, Ok(_) | Err(Refusal::Unsatisfiable { .. })) {
            return result;
        }
        if kind == Kind::Manifest {
            self.shared.images.expect(digest);
        }
        if let Some(pull) = self.shared.watch(target, digest, sharing)
            && pull.states().borrow().standing != Standing::Leads
        {
            pull.leads(self.shared.written(digest));
        }
        result
    }

    async fn follow(
        &self,
        target: &Target,
        digest: &Digest,
        offset: u64,
        sharing: Sharing,
    ) -> Result<Found, Refusal> {
        let shared = &self.shared;
        if !shared.queue.may_be_barren(digest) {
            return Err(Refusal::Alone(target.kind));
        }
        if offset == 0 && self.comes_early(target, digest) {
            // Until those that are to go first are queued as well.
            sleep(queue::GATHER).await;
            return self.give_way(target, digest);
        }
        let begins_anew = |pull: Arc<Pull>| pull.begins_anew();
        if offset == 0 && shared.pulls.get(digest).is_some_and(begins_anew) {
            shared.flights.report(digest, News::Failed);
        }
        let course = Course::new(shared.clone(), target.clone(), digest.clone(), sharing);
        let course = Arc::new(course);
        let turn = course.next(offset, self.yields(target, digest)).await;
        if matches!(turn, Turn::Later) {
            return self.give_way(target, digest);
        }
        course.grant(turn);
        let finder: Arc<dyn Finder> = course.clone();
        let found = self.from_peers.find_by(&finder, target).await?;
        if let (Kind::Manifest, Payload::Bytes(bytes)) = (target.kind, &found.payload) {
            shared.images.learn(bytes, course.leader().as_ref());
        }
        Ok(found)
    }

    /// After how long a request gives its place in the node's queue up and comes again later. A manifest comes before the
    /// downloads that are queued; what has no size yet cannot have a head.
    fn yields(&self, target: &Target, digest: &Digest) -> Option<Duration> {
        let shared = &self.shared;
        let can = target.kind == Kind::Blob
            && shared.store.downloads_share_slots()
            && shared.about(digest).size.is_some();
        can.then(|| shared.queue.gives_way_after(digest)).flatten()
    }

    /// Whether the layers below this one are to have their turn first.
    fn comes_early(&self, target: &Target, digest: &Digest) -> bool {
        let (shared, store) = (&self.shared, &self.shared.store);
        if target.kind != Kind::Blob || !store.downloads_share_slots() {
            return false;
        }
        let is_here = |layer: &Digest| matches!(store.open(layer), Ok(Some(_)));
        let layers = shared.about(digest).layers;
        // The tail is behind what comes of other images.
        shared.queue.comes_early(digest, &layers, is_here)
            && !shared.images.others_come(&layers, is_here)
    }

    /// An answer whose body ends without a byte.
    fn give_way(&self, target: &Target, digest: &Digest) -> Result<Found, Refusal> {
        let size = self.shared.about(digest).size;
        let size = size.ok_or(Refusal::Alone(target.kind))?;
        self.shared.metrics.flights_gave_way.inc();
        Ok(Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size: Some(size),
            payload: Payload::Withheld,
            source: Source::Growing,
        })
    }

    /// Begins to measure the link to a node that asks for it. `None`: there are other things to do.
    pub fn weigh(&self) -> Option<Weighing> {
        self.shared.weigh()
    }

    /// Says whether others may have what this node is pulling.
    pub fn share(&self, digest: &Digest, sharing: Sharing) {
        if let Some(pull) = self.shared.pulls.get(digest) {
            pull.share(sharing);
        }
    }
}

#[cfg(test)]
mod tests;
