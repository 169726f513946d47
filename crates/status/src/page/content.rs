//! This node's content, with a search.

use maud::{Markup, html};

use super::short;
use super::table::Column::{Number, Text};
use super::table::{Row, Table};
use crate::content::{Content, Image};
use crate::words;

pub fn content(content: &Content) -> Markup {
    html! {
        div .summary {
            p .big role="status" {
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
            (images(&content.listed))
        }
    }
}

fn images(images: &[Image]) -> Markup {
    let rows = images.iter().map(|image| Row {
        name: html! { (image.name) },
        hint: None,
        cells: vec![
            html! { code title=(image.digest) { (short(&image.digest)) } },
            html! { (words::bytes(image.bytes)) },
            html! { (image.objects) },
            html! { @if image.is_shared { "everybody" } @else { "this node only" } },
            html! {
                @match &image.holders {
                    None => span .dim { "not looked up" },
                    Some(holders) if holders.is_empty() => "none found",
                    Some(holders) => (holders.join(", ")),
                }
            },
        ],
    });
    let table = Table {
        heading: "images",
        is_boxed: false,
        columns: &[
            Text("Image"),
            Text("Digest"),
            Number("Size here"),
            Number("Objects"),
            Text("Who may have it"),
            Text("Other nodes that have it"),
        ],
    };
    table.of(&rows.collect::<Vec<_>>())
}
