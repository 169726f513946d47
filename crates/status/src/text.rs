//! The status for a terminal.

use std::fmt::Write as _;

use doctor::Severity;

use crate::page::tree_rows;
use crate::words;
use crate::{Cluster, Source, Status, TreeSource};

/// The number of characters of a bar.
const BAR: usize = 20;

/// A table with columns as wide as they need.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widths = cells.map(|cell| cell.chars().count());
        widths.max().unwrap_or(0).max(head[column].len())
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (cell, width) in cells.zip(&widths) {
            // Writing to a text does not fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

/// A bar that shows how much of something is there.
pub fn bar(part: u64, whole: u64) -> String {
    let filled = (u128::from(part.min(whole)) * BAR as u128 / u128::from(whole.max(1))) as usize;
    format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
}

/// `peili status`: the content of the page's first screen.
pub fn status(status: &Status) -> String {
    let (node, totals) = (&status.node, &status.totals);
    let mut text = String::new();
    let faults = status
        .findings
        .iter()
        .filter(|finding| finding.severity >= Severity::Warning);
    for finding in faults {
        let _ = writeln!(text, "{} {}", finding.code, finding.text);
        for line in finding.remedy.iter().flat_map(|remedy| remedy.lines()) {
            let _ = writeln!(text, "    {line}");
        }
    }
    let _ = match &node.not_ready {
        None => writeln!(
            text,
            "{} is mirroring. Peers: {}.",
            node.name, status.peer_count
        ),
        Some(why) => writeln!(text, "{} is not ready: {why}", node.name),
    };
    let saved = totals
        .seconds_saved
        .map(|saved| format!(", {} saved", words::seconds(saved)));
    let _ = writeln!(
        text,
        "In the last {}: {} pulled, {} from upstream ({}){}. {} sent to peers.",
        words::seconds(node.uptime_s),
        words::bytes(totals.pulled()),
        words::bytes(totals.upstream),
        words::percent(totals.upstream, totals.pulled()),
        saved.unwrap_or_default(),
        words::bytes(totals.sent),
    );
    if !status.pulls.is_empty() {
        text.push_str("\nPulls now\n");
        text.push_str(&pulls(status));
    }
    if !status.finished.is_empty() {
        text.push_str("\nLast pulls\n");
        text.push_str(&finished(status));
    }
    text
}

/// The running pulls, a row for each object.
fn pulls(status: &Status) -> String {
    let mut rows = Vec::new();
    for pull in &status.pulls {
        let (offset, size) = pull.progress();
        rows.push(vec![
            pull.image.clone(),
            bar(offset, size),
            words::bytes(size),
            words::rate(pull.rate()),
            words::seconds(pull.age_s),
        ]);
        for object in &pull.objects {
            let size = object.size.unwrap_or(object.offset);
            let hex = object.digest.split_once(':').map_or("", |(_, hex)| hex);
            let source = match &object.source {
                Source::Waiting => "waits".to_owned(),
                Source::Upstream => "registry".to_owned(),
                Source::Peer(name) => format!("from {name}"),
            };
            rows.push(vec![
                format!("  {} {source}", hex.chars().take(12).collect::<String>()),
                bar(object.offset, size),
                words::bytes(size),
                words::rate(object.rate),
                String::new(),
            ]);
        }
    }
    table(&["IMAGE", "PROGRESS", "SIZE", "RATE", "FOR"], &rows)
}

fn finished(status: &Status) -> String {
    let rows: Vec<_> = status
        .finished
        .iter()
        .map(|pull| {
            let reasons = pull.reasons.iter();
            let reasons: Vec<_> = reasons
                .map(|(reason, bytes)| {
                    format!("{} {}", words::bytes(*bytes), words::reason(reason))
                })
                .collect();
            vec![
                pull.image.clone(),
                format!("{} ago", words::seconds(pull.ago_s)),
                words::milliseconds(pull.took_ms),
                words::bytes(pull.local),
                words::bytes(pull.peers),
                words::bytes(pull.upstream),
                reasons.join(", "),
            ]
        })
        .collect();
    let head = [
        "IMAGE",
        "WHEN",
        "TOOK",
        "HERE",
        "PEERS",
        "UPSTREAM",
        "WHY FROM UPSTREAM",
    ];
    table(&head, &rows)
}

/// `peili status --cluster`: a row for each node, then each tree.
pub fn cluster(cluster: &Cluster) -> String {
    let rows = cluster.nodes.iter().map(|node| match &node.error {
        Some(error) => vec![node.name.clone(), error.clone()],
        None => vec![
            node.name.clone(),
            match (node.is_ready, node.is_slow) {
                (false, _) => "not ready",
                (true, true) => "slow",
                (true, false) => "ok",
            }
            .to_owned(),
            match node.pulling {
                0 => String::new(),
                pulling => format!("{pulling}, {}", words::rate(node.rate)),
            },
            words::bytes(node.local),
            words::bytes(node.peers),
            words::bytes(node.upstream),
            node.version.clone().unwrap_or_default(),
            words::seconds(node.uptime_s),
        ],
    });
    let rows: Vec<_> = rows.collect();
    let mut text = format!("{}\n", words::count(cluster.count, "node"));
    let head = [
        "NAME", "STATE", "PULLING", "HERE", "PEERS", "UPSTREAM", "VERSION", "UP FOR",
    ];
    text.push_str(&table(&head, &rows));
    for flight in &cluster.flights {
        let hex = flight.digest.split_once(':').map_or("", |(_, hex)| hex);
        let size = flight.size.unwrap_or_default();
        let image = flight.image.as_deref().unwrap_or("object");
        let _ = writeln!(
            text,
            "\n{image} {} {}",
            hex.get(..12).unwrap_or(hex),
            words::bytes(size)
        );
        let rows: Vec<_> = tree_rows(&flight.tree)
            .into_iter()
            .map(|(node, depth)| {
                let node = &flight.tree[node];
                let source = match node.source {
                    TreeSource::Registry => "from the registry",
                    TreeSource::Complete => "has it",
                    TreeSource::Waiting => "waits",
                    TreeSource::Node(_) => "",
                };
                vec![
                    format!("{}{}", "  ".repeat(depth + 1), node.name),
                    bar(node.offset, size),
                    words::percent(node.offset, size),
                    words::rate(node.rate),
                    source.to_owned(),
                ]
            })
            .collect();
        text.push_str(&table(&["  NODE", "PROGRESS", "", "RATE", ""], &rows));
    }
    text
}

/// `peili peers`: a row for each peer.
pub fn peers(status: &Status) -> String {
    let rows: Vec<_> = status
        .peers
        .iter()
        .map(|peer| {
            let state = words::state(peer.state);
            let error = peer.last_error.as_ref();
            let error = error.map(|(error, ago)| format!("{error}, {} ago", words::seconds(*ago)));
            vec![
                peer.name.clone(),
                peer.address.clone(),
                state.to_owned(),
                peer.rate.map(words::rate).unwrap_or_default(),
                words::bytes(peer.received),
                peer.sent.map(words::bytes).unwrap_or_default(),
                peer.version.clone().unwrap_or_default(),
                error.unwrap_or_default(),
            ]
        })
        .collect();
    let head = [
        "NAME",
        "ADDRESS",
        "STATE",
        "RATE",
        "RECEIVED",
        "SENT",
        "VERSION",
        "LAST ERROR",
    ];
    table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tests::{sample, sample_cluster};

    #[test]
    fn a_terminal_shows_what_the_page_shows() {
        insta::assert_snapshot!(status(&sample()));
        insta::assert_snapshot!(peers(&sample()));
        insta::assert_snapshot!(cluster(&sample_cluster(6)));
    }
}
