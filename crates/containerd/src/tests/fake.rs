//! A containerd for tests: the calls that the store makes, over a socket, from state that a test sets.

mod services;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use oci::Digest;
use parking_lot::Mutex;
use prost::Message;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, UnixListenerStream};
use tonic::codegen::BoxStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::blobs;
use crate::proto::containerd::events::ContentCreate;
use crate::proto::containerd::services::content::v1 as content;
use crate::proto::containerd::services::events::v1 as events;
use crate::proto::containerd::services::images::v1 as images;
use crate::proto::containerd::services::introspection::v1 as introspection;
use crate::proto::containerd::services::leases::v1 as leases;
use crate::proto::containerd::services::version::v1 as version;
use crate::proto::containerd::types::{Descriptor, Envelope};
use crate::proto::runtime::v1 as cri;

/// The state that survives a restart. Keys begin with the namespace.
#[derive(Default)]
struct Database {
    content: BTreeMap<(String, String), Vec<(String, String)>>,
    images: BTreeMap<(String, String), String>,
    leases: BTreeMap<(String, String), Lease>,
    /// How often garbage was to be collected at once.
    collections: usize,
}

/// A lease and what it names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    pub labels: HashMap<String, String>,
    pub content: BTreeSet<String>,
}

/// A node: a folder with a containerd that may run or not.
pub(crate) struct Fake {
    folder: tempfile::TempDir,
    service: Service,
    running: Option<Runtime>,
}

#[derive(Clone)]
struct Service {
    content: PathBuf,
    database: Arc<Mutex<Database>>,
    events: broadcast::Sender<Envelope>,
}

impl Fake {
    /// A node whose containerd is not started yet.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let service = Service {
            content: folder.path().join("content"),
            database: Arc::default(),
            events: broadcast::Sender::new(64),
        };
        Self {
            folder,
            service,
            running: None,
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    pub fn content(&self) -> &Path {
        &self.service.content
    }

    pub fn start(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let service = self.service.clone();
        let listener = std::os::unix::net::UnixListener::bind(self.socket()).expect("bound");
        listener.set_nonblocking(true).expect("a socket");
        runtime.spawn(async move {
            let listener = UnixListener::from_std(listener).expect("a socket");
            Server::builder()
                .add_service(content::content_server::ContentServer::new(service.clone()))
                .add_service(images::images_server::ImagesServer::new(service.clone()))
                .add_service(events::events_server::EventsServer::new(service.clone()))
                .add_service(
                    introspection::introspection_server::IntrospectionServer::new(service.clone()),
                )
                .add_service(leases::leases_server::LeasesServer::new(service.clone()))
                .add_service(version::version_server::VersionServer::new(service.clone()))
                .add_service(cri::runtime_service_server::RuntimeServiceServer::new(
                    service,
                ))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .expect("served");
        });
        self.running = Some(runtime);
    }

    /// Stops it with all its connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
            std::fs::remove_file(self.socket()).expect("a socket");
        }
    }

    /// Adds a blob where containerd puts it at commit, in no namespace yet.
    pub fn put_file(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        let folder = blobs::folder(self.content(), "sha256");
        std::fs::create_dir_all(&folder).expect("a folder");
        let data = self.folder.path().join("data");
        std::fs::write(&data, bytes).expect("a file");
        std::fs::rename(data, folder.join(digest.encoded())).expect("committed");
        digest
    }

    pub fn remove_file(&self, digest: &Digest) {
        let folder = blobs::folder(self.content(), "sha256");
        std::fs::remove_file(folder.join(digest.encoded())).expect("a file");
    }

    /// Adds a blob to a namespace, with a source label or without.
    pub fn label(&self, namespace: &str, digest: &Digest, label: Option<(&str, &str)>) {
        let source = |(host, repository): (&str, &str)| {
            let key = format!("containerd.io/distribution.source.{host}");
            (key, repository.to_owned())
        };
        let labels = label.map(source).into_iter().collect();
        let key = (namespace.to_owned(), digest.to_string());
        self.service.database.lock().content.insert(key, labels);
    }

    /// Names an image, or removes the name.
    pub fn name(&self, namespace: &str, name: &str, target: Option<&Digest>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut database = self.service.database.lock();
        match target {
            Some(target) => database.images.insert(key, target.to_string()),
            None => database.images.remove(&key),
        };
    }

    /// Sends an event about an image, as containerd does.
    pub fn tell_image(&self, namespace: &str, name: &str) {
        // All events of images and content have their subject in the same place.
        let digest = name.to_owned();
        let event = ContentCreate {
            digest,
            ..ContentCreate::default()
        };
        let event = prost_types::Any {
            type_url: "containerd.services.images.v1.ImageUpdate".into(),
            value: event.encode_to_vec(),
        };
        let envelope = Envelope {
            namespace: namespace.into(),
            topic: "/images/update".into(),
            event: Some(event),
            timestamp: None,
        };
        // There may be no subscriber.
        let _ = self.service.events.send(envelope);
    }

    /// The leases of a namespace by their ids.
    pub fn leases(&self, namespace: &str) -> BTreeMap<String, Lease> {
        let database = self.service.database.lock();
        let ours = database.leases.iter().filter(|(k, _)| k.0 == namespace);
        ours.map(|(k, lease)| (k.1.clone(), lease.clone()))
            .collect()
    }

    pub fn lease(&self, namespace: &str, id: &str, lease: Lease) {
        let key = (namespace.to_owned(), id.to_owned());
        self.service.database.lock().leases.insert(key, lease);
    }

    /// See [`Database::collections`].
    pub fn collections(&self) -> usize {
        self.service.database.lock().collections
    }

    /// Whether any client is subscribed to events.
    pub fn is_heard(&self) -> bool {
        self.service.events.receiver_count() > 0
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}
