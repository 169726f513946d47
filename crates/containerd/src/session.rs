//! One connection to containerd, from connecting until it breaks: list everything, then follow what changes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use mirror::Health;
use oci::{Digest, Origin};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::checks::Generation;
use crate::client::{CallError, Client, Event};
use crate::inventory::{Image, ImageKey, Inventory, Listing};
use crate::listing::list;
use crate::listing_schedule::ListingSchedule;
use crate::metrics::Source;
use crate::questions::{Answer, Questions, TooMany};
use crate::retain::Retaining;
use crate::watch::{Change, Watch};
use crate::{Containerd, Error, blobs};

/// The interval between listings that are not requested. They repair missed changes.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// The wait before the second listing: it is unknown when events begin, and earlier changes must not wait a minute.
const LIST_AGAIN: Duration = Duration::from_secs(5);
/// The interval between listings without inotify.
const LIST_BLIND: Duration = Duration::from_secs(5);
pub(crate) struct Session<'a> {
    store: &'a Containerd,
    client: Client,
    version: String,
    content: Arc<Path>,
    /// The content folder that containerd reports, if the configuration names another one. Both may be the same folder,
    /// mounted twice.
    other_root: Option<PathBuf>,
    /// `None`: the node's limits for inotify are reached.
    watch: Option<Watch>,
    inventory: Inventory,
    listing: JoinSet<Result<Listing, Error>>,
    schedule: ListingSchedule,
    /// The number of listings in this session.
    listings: u32,
    questions: Questions,
    /// `None`: switched off.
    retaining: Option<Retaining>,
}

impl<'a> Session<'a> {
    pub async fn open(store: &'a Containerd) -> Result<Self, Error> {
        let client = Client::connect(&store.config).await?;
        let version = client.version().await?;
        store.set_generation(Generation::of(&version));
        let root = client.content_root().await;
        let (content, other_root) = match &store.config.content_path {
            Some(path) => (path.clone(), root.ok().filter(|root| root != path)),
            None => (root?, None),
        };
        let content: Arc<Path> = content.into();
        let watch = watch(&content)?;
        store
            .metrics
            .watching
            .set(i64::from(u8::from(watch.is_some())));
        store.set_content(content.clone());
        let retaining = store.config.retain.as_ref().map(|retain| {
            let (namespaces, metrics) = (&store.config.namespaces, store.metrics.retain.clone());
            Retaining::start(retain, client.clone(), namespaces, content.clone(), metrics)
        });
        Ok(Self {
            store,
            retaining,
            questions: Questions::new(client.clone(), &store.config.namespaces, content.clone()),
            client,
            version,
            content,
            other_root,
            watch,
            inventory: Inventory::default(),
            listing: JoinSet::new(),
            schedule: ListingSchedule::new(Instant::now()),
            listings: 0,
        })
    }

    /// Keeps the catalog up to date until that fails, and returns the reason.
    pub async fn run(&mut self) -> Error {
        let mut events = pin!(self.client.events(&self.store.config.namespaces));
        loop {
            let result = tokio::select! {
                change = next_change(&mut self.watch) => self.changed(change),
                event = events.next() => match event {
                    Some(Ok(event)) => {
                        self.happened(event);
                        Ok(())
                    }
                    Some(Err(error)) => Err(error),
                    None => Err(Error::Closed),
                },
                Some(answer) = self.questions.next() => self.answered(answer),
                Some(listing) = self.listing.join_next() => self.listed(listing),
                Some(()) = ended(&mut self.retaining) => Err(Error::Interrupted),
                () = tokio::time::sleep_until(self.schedule.next()), if self.listing.is_empty() => {
                    self.list();
                    Ok(())
                }
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    /// Whether the first listing is complete.
    pub fn was_ready(&self) -> bool {
        self.listings > 0
    }

    fn list(&mut self) {
        self.inventory.begin_listing();
        let (client, content) = (self.client.clone(), self.content.clone());
        let namespaces = self.store.config.namespaces.clone();
        self.schedule.begin(Instant::now());
        self.listing
            .spawn(async move { list(&client, &namespaces, &content).await });
    }

    fn list_soon(&mut self) {
        self.schedule.soon(Instant::now());
    }

    fn listed(&mut self, listing: Result<Result<Listing, Error>, JoinError>) -> Result<(), Error> {
        let mut listing = listing.map_err(|_| Error::Interrupted)??;
        if let Some(root) = &self.other_root
            && listing.lacks_all_files()
        {
            return Err(Error::OtherContent {
                root: root.clone(),
                path: self.content.to_path_buf(),
            });
        }
        let new = std::mem::take(&mut listing.new);
        self.inventory.apply(listing, &self.store.catalog);
        for digest in new {
            self.appeared(&digest, blobs::size(&self.content, &digest));
            if self.inventory.is_placed(&digest) {
                self.placed(&digest);
            } else {
                let asked = self.questions.labels(&digest);
                self.or_list(asked);
            }
        }
        self.listings += 1;
        let wait = match (self.listings, &self.watch) {
            (_, None) => LIST_BLIND,
            (1, Some(_)) => LIST_AGAIN,
            (_, Some(_)) => LIST_EVERY,
        };
        self.schedule.end(Instant::now(), wait);
        self.tell_ready();
        Ok(())
    }

    fn tell_ready(&self) {
        let (objects, tags) = (
            self.store.catalog.digests().len(),
            self.store.catalog.tags().len(),
        );
        if self.listings == 1 {
            let content = self.content.display();
            tracing::info!(version = self.version, %content, objects, tags, "containerd is connected");
        }
        let metrics = &self.store.metrics;
        metrics.listings.inc();
        metrics
            .objects
            .set(i64::try_from(objects).unwrap_or(i64::MAX));
        metrics.tags.set(i64::try_from(tags).unwrap_or(i64::MAX));
        self.store.set_health(Health::Ready);
    }

    /// Handles a change in the content folder.
    fn changed(&mut self, change: io::Result<Change>) -> Result<(), Error> {
        self.store
            .metrics
            .events
            .get_or_create(&Source::FOLDER)
            .inc();
        match change {
            Ok(Change::Appeared(digest)) => self.look_at(&digest),
            Ok(Change::Vanished(digest)) => {
                self.inventory.file(&digest, None, &self.store.catalog);
                if let Some(retaining) = &self.retaining {
                    retaining.gone(&digest);
                }
            }
            Ok(Change::Unknown) => self.list_soon(),
            Err(source) => {
                return Err(Error::Content {
                    path: self.content.to_path_buf(),
                    source,
                });
            }
        }
        Ok(())
    }

    /// Handles an event of containerd.
    fn happened(&mut self, event: Event) {
        self.store
            .metrics
            .events
            .get_or_create(&Source::EVENTS)
            .inc();
        match event {
            Event::Content { digest } => self.look_at(&digest),
            Event::Image { namespace, name } => {
                let mut namespaces = self.store.config.namespaces.iter();
                if let Some(namespace) = namespaces.position(|n| n.as_str() == namespace)
                    && name.parse::<oci::Name>().is_ok()
                {
                    let asked = self.questions.image(ImageKey { name, namespace });
                    self.or_list(asked);
                }
            }
        }
    }

    /// Asks for everything about a blob, until it is known.
    fn look_at(&mut self, digest: &Digest) {
        let size = blobs::size(&self.content, digest);
        self.appeared(digest, size);
        self.inventory.file(digest, size, &self.store.catalog);
        if size.is_some() {
            let asked = self.questions.labels(digest);
            self.or_list(asked);
        }
    }

    fn answered(&mut self, answer: Result<Answer, JoinError>) -> Result<(), Error> {
        match answer.map_err(|_| Error::Interrupted)? {
            Answer::Labels {
                digest,
                step,
                labels,
            } => self.labelled(&digest, step, labels),
            Answer::Image { key, image } => self.named(key, image),
        }
        Ok(())
    }

    fn labelled(
        &mut self,
        digest: &Digest,
        step: usize,
        labels: Result<Option<BTreeSet<Origin>>, CallError>,
    ) {
        match labels {
            Ok(labels) => self.inventory.labels(digest, labels, &self.store.catalog),
            Err(error) => {
                tracing::debug!(%digest, %error, "labels are not known");
            }
        }
        let placed = self.inventory.is_placed(digest);
        let hopeless = placed || !self.inventory.is_on_disk(digest);
        if !hopeless && self.questions.again(digest, step) {
            return;
        }
        if let Some(since) = self.questions.labels_done(digest, step) {
            if placed {
                self.store.metrics.labelled_after(since.elapsed());
            }
            self.placed(digest);
        }
    }

    /// Records a blob that may be new. `size`: in bytes.
    fn appeared(&self, digest: &Digest, size: Option<u64>) {
        if let (Some(retaining), Some(size)) = (&self.retaining, size) {
            retaining.appeared(digest, size, self.store.catalog.object(digest).as_ref());
        }
    }

    /// Records that the origin of a new blob is known, or will not become known.
    fn placed(&self, digest: &Digest) {
        if let Some(retaining) = &self.retaining {
            retaining.placed(digest, self.store.catalog.object(digest).as_ref());
        }
    }

    fn named(&mut self, key: ImageKey, image: Result<Option<Image>, Error>) {
        let again = self.questions.image_done(&key);
        match image {
            Ok(image) => {
                let (reached, origin) = match &image {
                    Some(image) => (image.reached.clone(), Some(image.name.origin.clone())),
                    None => Default::default(),
                };
                self.inventory.image(&key, image, &self.store.catalog);
                // A pull adds its label to existing content, without an event.
                for digest in reached {
                    let labelled = |o| self.inventory.is_labelled(&digest, o);
                    if !origin.as_ref().is_some_and(labelled) {
                        self.look_again(&digest);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(image = key.name, %error, "an image is not known");
                self.list_soon();
            }
        }
        if again {
            let asked = self.questions.image(key);
            self.or_list(asked);
        }
    }

    /// Asks for what is known of a blob by now.
    fn look_again(&mut self, digest: &Digest) {
        let size = blobs::size(&self.content, digest);
        self.inventory.file(digest, size, &self.store.catalog);
        if size.is_some() {
            let asked = self.questions.labels_now(digest);
            self.or_list(asked);
        }
    }

    /// Requests a listing if a question could not be asked.
    fn or_list(&mut self, asked: Result<(), TooMany>) {
        if asked.is_err() {
            self.list_soon();
        }
    }
}

/// Waits for the end of a task that runs as long as the session. `None`: it was never started.
async fn ended(retaining: &mut Option<Retaining>) -> Option<()> {
    retaining.as_mut()?.ended().await.map(drop)
}

async fn next_change(watch: &mut Option<Watch>) -> io::Result<Change> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// Watches the content folder. `None`: the node's limits for inotify are reached.
fn watch(content: &Path) -> Result<Option<Watch>, Error> {
    use rustix::io::Errno;
    let spent = |e: &io::Error| {
        let errno = Errno::from_io_error(e);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOSPC))
    };
    match Watch::open(content) {
        Ok(watch) => Ok(Some(watch)),
        Err(error) if spent(&error) => {
            tracing::warn!(
                %error,
                "cannot watch containerd's content folder, so it is listed every {} s; raise fs.inotify.max_user_instances \
                 and fs.inotify.max_user_watches",
                LIST_BLIND.as_secs()
            );
            Ok(None)
        }
        Err(source) => Err(Error::Content {
            path: content.to_owned(),
            source,
        }),
    }
}
