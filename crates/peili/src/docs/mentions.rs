//! Checks that options and metrics mentioned in the pages exist.

use std::collections::BTreeSet;

use regex::Regex;

use super::{metrics, options, pages, read};

/// The options of other programs in the pages.
const FOREIGN: [&str; 7] = [
    "all-platforms",
    "embedded-registry",
    "hosts-dir",
    "old-containerd",
    "register-with-taints",
    "set",
    "startup-taint",
];

#[test]
fn options_in_the_pages_exist() {
    let known: BTreeSet<_> = options::all().into_iter().collect();
    // Only in a code span of its own: command lines contain options of other programs.
    let option = Regex::new(r"`--([a-z][a-z-]*)[^`]*`").expect("an expression");
    for (name, page) in pages() {
        for found in option.captures_iter(&page) {
            let found = &found[1];
            let is_known = known.contains(found) || FOREIGN.contains(&found);
            assert!(is_known, "{name} has --{found}, which is no option");
        }
    }
}

#[tokio::test]
async fn metrics_in_the_pages_and_the_dashboard_exist() {
    let known: BTreeSet<_> = metrics::names().await.into_iter().collect();
    let metric = Regex::new(r"\b(?:peili|spegel)_[a-z_]*[a-z]\b").expect("an expression");
    let mut texts = pages();
    for file in [
        "charts/peili/files/dashboard.json",
        "charts/peili/templates/prometheusrule.yaml",
    ] {
        texts.push((file.to_owned(), read(file)));
    }
    for (name, text) in texts {
        for found in metric.find_iter(&text) {
            let found = found.as_str();
            let family = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|s| found.strip_suffix(s));
            let is_known = known.contains(found) || family.is_some_and(|f| known.contains(f));
            assert!(is_known, "{name} has {found}, which is no metric");
        }
    }
}
