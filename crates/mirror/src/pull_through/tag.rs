//! What a tag points at: upstream says it; while it cannot, the store's last answer stands, then the peers'.

use oci::Reference;

use super::promise::is_refusal;
use super::{Client, PullThrough, RESOLVE_LIMIT};
use crate::access::Access;
use crate::found::Found;
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{UpstreamError, local};

impl PullThrough {
    pub(super) async fn tag(
        &self,
        target: &Target,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let Some(name) = target.tag_name() else {
            return Err(Refusal::NoPeer(target.kind));
        };
        let tools = &self.tools;
        let repository = client.repository(&name.origin);
        let asked = tools.upstream.resolve(&repository, &name.tag);
        let resolved = match tools.ask(&name.origin, RESOLVE_LIMIT, asked).await {
            Ok(resolved) => resolved,
            Err(error) => return self.last_known(target, client, access, error).await,
        };
        let by_digest = Target {
            reference: Reference::Digest(resolved.digest.clone()),
            ..target.clone()
        };
        let found = match (
            local::find(&*tools.store, access, &by_digest),
            resolved.manifest,
        ) {
            (Some(found), _) => found,
            (None, Some(manifest)) => self.received(&by_digest, client, manifest).await,
            (None, None) => self.fetch(&by_digest, &resolved.digest, client).await?,
        };
        if client.credentials.is_none() {
            tools.intake.tag(&name, &resolved.digest);
        }
        Ok(found)
    }

    /// What a tag pointed at when upstream last said so.
    async fn last_known(
        &self,
        target: &Target,
        client: &Client,
        access: &Access,
        error: UpstreamError,
    ) -> Result<Found, Refusal> {
        let refused = |error| Refusal::Upstream(target.kind, error);
        match &error {
            UpstreamError::NotFound(_) | UpstreamError::Denied { .. } => {
                return Err(refused(error));
            }
            _ => {}
        }
        // Something else than an outage: a client on its own may get more than this node.
        let must_be_whole = client.keeps_to_one_source && is_refusal(&error);
        match local::find(&*self.tools.store, access, target) {
            Some(found) if !must_be_whole || self.is_complete(&found.digest) => Ok(found),
            _ if must_be_whole => Err(refused(error)),
            _ => match self.tools.from_peers.find(target).await {
                Ok(found) => Ok(found),
                // Why upstream was no help comes first.
                Err(_) => Err(refused(error)),
            },
        }
    }
}
