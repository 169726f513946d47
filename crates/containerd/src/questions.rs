//! The questions of a session to containerd about single objects, and how often they are repeated.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oci::{Digest, Origin};
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::client::{CallError, Client};
use crate::inventory::{Image, ImageKey};
use crate::listing::blocking;
use crate::{Error, Namespace, images};

/// The most concurrent questions to containerd.
const MAX_CALLS: usize = 16;
/// The most queued questions.
const MAX_QUESTIONS: usize = 1024;
/// The waits between the questions for a new blob's labels. containerd moves the file before it commits the blob to its
/// database, and labels it after that: a few milliseconds on an idle node, seconds on a busy disk.
const LADDER: [Duration; 11] = {
    let ms = Duration::from_millis;
    [
        ms(5),
        ms(10),
        ms(20),
        ms(40),
        ms(80),
        ms(160),
        ms(320),
        ms(640),
        ms(1280),
        ms(2560),
        ms(5120),
    ]
};

/// An answer to one question.
pub(crate) enum Answer {
    Labels {
        digest: Digest,
        /// The number of earlier questions about it.
        step: usize,
        labels: Result<Option<BTreeSet<Origin>>, CallError>,
    },
    Image {
        key: ImageKey,
        image: Result<Option<Image>, Error>,
    },
}

/// There are too many questions to ask one by one: a listing answers them all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooMany;

/// The running and queued questions, no two about the same object.
pub(crate) struct Questions {
    client: Client,
    namespaces: Arc<[Namespace]>,
    content: Arc<Path>,
    tasks: JoinSet<Answer>,
    calls: Arc<Semaphore>,
    /// The blobs whose labels are asked for, and since when.
    blobs: HashMap<Digest, Instant>,
    /// The images that are asked for, and whether an event about them has come since.
    images: HashMap<ImageKey, bool>,
}

impl Questions {
    pub fn new(client: Client, namespaces: &[Namespace], content: Arc<Path>) -> Self {
        Self {
            client,
            namespaces: namespaces.into(),
            content,
            tasks: JoinSet::new(),
            calls: Arc::new(Semaphore::new(MAX_CALLS)),
            blobs: HashMap::new(),
            images: HashMap::new(),
        }
    }

    /// The next answer. `None`: no question is running. Dropping the future loses no answer.
    pub async fn next(&mut self) -> Option<Result<Answer, JoinError>> {
        self.tasks.join_next().await
    }

    /// Asks for a blob's labels. If there are none, [`Self::again`] repeats the question.
    pub fn labels(&mut self, digest: &Digest) -> Result<(), TooMany> {
        self.labels_from(digest, 0)
    }

    /// Asks for a blob's labels once.
    pub fn labels_now(&mut self, digest: &Digest) -> Result<(), TooMany> {
        self.labels_from(digest, LADDER.len())
    }

    fn labels_from(&mut self, digest: &Digest, step: usize) -> Result<(), TooMany> {
        if self.blobs.contains_key(digest) {
            return Ok(());
        }
        if self.tasks.len() >= MAX_QUESTIONS {
            return Err(TooMany);
        }
        self.blobs.insert(digest.clone(), Instant::now());
        self.spawn_labels(digest.clone(), step, Duration::ZERO);
        Ok(())
    }

    /// Repeats a question after a while. Returns false after the last repetition.
    pub fn again(&mut self, digest: &Digest, step: usize) -> bool {
        let Some(wait) = LADDER.get(step) else {
            return false;
        };
        self.spawn_labels(digest.clone(), step + 1, *wait);
        true
    }

    /// Ends the questions about a blob. Returns since when they were asked, if the blob was new.
    pub fn labels_done(&mut self, digest: &Digest, step: usize) -> Option<Instant> {
        let since = self.blobs.remove(digest);
        since.filter(|_| step < LADDER.len())
    }

    fn spawn_labels(&mut self, digest: Digest, step: usize, wait: Duration) {
        let (client, calls) = (self.client.clone(), self.calls.clone());
        let namespaces = self.namespaces.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(wait).await;
            let _turn = calls.acquire().await;
            let labels = labels(&client, &namespaces, &digest).await;
            Answer::Labels {
                digest,
                step,
                labels,
            }
        });
    }

    /// Asks for the present state of an image, and once more afterwards if that question is already running.
    pub fn image(&mut self, key: ImageKey) -> Result<(), TooMany> {
        if let Some(again) = self.images.get_mut(&key) {
            *again = true;
            return Ok(());
        }
        if self.tasks.len() >= MAX_QUESTIONS {
            return Err(TooMany);
        }
        self.images.insert(key.clone(), false);
        let (client, calls) = (self.client.clone(), self.calls.clone());
        let (namespaces, content) = (self.namespaces.clone(), self.content.clone());
        self.tasks.spawn(async move {
            let _turn = calls.acquire().await;
            let namespace = &namespaces[key.namespace];
            let image = image(&client, namespace, &content, &key.name).await;
            Answer::Image { key, image }
        });
        Ok(())
    }

    /// Records the answer for an image. Returns whether an event about it came meanwhile, so that it must be asked for
    /// again.
    pub fn image_done(&mut self, key: &ImageKey) -> bool {
        self.images.remove(key).unwrap_or(false)
    }
}

/// The origins in an object's labels in all namespaces. `None`: none of them has the object.
async fn labels(
    client: &Client,
    namespaces: &[Namespace],
    digest: &Digest,
) -> Result<Option<BTreeSet<Origin>>, CallError> {
    let mut found = None;
    for namespace in namespaces {
        if let Some(origins) = client.info(namespace, digest).await? {
            found.get_or_insert_with(BTreeSet::new).extend(origins);
        }
    }
    Ok(found)
}

/// The present target of an image's name, and all objects of the image.
async fn image(
    client: &Client,
    namespace: &Namespace,
    content: &Arc<Path>,
    name: &str,
) -> Result<Option<Image>, Error> {
    let (Some(image), Ok(parsed)) = (client.image(namespace, name).await?, name.parse()) else {
        return Ok(None);
    };
    let (content, target) = (content.clone(), image.target.clone());
    let reached = blocking(move || images::reached(&content, &target)).await?;
    Ok(Some(Image {
        target: image.target,
        name: parsed,
        reached,
    }))
}
