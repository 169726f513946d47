//! The messages as protobuf has them. Keys are packed, 16 bytes each; nodes are 32 bytes, nobody is none.

use bytes::Bytes;
use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct Envelope {
    #[prost(oneof = "Body", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub body: Option<Body>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    #[prost(bytes = "bytes", tag = "1")]
    Members(Bytes),
    #[prost(message, tag = "2")]
    Announce(Announce),
    #[prost(message, tag = "3")]
    Renew(Renew),
    #[prost(message, tag = "4")]
    Resync(Resync),
    #[prost(message, tag = "5")]
    Seek(Box<Seek>),
    #[prost(message, tag = "6")]
    Withdraw(Withdraw),
    #[prost(message, tag = "7")]
    Answer(Answer),
    #[prost(message, tag = "8")]
    Report(Report),
    #[prost(message, tag = "9")]
    Find(Find),
    #[prost(message, tag = "10")]
    Found(Found),
    #[prost(message, tag = "11")]
    Outrun(Outrun),
}

#[derive(Clone, PartialEq, Message)]
pub struct Announce {
    #[prost(fixed64, tag = "1")]
    pub forget: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub add: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub remove: Bytes,
    #[prost(bool, tag = "4")]
    pub of_district: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Resync {
    #[prost(fixed64, tag = "1")]
    pub slots: u64,
    #[prost(bool, tag = "2")]
    pub of_district: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Renew {
    #[prost(fixed64, tag = "1")]
    pub slots: u64,
    #[prost(fixed64, repeated, tag = "2")]
    pub hashes: Vec<u64>,
    #[prost(bool, tag = "3")]
    pub of_district: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Seek {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(fixed64, tag = "2")]
    pub number: u64,
    #[prost(fixed64, tag = "3")]
    pub group: u64,
    #[prost(uint64, optional, tag = "4")]
    pub size: Option<u64>,
    #[prost(uint32, tag = "5")]
    pub streams: u32,
    #[prost(bytes = "bytes", tag = "6")]
    pub prefer: Bytes,
    #[prost(bytes = "bytes", tag = "7")]
    pub failed: Bytes,
    #[prost(bool, tag = "8")]
    pub patient: bool,
    #[prost(bytes = "bytes", tag = "9")]
    pub silent: Bytes,
    #[prost(bytes = "bytes", tag = "10")]
    pub asker: Bytes,
    #[prost(uint32, tag = "13")]
    pub yields: u32,
    #[prost(uint64, tag = "11")]
    pub offset: u64,
    #[prost(bool, tag = "12")]
    pub barred: bool,
    #[prost(bool, tag = "14")]
    pub lags: bool,
    #[prost(bytes = "bytes", tag = "15")]
    pub slow: Bytes,
    #[prost(bytes = "bytes", tag = "16")]
    pub slow_lead: Bytes,
    #[prost(uint32, tag = "17")]
    pub behind: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Withdraw {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(fixed64, tag = "2")]
    pub number: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Answer {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(fixed64, tag = "2")]
    pub number: u64,
    #[prost(oneof = "Verdict", tags = "3, 4, 5, 6, 7, 8")]
    pub verdict: Option<Verdict>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Verdict {
    #[prost(message, tag = "3")]
    Follow(Follow),
    #[prost(bool, tag = "4")]
    Lead(bool),
    #[prost(bool, tag = "5")]
    Alone(bool),
    #[prost(message, tag = "6")]
    Wait(Wait),
    #[prost(bytes = "bytes", tag = "7")]
    Redirect(Bytes),
    #[prost(bool, tag = "8")]
    Later(bool),
}

#[derive(Clone, PartialEq, Message)]
pub struct Follow {
    #[prost(bytes = "bytes", tag = "1")]
    pub source: Bytes,
    #[prost(fixed64, tag = "2")]
    pub epoch: u64,
    #[prost(uint32, tag = "3")]
    pub order: u32,
    #[prost(bytes = "bytes", tag = "4")]
    pub leader: Bytes,
    /// In milliseconds.
    #[prost(uint32, optional, tag = "5")]
    pub led_for: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Report {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(oneof = "Stage", tags = "2, 3, 4, 6, 7, 8")]
    pub stage: Option<Stage>,
    #[prost(fixed64, tag = "5")]
    pub number: u64,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Stage {
    #[prost(message, tag = "2")]
    Alive(Alive),
    #[prost(bool, tag = "3")]
    Done(bool),
    #[prost(bool, tag = "4")]
    Failed(bool),
    #[prost(bool, tag = "6")]
    Wrong(bool),
    #[prost(message, tag = "7")]
    Outrun(Outran),
    #[prost(message, tag = "8")]
    Asks(Wait),
}

#[derive(Clone, PartialEq, Message)]
pub struct Outran {
    #[prost(uint32, tag = "1")]
    pub order: u32,
    #[prost(uint64, tag = "2")]
    pub rate: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Outrun {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(uint64, tag = "2")]
    pub rate: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Wait {
    #[prost(bytes = "bytes", tag = "1")]
    pub lead: Bytes,
    #[prost(bool, tag = "2")]
    pub is_busy: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Alive {
    #[prost(bool, tag = "3")]
    pub is_busy: bool,
    #[prost(bool, tag = "4")]
    pub lags: bool,
    #[prost(uint64, optional, tag = "1")]
    pub size: Option<u64>,
    #[prost(bytes = "bytes", tag = "2")]
    pub source: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub struct Find {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(fixed64, tag = "2")]
    pub number: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Found {
    #[prost(fixed64, tag = "1")]
    pub number: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub holders: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    pub redirect: Bytes,
}
