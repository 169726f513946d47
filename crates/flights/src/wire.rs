//! What nodes say to each other about keys, and its encoding: one protobuf message a datagram. The sender is not named:
//! the transport has authenticated it.

use bytes::Bytes;
use prost::Message as _;

use crate::members::MAX_MESSAGE;
use crate::{Key, NodeId};

mod proto;
#[cfg(test)]
pub(crate) mod tests;

/// Bytes of a datagram at most, sent or taken.
pub const MAX_DATAGRAM: usize = MAX_MESSAGE + 16;
/// Keys in one message at most, so that it stays below [`MAX_DATAGRAM`].
pub(crate) const MAX_KEYS: usize = 3_072;
/// Milliseconds after which a node may say that it yields, at most.
pub(crate) const MAX_YIELD: u32 = 2_000;
/// Nodes named in one message at most.
pub(crate) const MAX_NODES: usize = 32;

/// A datagram that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("a datagram of {0} bytes, more than {MAX_DATAGRAM}")]
    TooLong(usize),
    #[error(transparent)]
    Protobuf(#[from] prost::DecodeError),
    #[error("an empty message, or one of a later version")]
    Unknown,
    #[error("{0} is missing or malformed")]
    Field(&'static str),
    #[error(transparent)]
    Members(#[from] crate::members::DecodeError),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// For [`crate::members`].
    Members(Bytes),
    /// To owners: what the sender holds complete.
    Announce {
        /// What it says of its district, of which it is the arbiter, instead of itself.
        of_district: bool,
        /// Slots of which the sender has told all anew: what it told before is forgotten. A bit each.
        forget: u64,
        add: Vec<Key>,
        remove: Vec<Key>,
    },
    /// To owners: hashes over all that the sender has told of these slots, in the order of the bits.
    Renew {
        of_district: bool,
        slots: u64,
        hashes: Vec<u64>,
    },
    /// To a holder: tell me all of these slots.
    Resync { of_district: bool, slots: u64 },
    /// To an arbiter: what am I to do about this key?
    Seek(Seek),
    /// To an arbiter: the question is withdrawn, or its answer is not made use of.
    Withdraw { key: Key, number: u64 },
    /// To whoever sought.
    Answer {
        key: Key,
        number: u64,
        verdict: Verdict,
    },
    /// To an arbiter: how a pull goes on.
    Report {
        key: Key,
        /// Of the question that this pull came of.
        number: u64,
        stage: Stage,
    },
    /// To an owner: who has this key?
    Find { key: Key, number: u64 },
    /// To whoever asked; or ask `redirect`.
    Found {
        number: u64,
        holders: Vec<NodeId>,
        redirect: Option<NodeId>,
    },
    /// To one that pulls: whoever feeds you takes in so many bytes a second, and you stay far behind it.
    Outrun { key: Key, rate: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seek {
    pub key: Key,
    /// Of the sender's choice; comes back with the answer. Repeating a question keeps it.
    pub number: u64,
    pub group: u64,
    pub size: Option<u64>,
    pub streams: u8,
    pub prefer: Option<NodeId>,
    /// The latest first.
    pub failed: Vec<NodeId>,
    /// Bytes that the asker has already.
    pub offset: u64,
    /// Milliseconds after which the asker would rather ask again later; 0: never.
    pub yields: u32,
    /// Whether the asker can wait.
    pub patient: bool,
    /// Whether the asker has led in this group in vain, a while ago.
    pub barred: bool,
    /// Whether others were held up behind the asker lately.
    pub lags: bool,
    /// Nodes that may be behind the asker in all that it gets, at most.
    pub behind: u32,
    /// A source that gives the asker far less than others did lately.
    pub slow: Option<NodeId>,
    /// Who leads, and gives the asker far less than leads did lately.
    pub slow_lead: Option<NodeId>,
    /// The owner before this one who did not answer.
    pub silent: Option<NodeId>,
    /// Who asks, where an arbiter passes the question on to the one before it.
    pub asker: Option<NodeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Follow {
        source: NodeId,
        epoch: u64,
        order: u32,
        leader: Option<NodeId>,
        /// For how many milliseconds bytes have come from upstream to whoever leads, if one does.
        led_for: Option<u32>,
    },
    Lead,
    Alone,
    /// Ask again later.
    Later,
    /// The answer will come. Repeated while somebody is being waited for.
    Wait {
        /// The lead that is being waited for, if one is: for upstream's first byte.
        lead: Option<NodeId>,
        /// Whether other objects come to that node meanwhile.
        is_busy: bool,
    },
    Redirect(NodeId),
}

/// How far a pull is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The question, which this arbiter sent on to another, waits for its answer.
    Asks {
        /// The lead that it waits for, if it does.
        lead: Option<NodeId>,
        /// Whether other objects come to that node meanwhile.
        is_busy: bool,
    },
    /// Still going on. `source` is who feeds it, if anybody; `size` is there once it has begun.
    Alive {
        size: Option<u64>,
        source: Option<NodeId>,
        /// Whether other objects come to the node meanwhile: one that has not begun is not stuck then.
        is_busy: bool,
        /// Whether others were held up behind the node lately.
        lags: bool,
    },
    Done,
    Failed,
    /// It came whole, and its digest was another.
    Wrong,
    /// Whom the sender feeds at this place stays far behind it; the sender takes in so many bytes a second, in all.
    Outrun {
        order: u32,
        rate: u64,
    },
}

impl Message {
    pub fn encode(&self) -> Bytes {
        let body = Some(proto::Body::from(self));
        proto::Envelope { body }.encode_to_vec().into()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_DATAGRAM {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let envelope = proto::Envelope::decode(bytes)?;
        envelope.body.ok_or(DecodeError::Unknown)?.try_into()
    }
}

fn key(bytes: &Bytes) -> Result<Key, DecodeError> {
    let bytes = bytes
        .as_ref()
        .try_into()
        .map_err(|_| DecodeError::Field("key"))?;
    Ok(Key(bytes))
}

fn keys(bytes: &Bytes) -> Result<Vec<Key>, DecodeError> {
    let (keys, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() || keys.len() > MAX_KEYS {
        return Err(DecodeError::Field("keys"));
    }
    Ok(keys.iter().map(|key| Key(*key)).collect())
}

fn packed(keys: &[Key]) -> Bytes {
    let bytes: Vec<u8> = keys.iter().flat_map(|key| key.0).collect();
    bytes.into()
}

fn packed_nodes(nodes: &[NodeId]) -> Bytes {
    let nodes = nodes.iter().take(MAX_NODES);
    let bytes: Vec<u8> = nodes.flat_map(|node| node.0).collect();
    bytes.into()
}

fn nodes(bytes: &Bytes) -> Result<Vec<NodeId>, DecodeError> {
    let (nodes, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() || nodes.len() > MAX_NODES {
        return Err(DecodeError::Field("nodes"));
    }
    Ok(nodes.iter().map(|node| NodeId(*node)).collect())
}

fn one(node: &Option<NodeId>) -> Bytes {
    node.as_ref()
        .map_or(Bytes::new(), |node| Bytes::copy_from_slice(&node.0))
}

fn node(bytes: &Bytes, what: &'static str) -> Result<Option<NodeId>, DecodeError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let bytes = bytes
        .as_ref()
        .try_into()
        .map_err(|_| DecodeError::Field(what))?;
    Ok(Some(NodeId(bytes)))
}

impl From<&Message> for proto::Body {
    fn from(message: &Message) -> Self {
        let bytes = |key: &Key| Bytes::copy_from_slice(&key.0);
        match message {
            Message::Members(bytes) => Self::Members(bytes.clone()),
            Message::Announce {
                of_district,
                forget,
                add,
                remove,
            } => Self::Announce(proto::Announce {
                of_district: *of_district,
                forget: *forget,
                add: packed(add),
                remove: packed(remove),
            }),
            Message::Renew {
                of_district,
                slots,
                hashes,
            } => Self::Renew(proto::Renew {
                of_district: *of_district,
                slots: *slots,
                hashes: hashes.clone(),
            }),
            Message::Resync { of_district, slots } => Self::Resync(proto::Resync {
                of_district: *of_district,
                slots: *slots,
            }),
            Message::Seek(seek) => Self::Seek(Box::new(proto::Seek {
                key: bytes(&seek.key),
                number: seek.number,
                group: seek.group,
                size: seek.size,
                streams: u32::from(seek.streams),
                prefer: one(&seek.prefer),
                failed: packed_nodes(&seek.failed),
                offset: seek.offset,
                yields: seek.yields,
                patient: seek.patient,
                barred: seek.barred,
                lags: seek.lags,
                behind: seek.behind,
                slow: one(&seek.slow),
                slow_lead: one(&seek.slow_lead),
                silent: one(&seek.silent),
                asker: one(&seek.asker),
            })),
            Message::Withdraw { key, number } => Self::Withdraw(proto::Withdraw {
                key: bytes(key),
                number: *number,
            }),
            Message::Answer {
                key,
                number,
                verdict,
            } => Self::Answer(proto::Answer {
                key: bytes(key),
                number: *number,
                verdict: Some((*verdict).into()),
            }),
            Message::Report { key, number, stage } => Self::Report(proto::Report {
                key: bytes(key),
                number: *number,
                stage: Some(match stage {
                    Stage::Asks { lead, is_busy } => proto::Stage::Asks(proto::Wait {
                        lead: one(lead),
                        is_busy: *is_busy,
                    }),
                    Stage::Alive {
                        size,
                        source,
                        is_busy,
                        lags,
                    } => proto::Stage::Alive(proto::Alive {
                        is_busy: *is_busy,
                        lags: *lags,
                        size: *size,
                        source: one(source),
                    }),
                    Stage::Done => proto::Stage::Done(true),
                    Stage::Failed => proto::Stage::Failed(true),
                    Stage::Wrong => proto::Stage::Wrong(true),
                    Stage::Outrun { order, rate } => proto::Stage::Outrun(proto::Outran {
                        order: *order,
                        rate: *rate,
                    }),
                }),
            }),
            Message::Find { key, number } => Self::Find(proto::Find {
                key: bytes(key),
                number: *number,
            }),
            Message::Found {
                number,
                holders,
                redirect,
            } => Self::Found(proto::Found {
                number: *number,
                holders: packed_nodes(holders),
                redirect: one(redirect),
            }),
            Message::Outrun { key, rate } => Self::Outrun(proto::Outrun {
                key: bytes(key),
                rate: *rate,
            }),
        }
    }
}

impl From<Verdict> for proto::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Follow {
                source,
                epoch,
                order,
                leader,
                led_for,
            } => Self::Follow(proto::Follow {
                source: one(&Some(source)),
                epoch,
                order,
                leader: one(&leader),
                led_for,
            }),
            Verdict::Lead => Self::Lead(true),
            Verdict::Alone => Self::Alone(true),
            Verdict::Later => Self::Later(true),
            Verdict::Wait { lead, is_busy } => Self::Wait(proto::Wait {
                lead: one(&lead),
                is_busy,
            }),
            Verdict::Redirect(to) => Self::Redirect(one(&Some(to))),
        }
    }
}

impl TryFrom<proto::Body> for Message {
    type Error = DecodeError;

    fn try_from(body: proto::Body) -> Result<Self, DecodeError> {
        Ok(match body {
            proto::Body::Members(bytes) => Self::Members(bytes),
            proto::Body::Announce(announce) => Self::Announce {
                of_district: announce.of_district,
                forget: announce.forget,
                add: keys(&announce.add)?,
                remove: keys(&announce.remove)?,
            },
            proto::Body::Renew(renew) => {
                if renew.hashes.len() != renew.slots.count_ones() as usize {
                    return Err(DecodeError::Field("hashes"));
                }
                Self::Renew {
                    of_district: renew.of_district,
                    slots: renew.slots,
                    hashes: renew.hashes,
                }
            }
            proto::Body::Resync(resync) => Self::Resync {
                of_district: resync.of_district,
                slots: resync.slots,
            },
            proto::Body::Seek(seek) => Self::Seek(Seek {
                key: key(&seek.key)?,
                number: seek.number,
                group: seek.group,
                size: seek.size,
                streams: seek.streams.clamp(1, 8) as u8,
                prefer: node(&seek.prefer, "prefer")?,
                failed: nodes(&seek.failed)?,
                offset: seek.offset,
                yields: seek.yields.min(MAX_YIELD),
                patient: seek.patient,
                barred: seek.barred,
                lags: seek.lags,
                behind: seek.behind,
                slow: node(&seek.slow, "slow")?,
                slow_lead: node(&seek.slow_lead, "slow_lead")?,
                silent: node(&seek.silent, "silent")?,
                asker: node(&seek.asker, "asker")?,
            }),
            proto::Body::Withdraw(withdraw) => Self::Withdraw {
                key: key(&withdraw.key)?,
                number: withdraw.number,
            },
            proto::Body::Answer(answer) => Self::Answer {
                key: key(&answer.key)?,
                number: answer.number,
                verdict: answer
                    .verdict
                    .ok_or(DecodeError::Field("verdict"))?
                    .try_into()?,
            },
            proto::Body::Report(report) => Self::Report {
                key: key(&report.key)?,
                number: report.number,
                stage: match report.stage.ok_or(DecodeError::Field("stage"))? {
                    proto::Stage::Asks(wait) => Stage::Asks {
                        lead: node(&wait.lead, "lead")?,
                        is_busy: wait.is_busy,
                    },
                    proto::Stage::Alive(alive) => Stage::Alive {
                        is_busy: alive.is_busy,
                        lags: alive.lags,
                        size: alive.size,
                        source: node(&alive.source, "source")?,
                    },
                    proto::Stage::Done(_) => Stage::Done,
                    proto::Stage::Failed(_) => Stage::Failed,
                    proto::Stage::Wrong(_) => Stage::Wrong,
                    proto::Stage::Outrun(outran) => Stage::Outrun {
                        order: outran.order,
                        rate: outran.rate,
                    },
                },
            },
            proto::Body::Find(find) => Self::Find {
                key: key(&find.key)?,
                number: find.number,
            },
            proto::Body::Found(found) => Self::Found {
                number: found.number,
                holders: nodes(&found.holders)?,
                redirect: node(&found.redirect, "redirect")?,
            },
            proto::Body::Outrun(outrun) => Self::Outrun {
                key: key(&outrun.key)?,
                rate: outrun.rate,
            },
        })
    }
}

impl TryFrom<proto::Verdict> for Verdict {
    type Error = DecodeError;

    fn try_from(verdict: proto::Verdict) -> Result<Self, DecodeError> {
        let missing = |what| DecodeError::Field(what);
        Ok(match verdict {
            proto::Verdict::Follow(follow) => Self::Follow {
                source: node(&follow.source, "source")?.ok_or(missing("source"))?,
                epoch: follow.epoch,
                order: follow.order,
                leader: node(&follow.leader, "leader")?,
                led_for: follow.led_for,
            },
            proto::Verdict::Lead(_) => Self::Lead,
            proto::Verdict::Alone(_) => Self::Alone,
            proto::Verdict::Later(_) => Self::Later,
            proto::Verdict::Wait(wait) => Self::Wait {
                lead: node(&wait.lead, "lead")?,
                is_busy: wait.is_busy,
            },
            proto::Verdict::Redirect(to) => {
                Self::Redirect(node(&to, "redirect")?.ok_or(missing("redirect"))?)
            }
        })
    }
}
