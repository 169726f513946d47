//! The OCI specifications as types. Pure: nothing here reads a file, a socket or a clock.

mod digest;
mod error;
mod filter;
mod manifest;
mod platform;
mod range;
mod reference;

pub use digest::{Digest, DigestError, Hasher};
pub use error::{ErrorBody, ErrorCode};
pub use filter::{Filter, FilterError};
pub use manifest::{Child, MAX_MANIFEST_SIZE, Manifest, ManifestError, MediaType, Role};
pub use platform::{architecture, image_for_this_machine};
pub use range::{ByteRange, MAX_RANGES, RangeError, Ranges};
pub use reference::{
    Key, Name, NameError, Origin, Reference, Registry, RegistryUrl, Repository, Scheme, Tag,
    TagName,
};
