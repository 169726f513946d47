//! The running pulls: each row is its own progress bar, and opens to its objects and their trees.

use maud::{Markup, html};

use super::{fill, short, tree};
use crate::{Object, Pull, Source, words};

pub fn pulls(pulls: &[Pull]) -> Markup {
    html! {
        @if pulls.is_empty() {
            p .none { "This node is pulling nothing." }
        }
        @for (n, pull) in pulls.iter().enumerate() { (pull_row(n, pull)) }
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
                    span { "for " (words::seconds(pull.age_s)) }
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
            @if object.tree.len() > 1 { (tree::tree(&object.tree, size, short(&object.digest))) }
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
