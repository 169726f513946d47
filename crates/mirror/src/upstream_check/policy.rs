//! The operator's policy for checks of upstream.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use oci::Origin;

/// The options of the step.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    pub tags: TagPolicy,
    /// The time for which the digest of a tag is not looked up again.
    pub tag_max_age: Duration,
    pub private: PrivatePolicies,
    /// The time for which a repository that was public counts as public while upstream gives no answer.
    pub public_proof_max_age: Duration,
    /// The file that keeps over restarts which repositories are public. `None`: this is forgotten.
    pub proofs_file: Option<PathBuf>,
    /// Whether this mirror itself pulls the layers of public repositories that this node leads, where containerd would
    /// move them to the end of its queue.
    pub pull_layers: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            tags: TagPolicy::Fresh,
            tag_max_age: Duration::from_secs(30),
            private: PrivatePolicies::default(),
            public_proof_max_age: Duration::from_secs(24 * 60 * 60),
            proofs_file: None,
            pull_layers: true,
        }
    }
}

/// Which party resolves a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagPolicy {
    /// Upstream; this node and its peers if upstream is unreachable.
    Fresh,
    /// This node and its peers, as in Spegel.
    Peers,
    /// Only upstream: clients are sent there for every tag.
    Upstream,
}

impl FromStr for TagPolicy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        match text {
            "fresh" => Ok(Self::Fresh),
            "peers" => Ok(Self::Peers),
            "upstream" => Ok(Self::Upstream),
            _ => Err(PolicyError::Tag(text.into())),
        }
    }
}

/// Which clients get content that is not known to be public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivatePolicy {
    /// No client, once upstream has refused it to an anonymous client, or while upstream gives no answer; all clients
    /// while upstream is unreachable.
    #[default]
    Auto,
    /// All clients, as in Spegel. Upstream is not asked.
    Share,
    /// No client, unless upstream has given it to an anonymous client.
    Protect,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    #[error("{0:?} is none of fresh, peers and upstream")]
    Tag(String),
    #[error(
        "{0:?} is no policy; write auto, share or protect, or one of them for a registry or a part of it, as in \
         registry.example/team=share"
    )]
    Private(String),
    #[error("{0:?} has a policy already")]
    Twice(String),
}

/// The policies for registries and parts of them; the longest matching name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrivatePolicies {
    others: PrivatePolicy,
    named: Vec<(String, PrivatePolicy)>,
}

impl PrivatePolicies {
    /// # Errors
    /// An entry is not a policy, or there are two for one name.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, PolicyError> {
        let mut policies = Self::default();
        let mut others = None;
        for entry in entries {
            let (name, policy) = match entry.rsplit_once('=') {
                Some((name, policy)) => (name.trim_end_matches('/'), policy),
                None => ("", entry),
            };
            let name = one_name(name);
            let is_named = entry.contains('=');
            let policy = match policy {
                "auto" => PrivatePolicy::Auto,
                "share" => PrivatePolicy::Share,
                "protect" => PrivatePolicy::Protect,
                _ => return Err(PolicyError::Private(entry.into())),
            };
            if is_named && (name.is_empty() || name.contains("://")) {
                return Err(PolicyError::Private(entry.into()));
            }
            let is_second = match is_named {
                true => policies.named.iter().any(|(other, _)| *other == name),
                false => others.replace(policy).is_some(),
            };
            if is_second {
                return Err(PolicyError::Twice(name));
            }
            if is_named {
                policies.named.push((name, policy));
            }
        }
        policies.others = others.unwrap_or_default();
        Ok(policies)
    }

    pub fn of(&self, origin: &Origin) -> PrivatePolicy {
        let full = one_name(&origin.to_string());
        let fits = |name: &str| {
            let rest = full.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let named = self.named.iter().filter(|(name, _)| fits(name));
        let longest = named.max_by_key(|(name, _)| name.len());
        longest.map_or(self.others, |(_, policy)| *policy)
    }

    /// Whether everything is shared, so that no checks are needed.
    pub fn share_all(&self) -> bool {
        let mut all = self.named.iter().map(|(_, policy)| policy);
        self.others == PrivatePolicy::Share && all.all(|policy| *policy == PrivatePolicy::Share)
    }
}

/// The normal form of a registry's name: hosts ignore case, 443 is the port of https, and Docker Hub has three names.
fn one_name(name: &str) -> String {
    let (registry, rest) = match name.find('/') {
        Some(end) => name.split_at(end),
        None => (name, ""),
    };
    let registry = registry.to_ascii_lowercase();
    let registry = match registry.strip_suffix(":443").unwrap_or(&registry) {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    format!("{registry}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        let (registry, repository) = text.split_once('/').expect("both");
        Origin {
            registry: registry.parse().expect("a registry"),
            repository: repository.parse().expect("a repository"),
        }
    }

    #[test]
    fn the_longest_name_counts() {
        let policies = PrivatePolicies::parse([
            "a.io=share",
            "a.io/team/=protect",
            "a.io/team/open=auto",
            "protect",
            "10.0.0.1:5000=share",
            "DOCKER.io/me=share",
        ]);
        let policies = policies.expect("sound");
        for (name, policy) in [
            ("a.io/x", PrivatePolicy::Share),
            ("a.io/team", PrivatePolicy::Protect),
            ("a.io/team/x", PrivatePolicy::Protect),
            ("a.io/teams", PrivatePolicy::Share),
            ("a.io/team/open", PrivatePolicy::Auto),
            ("10.0.0.1:5000/x", PrivatePolicy::Share),
            ("b.io/x", PrivatePolicy::Protect),
            ("A.io:443/team/open", PrivatePolicy::Auto),
            ("docker.io/me/x", PrivatePolicy::Share),
            ("index.docker.io/me", PrivatePolicy::Share),
            ("registry-1.docker.io:443/me", PrivatePolicy::Share),
            ("docker.io/other", PrivatePolicy::Protect),
        ] {
            assert_eq!(policies.of(&origin(name)), policy, "{name}");
        }
    }

    #[test]
    fn what_is_no_policy_is_refused_with_words() {
        for entry in [
            "",
            "all",
            "a.io",
            "a.io=",
            "=share",
            "https://a.io=share",
            "a.io=Share",
        ] {
            let error = PrivatePolicies::parse([entry]).expect_err(entry);
            assert_eq!(error, PolicyError::Private(entry.into()));
        }
        for entries in [["share", "auto"], ["a.io=auto", "A.io:443/=share"]] {
            let error = PrivatePolicies::parse(entries).expect_err("two");
            assert!(matches!(error, PolicyError::Twice(_)));
        }
        assert!("Fresh".parse::<TagPolicy>().is_err());
    }
}
