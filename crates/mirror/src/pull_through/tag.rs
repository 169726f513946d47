//! The target of a tag: upstream resolves it; while it cannot, the store's last answer counts, then the peers'.

use std::sync::Arc;

use oci::{Reference, TagName};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::Client;
use super::last_answers::is_refusal;
use super::state::{BEGIN_LIMIT, PullThroughStep, RESOLVE_LIMIT};
use crate::access::Access;
use crate::found::Found;
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{Resolved, UpstreamError};

impl PullThroughStep {
    pub(super) async fn tag(
        self: &Arc<Self>,
        target: &Target,
        client: &Client,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let Some(name) = target.tag_name() else {
            return Err(Refusal::NoPeer(target.kind));
        };
        let mut asked = self.resolve(&name, client);
        let resolved = match timeout(RESOLVE_LIMIT, &mut asked).await {
            Ok(resolved) => resolved,
            Err(_) => {
                let late = UpstreamError::Failed(
                    name.origin.clone(),
                    format!("no answer within {RESOLVE_LIMIT:?}"),
                );
                let known = self.last_known(target, client, access, late).await;
                if !client.keeps_to_one_source && known.is_err() {
                    return known;
                }
                if let Ok(found) = known {
                    // The answer is used for the next pull.
                    let (step, credentials) = (self.clone(), client.credentials.is_some());
                    self.tasks.spawn(async move {
                        if let Ok(Ok(resolved)) = asked.await
                            && !credentials
                        {
                            step.intake.tag(&name, &resolved.digest);
                        }
                    });
                    return Ok(found);
                }
                asked.await
            }
        };
        // The task ends early only with the mirror.
        let resolved = match resolved.map_err(|_| Refusal::NoPeer(target.kind))? {
            Ok(resolved) => resolved,
            Err(error) => return self.last_known(target, client, access, error).await,
        };
        let by_digest = Target {
            reference: Reference::Digest(resolved.digest.clone()),
            ..target.clone()
        };
        let stored = self.find_stored(&by_digest, access).await?;
        let found = match (stored, resolved.manifest) {
            (Some(found), _) => found,
            (None, Some(manifest)) => self.received(&by_digest, client, manifest).await,
            (None, None) => self.fetch(&by_digest, &resolved.digest, client).await?,
        };
        if client.credentials.is_none() {
            self.intake.tag(&name, &resolved.digest);
        }
        self.keep_siblings(target, &found, client);
        Ok(found)
    }

    /// Asks upstream for the target of a tag, in a task: the answer of a slow registry is used even if no request waits
    /// for it.
    fn resolve(
        self: &Arc<Self>,
        name: &TagName,
        client: &Client,
    ) -> JoinHandle<Result<Resolved, UpstreamError>> {
        let (step, name) = (self.clone(), name.clone());
        let repository = client.repository(&name.origin);
        self.tasks.spawn(async move {
            let asked = step.upstream.resolve(&repository, &name.tag);
            step.ask(&repository, BEGIN_LIMIT, asked).await
        })
    }

    /// The target of a tag in upstream's last answer.
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
        // Not an outage: another client may get more than this node.
        let must_be_whole = client.keeps_to_one_source && is_refusal(&error);
        let known = self.find_stored(target, access).await?;
        let may_be_given = match &known {
            Some(found) => !must_be_whole || self.is_complete(&found.digest).await,
            None => false,
        };
        match known {
            Some(found) if may_be_given => Ok(found),
            _ if must_be_whole => Err(refused(error)),
            _ => {
                let refusal = Self::failed(target, error);
                // Upstream's error is reported first.
                self.from_peers.find(target).await.map_err(|_| refusal)
            }
        }
    }
}
