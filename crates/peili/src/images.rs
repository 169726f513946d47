//! `peili images`: the content of this node's mirror, and what it announces to peers.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use status::{Content, text, words};
use tokio_util::sync::CancellationToken;

use crate::cli::{ImagesArgs, ShowArgs};
use crate::show;

/// The characters of a digest that are shown.
const SHORT_DIGEST: usize = 12;

/// Prints the images of a mirror.
///
/// # Errors
/// The arguments are at fault, or the mirror does not answer.
pub async fn run(arguments: &ImagesArgs, shutdown: CancellationToken) -> anyhow::Result<()> {
    let search = utf8_percent_encode(&arguments.search, NON_ALPHANUMERIC);
    let once = ShowArgs {
        ask: arguments.ask.clone(),
        watch: false,
    };
    show::run(
        &once,
        shutdown,
        &format!("/api/v1/content?q={search}"),
        table,
    )
    .await
}

fn table(content: &Content) -> String {
    let listed = content.listed.iter();
    let rows: Vec<_> = listed
        .map(|image| {
            let hex = image.digest.split_once(':').map_or("", |(_, hex)| hex);
            let holders = image.holders.as_ref().map(Vec::len);
            vec![
                image.name.clone(),
                hex.chars().take(SHORT_DIGEST).collect(),
                words::bytes(image.bytes),
                if image.is_shared { "yes" } else { "no" }.to_owned(),
                holders.map(|count| count.to_string()).unwrap_or_default(),
            ]
        })
        .collect();
    let headings = ["IMAGE", "DIGEST", "SIZE", "SHARED", "OTHER NODES"];
    let mut shown = text::table(&headings, &rows);
    let rest = content.found.saturating_sub(content.listed.len());
    if rest > 0 {
        shown.push_str(&format!("and {rest} more; search for a part of the name\n"));
    }
    shown.push_str(&format!(
        "{} images, {} objects of {}\n",
        content.images,
        content.objects,
        words::bytes(content.bytes),
    ));
    shown
}

#[cfg(test)]
mod tests {
    use status::content::Image;

    use super::*;

    #[test]
    fn a_table_says_what_is_here_and_who_else_has_it() {
        let content = Content {
            images: 3,
            objects: 7,
            bytes: 40_000_000,
            found: 3,
            listed: vec![Image {
                name: "quay.io/team/app:1".into(),
                digest: format!("sha256:{}", "a".repeat(64)),
                bytes: 12_300_000,
                objects: 4,
                is_shared: true,
                holders: Some(vec!["node-2".into()]),
            }],
            ..Content::default()
        };
        let shown = table(&content);
        for part in [
            "quay.io/team/app:1  aaaaaaaaaaaa  12.3 MB  yes     1",
            "and 2 more",
            "3 images, 7 objects of 40 MB",
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }
}
