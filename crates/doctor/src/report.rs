//! All findings of a node, for people and for programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;

use crate::checks;
use crate::finding::{Category, Code, Finding, Severity};

/// What was found on a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    findings: Vec<Finding>,
    /// The checks whose findings are left out, as another one explains them.
    explained: BTreeSet<Code>,
}

impl Report {
    /// Orders findings, and leaves out those that another one explains: one cause is one line.
    pub fn new(findings: impl IntoIterator<Item = Finding>) -> Self {
        let all: Vec<_> = findings.into_iter().collect();
        let worst = |code| {
            let of_code = all.iter().filter(|finding| finding.code == code);
            of_code.map(|finding| finding.severity).max()
        };
        // Only a finding that is at least as severe explains another.
        let is_explained = |finding: &Finding| {
            let least = Some(finding.severity.max(Severity::Warning));
            let check = checks::of(finding.code);
            check.is_some_and(|check| check.causes.iter().any(|cause| worst(*cause) >= least))
        };
        let (mut findings, explained): (Vec<_>, Vec<_>) = all
            .iter()
            .partition(|f| f.severity == Severity::Ok || !is_explained(f));
        findings.sort_by_key(|finding| finding.code);
        Self {
            findings: findings.into_iter().cloned().collect(),
            explained: explained.iter().map(|finding| finding.code).collect(),
        }
    }

    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The highest severity.
    pub fn severity(&self) -> Severity {
        let all = self.findings.iter().map(|finding| finding.severity);
        all.max().unwrap_or(Severity::Ok)
    }

    /// A line for each finding, with its remedy below it. `is_coloured`: with the codes of a terminal (ECMA-48).
    pub fn text(&self, is_coloured: bool) -> String {
        let mut text = String::new();
        for category in Category::ALL {
            let of_category = |f: &&Finding| f.code.category == category;
            let findings: Vec<_> = self.findings.iter().filter(of_category).collect();
            if findings.is_empty() {
                continue;
            }
            // Writing to a text does not fail.
            let _ = writeln!(text, "{}", category.title());
            for finding in findings {
                let (mark, colour) = mark(finding.severity);
                let mark = match is_coloured {
                    true => format!("\x1b[{colour}m{mark}\x1b[0m"),
                    false => mark.to_owned(),
                };
                let _ = write!(text, "  {mark} {}: {}", finding.title, finding.text);
                let _ = match finding.severity {
                    Severity::Ok => writeln!(text),
                    _ => writeln!(text, " [{}]", finding.code),
                };
                for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
                    let _ = writeln!(text, "      {line}");
                }
            }
        }
        let _ = writeln!(text, "{}", self.summary());
        if !self.explained.is_empty() {
            let explained = self.explained.iter().filter_map(|code| checks::of(*code));
            let explained: Vec<_> = explained
                .map(|check| format!("{} ({})", check.code, check.title))
                .collect();
            let _ = writeln!(
                text,
                "Not shown, as the above explains it: {}.",
                explained.join(", ")
            );
        }
        text
    }

    fn summary(&self) -> String {
        let count = |severity| {
            let all = self.findings.iter();
            all.filter(|finding| finding.severity == severity).count()
        };
        let (faults, warnings) = (count(Severity::Fault), count(Severity::Warning));
        let unknown = count(Severity::Unknown);
        let several = |count: usize, one: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{count} {one}s"),
        };
        match (faults, warnings, unknown) {
            (0, 0, 0) => "All is well.".to_owned(),
            (0, 0, unknown) => format!("All is well as far as is known; unknown: {unknown}."),
            (0, warnings, 0) => format!("Nothing is broken; {}.", several(warnings, "warning")),
            (0, warnings, unknown) => {
                let warnings = several(warnings, "warning");
                format!("Nothing is broken; {warnings}; unknown: {unknown}.")
            }
            (faults, warnings, _) => {
                let (faults, warnings) = (several(faults, "fault"), several(warnings, "warning"));
                format!("{faults}, {warnings}.")
            }
        }
    }
}

fn mark(severity: Severity) -> (&'static str, u8) {
    match severity {
        Severity::Ok => ("√", 32),
        Severity::Unknown => ("?", 36),
        Severity::Warning => ("‼", 33),
        Severity::Fault => ("×", 31),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn one_cause_is_one_line() {
        let report = Report::new([
            checks::PEERS_FOUND.fault("none", "look"),
            checks::MIRROR_ANSWERS.fault("refused", "start it"),
            checks::CONTAINERD_VERSION.ok("2.1"),
            checks::HOSTS_ADDRESS.fault("refused", "start it"),
        ]);
        let text = report.text(false);
        assert_eq!(
            text,
            "containerd\n  √ version: 2.1\nmirror\n  × the mirror answers: refused [PEILI-M001]\n      start it\n1 fault, 0 warnings.\nNot shown, as the above explains it: PEILI-H006 (the address leads to this node's mirror), PEILI-P001 (peers are found).\n"
        );
        assert_eq!(report.severity(), Severity::Fault);
        assert!(report.text(true).contains("\x1b[31m×\x1b[0m"));
    }

    #[test]
    fn programs_read_codes_and_severities() {
        let report = Report::new([checks::LAYERS_KEPT.warning("true", "a = 1")]);
        let json = serde_json::to_value(&report).expect("plain data");
        let finding = &json["findings"][0];
        assert_eq!(finding["code"], "PEILI-C004");
        assert_eq!(finding["title"], "layers are kept");
        assert_eq!(finding["severity"], "warning");
        assert_eq!(finding["remedy"], "a = 1");
    }

    #[test]
    fn codes_are_unique_and_causes_come_from_elsewhere() {
        let codes: HashSet<_> = checks::ALL.iter().map(|check| check.code).collect();
        assert_eq!(codes.len(), checks::ALL.len());
        for check in checks::ALL {
            assert!(!check.causes.contains(&check.code), "{}", check.code);
        }
    }
}
