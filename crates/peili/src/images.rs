//! `peili images`: what the mirror of this node holds and what it tells peers of.

use std::io::Write as _;

use anyhow::Context as _;
use hosts::probe::Endpoint;
use mirror::Holdings;
use status::{text, words};

use crate::cli::ImagesArgs;
use crate::fault::Faults;
use crate::show::{self, Output};

/// Characters of a digest that people see.
const SHORT_DIGEST: usize = 12;

/// Prints the images of a mirror.
///
/// # Errors
/// The arguments are at fault, or the mirror does not answer.
pub async fn run(arguments: &ImagesArgs) -> anyhow::Result<()> {
    let mut faults = Faults::default();
    let endpoint = faults.take("--metrics-endpoint", arguments.metrics_endpoint.parse());
    let output = faults.take("--output", arguments.output.parse());
    let all = || Some((endpoint?, output?));
    let (endpoint, output): (Endpoint, Output) = faults.settle(all())?;
    let bytes = show::get(&endpoint, "/api/v1/images").await?;
    let shown = match output {
        Output::Json => String::from_utf8_lossy(&bytes).into_owned() + "\n",
        Output::Text => {
            let holdings = serde_json::from_slice(&bytes);
            table(&holdings.context("the mirror answers with something else than its images")?)
        }
    };
    std::io::stdout().write_all(shown.as_bytes())?;
    Ok(())
}

fn table(holdings: &Holdings) -> String {
    let rows: Vec<_> = holdings
        .images
        .iter()
        .map(|image| {
            let hex = image.digest.split_once(':').map_or("", |(_, hex)| hex);
            vec![
                image.name.clone(),
                hex.chars().take(SHORT_DIGEST).collect(),
                image.size.map(words::bytes).unwrap_or_default(),
                if image.is_announced { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    let mut shown = text::table(&["IMAGE", "DIGEST", "SIZE", "ANNOUNCED"], &rows);
    let rest = holdings.tags.saturating_sub(holdings.images.len());
    if rest > 0 {
        shown.push_str(&format!("and {rest} more tags\n"));
    }
    shown.push_str(&format!(
        "{} objects of {}, {} of them announced to peers\n",
        holdings.objects,
        words::bytes(holdings.bytes),
        holdings.announced
    ));
    shown
}

#[cfg(test)]
mod tests {
    use mirror::Image;

    use super::*;

    #[test]
    fn a_table_says_what_is_here_and_what_peers_are_told() {
        let holdings = Holdings {
            images: vec![Image {
                name: "quay.io/team/app:1".into(),
                digest: format!("sha256:{}", "a".repeat(64)),
                size: Some(12_300_000),
                is_announced: true,
            }],
            tags: 3,
            objects: 7,
            announced: 6,
            bytes: 40_000_000,
        };
        let shown = table(&holdings);
        for part in [
            "quay.io/team/app:1  aaaaaaaaaaaa  12.3 MB  yes",
            "and 2 more tags",
            "7 objects of 40 MB, 6 of them announced to peers",
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
    }
}
