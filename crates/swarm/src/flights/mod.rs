//! This node's part in flights: connects the rules of the crate `flights` to libp2p and the mirror.

mod advertised_addresses;
mod command_queue;
mod ids;
mod record_key;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use ::flights::members::Contact;
use ::flights::{
    Datagram, Decision, DecodeError, Event, Key, LinkTest, NodeId, PullProgress, Received,
    RequestId, SourceRequest, Time,
};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use mirror::{Candidate, Decided, FlightEvent};
use oci::Digest;
use rand::seq::IteratorRandom as _;
use tokio::sync::oneshot;

use crate::addresses::{AddressFilter, Endpoint};
use crate::key::RoutingKey;
use advertised_addresses::AdvertisedAddresses;
pub(crate) use command_queue::{CommandReceiver, CommandSender, command_queue};
pub(crate) use ids::{mirror_peer, node_id, peer_id};
pub(crate) use record_key::RecordKey;

/// The most peers through which to join the cluster; the latest are kept.
const MAX_SEEDS: usize = 32;
/// The minimal interval between joins through new seeds: most peers met meanwhile are members by then.
const JOIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest sleep until a deadline is checked again.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// How often a request is repeated because the named source is no member, or has no address that can be reached from
/// here.
const MAX_RETRIES: u8 = 2;
/// The members that a link is tested against, at once.
const TEST_PEERS: usize = 3;

/// What the mirror requests and reports.
#[derive(Debug)]
pub(crate) enum FlightCommand {
    RequestSource(Box<SourceRequest>, oneshot::Sender<Decided>),
    Report(Digest, PullProgress),
    Observe(Received),
    /// A pull from this repository, by its hash, has lost this much by waiting for its sources.
    Charge(u64, Duration),
    LinkTested(LinkTest),
}

/// A request to the rules, and the channel for its answer.
#[derive(Debug)]
enum Question {
    Source {
        request: Box<SourceRequest>,
        retries: u8,
        asker: oneshot::Sender<Decided>,
    },
    Find(RoutingKey),
    /// Whether any node has met legacy peers.
    LegacyPeers,
}

/// The answer to a lookup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Found(RoutingKey, Vec<NodeId>),
    /// Whether other nodes have met legacy peers.
    LegacyPeers(bool),
}

#[derive(Debug)]
pub(crate) struct Flights {
    node: ::flights::Node,
    /// The origin of [`Time`].
    started: Instant,
    filter: AddressFilter,
    questions: HashMap<RequestId, Question>,
    seeds: VecDeque<NodeId>,
    /// There are seeds that have not been used yet.
    has_new_seeds: bool,
    last_join: Option<Instant>,
    advertised: AdvertisedAddresses,
}

impl Flights {
    /// `None`: the identity is no Ed25519 key.
    pub(crate) fn new(identity: &Keypair, filter: AddressFilter) -> Option<Self> {
        let id = node_id(&identity.public().into())?;
        let records = RecordKey::new(identity.clone())?;
        let (contact, seed) = (Contact::default(), rand::random());
        let node = ::flights::Node::new(Time(0), id, contact, seed, Box::new(records));
        let time_of_day = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let node = node.at_time_of_day(time_of_day.unwrap_or_default().as_secs());
        Some(Self {
            node,
            started: Instant::now(),
            filter,
            questions: HashMap::new(),
            seeds: VecDeque::new(),
            has_new_seeds: false,
            last_join: None,
            advertised: AdvertisedAddresses::default(),
        })
    }

    fn now(&self) -> Time {
        Time::default().after(self.started.elapsed())
    }

    /// When [`Self::tick`] must be called next.
    pub(crate) fn next_deadline(&self) -> Instant {
        let wait = self.node.next_deadline().since(self.now());
        Instant::now() + wait.min(MAX_SLEEP)
    }

    pub(crate) fn tick(&mut self) {
        self.node.tick(self.now());
    }

    pub(crate) fn leave(&mut self) {
        self.node.leave();
    }

    pub(crate) fn receive(&mut self, from: &PeerId, datagram: &[u8]) -> Result<(), DecodeError> {
        let now = self.now();
        // Other peers do not speak the protocol. If one does, it is ignored.
        node_id(from).map_or(Ok(()), |from| self.node.receive(now, from, datagram))
    }

    pub(crate) fn undelivered(&mut self, to: &PeerId) {
        if let Some(to) = node_id(to) {
            self.node.undelivered(self.now(), to);
        }
    }

    pub(crate) fn take_datagrams(&mut self) -> Vec<Datagram> {
        self.node.take_datagrams()
    }

    /// The router addresses of a member, or of a node that may become one.
    pub(crate) fn routers(&self, id: &NodeId) -> Vec<SocketAddr> {
        let contact = self.node.members().contact(id);
        let routers = contact.map_or(&[][..], |contact| contact.router());
        let admitted = routers.iter().filter(|socket| self.filter.admits(socket));
        admitted.copied().collect()
    }

    /// The number of announced keys not kept since the last call.
    pub(crate) fn take_dropped_keys(&mut self) -> u64 {
        self.node.take_dropped_keys()
    }

    /// The number of members, this node included.
    pub(crate) fn members(&self) -> usize {
        self.node.members().len()
    }

    /// The other members: where their registries listen, and whether they are suspected to be dead.
    pub(crate) fn others(&self) -> Vec<(PeerId, Vec<SocketAddr>, bool)> {
        let members = self.node.members();
        let others = members.iter().filter(|m| m.id != members.me().id);
        let shown = others.filter_map(|member| {
            let peer = peer_id(&member.id)?;
            let registries = self.registries(&peer, &member.contact);
            Some((peer, registries, members.is_suspected(&member.id)))
        });
        shown.collect()
    }

    /// Whether lookups among the members find everything that members hold.
    pub(crate) fn has_joined(&self) -> bool {
        self.members() > 1 && self.node.members().has_joined()
    }

    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        node_id(peer).is_some_and(|id| self.has_member(&id))
    }

    fn has_member(&self, id: &NodeId) -> bool {
        self.node.members().get(id).is_some()
    }

    /// Whether a request waits for its answer.
    pub(crate) fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    pub(crate) fn open_requests(&self) -> usize {
        let questions = self.questions.values();
        questions
            .filter(|question| matches!(question, Question::Source { .. }))
            .count()
    }

    /// Handles a connection to a peer that takes part in flights.
    pub(crate) fn met(&mut self, peer: &PeerId) {
        let Some(id) = node_id(peer).filter(|id| !self.has_member(id)) else {
            return;
        };
        self.seeds.retain(|seed| *seed != id);
        if self.seeds.len() >= MAX_SEEDS {
            self.seeds.pop_front();
        }
        self.seeds.push_back(id);
        self.has_new_seeds = true;
        self.join();
    }

    /// Joins the cluster through the peers met since the last call.
    pub(crate) fn join(&mut self) {
        let is_soon = |last: Instant| last.elapsed() < JOIN_INTERVAL;
        if !self.has_new_seeds || self.last_join.is_some_and(is_soon) {
            return;
        }
        self.has_new_seeds = false;
        if !self.seeds.iter().all(|seed| self.has_member(seed)) {
            self.last_join = Some(Instant::now());
            self.node.join(self.now(), self.seeds.iter().copied());
        }
    }

    /// Sets the addresses of this node.
    pub(crate) fn set_addresses(&mut self, endpoints: Vec<Endpoint>) {
        self.advertised.set(endpoints);
        self.set_contact();
    }

    /// Records that a peer has reached this node at this address.
    pub(crate) fn proven(&mut self, ip: IpAddr) {
        if self.advertised.prove(ip) {
            self.set_contact();
        }
    }

    fn set_contact(&mut self) {
        self.node.set_contact(self.now(), self.advertised.contact());
    }

    pub(crate) fn hold(&mut self, keys: &[RoutingKey]) {
        let keys: Vec<_> = keys.iter().map(Key::from).collect();
        self.node.hold(self.now(), &keys);
    }

    pub(crate) fn release(&mut self, keys: &[RoutingKey]) {
        let keys: Vec<_> = keys.iter().map(Key::from).collect();
        self.node.release(self.now(), &keys);
    }

    pub(crate) fn handle_command(&mut self, command: FlightCommand) {
        match command {
            FlightCommand::RequestSource(request, asker) => {
                self.request_source(request, 0, asker);
            }
            FlightCommand::Report(digest, progress) => {
                let key = Key::of(digest.as_str());
                self.node.report(self.now(), key, progress);
            }
            FlightCommand::Observe(rates) => self.node.observe(self.now(), &rates),
            FlightCommand::Charge(repository, lost) => {
                self.node.charge(self.now(), repository, lost);
            }
            FlightCommand::LinkTested(test) => self.node.link_tested(self.now(), test),
        }
    }

    /// Random members that can be reached from here.
    fn random_peers(&self) -> Vec<Candidate> {
        let members = self.node.members();
        let others = members.iter().filter(|m| m.id != members.me().id);
        let drawn = others.sample(&mut rand::rng(), TEST_PEERS);
        drawn.iter().filter_map(|m| self.candidate(&m.id)).collect()
    }

    fn request_source(
        &mut self,
        request: Box<SourceRequest>,
        retries: u8,
        asker: oneshot::Sender<Decided>,
    ) {
        let id = self.node.request_source(self.now(), *request.clone());
        let question = Question::Source {
            request,
            retries,
            asker,
        };
        self.questions.insert(id, question);
    }

    /// Looks up the holders of a key. [`Self::answers`] has the answer.
    pub(crate) fn find(&mut self, key: RoutingKey) {
        let id = self.node.find_holders(self.now(), Key::from(&key));
        self.questions.insert(id, Question::Find(key));
    }

    /// Looks up whether other nodes have met legacy peers. [`Self::answers`] has the answer.
    pub(crate) fn ask_for_legacy_peers(&mut self, sign: &RoutingKey) {
        let id = self.node.find_holders(self.now(), Key::from(sign));
        self.questions.insert(id, Question::LegacyPeers);
    }

    /// Cancels the lookups of a key.
    pub(crate) fn cancel_find(&mut self, key: &RoutingKey) {
        self.cancel(|question| matches!(question, Question::Find(k) if k == key));
    }

    /// Cancels the requests whose requesters have gone.
    pub(crate) fn cancel_abandoned(&mut self) {
        self.cancel(
            |question| matches!(question, Question::Source { asker, .. } if asker.is_closed()),
        );
    }

    fn cancel(&mut self, is_over: impl Fn(&Question) -> bool) {
        let over = self.questions.iter().filter(|(_, q)| is_over(q));
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.questions.remove(&id);
            self.node.cancel(self.now(), id);
        }
    }

    /// What the mirror has to do or should know.
    pub(crate) fn take_events(&mut self) -> Vec<FlightEvent> {
        let events = self.node.take_events().into_iter();
        let events = events.map(|event| match event {
            Event::TestLink => FlightEvent::TestLink(self.random_peers()),
            Event::Link(state) => FlightEvent::Link(state),
            Event::LeaderIsSlow(key) => FlightEvent::LeaderIsSlow(key),
        });
        events.collect()
    }

    /// Delivers decisions to their requesters, and returns the answers to lookups.
    pub(crate) fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        // A decision may lead to another request that is decided at once.
        loop {
            let (decisions, found) = (self.node.take_decisions(), self.node.take_found());
            if decisions.is_empty() && found.is_empty() {
                return answers;
            }
            for (id, holders) in found {
                match self.questions.remove(&id) {
                    Some(Question::Find(key)) => answers.push(Answer::Found(key, holders)),
                    Some(Question::LegacyPeers) => {
                        answers.push(Answer::LegacyPeers(!holders.is_empty()));
                    }
                    Some(Question::Source { .. }) | None => {}
                }
            }
            for (id, decision) in decisions {
                self.answer(id, decision);
            }
        }
    }

    fn answer(&mut self, id: RequestId, decision: Decision) {
        let Some(Question::Source {
            mut request,
            retries,
            asker,
        }) = self.questions.remove(&id)
        else {
            return;
        };
        let source = match &decision {
            Decision::Follow { source, .. } => Some(*source),
            Decision::Lead | Decision::Alone | Decision::Later => None,
        };
        let decision = decision.with_source(|source| self.candidate(source));
        if let (None, Some(source)) = (&decision, source)
            && retries < MAX_RETRIES
        {
            request.add_failed_source(source);
            return self.request_source(request, retries + 1, asker);
        }
        // Without a requester, the decision is for another node.
        let decided = Decided {
            decision: decision.unwrap_or(Decision::Alone),
            lost: self.node.lost(request.repository),
        };
        if asker.send(decided).is_err() {
            self.node.cancel(self.now(), id);
        }
    }

    /// The registry addresses of a member.
    fn registries(&self, peer: &PeerId, contact: &Contact) -> Vec<SocketAddr> {
        let registries = contact.registry().iter();
        let admitted = registries.filter(|socket| self.filter.admits(socket));
        let proven = self.filter.proven.lock();
        proven.registries(peer, admitted, contact.router())
    }

    /// A member as the mirror knows it. `None`: it is no member, or has no address that can be reached from here.
    pub(crate) fn candidate(&self, id: &NodeId) -> Option<Candidate> {
        let member = self.node.members().get(id)?;
        let peer = peer_id(id)?;
        let addresses = self.registries(&peer, &member.contact);
        let has_any = !addresses.is_empty();
        has_any.then_some(Candidate {
            peer: mirror_peer(&peer),
            addresses: addresses.into(),
        })
    }
}
