//! Talking to upstream registries by the [distribution
//! specification](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md): tokens, manifests, ranged
//! blobs, every hop vetted by one address policy (`policy.rs`).
//!
//! A request goes out anonymously first, and with this node's credentials only if that is refused; what took credentials
//! is [private](mirror::Visibility::Private). A client's own credentials go to the https origin of the registry alone, and
//! nothing that they open is remembered. Redirects are followed by hand, so that each of their targets is vetted too,
//! and `Authorization` stays with the host that it was meant for. Which token service a registry's credentials go to,
//! the registry says, and nobody that it redirects to: that is how the specification has it, and a reason to list no
//! registry as `http`. Errors and logs carry hosts and paths' subjects,
//! never a query string, a token or a password.

mod blob;
mod blobs;
mod call;
mod challenge;
mod client;
mod credentials;
mod encoding;
mod fault;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod link;
mod lists;
mod manifests;
mod part;
mod policy;
mod proxy;
mod quoted;
mod registries;
mod resolve;
mod routes;
mod session;
mod token;

pub use client::SetupError;
pub use credentials::{CredentialsError, check_auth_file};
pub use registries::{Limits, Options, Registries};
pub use routes::{HostTls, RegistryHost, RegistryHosts};

#[cfg(test)]
mod tests;
