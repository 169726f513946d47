//! The calls for containerd's leases. Content in a lease is not collected until the lease is deleted or has expired.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci::Digest;
use prost_types::Timestamp;
use tonic::Code;
use tonic::transport::Channel;

use crate::Namespace;
use crate::client::{
    CALL_LIMIT, CallError, Client, LIST_LIMIT, MAX_MESSAGE, found, limited, within,
};
use crate::proto::containerd::services::leases::v1 as leases;

/// The prefix of this mirror's lease ids; the digest of the blob follows.
const PREFIX: &str = "peili-";
/// The label with the time when containerd may ignore a lease, in RFC 3339 (containerd, `core/metadata/gc.go`).
const EXPIRE: &str = "containerd.io/gc.expire";
/// The label of a lease that keeps only what it names, not what that refers to (the same file).
const FLAT: &str = "containerd.io/gc.flat";

/// A lease of this mirror. It keeps one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub digest: Digest,
    pub expires: SystemTime,
}

/// Whether the release of a lease waits until containerd has collected garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Collect {
    Now,
    Later,
}

impl Client {
    /// The mirror's leases in a namespace, including expired ones: containerd removes those when it next collects
    /// garbage.
    pub async fn leases(&self, namespace: &Namespace) -> Result<Vec<Lease>, CallError> {
        let request = within(namespace, leases::ListRequest::default());
        let mut client = self.leases_client();
        let answer = limited("Leases.List", LIST_LIMIT, client.list(request)).await?;
        Ok(answer.leases.iter().filter_map(ours).collect())
    }

    /// Keeps a blob until then, in whole seconds. The time of an existing lease is not changed.
    pub async fn lease(&self, namespace: &Namespace, lease: &Lease) -> Result<(), CallError> {
        let id = id(&lease.digest);
        let labels = [
            (EXPIRE, Timestamp::from(lease.expires).to_string()),
            (FLAT, String::new()),
        ];
        let request = leases::CreateRequest {
            id: id.clone(),
            labels: labels.map(|(k, v)| (k.to_owned(), v)).into(),
        };
        let mut client = self.leases_client();
        let answer = client.create(within(namespace, request));
        match limited("Leases.Create", CALL_LIMIT, answer).await {
            Ok(_) => {}
            // Another instance of the mirror on this node took it, for example during a handover.
            Err(CallError::Refused {
                code: Code::AlreadyExists,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
        let resource = leases::Resource {
            id: lease.digest.to_string(),
            r#type: "content".into(),
        };
        let request = leases::AddResourceRequest {
            id,
            resource: Some(resource),
        };
        let answer = client.add_resource(within(namespace, request));
        limited("Leases.AddResource", CALL_LIMIT, answer).await
    }

    /// Releases a blob. A missing lease is not an error.
    pub async fn unlease(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        collect: Collect,
    ) -> Result<(), CallError> {
        let request = leases::DeleteRequest {
            id: id(digest),
            sync: collect == Collect::Now,
        };
        let limit = match collect {
            Collect::Now => LIST_LIMIT,
            Collect::Later => CALL_LIMIT,
        };
        let mut client = self.leases_client();
        let answer = client.delete(within(namespace, request));
        found(limited("Leases.Delete", limit, answer).await).map(drop)
    }

    fn leases_client(&self) -> leases::leases_client::LeasesClient<Channel> {
        leases::leases_client::LeasesClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A time cut to the precision of a label.
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

fn id(digest: &Digest) -> String {
    format!("{PREFIX}{digest}")
}

fn ours(lease: &leases::Lease) -> Option<Lease> {
    let expires: Timestamp = lease.labels.get(EXPIRE)?.parse().ok()?;
    Some(Lease {
        digest: lease.id.strip_prefix(PREFIX)?.parse().ok()?,
        expires: expires.try_into().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_of_our_making_is_ours() {
        let digest = Digest::sha256(b"layer");
        let lease = |id: &str, expire: &str| leases::Lease {
            id: id.to_owned(),
            labels: [(EXPIRE.to_owned(), expire.to_owned())].into(),
            created_at: None,
        };
        let own = id(&digest);
        let found = ours(&lease(&own, "2026-11-21T10:00:00Z")).expect("ours");
        assert_eq!(found.digest, digest);
        let again = Timestamp::from(found.expires).to_string();
        assert_eq!(again, "2026-11-21T10:00:00Z", "as RFC 3339 has it");
        for (id, expire) in [
            (own.as_str(), "soon"),
            (&digest.to_string(), "2026-11-21T10:00:00Z"),
            ("peili-sha256:0", "2026-11-21T10:00:00Z"),
            ("", ""),
        ] {
            assert!(ours(&lease(id, expire)).is_none(), "{id} until {expire}");
        }
    }
}
