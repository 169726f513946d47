//! This node's part in flights: the rules of the crate `flights` in the words of libp2p and of the mirror.

mod home;
mod ids;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ::flights::members::Contact;
use ::flights::{Datagram, DecodeError, Key, NodeId, Outcome, SeekId, Time, Wanted};
use libp2p::PeerId;
use mirror::{Candidate, Holding, News, Place, Seek, Turn};
use oci::Digest;
use rand::seq::IteratorRandom as _;
use tokio::sync::oneshot;

use crate::addresses::{Endpoint, Scope};
use crate::key::RoutingKey;
use home::Home;
use ids::{name, wanted};
pub(crate) use ids::{node_id, peer_id};

/// Peers that may get this node into the cluster, the latest met.
const MAX_SEEDS: usize = 32;
/// Between two times of joining by new seeds: those met meanwhile are mostly members by then.
const JOIN_INTERVAL: Duration = Duration::from_secs(1);
/// A deadline that is farther off is looked at again by then.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// How often a question is asked anew because the source that was named is no member, or cannot be reached from here.
const MAX_RETRIES: u8 = 2;
/// Members that are drawn until one can be reached from here.
const COMPANIONS: usize = 3;

/// What the mirror asks and tells.
#[derive(Debug)]
pub(crate) enum Word {
    Seek(Box<Seek>, oneshot::Sender<Turn>),
    Report(Digest, News),
    /// Whether others are held up behind this node.
    Lag(bool),
    /// Who is another member, by lot?
    Companion(oneshot::Sender<Option<Candidate>>),
}

/// A question to the rules, and who waits for its answer.
#[derive(Debug)]
enum Question {
    Seek {
        wanted: Wanted,
        retries: u8,
        asker: oneshot::Sender<Turn>,
    },
    Find(RoutingKey),
    /// Has anybody met nodes that speak Kademlia alone?
    Foreign,
}

/// What has come of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Found(RoutingKey, Vec<NodeId>),
    /// Whether others have met nodes that speak Kademlia alone.
    Foreign(bool),
}

#[derive(Debug)]
pub(crate) struct Flights {
    node: ::flights::Node,
    /// The origin of [`Time`].
    started: Instant,
    scope: Scope,
    questions: HashMap<SeekId, Question>,
    seeds: VecDeque<NodeId>,
    /// There are seeds that were not joined by.
    has_new_seeds: bool,
    last_join: Option<Instant>,
    home: Home,
}

impl Flights {
    /// `None` for an identity that is no Ed25519 key.
    pub(crate) fn new(id: &PeerId, scope: Scope) -> Option<Self> {
        let contact = Contact::default();
        let node = ::flights::Node::new(Time(0), node_id(id)?, contact, rand::random());
        Some(Self {
            node,
            started: Instant::now(),
            scope,
            questions: HashMap::new(),
            seeds: VecDeque::new(),
            has_new_seeds: false,
            last_join: None,
            home: Home::default(),
        })
    }

    fn now(&self) -> Time {
        Time::default().after(self.started.elapsed())
    }

    /// When [`Self::tick`] is to be called next.
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
        // Others do not speak the protocol; if one does it is talking to itself.
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

    /// Where a member says its router is.
    pub(crate) fn routers(&self, id: &NodeId) -> Vec<SocketAddr> {
        let contact = self.node.members().get(id).map(|member| &member.contact);
        let routers = contact.map_or(&[][..], |contact| contact.router());
        let admitted = routers.iter().filter(|socket| self.scope.admits(socket));
        admitted.copied().collect()
    }

    /// Members, this node included.
    pub(crate) fn members(&self) -> usize {
        self.node.members().len()
    }

    /// Whether look-ups among the members miss nothing that members hold.
    pub(crate) fn has_joined(&self) -> bool {
        self.members() > 1 && self.node.members().has_joined()
    }

    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        node_id(peer).is_some_and(|id| self.has_member(&id))
    }

    fn has_member(&self, id: &NodeId) -> bool {
        self.node.members().get(id).is_some()
    }

    /// Whether anything waits for an answer.
    pub(crate) fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    pub(crate) fn open_seeks(&self) -> usize {
        let questions = self.questions.values();
        questions
            .filter(|question| matches!(question, Question::Seek { .. }))
            .count()
    }

    /// A peer that takes part is connected.
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

    /// Joins the cluster by those met since it last did.
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

    /// This node is reached at these addresses.
    pub(crate) fn set_addresses(&mut self, endpoints: Vec<Endpoint>) {
        self.home.set(endpoints);
        self.set_contact();
    }

    /// A peer has met this node at this address.
    pub(crate) fn proven(&mut self, ip: IpAddr) {
        if self.home.prove(ip) {
            self.set_contact();
        }
    }

    fn set_contact(&mut self) {
        match self.home.contact() {
            Ok(contact) => self.node.set_contact(self.now(), contact),
            Err(error) => tracing::warn!(%error, "cannot tell others where this node is"),
        }
    }

    pub(crate) fn hold(&mut self, keys: &[RoutingKey]) {
        let keys: Vec<_> = keys.iter().map(Key::from).collect();
        self.node.hold(self.now(), &keys);
    }

    pub(crate) fn release(&mut self, keys: &[RoutingKey]) {
        let keys: Vec<_> = keys.iter().map(Key::from).collect();
        self.node.release(self.now(), &keys);
    }

    pub(crate) fn take_word(&mut self, word: Word) {
        match word {
            Word::Seek(seek, asker) => self.seek(wanted(&seek), 0, asker),
            Word::Report(digest, news) => {
                let news = match news {
                    News::Begun { size } => ::flights::News::Begun { size },
                    News::Done => ::flights::News::Done,
                    News::Failed => ::flights::News::Failed,
                    News::Wrong => ::flights::News::Wrong,
                    News::Outrun { place, rate } => {
                        let Place { epoch, order } = place;
                        let place = ::flights::Place { epoch, order };
                        ::flights::News::Outrun { place, rate }
                    }
                };
                self.node.report(self.now(), Key::of(digest.as_str()), news);
            }
            Word::Lag(lags) => self.node.lag(self.now(), lags),
            Word::Companion(asker) => {
                // Whoever asked may have gone.
                let _ = asker.send(self.companion());
            }
        }
    }

    /// Another member that can be reached from here, by lot.
    fn companion(&self) -> Option<Candidate> {
        let members = self.node.members();
        let others = || members.iter().filter(|m| m.id != members.me().id);
        (0..COMPANIONS).find_map(|_| {
            let drawn = others().choose(&mut rand::rng())?;
            self.candidate(&drawn.id)
        })
    }

    fn seek(&mut self, wanted: Wanted, retries: u8, asker: oneshot::Sender<Turn>) {
        let id = self.node.seek(self.now(), wanted.clone());
        let question = Question::Seek {
            wanted,
            retries,
            asker,
        };
        self.questions.insert(id, question);
    }

    /// Asks who has the key. [`Self::answers`] brings the answer.
    pub(crate) fn find(&mut self, key: RoutingKey) {
        let id = self.node.find(self.now(), Key::from(&key));
        self.questions.insert(id, Question::Find(key));
    }

    /// Asks whether others have met nodes that speak Kademlia alone. [`Self::answers`] brings the answer.
    pub(crate) fn ask_for_foreign(&mut self, sign: &RoutingKey) {
        let id = self.node.find(self.now(), Key::from(sign));
        self.questions.insert(id, Question::Foreign);
    }

    /// Nobody looks for the key any more.
    pub(crate) fn cancel_find(&mut self, key: &RoutingKey) {
        self.cancel(|question| matches!(question, Question::Find(k) if k == key));
    }

    /// Withdraws the questions whose askers have gone.
    pub(crate) fn sweep(&mut self) {
        self.cancel(
            |question| matches!(question, Question::Seek { asker, .. } if asker.is_closed()),
        );
    }

    fn cancel(&mut self, is_over: impl Fn(&Question) -> bool) {
        let over = self.questions.iter().filter(|(_, q)| is_over(q));
        for id in over.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.questions.remove(&id);
            self.node.cancel(self.now(), id);
        }
    }

    /// What a node takes in, in bytes a second, that feeds this one and has far more than it takes, since this was last
    /// asked.
    pub(crate) fn take_outrun(&mut self) -> Option<u64> {
        self.node.take_outrun()
    }

    /// Passes on what came of the questions, and returns what came of look-ups.
    pub(crate) fn answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        // An answer may lead to another question with an immediate answer.
        loop {
            let outcomes = self.node.take_outcomes();
            if outcomes.is_empty() {
                return answers;
            }
            for (id, outcome) in outcomes {
                match self.questions.remove(&id) {
                    Some(Question::Find(key)) => answers.push(Answer::Found(key, holders(outcome))),
                    Some(Question::Foreign) => {
                        answers.push(Answer::Foreign(!holders(outcome).is_empty()));
                    }
                    Some(Question::Seek {
                        wanted,
                        retries,
                        asker,
                    }) => self.answer(id, &outcome, wanted, retries, asker),
                    None => {}
                }
            }
        }
    }

    fn answer(
        &mut self,
        id: SeekId,
        outcome: &Outcome,
        mut wanted: Wanted,
        retries: u8,
        asker: oneshot::Sender<Turn>,
    ) {
        let turn = match outcome {
            Outcome::Lead => Turn::Lead,
            Outcome::Alone | Outcome::Found(_) => Turn::Alone,
            Outcome::Later => Turn::Later,
            Outcome::Follow {
                source,
                place,
                leader,
                led_for,
            } => match self.candidate(source) {
                Some(candidate) => Turn::Follow {
                    source: candidate,
                    place: Place {
                        epoch: place.epoch,
                        order: place.order,
                    },
                    leader: leader.as_ref().and_then(name),
                    led_for: *led_for,
                },
                None if retries < MAX_RETRIES => {
                    wanted.failed.push(*source);
                    return self.seek(wanted, retries + 1, asker);
                }
                None => Turn::Alone,
            },
        };
        // Whoever asked may have gone: what was granted is for another node then.
        if asker.send(turn).is_err() {
            self.node.cancel(self.now(), id);
        }
    }

    /// A member as the mirror knows it; `None` if it is none, or has no address that can be reached from here.
    pub(crate) fn candidate(&self, id: &NodeId) -> Option<Candidate> {
        let member = self.node.members().get(id)?;
        let registries = member.contact.registry().iter();
        let addresses: Vec<_> = registries
            .filter(|socket| self.scope.admits(socket))
            .copied()
            .collect();
        let has_any = !addresses.is_empty();
        has_any.then_some(Candidate {
            peer: name(id)?,
            addresses: addresses.into(),
            holding: Holding::Complete,
            zone: member.contact.zone().map(Into::into),
        })
    }
}

fn holders(outcome: Outcome) -> Vec<NodeId> {
    match outcome {
        Outcome::Found(holders) => holders,
        _ => Vec::new(),
    }
}
