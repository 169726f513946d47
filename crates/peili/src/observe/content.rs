//! Converts this node's content to what is shown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::status::Content;
use ::status::content::Image;
use futures::{FutureExt as _, StreamExt as _, stream};
use mirror::{Candidate, HeldImage, Mirror};
use percent_encoding::percent_decode_str;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// The most images in the list.
const MAX_LISTED: usize = 100;
/// The most images whose holders are looked up, and the most concurrent lookups.
const MAX_LOOKED_UP: usize = 20;
const AT_ONCE: usize = 8;
/// The limit for all lookups of one page.
const LOOKUP_LIMIT: Duration = Duration::from_secs(1);
/// The characters of a query that count.
const MAX_QUERY: usize = 256;

/// The search text in the query of a URL (`q=…`, form-encoded).
pub fn query(query: Option<&str>) -> String {
    let pairs = query.unwrap_or_default().split('&');
    let value = pairs.filter_map(|pair| pair.strip_prefix("q=")).next();
    let spaced = value.unwrap_or_default().replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8_lossy();
    decoded.trim().chars().take(MAX_QUERY).collect()
}

/// The images of this node that match a search. `names`: those of nodes, by their peer ids.
pub async fn find(
    mirror: &Arc<Mirror>,
    node: &str,
    names: &HashMap<String, String>,
    query: String,
) -> Content {
    let (asked, searched) = (mirror.clone(), query.clone());
    let held = spawn_blocking(move || asked.held_images(&searched, MAX_LISTED)).await;
    // A panic of the task is logged where it happens.
    let held = held.unwrap_or_default();
    let mut listed: Vec<_> = held.listed.iter().map(image).collect();
    let looked_up = held.listed.iter().take(MAX_LOOKED_UP).enumerate();
    // Each future is boxed, so that the whole is Send.
    let lookups: Vec<_> = looked_up
        .map(|(n, image)| {
            mirror
                .holders(&image.digest)
                .map(move |holders| (n, holders))
                .boxed()
        })
        .collect();
    let found = stream::iter(lookups).buffer_unordered(AT_ONCE);
    let mut found = std::pin::pin!(found.take_until(sleep(LOOKUP_LIMIT)));
    while let Some((n, holders)) = found.next().await {
        if let Some(image) = listed.get_mut(n) {
            let holders = holders.iter().map(|holder| name(names, holder));
            image.holders = Some(holders.collect());
        }
    }
    Content {
        node: node.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        query,
        images: held.images,
        objects: held.objects,
        bytes: held.bytes,
        found: held.found,
        listed,
    }
}

fn name(names: &HashMap<String, String>, holder: &Candidate) -> String {
    let address = || {
        let address = holder.addresses.first();
        address.map_or_else(
            || holder.peer.to_string(),
            |address| address.ip().to_string(),
        )
    };
    names
        .get(holder.peer.as_str())
        .cloned()
        .unwrap_or_else(address)
}

fn image(held: &HeldImage) -> Image {
    Image {
        name: held.name.clone(),
        digest: held.digest.to_string(),
        bytes: held.bytes,
        objects: held.objects,
        is_shared: held.is_shared,
        holders: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_read_from_a_form() {
        assert_eq!(query(None), "");
        assert_eq!(query(Some("x=1&q=quay.io%2Fapp+v2")), "quay.io/app v2");
        assert_eq!(query(Some("q=%ff%00")), "\u{fffd}\0");
        let long = format!("q={}", "a".repeat(900));
        assert_eq!(query(Some(&long)).len(), MAX_QUERY);
    }
}
