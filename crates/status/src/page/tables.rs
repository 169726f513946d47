//! The tables of peers and of the last pulls.

use maud::{Markup, html};

use super::fill;
use super::table::Column::{Bar, Number, Text};
use super::table::{Row, Table};
use crate::{Finished, Peer, PeerState, words};

pub fn peers(peers: &[Peer]) -> Markup {
    let fastest = peers.iter().filter_map(|peer| peer.rate).max().unwrap_or(1);
    let rows = peers.iter().map(|peer| Row {
        name: html! { (peer.name) },
        hint: Some(peer.address.clone()),
        cells: vec![
            state(peer.state),
            html! {
                @if let Some(rate) = peer.rate { (fill(rate, fastest)) span { (words::rate(rate)) } }
            },
            html! { (words::bytes(peer.received)) },
            html! { (peer.sent.map_or("–".to_owned(), words::bytes)) },
            html! { (peer.version.as_deref().unwrap_or("–")) },
            html! {
                @if let Some((error, ago)) = &peer.last_error { (error) ", " (words::seconds(*ago)) " ago" }
            },
        ],
    });
    let table = Table {
        heading: "peers",
        is_boxed: true,
        columns: &[
            Text("Name"),
            Text("State"),
            Bar("Rate"),
            Number("Received"),
            Number("Sent"),
            Text("Version"),
            Text("Last error"),
        ],
    };
    table.of(&rows.collect::<Vec<_>>())
}

fn state(state: PeerState) -> Markup {
    let class = match state {
        PeerState::Ok => "ok",
        PeerState::BackOff | PeerState::Suspected => "bad",
        PeerState::Legacy | PeerState::Gone => "dim",
    };
    html! { span .(class) { (words::state(state)) } }
}

pub fn finished(pulls: &[Finished]) -> Markup {
    let rows = pulls.iter().map(|pull| Row {
        name: html! { (pull.image) },
        hint: None,
        cells: vec![
            html! { (words::seconds(pull.ago_s)) " ago" },
            html! { (words::milliseconds(pull.took_ms)) },
            html! { (words::bytes(pull.local)) },
            html! { (words::bytes(pull.peers)) },
            html! { (words::bytes(pull.upstream)) },
            html! {
                @for (reason, bytes) in &pull.reasons {
                    div { (words::bytes(*bytes)) ": " (words::reason(reason)) }
                }
            },
        ],
    });
    let table = Table {
        heading: "finished",
        is_boxed: false,
        columns: &[
            Text("Image"),
            Text("When"),
            Number("Took"),
            Number("Here"),
            Number("Peers"),
            Number("Upstream"),
            Text("Why from upstream"),
        ],
    };
    table.of(&rows.collect::<Vec<_>>())
}
