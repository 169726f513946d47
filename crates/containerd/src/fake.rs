//! A containerd for tests: the calls that the store makes, over a socket, from state that a test sets.

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

/// What survives a restart. Keys begin with the namespace.
#[derive(Default)]
struct Database {
    content: BTreeMap<(String, String), Vec<(String, String)>>,
    images: BTreeMap<(String, String), String>,
    leases: BTreeMap<(String, String), Lease>,
    /// How often content that nobody needs was to be collected at once.
    collections: usize,
}

/// What a lease says and names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lease {
    pub labels: HashMap<String, String>,
    pub content: BTreeSet<String>,
}

/// A node: a folder with a containerd in it that may run or not.
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
    /// Not started yet.
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

    /// Ends it with all its connections.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.running.take() {
            runtime.shutdown_background();
            std::fs::remove_file(self.socket()).expect("a socket");
        }
    }

    /// Puts a blob where containerd puts it at commit, in no namespace yet.
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

    /// Makes a namespace have a blob, with a source label or without.
    pub fn label(&self, namespace: &str, digest: &Digest, label: Option<(&str, &str)>) {
        let source = |(host, repository): (&str, &str)| {
            let key = format!("containerd.io/distribution.source.{host}");
            (key, repository.to_owned())
        };
        let labels = label.map(source).into_iter().collect();
        let key = (namespace.to_owned(), digest.to_string());
        self.service.database.lock().content.insert(key, labels);
    }

    /// Names an image, or takes the name away.
    pub fn name(&self, namespace: &str, name: &str, target: Option<&Digest>) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut database = self.service.database.lock();
        match target {
            Some(target) => database.images.insert(key, target.to_string()),
            None => database.images.remove(&key),
        };
    }

    /// Tells of an image as containerd does.
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
        // Nobody may be listening.
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

    /// Whether somebody is subscribed to events.
    pub fn is_heard(&self) -> bool {
        self.service.events.receiver_count() > 0
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

fn namespace<T>(request: &Request<T>) -> String {
    let value = request.metadata().get("containerd-namespace");
    let value = value.and_then(|v| v.to_str().ok());
    value.expect("a namespace in each request").to_owned()
}

fn info(digest: &str, labels: &[(String, String)]) -> content::Info {
    content::Info {
        digest: digest.to_owned(),
        labels: labels.iter().cloned().collect(),
        ..content::Info::default()
    }
}

#[async_trait]
impl content::content_server::Content for Service {
    async fn info(
        &self,
        request: Request<content::InfoRequest>,
    ) -> Result<Response<content::InfoResponse>, Status> {
        let key = (namespace(&request), request.into_inner().digest);
        let database = self.database.lock();
        let labels = database.content.get(&key);
        let labels = labels.ok_or_else(|| Status::not_found("content"))?;
        let info = Some(info(&key.1, labels));
        Ok(Response::new(content::InfoResponse { info }))
    }

    async fn list(
        &self,
        request: Request<content::ListContentRequest>,
    ) -> Result<Response<BoxStream<content::ListContentResponse>>, Status> {
        let namespace = namespace(&request);
        let database = self.database.lock();
        let ours = database.content.iter().filter(|(k, _)| k.0 == namespace);
        let batches: Vec<_> = ours
            .map(|(k, labels)| content::ListContentResponse {
                info: vec![info(&k.1, labels)],
            })
            .map(Ok)
            .collect();
        Ok(Response::new(futures::stream::iter(batches).boxed()))
    }
}

fn named(name: &str, target: &str) -> images::Image {
    let target = Descriptor {
        digest: target.to_owned(),
        ..Descriptor::default()
    };
    images::Image {
        name: name.to_owned(),
        target: Some(target),
        ..images::Image::default()
    }
}

#[async_trait]
impl images::images_server::Images for Service {
    async fn get(
        &self,
        request: Request<images::GetImageRequest>,
    ) -> Result<Response<images::GetImageResponse>, Status> {
        let key = (namespace(&request), request.into_inner().name);
        let database = self.database.lock();
        let target = database.images.get(&key);
        let target = target.ok_or_else(|| Status::not_found("image"))?;
        let image = Some(named(&key.1, target));
        Ok(Response::new(images::GetImageResponse { image }))
    }

    async fn list(
        &self,
        request: Request<images::ListImagesRequest>,
    ) -> Result<Response<images::ListImagesResponse>, Status> {
        let namespace = namespace(&request);
        let database = self.database.lock();
        let ours = database.images.iter().filter(|(k, _)| k.0 == namespace);
        let images = ours.map(|(k, target)| named(&k.1, target)).collect();
        Ok(Response::new(images::ListImagesResponse { images }))
    }
}

#[async_trait]
impl events::events_server::Events for Service {
    async fn subscribe(
        &self,
        _: Request<events::SubscribeRequest>,
    ) -> Result<Response<BoxStream<Envelope>>, Status> {
        let events = BroadcastStream::new(self.events.subscribe());
        let events = events.map(|e| e.map_err(|_| Status::data_loss("too slow")));
        Ok(Response::new(events.boxed()))
    }
}

#[async_trait]
impl introspection::introspection_server::Introspection for Service {
    async fn plugins(
        &self,
        request: Request<introspection::PluginsRequest>,
    ) -> Result<Response<introspection::PluginsResponse>, Status> {
        let filters = request.into_inner().filters;
        assert_eq!(filters, ["type==io.containerd.content.v1"]);
        let root = self.content.display().to_string();
        let plugin = introspection::Plugin {
            r#type: "io.containerd.content.v1".into(),
            exports: [("root".to_owned(), root)].into(),
            ..introspection::Plugin::default()
        };
        let plugins = vec![plugin];
        Ok(Response::new(introspection::PluginsResponse { plugins }))
    }
}

#[async_trait]
impl leases::leases_server::Leases for Service {
    async fn create(
        &self,
        request: Request<leases::CreateRequest>,
    ) -> Result<Response<leases::CreateResponse>, Status> {
        let namespace = namespace(&request);
        let leases::CreateRequest { id, labels } = request.into_inner();
        let mut database = self.database.lock();
        let Entry::Vacant(place) = database.leases.entry((namespace, id)) else {
            return Err(Status::already_exists("lease"));
        };
        place.insert(Lease {
            labels,
            content: BTreeSet::new(),
        });
        Ok(Response::new(leases::CreateResponse::default()))
    }

    async fn add_resource(
        &self,
        request: Request<leases::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request);
        let leases::AddResourceRequest { id, resource } = request.into_inner();
        let resource = resource.ok_or_else(|| Status::invalid_argument("resource"))?;
        assert_eq!(resource.r#type, "content");
        let mut database = self.database.lock();
        let lease = database.leases.get_mut(&(namespace, id));
        let lease = lease.ok_or_else(|| Status::not_found("lease"))?;
        lease.content.insert(resource.id);
        Ok(Response::new(()))
    }

    async fn delete(
        &self,
        request: Request<leases::DeleteRequest>,
    ) -> Result<Response<()>, Status> {
        let namespace = namespace(&request);
        let leases::DeleteRequest { id, sync } = request.into_inner();
        let mut database = self.database.lock();
        let gone = database.leases.remove(&(namespace, id));
        gone.ok_or_else(|| Status::not_found("lease"))?;
        database.collections += usize::from(sync);
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<leases::ListRequest>,
    ) -> Result<Response<leases::ListResponse>, Status> {
        let namespace = namespace(&request);
        let database = self.database.lock();
        let ours = database.leases.iter().filter(|(k, _)| k.0 == namespace);
        let leases = ours.map(|(k, lease)| leases::Lease {
            id: k.1.clone(),
            labels: lease.labels.clone(),
            created_at: None,
        });
        let leases = leases.collect();
        Ok(Response::new(leases::ListResponse { leases }))
    }
}

#[async_trait]
impl version::version_server::Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<version::VersionResponse>, Status> {
        Ok(Response::new(version::VersionResponse {
            version: "1.7.24~ds1".into(),
            revision: String::new(),
        }))
    }
}

#[async_trait]
impl cri::runtime_service_server::RuntimeService for Service {
    async fn status(
        &self,
        _: Request<cri::StatusRequest>,
    ) -> Result<Response<cri::StatusResponse>, Status> {
        let config =
            r#"{"registry":{"configPath":""},"containerd":{"discardUnpackedLayers":true}}"#;
        let info = [("config".to_owned(), config.to_owned())].into();
        Ok(Response::new(cri::StatusResponse { info }))
    }
}
