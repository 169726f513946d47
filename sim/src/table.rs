//! The results as a table and as JSON.

use std::fmt::Write as _;

use serde_json::Value;

use crate::measure::RunResult;
use crate::setup::Mode;

/// A Markdown table, which reads well on a terminal too.
pub fn markdown(outcomes: &[RunResult]) -> String {
    const HEAD: [&str; 13] = [
        "scenario",
        "nodes",
        "rule",
        "p50, s",
        "p99, s",
        "last, s",
        "bound, s",
        "p99 / bound",
        "from upstream, images",
        "leads",
        "alone",
        "not done",
        "datagrams a node",
    ];
    let rows: Vec<_> = outcomes.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..HEAD.len()).map(width).collect();
    let mut text = line(&HEAD.map(String::from), &widths);
    let rule = widths.iter().enumerate().map(|(column, width)| {
        // Numbers are aligned to the right, scenario and rule to the left.
        match column {
            0 | 2 => "-".repeat(*width),
            _ => "-".repeat(width - 1) + ":",
        }
    });
    let rule: Vec<_> = rule.collect();
    text += &line(&rule, &widths);
    for row in &rows {
        text += &line(row, &widths);
    }
    text
}

fn row(outcome: &RunResult) -> [String; 13] {
    let rule = match outcome.mode {
        Mode::Peili => "Peili",
        Mode::Spegel => "Spegel's",
        Mode::Alone => "no P2P",
    };
    let p99 = outcome.quantile(0.99);
    [
        outcome.scenario.title(),
        outcome.nodes.to_string(),
        rule.to_string(),
        figure(outcome.quantile(0.5), 1),
        figure(p99, 1),
        figure(outcome.quantile(1.0), 1),
        figure(outcome.bound, 1),
        figure(p99 / outcome.bound, 2),
        figure(outcome.upstream, 3),
        outcome.leads.to_string(),
        outcome.alone.to_string(),
        outcome.unfinished.to_string(),
        (outcome.datagrams / u64::from(outcome.nodes)).to_string(),
    ]
}

/// A dash if no node finished in time.
pub fn figure(value: f64, digits: usize) -> String {
    if value.is_finite() {
        format!("{value:.digits$}")
    } else {
        "–".to_string()
    }
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::from("|");
    for (cell, width) in cells.iter().zip(widths) {
        // Writing to a string cannot fail.
        let _ = write!(line, " {cell:<width$} |");
    }
    line + "\n"
}

pub fn json(outcomes: &[RunResult]) -> String {
    let all = outcomes.iter().map(RunResult::to_json).collect();
    format!("{:#}\n", Value::Array(all))
}
