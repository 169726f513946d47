//! Lists the pulls of this node's own clients, to be shown.

use std::sync::atomic::Ordering;

use http::StatusCode;
use oci::Digest;

use super::Mirror;
use crate::UpstreamReason;
use crate::activity::PullSource;
use crate::found::{Found, Source};
use crate::measured::Measuring;
use crate::open_range::first_byte;
use crate::refusal::Refusal;
use crate::request::{Caller, Target};
use crate::request_record::RequestRecord;

impl Mirror {
    /// Makes a request part of the pull of this object, if a client of this node sent it.
    pub(super) fn track(&self, target: &mut Target, digest: &Digest, record: &mut RequestRecord) {
        if target.caller == Caller::Peer {
            record.sent_to = Some(self.peers.sent_to(record.ip));
        }
        if target.caller != Caller::Own || target.head_only {
            return;
        }
        let origin = target.origin.as_ref();
        let request = self.activities.begin(digest, origin, &target.reference);
        target.pull.activity = Some(request.pull.clone());
        let start = first_byte(target.ranges.as_ref());
        record.pull = Some((request, start));
        if target.pull.is_measured {
            record.measuring = Some(Measuring::begin(&self.activities, target, digest));
        }
    }

    /// Records the result of a request.
    pub(super) fn tracked(
        &self,
        target: &mut Target,
        result: &Result<Found, Refusal>,
        record: &mut RequestRecord,
    ) {
        if let Ok(found) = result
            && target.digest().is_none()
        {
            self.track(target, &found.digest, record);
            self.count_whole(target, found);
        }
        let Some(pull) = &target.pull.activity else {
            return;
        };
        match result {
            Ok(found) => {
                pull.set_size(found.size);
                if found.source == Source::Local {
                    pull.set_source(PullSource::Local);
                }
            }
            Err(refusal)
                if refusal.status() == StatusCode::NOT_FOUND && !target.pull.is_measured =>
            {
                pull.set_source(PullSource::Upstream(refusal.reason()));
            }
            // The object does not exist, or the client does not pull it from upstream through this mirror.
            Err(refusal) => {
                if let Some((request, _)) = record.pull.take() {
                    request.forget();
                }
                match &mut record.measuring {
                    Some(measuring) if refusal.status() == StatusCode::NOT_FOUND => {
                        measuring.refused(refusal.reason());
                    }
                    _ => record.measuring = None,
                }
            }
        }
    }

    /// Counts bytes that came by a tag, before its object was known.
    fn count_whole(&self, target: &Target, found: &Found) {
        let (Some(pull), Some(size)) = (&target.pull.activity, found.size) else {
            return;
        };
        match found.source {
            Source::Peer => {
                pull.bytes.peers.fetch_add(size, Ordering::Relaxed);
            }
            Source::Upstream => pull.bytes.add_upstream(UpstreamReason::NoPeer, size),
            Source::Local | Source::Growing => {}
        }
    }
}
