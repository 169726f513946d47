//! The status page: what it shows, and in which order.

mod tree;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use doctor::{Finding, Severity};
use maud::{DOCTYPE, Markup, html};
use sha2::{Digest as _, Sha256};

use crate::words;
use crate::{Finished, Object, Peer, PeerState, Pull, Source, Status};

/// What the page loads. All of it is embedded, and nothing comes from elsewhere.
pub const STYLE: &str = include_str!("page/style.css");
pub const SCRIPT: &str = include_str!("page/script.js");

/// The `Content-Security-Policy` of the page: its own style and script, its own events, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'";

/// The icon of the page, in the page itself.
const ICON: &str = r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><circle cx="8" cy="8" r="7" fill="#2a78d0"/><path d="M8 1v14" stroke="#fff" stroke-width="2"/></svg>"##;

/// The whole page.
pub fn page(status: &Status) -> String {
    let name = &status.node.name;
    let icon = format!("data:image/svg+xml;base64,{}", STANDARD.encode(ICON));
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (name) " – Peili" }
                link rel="icon" href=(icon);
                link rel="stylesheet" href=(asset("style.css", STYLE));
                script src=(asset("script.js", SCRIPT)) defer {}
            }
            body {
                a .skip href="#main" { "Skip to content" }
                header {
                    h1 { "Peili" }
                    p { (name) " · version " (status.node.version) }
                    p #live hidden { "live" }
                    nav aria-label="Other views" {
                        a href="api/v1/status" { "JSON" }
                        a href="metrics" { "Metrics" }
                    }
                }
                main #main { (content(status)) }
            }
        }
    };
    markup.into_string()
}

/// What changes while somebody looks: the inside of `main`.
pub fn content(status: &Status) -> Markup {
    html! {
        (summary(status))
        section aria-labelledby="pulls" {
            h2 #pulls { "Pulls now" }
            @if status.pulls.is_empty() {
                p .none { "This node is pulling nothing." }
            }
            @for (n, pull) in status.pulls.iter().enumerate() { (pull_row(n, pull)) }
        }
        @if !status.findings.is_empty() {
            section aria-labelledby="warnings" {
                h2 #warnings { "Warnings" }
                @for finding in &status.findings { (finding_row(finding)) }
            }
        }
        section aria-labelledby="peers" {
            h2 #peers { "Peers" }
            (peers(&status.peers))
        }
        section aria-labelledby="finished" {
            h2 #finished { "Last pulls" }
            (finished(&status.finished))
        }
    }
}

/// A path whose name changes with what it leads to, so that a browser may keep it.
pub fn asset(name: &str, text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    format!(
        "{name}?{:02x}{:02x}{:02x}{:02x}",
        hash[0], hash[1], hash[2], hash[3]
    )
}

/// One sentence: that it works and what it saved, or what is wrong and what mends it.
fn summary(status: &Status) -> Markup {
    let worst = status
        .findings
        .iter()
        .max_by_key(|finding| finding.severity);
    let fault = worst.filter(|finding| finding.severity == Severity::Fault);
    let totals = &status.totals;
    html! {
        @if let Some(fault) = fault {
            div .summary .fault role="status" {
                p .big { "Not mirroring as it should: " (fault.text) "." }
                @if let Some(remedy) = &fault.remedy { pre { (remedy) } }
            }
        } @else if let Some(why) = &status.node.not_ready {
            div .summary .fault role="status" { p .big { "Not ready: " (why) } }
        } @else {
            div .summary role="status" {
                p .big { "Mirroring. " (count(status.peer_count, "peer")) "." }
                p {
                    "In the last " (words::seconds(status.node.uptime)) ": "
                    b { (words::bytes(totals.pulled())) } " pulled, "
                    b { (words::bytes(totals.upstream)) } " from upstream ("
                    (words::percent(totals.upstream, totals.pulled())) ")"
                    @if let Some(saved) = totals.seconds_saved {
                        ", " b { (words::seconds(saved)) } " saved"
                    }
                    ". " (words::bytes(totals.sent)) " sent to peers."
                }
            }
        }
    }
}

fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

/// The fill of a row: how much of it is there.
fn fill(part: u64, whole: u64) -> Markup {
    let width = (part.min(whole) as f64 * 100.0 / whole.max(1) as f64 * 10.0).round() / 10.0;
    html! {
        svg .fill viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
            rect width=(width) height="1" {}
        }
    }
}

fn pull_row(n: usize, pull: &Pull) -> Markup {
    let (offset, size) = pull.progress();
    html! {
        details .row #{ "pull-" (n) } open[n == 0] {
            summary {
                (fill(offset, size))
                span .name { (pull.image) }
                span .figures {
                    span { (words::percent(offset, size)) }
                    span { (words::bytes(offset)) " of " (words::bytes(size)) }
                    span { (words::rate(pull.rate())) }
                    span { "for " (words::seconds(pull.age)) }
                }
            }
            div .objects {
                @for object in &pull.objects { (object_row(object)) }
            }
        }
    }
}

fn object_row(object: &Object) -> Markup {
    let size = object.size.unwrap_or(object.offset);
    html! {
        div .object {
            div .row {
                (fill(object.offset, size))
                span .name { code { (short(&object.digest)) } " " (source(&object.source)) }
                span .figures {
                    span { (words::percent(object.offset, size)) }
                    span { (words::bytes(size)) }
                    span { (words::rate(object.rate)) }
                    @if object.followers > 0 { span { "feeds " (object.followers) } }
                }
            }
            @if object.tree.len() > 1 { (tree::tree(&object.tree, size)) }
        }
    }
}

fn source(source: &Source) -> Markup {
    html! {
        @match source {
            Source::Waiting => "waits",
            Source::Upstream => "from the registry, for all",
            Source::Peer(name) => { "from " b { (name) } },
        }
    }
}

/// The first characters of a digest, which tell it from others at a glance.
fn short(digest: &str) -> String {
    let hex = digest.split_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

fn finding_row(finding: &Finding) -> Markup {
    let class = match finding.severity {
        Severity::Fault => "fault",
        Severity::Warning => "warning",
        Severity::Unknown | Severity::Ok => "note",
    };
    html! {
        div .finding .(class) {
            p { b { (finding.code) } " " (finding.text) }
            @if let Some(remedy) = &finding.remedy { pre { (remedy) } }
        }
    }
}

fn peers(peers: &[Peer]) -> Markup {
    if peers.is_empty() {
        return html! { p .none { "None yet." } };
    }
    let fastest = peers.iter().filter_map(|peer| peer.rate).max().unwrap_or(1);
    html! {
        div .scroll tabindex="0" role="region" aria-label="Peers" {
            table {
                thead {
                    tr {
                        th scope="col" { "Name" }
                        th scope="col" { "State" }
                        th scope="col" { "Rate" }
                        th scope="col" .number { "Received" }
                        th scope="col" .number { "Sent" }
                        th scope="col" { "Version" }
                        th scope="col" { "Last error" }
                    }
                }
                tbody {
                    @for peer in peers {
                        tr {
                            th scope="row" title=(peer.address) { (peer.name) }
                            td { (state(peer.state)) }
                            td .bar {
                                @if let Some(rate) = peer.rate {
                                    (fill(rate, fastest)) span { (words::rate(rate)) }
                                }
                            }
                            td .number { (words::bytes(peer.received)) }
                            td .number { (words::bytes(peer.sent)) }
                            td { (peer.version.as_deref().unwrap_or("–")) }
                            td {
                                @if let Some((error, ago)) = &peer.last_error {
                                    (error) ", " (words::seconds(*ago)) " ago"
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn state(state: PeerState) -> Markup {
    let class = match state {
        PeerState::Ok => "ok",
        PeerState::BackOff | PeerState::Suspected => "bad",
        PeerState::Legacy | PeerState::Gone => "dim",
    };
    html! { span .(class) { (words::state(state)) } }
}

fn finished(pulls: &[Finished]) -> Markup {
    if pulls.is_empty() {
        return html! { p .none { "None yet." } };
    }
    html! {
        div .scroll tabindex="0" role="region" aria-label="Last pulls" {
            table {
                thead {
                    tr {
                        th scope="col" { "Image" }
                        th scope="col" { "When" }
                        th scope="col" .number { "Took" }
                        th scope="col" .number { "Here" }
                        th scope="col" .number { "Peers" }
                        th scope="col" .number { "Upstream" }
                        th scope="col" { "Why from upstream" }
                    }
                }
                tbody {
                    @for pull in pulls {
                        tr {
                            th scope="row" { (pull.image) }
                            td { (words::seconds(pull.ago)) " ago" }
                            td .number { (words::milliseconds(pull.took)) }
                            td .number { (words::bytes(pull.local)) }
                            td .number { (words::bytes(pull.peers)) }
                            td .number { (words::bytes(pull.upstream)) }
                            td {
                                @for (reason, bytes) in &pull.reasons {
                                    div { (words::bytes(*bytes)) ": " (words::reason(reason)) }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// What an event of `events` carries: the inside of `main`, in one line.
pub fn event(status: &Status) -> String {
    // A new line would end the field (HTML, "Server-sent events"); outside of `pre` it means nothing, and in there it is
    // written as a character reference.
    content(status)
        .into_string()
        .replace('\n', "&#10;")
        .replace('\r', "")
}

#[cfg(test)]
pub(crate) mod tests;
