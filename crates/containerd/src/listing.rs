//! Looking at everything: the content folder, and each namespace's content and images.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::client::Client;
use crate::inventory::{Image, ImageKey, Listing};
use crate::{Error, Namespace, blobs, images};

/// A blob this young may have its labels yet to come.
const NEW: Duration = Duration::from_secs(30);

/// One call for the content of a namespace and one for its images, whatever there is of them; a file is read only for
/// images whose name their labels do not explain.
pub(crate) async fn list(
    client: &Client,
    namespaces: &[Namespace],
    content: &Arc<Path>,
) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    let folder = content.clone();
    // Files first: what is committed meanwhile is told by the watch.
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
                // An image's id, or a name without a registry: it belongs nowhere.
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

/// Whether a blob's labels may still be on their way.
fn is_new(committed: SystemTime) -> bool {
    // A clock that was set back makes it new.
    committed.elapsed().map_or(true, |age| age < NEW)
}

/// Follows the images that labels do not account for: imported ones, those given another name, those of a registry
/// with a port.
fn reach(content: &Path, listing: &mut Listing) {
    let Listing { labels, images, .. } = listing;
    let mut known: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for image in images.values_mut() {
        let labelled = labels
            .get(&image.target)
            .is_some_and(|l| l.contains(&image.name.origin));
        if !labelled {
            // The same image has three names under CRI.
            image.reached = known
                .entry(image.target.clone())
                .or_insert_with(|| images::reached(content, &image.target))
                .clone();
        }
    }
}

/// Runs what reads files where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Interrupted)
}
