//! The life of a pull: from a request on the registry port to the bytes of its answer.
//!
//! [`Mirror::answer`] runs the request pipeline; each step of it is a module. It depends on five traits: [`Store`]
//! (what this node holds), [`Router`] (who else has it), [`Flights`] (who is getting it), and, for a store that the
//! mirror fills itself, [`Intake`] and [`Upstream`].

mod access;
mod accusations;
mod activity;
mod announce;
mod attempts;
mod body;
mod catalog;
mod connect;
mod content_range;
mod deliveries;
mod dial_back;
mod fetch;
mod flight;
mod flight_event_queue;
mod flights;
mod found;
mod from_peers;
mod growing;
mod health;
mod held;
mod images;
mod lead_through;
mod listen;
mod local;
mod measured;
pub mod memory;
mod metrics;
mod mirror;
mod network;
mod node_report;
mod object_stream;
mod open_range;
mod own_pull;
mod peers;
mod permits;
mod pull_owners;
mod pull_through;
mod rate;
mod rate_check;
mod rate_limit;
mod reach;
mod refusal;
mod registry_speeds;
mod relay;
mod request;
mod request_record;
mod router;
mod send;
pub mod serve;
pub mod snapshot;
mod source_provider;
mod source_reader;
mod store;
mod tail_buffer;
mod time_saved;
mod trace;
mod trial;
mod upstream;
mod upstream_bytes;
mod upstream_check;
mod upstream_reason;
mod verification;
mod waiting_budget;

pub use crate::flight_event_queue::{FlightEvent, FlightEventSender, FlightEvents, flight_events};
pub use crate::flights::{
    ChainPosition, Condition, Decided, Decision, Flights, LinkState, LinkTest, NodeId,
    PullProgress, Received, SourceRequest, SourceStatus, SourceWatch, Starved, Time, WatchAction,
    node_field, nodes_field, registry_hash,
};
pub use access::{Access, Secret};
pub use body::Body;
pub use catalog::{Catalog, Object, Visibility};
pub use fetch::{Limits, PeerAnswer};
pub use growing::{Growing, IngestStage, Progress};
pub use health::Health;
pub use held::{HeldImage, HeldImages};
pub use listen::{ListenAddress, ListenAddressError};
pub use mirror::{Adapters, ConnectionAddresses, Mirror, Options, RateLimits, ready};
pub use node_report::{AskedNode, NodeReport, REPORT, ReportedObject, ReportedSource};
pub use object_stream::BodyError;
pub use rate_limit::MIN_SHARE;
pub use reach::Reached;
pub use request::host::{HostError, check_leads_here};
pub use request::{
    Caller, FLIGHT, Kind, MEASURED, MIRRORED, NAMESPACE, NODE_SECRET, REASON, Reader, Request,
    RequestError, SOURCE, Target,
};
pub use router::{
    Candidate, MAX_LISTED_PEERS, PeerId, PeerMembership, Router, RouterPeer, RouterPeers, Search,
};
pub use store::{
    Begun, Content, Ingest, IngestId, Intake, IntakeError, Provenance, PullThrough, Sink, Store,
    StoredObject,
};
pub use trace::{EndedSpan, SpanKind, TRACEPARENT, TraceSink, TraceValue};
pub use trial::{Served, TRIAL_REPOSITORY, Trial, Trials, trial_registry};
pub use upstream::{
    ClientCredentials, List, Resolved, Upstream, UpstreamBlob, UpstreamError, UpstreamHead,
    UpstreamManifest, UpstreamPage, UpstreamRepository,
};
pub use upstream_check::{
    CheckOptions, PolicyError, PrivatePolicies, PrivatePolicy, RegistryState, TagPolicy,
};
pub use upstream_reason::UpstreamReason;
pub use verification::FileIdentity;
