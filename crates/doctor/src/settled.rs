//! Findings for a continuous view: those that last only a moment are not shown.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::checks;
use crate::finding::{Code, Finding, Severity};
use crate::report::Report;

/// The pause after which the next report is shown whole, as there was no viewer.
const PAUSE: Duration = Duration::from_secs(5 * 60);

/// Since when each finding has existed, over the reports of one node.
#[derive(Debug, Default)]
pub struct Settled {
    since: BTreeMap<Code, Instant>,
    last: Option<Instant>,
}

impl Settled {
    /// The faults and warnings of the latest report, the worst first, without those that have not lasted long enough.
    pub fn shown(&mut self, report: &Report, now: Instant) -> Vec<Finding> {
        let last = self.last.replace(now);
        let is_first = last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        let is_bad = |finding: &&Finding| finding.severity >= Severity::Warning;
        let bad: Vec<_> = report.findings().iter().filter(is_bad).collect();
        self.since
            .retain(|code, _| bad.iter().any(|finding| finding.code == *code));
        let mut shown = Vec::new();
        for finding in bad {
            let after = checks::of(finding.code).map_or(0, |check| check.shown_after_s);
            let after = Duration::from_secs(after);
            // A finding in the first report may have existed for long.
            let began = match is_first {
                true => now.checked_sub(after).unwrap_or(now),
                false => now,
            };
            let since = *self.since.entry(finding.code).or_insert(began);
            if is_first || now.saturating_duration_since(since) >= after {
                shown.push(finding.clone());
            }
        }
        shown.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_while_somebody_watches_is_shown_when_it_stays() {
        let (mut settled, start) = (Settled::default(), Instant::now());
        let warning = checks::LAYERS_KEPT.warning("true", "set it to false");
        let unreached = checks::PEERS_REACHED.fault("n2: no answer", "open the ports");
        let (well, bad) = (
            Report::new([warning.clone(), checks::PEERS_REACHED.ok("all")]),
            Report::new([warning.clone(), unreached.clone()]),
        );
        let (one, both) = (vec![warning.code], vec![unreached.code, warning.code]);
        for (report, seconds, told) in [
            (&bad, 0, &both),
            (&well, 30, &one),
            (&bad, 60, &one),
            (&bad, 90, &one),
            (&bad, 120, &both),
            (&well, 150, &one),
            (&bad, 1000, &both),
        ] {
            let shown = settled.shown(report, start + Duration::from_secs(seconds));
            let codes: Vec<_> = shown.iter().map(|finding| finding.code).collect();
            assert_eq!(codes, *told, "after {seconds} s");
        }
    }
}
