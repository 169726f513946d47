//! The trial pulls: each opens to its objects, with the source and the rate of each.

use maud::{Markup, html};

use super::table::Column::{Bar, Number, Text};
use super::table::{Row, Table};
use super::{fill, short};
use crate::{TrialObject, TrialPull, TrialSource, words};

/// The command that starts one.
const COMMAND: &str = "peili pull docker.io/library/alpine:3";

pub fn trials(trials: &[TrialPull]) -> Markup {
    html! {
        @for (n, trial) in trials.iter().enumerate() { (trial_row(n, trial)) }
        p .none {
            @if trials.is_empty() { "None. " }
            "On this node, with --node-secret-file if the mirror has it, a trial pull is made by:"
        }
        pre { (COMMAND) }
    }
}

fn trial_row(n: usize, trial: &TrialPull) -> Markup {
    let id = format!("trial-{n}");
    html! {
        details .row #(id) open[n == 0] {
            summary {
                span .name { (trial.image) }
                span .figures {
                    span { (words::seconds(trial.ago_s)) " ago" }
                    span { "took " (words::milliseconds(trial.took_ms)) }
                    @for (from, bytes) in sums(trial) {
                        @if bytes > 0 { span { (words::bytes(bytes)) " from " (from) } }
                    }
                }
            }
            div .objects { (objects(&trial.objects)) }
        }
    }
}

/// The bytes by source. Those from the registry are unknown.
fn sums(trial: &TrialPull) -> [(&'static str, u64); 2] {
    let sum = |is_from: fn(&TrialSource) -> bool| {
        let objects = trial
            .objects
            .iter()
            .filter(|object| is_from(&object.source));
        objects.fold(0, |sum: u64, object| {
            sum.saturating_add(object.size.unwrap_or_default())
        })
    };
    [
        ("this node", sum(|source| *source == TrialSource::Local)),
        (
            "peers",
            sum(|source| matches!(source, TrialSource::Peer(_))),
        ),
    ]
}

fn objects(objects: &[TrialObject]) -> Markup {
    // The rate of a small object means nothing.
    let is_large = |object: &&TrialObject| !object.is_manifest;
    let rates = objects
        .iter()
        .filter(is_large)
        .filter_map(|object| object.rate);
    let fastest = rates.max().unwrap_or(1);
    let rows = objects.iter().map(|object| Row {
        name: html! {
            code title=(object.digest) { (short(&object.digest)) }
            @if object.is_manifest { " manifest" }
        },
        hint: None,
        cells: vec![
            html! { @if let Some(size) = object.size { (words::bytes(size)) } },
            source(object),
            html! { @if let Some(time) = object.first_byte_ms { (words::milliseconds(time)) } },
            html! { @if object.size.is_some() { (words::milliseconds(object.took_ms)) } },
            html! {
                @if let Some(rate) = object.rate.filter(|_| !object.is_manifest) {
                    (fill(rate, fastest)) span { (words::rate(rate)) }
                }
            },
            html! { @if let Some(reason) = &object.reason { (words::reason(reason)) } },
        ],
    });
    let table = Table {
        heading: "trials",
        is_boxed: false,
        columns: &[
            Text("Object"),
            Number("Size"),
            Text("From"),
            Number("First byte"),
            Number("Took"),
            Bar("Rate"),
            Text("Why from the registry"),
        ],
    };
    table.of(&rows.collect::<Vec<_>>())
}

fn source(object: &TrialObject) -> Markup {
    html! {
        @match &object.source {
            TrialSource::Local => "this node",
            TrialSource::Peer(name) => (name),
            TrialSource::Upstream => "the registry",
        }
        @if !object.is_complete && object.source != TrialSource::Upstream { ", broke off" }
    }
}
