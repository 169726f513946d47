//! Decides whether a request is allowed: the second step of a pull. By default every request is, as in Spegel. Each
//! policy is a check in [`Access`].

use http::HeaderMap;
use http::header::AUTHORIZATION;
use network_key::Keyring;
use oci::{Digest, Filter, Origin};
use subtle::ConstantTimeEq as _;
use tls::PeerTls;

use crate::Visibility;
use crate::refusal::Refusal;
use crate::request::host;
use crate::request::{Caller, ClientAddress, MIRRORED, NODE_SECRET, RequestError, Target};

/// The conditions for requests, and what is mirrored at all.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub filter: Filter,
    /// The required `Authorization` of requests under `/v2`, including this node's requests to peers.
    pub authorization: Option<Secret>,
    /// The secret that this node's containerd sends as [`NODE_SECRET`].
    pub node_secret: Option<Secret>,
    /// The keys of the network. Requests of all other clients must prove one of them. `None`: any client may be a peer.
    pub network_keys: Option<Keyring>,
    /// The certificates of the nodes. All other clients must have one of them. `None`: peers use plain HTTP.
    pub peer_tls: Option<PeerTls>,
    /// Names of this host that its clients may use, besides those of loopback.
    pub own_names: Vec<String>,
    /// Whether requests by tag are answered at all.
    pub resolve_tags: bool,
}

/// A text that is compared in constant time and never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Identifies a random secret without revealing it: the first bytes of its SHA-256, in hexadecimal.
    pub fn fingerprint(&self) -> String {
        const LENGTH: usize = 16;
        let digest = Digest::sha256(self.0.as_bytes());
        digest.encoded().chars().take(LENGTH).collect()
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Compares in constant time, unless the lengths differ.
    fn is(&self, other: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(other).into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Access {
    /// # Errors
    /// The mirror's credentials are required and missing.
    pub fn authorize(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        match &self.authorization {
            Some(needed) if !given.is_some_and(|given| needed.is(given)) => {
                Err(Refusal::Unauthorized)
            }
            _ => Ok(()),
        }
    }

    /// Refuses a client on this host that used a foreign host name (DNS rebinding). Applies where the address alone
    /// makes a client the node's own: for a store that the mirror fills, without a node secret.
    ///
    /// # Errors
    /// The name in its request is foreign; see [`host::check_leads_here`].
    pub fn check_host(&self, headers: &HeaderMap, client: ClientAddress) -> Result<(), Refusal> {
        if client == ClientAddress::ThisHost && self.node_secret.is_none() {
            let checked = host::check_leads_here(headers, &self.own_names);
            checked.map_err(RequestError::from)?;
        }
        Ok(())
    }

    /// Determines who sent this request.
    ///
    /// If a node secret is set, it decides alone. Without one, a client is the node's own if it is on this host, or
    /// owns the pull of the object (`owns_pull`, see [`PullOwners`](crate::pull_owners::PullOwners)). The second
    /// condition does not apply if strangers are excluded.
    pub fn caller(
        &self,
        headers: &HeaderMap,
        client: ClientAddress,
        owns_pull: impl FnOnce() -> bool,
    ) -> Caller {
        if headers.get(MIRRORED).is_some_and(|value| value == "true") {
            return Caller::Peer;
        }
        let own = match &self.node_secret {
            Some(_) => headers
                .get(NODE_SECRET)
                .is_some_and(|given| self.is_secret(given.as_bytes())),
            None => owns_pull() || client == ClientAddress::ThisHost,
        };
        if own { Caller::Own } else { Caller::Remote }
    }

    /// Whether only this node's own client and proven nodes are served.
    pub fn requires_network_proof(&self) -> bool {
        self.network_keys.is_some() || self.peer_tls.is_some()
    }

    /// Whether this is the node secret.
    pub fn is_secret(&self, given: &[u8]) -> bool {
        self.node_secret
            .as_ref()
            .is_some_and(|secret| secret.is(given))
    }

    /// # Errors
    /// The registry, the repository or tags in general are not mirrored.
    pub fn admit(&self, target: &Target) -> Result<(), Refusal> {
        let Some(origin) = &target.origin else {
            return Ok(());
        };
        match target.tag_name() {
            Some(name) if self.resolve_tags && self.filter.admits_tag(&name) => Ok(()),
            Some(_) => Err(Refusal::Filtered(origin.to_string())),
            None => self.admit_repository(origin),
        }
    }

    /// # Errors
    /// The repository is not mirrored.
    pub fn admit_repository(&self, origin: &Origin) -> Result<(), Refusal> {
        if self.filter.admits(origin) {
            Ok(())
        } else {
            Err(Refusal::Filtered(origin.to_string()))
        }
    }

    /// Whether an object of this visibility may be sent to this caller.
    pub fn shows(&self, visibility: Visibility, caller: Caller) -> bool {
        match visibility {
            Visibility::Shared => true,
            Visibility::Private => caller == Caller::Own,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_compared_whole_and_not_printed() {
        let secret = Secret::new("0123abcd".to_owned());
        assert!(secret.is(b"0123abcd"));
        for other in [
            "",
            "0123abc",
            "123abcd",
            "0123abcd0",
            "1123abcd",
            "0123abce",
        ] {
            assert!(!secret.is(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{secret:?}"), "***");
    }
}
