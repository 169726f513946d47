//! Serves followers the objects that this node is still receiving.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderValue;
use oci::{Digest, Origin};
use tokio::time::timeout;

use super::Flight;
use super::follower_stream::FollowerStream;
use super::pulls::Sharing;
use crate::access::Access;
use crate::flights::pull_rules::{EVICTED_FOR, Role, SMALL_OBJECT};
use crate::found::{Found, Payload, Source};
use crate::open_range::first_byte;
use crate::refusal::Refusal;
use crate::request::follower::Follower;
use crate::request::{FLIGHT, OFFSET, SENT, Target};
use crate::{ChainPosition, IngestStage, Progress};

/// A follower's request may come this much before this node's own, or before this node knows its role.
const SERVE_WAIT: Duration = Duration::from_millis(250);

impl Flight {
    /// Finds the object that this node is pulling, for a follower at `position`. `is_open`: whether the follower may
    /// have content that this node's client pulls from this origin.
    ///
    /// # Errors
    ///
    /// This node does not pull the object, may not share it, or is not ahead of the follower.
    pub async fn serve_growing(
        &self,
        target: &Target,
        position: ChainPosition,
        access: &Access,
        is_open: impl Fn(Option<&Origin>) -> bool,
    ) -> Result<Found, Refusal> {
        let nothing = Refusal::NotHere(target.kind);
        let Some(digest) = target.digest() else {
            return Err(nothing);
        };
        let offset = first_byte(target.ranges.as_ref());
        let opened = timeout(
            SERVE_WAIT,
            self.ahead(digest, offset, position, access, is_open),
        )
        .await;
        let (size, stream) = opened.ok().flatten().ok_or(nothing)?;
        let payload = Payload::stream(stream);
        let mut found = Found::blob(digest, Some(size), payload, Source::Growing);
        found
            .headers
            .insert(FLIGHT, HeaderValue::from_static("growing"));
        Ok(found)
    }

    /// The progress of this node, for a follower that gets too little. `complete`: the bytes in the store. `None`: the
    /// pull has ended.
    pub fn progress(
        &self,
        target: &Target,
        complete: Option<Found>,
        access: &Access,
        is_open: impl Fn(Option<&Origin>) -> bool,
    ) -> Option<Found> {
        let digest = target.digest()?;
        let (offset, mut found) = match complete {
            Some(found) => (found.size.unwrap_or(u64::MAX), found),
            None => {
                let pull = self.shared.pulls.get(digest)?;
                let admits = |origin| access.filter.admits(origin);
                let is_shared = pull.states().borrow().sharing == Sharing::Shared;
                let origin = pull.origin.as_ref();
                if !is_shared || !origin.is_none_or(admits) || !is_open(origin) {
                    return None;
                }
                let ingest = pull.ingest();
                let size = ingest.progress().total;
                let found = Found::blob(digest, size, Payload::Empty, Source::Growing);
                (pull.readable(&ingest), found)
            }
        };
        found.headers.insert(OFFSET, offset.into());
        let sent = self.shared.uploads.sent();
        found.headers.insert(SENT, sent.into());
        Some(found)
    }

    /// The stream of this node's own pull and the size of the object, if the pull is ahead of a follower.
    async fn ahead(
        &self,
        digest: &Digest,
        offset: u64,
        position: ChainPosition,
        access: &Access,
        is_open: impl Fn(Option<&Origin>) -> bool,
    ) -> Option<(u64, FollowerStream)> {
        let pull = self.shared.pulls.wait(digest).await;
        let admits = |origin| access.filter.admits(origin);
        if !pull.origin.as_ref().is_none_or(admits) {
            return None;
        }
        let mut states = pull.states();
        let state = *states
            .wait_for(|s| s.sharing != Sharing::Unknown)
            .await
            .ok()?;
        let is_slow = state.evicted.is_some_and(|at| at.elapsed() < EVICTED_FOR);
        if state.sharing != Sharing::Shared || is_slow {
            return None;
        }
        let mut ingest = pull.ingest();
        if ingest.progress().stage == IngestStage::Failed {
            ingest = self
                .shared
                .ingest(digest, &self.shared.memory.others)
                .await?;
        }
        if pull.readable(&ingest) <= offset {
            let state = states.wait_for(|s| s.role != Role::Undecided).await;
            let role = state.ok()?.role;
            if !role.serves(pull.readable(&ingest), offset, &position) {
                return None;
            }
        }
        let known = |p: &Progress| p.total.is_some() || p.stage != IngestStage::Filling;
        let size = ingest.until(known).await.total?;
        // The status of the repository may have changed meanwhile.
        is_open(pull.origin.as_ref()).then(|| (size, FollowerStream::open(&pull, ingest, position)))
    }

    /// Admits a follower, unless the object is too small to count.
    ///
    /// # Errors
    ///
    /// This node serves as many uploads as it may, or as the follower accepts at first.
    pub fn admit(
        &self,
        target: &Target,
        mut found: Found,
        (address, follower): (IpAddr, Follower),
    ) -> Result<Found, Refusal> {
        if found.size.is_some_and(|size| size <= SMALL_OBJECT) {
            return Ok(found);
        }
        let is_complete = found.source != Source::Growing;
        let most = follower.uploads_below.filter(|_| is_complete);
        let uploads = &self.shared.uploads;
        let upload = uploads.admit(address, &found.digest, most.unwrap_or(usize::MAX));
        let Some(upload) = upload else {
            if most.is_none() {
                self.shared.metrics.flights_uploads_refused.inc();
            }
            return Err(Refusal::Uploads(target.kind));
        };
        found.hook = Some(Box::new(upload));
        Ok(found)
    }
}
