//! The source's side: what this node is still receiving, for those who follow it.

use std::net::IpAddr;
use std::time::Duration;

use oci::{Digest, MediaType};
use tokio::time::timeout;

use super::Flight;
use super::feed::Feeding;
use super::pulls::{Sharing, Standing};
use super::range::first_byte;
use super::uploads::Upload;
use crate::access::Access;
use crate::found::{Found, Payload, Source};
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{Place, Progress, Stage, local};

/// How long a follower may be ahead of this node's own request, or of what this node is told about it.
const OFFER_LIMIT: Duration = Duration::from_millis(250);
/// Objects up to this size, in bytes, are sent to whoever follows: to turn one away costs more.
const SMALL: u64 = 1024 * 1024;

impl Flight {
    /// What this node is pulling itself, for a follower at `place`.
    ///
    /// # Errors
    /// It is not for others, or not pulled here, or this node is not ahead of the follower.
    pub async fn offer(
        &self,
        target: &Target,
        place: Place,
        access: &Access,
    ) -> Result<Found, Refusal> {
        let nothing = Refusal::NotHere(target.kind);
        let Some(digest) = target.digest() else {
            return Err(nothing);
        };
        let offset = first_byte(target.ranges.as_ref());
        let opened = timeout(OFFER_LIMIT, self.ahead(digest, offset, place, access)).await;
        let Some(feeding) = opened.ok().flatten() else {
            // It may have become complete meanwhile.
            return local::find(&*self.shared.store, access, target).ok_or(nothing);
        };
        let (size, growing) = (feeding.size, feeding.growing.clone());
        let feed = feeding.open(&self.shared, offset, place);
        Ok(Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size: Some(size),
            payload: Payload::Growing(growing, Some(feed)),
            source: Source::Growing,
        })
    }

    /// Our own pull, if it is ahead of a follower.
    async fn ahead(
        &self,
        digest: &Digest,
        offset: u64,
        place: Place,
        access: &Access,
    ) -> Option<Feeding> {
        let pull = self.shared.pulls.wait(digest).await;
        let admits = |origin| access.filter.admits(origin);
        if !pull.origin.as_ref().is_none_or(admits) {
            return None;
        }
        let mut states = pull.states();
        let state = states.wait_for(|s| s.sharing != Sharing::Unknown).await;
        if state.ok()?.sharing != Sharing::Shared {
            return None;
        }
        let mut growing = self.shared.ingest(digest)?;
        if pull.position(&growing) <= offset {
            let state = states.wait_for(|s| s.standing != Standing::Seeking).await;
            let standing = state.ok()?.standing;
            // Who is behind the follower is no source for it, whatever the order; upstream is behind nobody.
            let is_level = standing == Standing::Leads || pull.position(&growing) >= offset;
            if !is_level || !standing.is_ahead_of(&place) {
                return None;
            }
        }
        let known = |p: &Progress| p.total.is_some() || p.stage != Stage::Filling;
        let size = growing.until(known).await.total?;
        Some(Feeding {
            digest: digest.clone(),
            size,
            growing,
            pull,
        })
    }

    /// Admits a follower to what was found for it. `None`: it is too small to count.
    ///
    /// # Errors
    /// There are as many followers as this node can feed.
    pub fn admit(
        &self,
        target: &Target,
        found: &Found,
        follower: IpAddr,
    ) -> Result<Option<Upload>, Refusal> {
        if found.size.is_some_and(|size| size <= SMALL) {
            return Ok(None);
        }
        let upload = self.shared.uploads.admit(follower, &found.digest);
        if upload.is_none() {
            self.shared.metrics.flights_uploads_refused.inc();
            return Err(Refusal::Uploads(target.kind));
        }
        Ok(upload)
    }
}
