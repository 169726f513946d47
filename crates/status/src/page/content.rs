//! What this node holds, with a search.

use maud::{Markup, html};

use super::short;
use crate::content::{Content, Image};
use crate::words;

pub fn content(content: &Content) -> Markup {
    html! {
        div .summary role="status" {
            p .big {
                (words::count(content.images, "image")) ", " (words::count(content.objects, "object")) ", "
                (words::bytes(content.bytes)) "."
            }
        }
        form .search role="search" action="content" method="get" {
            label for="q" { "Registry, repository, tag or digest" }
            input #q type="search" name="q" value=(content.query) autocomplete="off";
            button type="submit" { "Search" }
        }
        section aria-labelledby="images" {
            h2 #images {
                @if content.found > content.listed.len() {
                    "The first " (content.listed.len()) " of " (content.found)
                } @else {
                    (words::count(content.found, "image"))
                }
            }
            @if content.listed.is_empty() {
                p .none { "None." }
            } @else {
                (images(&content.listed))
            }
        }
    }
}

fn images(images: &[Image]) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Images" {
            table {
                thead {
                    tr {
                        th scope="col" { "Image" }
                        th scope="col" { "Digest" }
                        th scope="col" .number { "Size here" }
                        th scope="col" .number { "Objects" }
                        th scope="col" { "Who may have it" }
                        th scope="col" { "Other nodes that have it" }
                    }
                }
                tbody {
                    @for image in images {
                        tr {
                            th scope="row" { (image.name) }
                            td { code title=(image.digest) { (short(&image.digest)) } }
                            td .number { (words::bytes(image.bytes)) }
                            td .number { (image.objects) }
                            td { @if image.is_shared { "everybody" } @else { "this node only" } }
                            td {
                                @match &image.holders {
                                    None => span .dim { "not looked up" },
                                    Some(holders) if holders.is_empty() => "none found",
                                    Some(holders) => (holders.join(", ")),
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
