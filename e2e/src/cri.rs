//! The Container Runtime Interface, which a kubelet calls.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use tonic::transport::{Channel, Endpoint};

use v1::image_service_client::ImageServiceClient;
use v1::{AuthConfig, ImageSpec, ListImagesRequest, PullImageRequest, RemoveImageRequest};

mod v1 {
    tonic::include_proto!("runtime.v1");
}

/// The limit of a pull: longer than any wait in containerd or the mirror.
const PULL_LIMIT: Duration = Duration::from_secs(180);

/// The limit of any other call.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// A client of one node's containerd.
#[derive(Clone)]
pub struct Cri {
    images: ImageServiceClient<Channel>,
}

impl Cri {
    /// A client of the socket. It connects, and reconnects, when calls need it.
    pub fn new(socket: &Path) -> Result<Cri> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Cri {
            images: ImageServiceClient::new(endpoint.connect_lazy()),
        })
    }

    /// The tags and digests of the node's images.
    pub async fn images(&self) -> Result<Vec<String>> {
        let mut client = self.images.clone();
        let call = client.list_images(ListImagesRequest {});
        let listed = tokio::time::timeout(CALL_LIMIT, call).await??.into_inner();
        let names = |image: v1::Image| image.repo_tags.into_iter().chain(image.repo_digests);
        Ok(listed.images.into_iter().flat_map(names).collect())
    }

    /// Pulls an image, as a kubelet does before it starts a container.
    pub async fn pull(&self, reference: &str) -> Result<()> {
        self.pull_with(reference, None).await
    }

    /// Does the same with a pull secret: a user and a password.
    pub async fn pull_with(&self, reference: &str, secret: Option<(&str, &str)>) -> Result<()> {
        let mut client = self.images.clone();
        let auth = secret.map(|(user, password)| AuthConfig {
            username: user.to_owned(),
            password: password.to_owned(),
        });
        let call = Box::pin(client.pull_image(PullImageRequest {
            image: Some(spec(reference)),
            auth,
        }));
        let pulled = tokio::time::timeout(PULL_LIMIT, call).await;
        pulled
            .context("no end")?
            .map(drop)
            .with_context(|| format!("pull of {reference}"))
    }

    /// Removes an image and, before it answers, the content that no other image needs.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let mut client = self.images.clone();
        let call = client.remove_image(RemoveImageRequest {
            image: Some(spec(reference)),
        });
        let removed = tokio::time::timeout(CALL_LIMIT, call).await;
        removed
            .context("no end")?
            .map(drop)
            .with_context(|| format!("removal of {reference}"))
    }
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec {
        image: reference.to_owned(),
    }
}
