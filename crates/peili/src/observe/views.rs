//! The data of the pages and the API. Values that are not in memory are determined in the background, and only while
//! they are viewed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::status::{Cluster, Content, Node, Status};
use doctor::{Finding, Settled};
use mirror::snapshot::{self, Snapshot};
use mirror::{AskedNode, Health, Mirror, Reached};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::background::Background;
use super::cluster::{self, Own};
use super::{content, facts, status};
use crate::network_key_file::NetworkKeyFile;

/// The interval between examinations by the doctor, and the limit of one.
const EXAMINE_EVERY: Duration = Duration::from_secs(30);
const EXAMINE_LIMIT: Duration = Duration::from_secs(40);
/// The interval between rounds of requests to the other nodes, and the limit of one.
const ASK_EVERY: Duration = Duration::from_secs(2);
const ASK_LIMIT: Duration = Duration::from_secs(12);
/// The least interval between rounds of requests that show which peers and registries can be reached.
const REACH_EVERY: Duration = Duration::from_secs(1);
/// The limit of the wait of a program that needs complete data, for the first examination or round.
const PATIENCE: Duration = Duration::from_secs(3);

/// The facts about this node from its options.
pub struct About {
    pub node: String,
    /// Its id for peers.
    pub peer_id: String,
    /// The most files that this process may open.
    pub open_files: u64,
    pub looks_for_peers: bool,
    pub registry: SocketAddr,
    /// The registries that are mirrored, as the options name them. Empty: all.
    pub mirrored_registries: Vec<String>,
    /// How long the mirror keeps layers that containerd discards. `None`: it does not.
    pub retained_for: Option<Duration>,
    /// The fingerprint of the node secret, if there is one.
    pub node_secret: Option<String>,
    /// `None`: any node may be a peer.
    pub network_keys: Option<NetworkKeyFile>,
    /// `None`: this node has its own store.
    pub containerd: Option<doctor::ContainerdPaths>,
    /// The address of metrics and of the page.
    pub address: String,
    /// The outcome of the last trial.
    pub trial: LastTrial,
}

/// The result of containerd's last pull of a trial image. `None`: there was none.
pub type LastTrial = Arc<Mutex<Option<doctor::Trial>>>;

pub struct Views {
    mirror: Arc<Mirror>,
    about: About,
    findings: Arc<Background<Vec<Finding>>>,
    settled: Mutex<Settled>,
    reports: Arc<Background<Vec<AskedNode>>>,
    /// How the peers answered last, and when.
    reached: tokio::sync::Mutex<Option<(Instant, Arc<Reached>)>>,
}

impl Views {
    pub fn new(mirror: Arc<Mirror>, about: About) -> Self {
        Self {
            mirror,
            about,
            findings: Background::new(EXAMINE_EVERY, EXAMINE_LIMIT),
            settled: Mutex::default(),
            reports: Background::new(ASK_EVERY, ASK_LIMIT),
            reached: tokio::sync::Mutex::default(),
        }
    }

    pub fn node_name(&self) -> &str {
        &self.about.node
    }

    /// Whether they have been viewed.
    pub fn were_seen(&self) -> bool {
        self.findings.has_begun() || self.reports.has_begun()
    }

    /// A number that changes when another pull, source or state of a peer is to be shown.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.mirror.changes()
    }

    /// The data known now; the rest is determined meanwhile.
    pub async fn status(self: &Arc<Self>) -> Status {
        let snapshot = self.mirror.snapshot().await;
        let findings = self.findings.get(|| self.clone().examine());
        let mut status = self.of(&snapshot);
        status.findings = findings
            .map(|findings| findings.to_vec())
            .unwrap_or_default();
        if !status.pulls.is_empty() {
            let asked = self.reports.get(|| self.clone().ask());
            let own = self.own_report(&snapshot);
            let asked = asked.as_ref().map_or(&[][..], |asked| &asked[..]);
            cluster::add_trees(&mut status, self.own(&own), asked);
        }
        status
    }

    /// The same, with the findings of an examination.
    pub async fn status_in_full(self: &Arc<Self>) -> Status {
        self.findings
            .first(PATIENCE, || self.clone().examine())
            .await;
        self.status().await
    }

    /// The nodes, as far as they have answered lately.
    pub async fn cluster_at_once(self: &Arc<Self>) -> Cluster {
        let asked = self.reports.get(|| self.clone().ask());
        self.cluster_of(asked).await
    }

    /// The nodes, after they were asked.
    pub async fn cluster(self: &Arc<Self>) -> Cluster {
        let asked = self.reports.first(PATIENCE, || self.clone().ask()).await;
        self.cluster_of(asked).await
    }

    async fn cluster_of(&self, asked: Option<Arc<Vec<AskedNode>>>) -> Cluster {
        let snapshot = self.mirror.snapshot().await;
        let own = self.own_report(&snapshot);
        let asked = asked.as_ref().map_or(&[][..], |asked| &asked[..]);
        cluster::cluster(&snapshot, self.own(&own), asked)
    }

    /// The content of this node that matches a search.
    pub async fn content(&self, query: String) -> Content {
        let snapshot = self.mirror.snapshot().await;
        let names = snapshot
            .peers
            .into_iter()
            .filter_map(|peer| Some((peer.node?, peer.name?)));
        content::find(&self.mirror, &self.about.node, &names.collect(), query).await
    }

    /// The mirror's report on itself, for a doctor.
    pub async fn facts(&self) -> doctor::Mirror {
        let snapshot = self.mirror.snapshot().await;
        let (about, status) = (&self.about, self.of(&snapshot));
        let reached = self.reach(&snapshot.peers).await;
        let bootstrap_error = match &status.node.not_ready {
            Some(why) if snapshot.peer_count == 0 => Some(why.clone()),
            _ => snapshot.why_no_peers.clone(),
        };
        doctor::Mirror {
            version: status.node.version,
            peer_id: about.peer_id.clone(),
            containerd: about.containerd.clone(),
            not_ready: status.node.not_ready,
            registry_port: about.registry.port(),
            registry_ip: Some(about.registry.ip()).filter(|ip| !ip.is_unspecified()),
            mirrored_registries: about.mirrored_registries.clone(),
            retained_for_s: about.retained_for.map(|time| time.as_secs()),
            node_secret: about.node_secret.clone(),
            open_files: about.open_files,
            now: snapshot.at_ms / 1000,
            uptime_s: status.node.uptime_s,
            asked_ago_s: self.mirror.own_client_asked_ago().map(|ago| ago.as_secs()),
            looks_for_peers: about.looks_for_peers,
            bootstrap_error: bootstrap_error.filter(|_| about.looks_for_peers),
            peers: facts::peers(&status.peers, &snapshot.peers, &reached),
            registries: facts::registries(&self.mirror.registries()),
            trial: about.trial.lock().clone(),
            key_file: about.network_keys.as_ref().map(NetworkKeyFile::state),
            refused_nodes: snapshot.refused_nodes,
        }
    }

    /// How the peers answer. Unreachable registries are asked again meanwhile. Callers at the same time share one round: whoever may ask for a report could otherwise make
    /// this node send any number of requests.
    async fn reach(&self, peers: &[snapshot::Peer]) -> Arc<Reached> {
        let mut last = self.reached.lock().await;
        if let Some((at, reached)) = &*last
            && at.elapsed() < REACH_EVERY
        {
            return reached.clone();
        }
        let reached = self.mirror.reach_peers(peers);
        let (reached, ()) = tokio::join!(reached, self.mirror.retry_registries());
        let reached = Arc::new(reached);
        *last = Some((Instant::now(), reached.clone()));
        reached
    }

    fn of(&self, snapshot: &Snapshot) -> Status {
        let not_ready = match self.mirror.health() {
            Health::Ready => None,
            Health::Waiting(why) => Some(why),
        };
        let node = Node {
            name: self.about.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: snapshot.at_ms.saturating_sub(snapshot.started_ms) / 1000,
            not_ready,
        };
        status::of(snapshot, node)
    }

    fn own_report(&self, snapshot: &Snapshot) -> mirror::NodeReport {
        let digests = cluster::objects_to_ask_for(snapshot);
        self.mirror.report(snapshot, &digests)
    }

    fn own<'a>(&'a self, report: &'a mirror::NodeReport) -> Own<'a> {
        Own {
            id: &self.about.peer_id,
            report,
        }
    }

    /// The findings of `peili doctor` on this node, without those that may be over in a moment.
    async fn examine(self: Arc<Self>) -> Vec<Finding> {
        let (about, facts) = (&self.about, self.facts().await);
        let mirror = Ok((about.node.clone(), facts));
        let address = about.address.clone();
        let facts = crate::doctor::gather(about.containerd.clone(), mirror, address, true).await;
        let report = doctor::diagnose(&facts);
        self.settled
            .lock()
            .shown(&report, std::time::Instant::now())
    }

    /// Asks the other nodes about this node's pulls.
    async fn ask(self: Arc<Self>) -> Vec<AskedNode> {
        let snapshot = self.mirror.snapshot().await;
        let digests = cluster::objects_to_ask_for(&snapshot);
        self.mirror.ask_nodes(&digests).await
    }
}
