//! What the OCI specifications say, as types. Pure: nothing here reads a file, a socket or a clock.
//!
//! Sources: the [distribution specification](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md),
//! the [image specification](https://github.com/opencontainers/image-spec/blob/v1.1.1/spec.md) and RFC 9110 for ranges.

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
