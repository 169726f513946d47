//! Lists everything: the content folder, and the content and images of each namespace.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::client::Client;
use crate::inventory::{Image, ImageKey, Listing};
use crate::{Error, Namespace, blobs, images};

/// A blob younger than this may still get its labels.
const NEW: Duration = Duration::from_secs(30);

/// Makes one call for the content of a namespace and one for its images, whatever their number. Files are read only for
/// images whose name is not explained by labels.
pub(crate) async fn list(
    client: &Client,
    namespaces: &[Namespace],
    content: &Arc<Path>,
) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    let folder = content.clone();
    // Files first: the watch reports later commits.
    let found = blocking(move || blobs::list(&folder))
        .await?
        .map_err(|source| Error::Content {
            path: content.to_path_buf(),
            source,
        })?;
    for (digest, blob) in found {
        if blob.committed.is_some_and(is_new) {
            listing.new.push(digest.clone());
        }
        listing.files.insert(digest, blob.size);
    }
    for (namespace, name) in namespaces.iter().enumerate() {
        for (digest, origins) in client.content(name).await? {
            listing.labels.entry(digest).or_default().extend(origins);
        }
        for image in client.images(name).await? {
            let Ok(parsed) = image.name.parse() else {
                // An image's id, or a name without a registry: it has no origin.
                continue;
            };
            let key = ImageKey {
                name: image.name,
                namespace,
            };
            let image = Image {
                target: image.target,
                name: parsed,
                reached: Vec::new(),
            };
            listing.images.insert(key, image);
        }
    }
    let folder = content.clone();
    blocking(move || {
        reach(&folder, &mut listing);
        listing
    })
    .await
}

/// Whether a blob may still get its labels.
fn is_new(committed: SystemTime) -> bool {
    // If the clock was set back, it counts as new.
    committed.elapsed().map_or(true, |age| age < NEW)
}

/// Follows the images that labels do not explain: imported ones, renamed ones, those of a registry with a port.
fn reach(content: &Path, listing: &mut Listing) {
    let Listing { labels, images, .. } = listing;
    let mut known: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for image in images.values_mut() {
        let labelled = labels
            .get(&image.target)
            .is_some_and(|l| l.contains(&image.name.origin));
        if !labelled {
            // With CRI the same image has three names.
            image.reached = known
                .entry(image.target.clone())
                .or_insert_with(|| images::reached(content, &image.target))
                .clone();
        }
    }
}

/// Runs a function that reads files on a blocking thread.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted)
}
