//! The life of a pull: from a request on the registry port to the bytes that answer it.

mod catalog;
mod growing;
mod health;
mod router;
mod store;
mod upstream;

pub use catalog::{Catalog, Object, Visibility};
pub use growing::{Growing, Progress, Stage};
pub use health::Health;
pub use router::{Candidate, Holding, PeerId, Router, Search};
pub use store::{Begun, Content, Intake, IntakeError, Provenance, Sink, Store};
pub use upstream::{Upstream, UpstreamBlob, UpstreamError, UpstreamManifest};
