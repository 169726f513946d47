//! Trial pulls, from the objects that clients of this node have measured.

use std::collections::HashSet;

use ::status::{TrialObject, TrialPull, TrialSource};
use mirror::snapshot::{MeasuredObject, Snapshot, Source};

use super::status::{TOGETHER_MS, peer_name, repository};

/// A trial pull, from its first request to the end of its last.
struct Span {
    image: String,
    began_ms: u64,
    ended_ms: u64,
    digests: HashSet<String>,
    objects: Vec<TrialObject>,
}

/// The trial pulls of this node, the latest first.
pub fn of(snapshot: &Snapshot) -> Vec<TrialPull> {
    let mut measured: Vec<_> = snapshot.measured.iter().collect();
    measured.sort_by_key(|object| object.started_ms);
    let mut spans: Vec<Span> = Vec::new();
    for object in measured {
        let image = repository(object.registry.as_deref(), object.repository.as_deref());
        let ended_ms = object.started_ms.saturating_add(object.took_ms);
        let is_of = |span: &Span| {
            span.image == image
                && object.started_ms <= span.ended_ms.saturating_add(TOGETHER_MS)
                // A repeated request for an object begins a new pull.
                && !span.digests.contains(&object.digest)
        };
        let known = spans.iter().rposition(is_of).unwrap_or_else(|| {
            spans.push(Span {
                image,
                began_ms: object.started_ms,
                ended_ms,
                digests: HashSet::new(),
                objects: Vec::new(),
            });
            spans.len() - 1
        });
        let span = &mut spans[known];
        span.ended_ms = span.ended_ms.max(ended_ms);
        span.digests.insert(object.digest.clone());
        span.objects.push(shown(object, snapshot));
    }
    spans.sort_by_key(|span| std::cmp::Reverse(span.ended_ms));
    let pulls = spans.into_iter().map(|span| TrialPull {
        image: span.image,
        ago_s: snapshot.at_ms.saturating_sub(span.ended_ms) / 1000,
        took_ms: span.ended_ms.saturating_sub(span.began_ms),
        objects: span.objects,
    });
    pulls.collect()
}

fn shown(object: &MeasuredObject, snapshot: &Snapshot) -> TrialObject {
    let (source, reason) = match &object.source {
        // An object that is being taken into this node's store counts as local, too.
        Source::Local | Source::Unknown => (TrialSource::Local, None),
        Source::Peer { node, addresses } => {
            let name = peer_name(snapshot, node, addresses);
            (TrialSource::Peer(name), None)
        }
        Source::Upstream { reason } => (TrialSource::Upstream, Some(reason.as_str().to_owned())),
    };
    let moved_for = object
        .first_byte_ms
        .map(|first| object.took_ms.saturating_sub(first));
    let rate = moved_for.map(|ms| u128::from(object.sent) * 1000 / u128::from(ms.max(1)));
    TrialObject {
        digest: object.digest.clone(),
        is_manifest: object.is_manifest,
        size: object.size,
        source,
        reason,
        first_byte_ms: object.first_byte_ms,
        took_ms: object.took_ms,
        rate: rate.and_then(|rate| u64::try_from(rate).ok()),
        is_complete: object.size.is_some_and(|size| object.sent >= size),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::empty;
    use super::*;
    use mirror::UpstreamReason;

    fn measured(digest: &str, started_ms: u64, source: Source) -> MeasuredObject {
        let is_upstream = matches!(source, Source::Upstream { .. });
        MeasuredObject {
            registry: Some("a.io".into()),
            repository: Some("app".into()),
            digest: digest.into(),
            is_manifest: false,
            size: (!is_upstream).then_some(2_000_000),
            source,
            started_ms,
            first_byte_ms: (!is_upstream).then_some(10),
            took_ms: 1010,
            sent: if is_upstream { 0 } else { 2_000_000 },
        }
    }

    #[test]
    fn objects_that_were_asked_for_together_are_one_trial_and_a_second_try_is_another() {
        let mut snapshot = empty();
        let peer = Source::Peer {
            node: "12D3KooWabcdefgh".into(),
            addresses: vec!["10.0.0.7:5000".parse().expect("an address")],
        };
        let upstream = Source::Upstream {
            reason: UpstreamReason::Private,
        };
        snapshot.measured = vec![
            measured("b", 70_000, Source::Local),
            measured("a", 60_500, peer.clone()),
            measured("b", 60_000, peer),
            measured("c", 10_000, upstream),
        ];
        let trials = of(&snapshot);
        let shown: Vec<_> = trials
            .iter()
            .map(|t| (t.ago_s, t.took_ms, t.objects.len()))
            .collect();
        assert_eq!(shown, [(28, 1010, 1), (38, 1510, 2), (88, 1010, 1)]);
        let first = &trials[1].objects[0];
        assert_eq!(first.source, TrialSource::Peer("10.0.0.7".into()));
        assert_eq!((first.rate, first.is_complete), (Some(2_000_000), true));
        let left = &trials[2].objects[0];
        assert_eq!(left.reason.as_deref(), Some("private"));
        assert_eq!(
            (left.rate, left.size, left.is_complete),
            (None, None, false)
        );
    }
}
