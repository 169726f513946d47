//! Trials with a fake containerd: its pulls ask the mirror in memory, or do not.

use std::collections::BTreeSet;

use async_trait::async_trait;
use http_body_util::BodyExt as _;
use mirror::memory::{MemoryCluster, MemoryStore};
use mirror::{
    Access, Adapters, Candidate, ConnectionAddresses, Limits, Mirror, Options, PeerId, Reader,
};
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;
use crate::proto::containerd::services::images::v1 as images;
use crate::proto::runtime::v1 as cri;

/// How containerd's pulls behave.
#[derive(Clone, Copy)]
enum Pulls {
    /// Asks the mirror for the manifest and the config, and then has the image.
    Whole,
    /// Asks the mirror for the manifest and gives up.
    ManifestOnly,
    /// Never asks the mirror, and fails to resolve the host.
    Elsewhere,
    /// Claims to have the image without asking any host.
    Nothing,
}

#[derive(Clone)]
struct Service {
    mirror: Arc<Mirror>,
    pulls: Pulls,
    images: Arc<Mutex<BTreeSet<String>>>,
}

struct Setup {
    _folder: tempfile::TempDir,
    config: Config,
    service: Service,
}

fn setup(pulls: Pulls) -> Setup {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("containerd.sock");
    let listener = UnixListener::bind(&socket).expect("bound");
    let service = Service {
        mirror: Arc::new(mirror()),
        pulls,
        images: Arc::default(),
    };
    let (images, cri) = (service.clone(), service.clone());
    tokio::spawn(async move {
        Server::builder()
            .add_service(images::images_server::ImagesServer::new(images))
            .add_service(cri::image_service_server::ImageServiceServer::new(cri))
            .serve_with_incoming(UnixListenerStream::new(listener))
            .await
            .expect("served");
    });
    let config = Config {
        socket,
        namespaces: Vec::new(),
        content_path: None,
        registries: Vec::new(),
        retain: None,
    };
    Setup {
        _folder: folder,
        config,
        service,
    }
}

fn mirror() -> Mirror {
    let node = Candidate {
        peer: PeerId::new("node"),
        addresses: [([127, 0, 0, 1], 5000).into()].into(),
    };
    let parts = Adapters {
        store: Arc::new(MemoryStore::default()),
        router: Arc::new(MemoryCluster::default().router(node)),
        pull_through: None,
        checks: None,
        flights: None,
    };
    let options = Options {
        access: Access::default(),
        reader: Reader::default(),
        limits: Limits {
            resolve_timeout: Duration::from_millis(20),
            attempts: 1,
        },
    };
    Mirror::new(
        parts,
        options,
        &mut prometheus_client::registry::Registry::default(),
    )
}

impl Service {
    /// Asks the mirror from its own host, as containerd does.
    async fn ask(&self, path: String) -> Vec<u8> {
        let request = http::Request::builder().uri(path).body(());
        let (head, ()) = request.expect("a request").into_parts();
        let node = ([127, 0, 0, 1], 5000).into();
        let addresses = ConnectionAddresses {
            remote: node,
            local: node,
        };
        let answer = self.mirror.answer(&head, addresses).await;
        assert_eq!(answer.status(), http::StatusCode::OK);
        let body = answer.into_body().collect().await.expect("whole");
        body.to_bytes().to_vec()
    }
}

#[async_trait]
impl cri::image_service_server::ImageService for Service {
    async fn pull_image(
        &self,
        request: Request<cri::PullImageRequest>,
    ) -> Result<Response<cri::PullImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        let (registry, rest) = name.split_once('/').expect("a registry");
        let (repository, digest) = rest.split_once('@').expect("a digest");
        let manifest = format!("/v2/{repository}/manifests/{digest}?ns={registry}");
        match self.pulls {
            Pulls::Elsewhere => return Err(Status::unknown("no such host")),
            Pulls::Nothing => {}
            Pulls::ManifestOnly => {
                self.ask(manifest).await;
                return Err(Status::unknown("connection reset"));
            }
            Pulls::Whole => {
                let manifest = oci::Manifest::parse(&self.ask(manifest).await).expect("a manifest");
                for child in manifest.children {
                    let blob = format!("/v2/{repository}/blobs/{}?ns={registry}", child.digest);
                    self.ask(blob).await;
                }
            }
        }
        self.images.lock().insert(name.clone());
        Ok(Response::new(cri::PullImageResponse { image_ref: name }))
    }

    async fn remove_image(
        &self,
        request: Request<cri::RemoveImageRequest>,
    ) -> Result<Response<cri::RemoveImageResponse>, Status> {
        let name = request.into_inner().image.unwrap_or_default().image;
        self.images.lock().remove(&name);
        Ok(Response::new(cri::RemoveImageResponse {}))
    }
}

#[async_trait]
impl images::images_server::Images for Service {
    async fn list(
        &self,
        request: Request<ListImagesRequest>,
    ) -> Result<Response<images::ListImagesResponse>, Status> {
        assert_eq!(
            request.metadata().get("containerd-namespace").expect("one"),
            "k8s.io"
        );
        assert_eq!(
            request.into_inner().filters,
            ["name~=\"/peili-mirror-trial/\""]
        );
        let image = |name: &String| images::Image {
            name: name.clone(),
            ..images::Image::default()
        };
        let images = self.images.lock().iter().map(image).collect();
        Ok(Response::new(images::ListImagesResponse { images }))
    }
}

async fn run(setup: &Setup) -> Result<(), TrialError> {
    let registry = mirror::trial_registry(&[]).expect("a registry");
    run_trial(&setup.config, &setup.service.mirror.trials(), &registry).await
}

#[tokio::test]
async fn an_image_that_came_from_the_mirror_is_removed_with_those_of_earlier_trials() {
    let setup = setup(Pulls::Whole);
    let earlier = "mirror-trial.peili.invalid/peili-mirror-trial/0a@sha256:00";
    setup.service.images.lock().insert(earlier.to_owned());
    run(&setup).await.expect("pulled through the mirror");
    assert!(setup.service.images.lock().is_empty());
}

#[tokio::test]
async fn a_containerd_that_does_not_ask_the_mirror_fails_the_trial() {
    let setup = setup(Pulls::Elsewhere);
    let error = run(&setup).await.expect_err("nobody asked");
    assert!(matches!(error, TrialError::NotAsked { .. }), "{error}");
    let text = error.to_string();
    for part in ["did not ask this mirror", "no such host", "config_path"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn a_pull_that_breaks_off_fails_the_trial() {
    let setup = setup(Pulls::ManifestOnly);
    let error = run(&setup).await.expect_err("half an image");
    assert!(matches!(error, TrialError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("connection reset"), "{error}");
}

#[tokio::test]
async fn an_image_that_did_not_come_from_the_mirror_proves_nothing() {
    let setup = setup(Pulls::Nothing);
    let error = run(&setup).await.expect_err("nobody asked");
    assert!(matches!(error, TrialError::NotServed { .. }), "{error}");
    assert!(
        setup.service.images.lock().is_empty(),
        "it is removed nevertheless"
    );
}

#[tokio::test]
async fn a_containerd_that_is_not_there_is_named() {
    let mut setup = setup(Pulls::Whole);
    setup.config.socket = "/nowhere/containerd.sock".into();
    let error = run(&setup).await.expect_err("no socket");
    assert!(
        error
            .to_string()
            .starts_with("containerd at /nowhere/containerd.sock does not answer")
    );
}
