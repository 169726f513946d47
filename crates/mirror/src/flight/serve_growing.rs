//! Serves followers what this node is still receiving.

use std::net::IpAddr;
use std::time::Duration;

use oci::{Digest, MediaType, Origin};
use tokio::time::timeout;

use super::Flight;
use super::follower_stream::SharedPull;
use super::pulls::Sharing;
use super::range::first_byte;
use super::uploads::Upload;
use crate::access::Access;
use crate::flights::pulling::{EVICTED_FOR, Role};
use crate::found::{Found, Payload, Source};
use crate::refusal::Refusal;
use crate::request::Target;
use crate::{ChainPosition, Progress, Stage};

/// A follower's request may come this much before this node's own, or before this node knows its role.
const SERVE_WAIT: Duration = Duration::from_millis(250);
/// Objects up to this size, in bytes, are served to every follower: refusing costs more.
const SMALL: u64 = 1024 * 1024;

impl Flight {
    /// Finds what this node is pulling, for a follower at `position`. `is_open`: whether the follower may have what this
    /// node's client pulls from there.
    ///
    /// # Errors This node does not pull the object, may not share it, or is not ahead of the follower.
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
        let opened = timeout(SERVE_WAIT, self.ahead(digest, offset, position, access)).await;
        let opened = opened.ok().flatten();
        let opened = opened.filter(|opened| is_open(opened.pull.origin.as_ref()));
        let shared_pull = opened.ok_or(nothing)?;
        let (size, growing) = (shared_pull.size, shared_pull.growing.clone());
        let follower_stream = shared_pull.open(position);
        Ok(Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size: Some(size),
            payload: Payload::Growing(growing, Some(follower_stream)),
            source: Source::Growing,
        })
    }

    /// How far this node is, for a follower that gets too little. `complete`: what the store has. `None`: the pull has
    /// ended.
    pub fn progress(
        &self,
        target: &Target,
        complete: Option<Found>,
        access: &Access,
        is_open: impl Fn(Option<&Origin>) -> bool,
    ) -> Option<Found> {
        let sent = self.shared.uploads.sent();
        if let Some(found) = complete {
            let offset = found.size.unwrap_or(u64::MAX);
            let payload = Payload::Progress { offset, sent };
            return Some(Found { payload, ..found });
        }
        let digest = target.digest()?;
        let pull = self.shared.pulls.get(digest)?;
        let admits = |origin| access.filter.admits(origin);
        let is_shared = pull.states().borrow().sharing == Sharing::Shared;
        let origin = pull.origin.as_ref();
        if !is_shared || !origin.is_none_or(admits) || !is_open(origin) {
            return None;
        }
        let growing = self.shared.ingest(digest)?;
        Some(Found {
            digest: digest.clone(),
            media_type: MediaType::octet_stream(),
            size: growing.progress().total,
            payload: Payload::Progress {
                offset: pull.position(&growing),
                sent,
            },
            source: Source::Growing,
        })
    }

    /// This node's own pull, if it is ahead of a follower.
    async fn ahead(
        &self,
        digest: &Digest,
        offset: u64,
        position: ChainPosition,
        access: &Access,
    ) -> Option<SharedPull> {
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
        let mut growing = self.shared.ingest(digest)?;
        if pull.position(&growing) <= offset {
            let state = states.wait_for(|s| s.role != Role::Undecided).await;
            let role = state.ok()?.role;
            if !role.serves(pull.position(&growing), offset, &position) {
                return None;
            }
        }
        let known = |p: &Progress| p.total.is_some() || p.stage != Stage::Filling;
        let size = growing.until(known).await.total?;
        Some(SharedPull {
            size,
            growing,
            pull,
        })
    }

    /// Admits a follower. `None`: the object is too small to count.
    ///
    /// # Errors This node serves the maximum number of uploads.
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
