//! The client of upstream registries, by the
//! [distribution specification](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md): tokens,
//! manifests, ranged blobs. One address policy (`policy.rs`) checks every hop.
//!
//! A request is first made anonymously, and with this node's credentials only if that is refused; an object that needed
//! credentials is [private](mirror::Visibility::Private). A client's own credentials are sent only to the https origin
//! of the registry, and nothing that they open is remembered. Redirects are followed explicitly, so that each target is
//! checked too, and `Authorization` is sent only to its own host. Only the registry itself, not a host that it
//! redirects to, names the token service that its credentials are sent to. The specification demands this; it is a
//! reason not to list a registry as `http`. Errors and logs contain hosts and repositories, never a query string, a
//! token or a password.

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
