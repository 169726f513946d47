//! The trial pull: containerd pulls an image that only this node's mirror has.
//!
//! The pull goes through the same interface that the kubelet uses (CRI), and through hosts.toml. Its success therefore
//! shows that the kubelet's pulls on this node ask this mirror.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mirror::{TRIAL_REPOSITORY, Trial, Trials};
use oci::{NameError, Registry};

use crate::client::{CALL_LIMIT, CallError, Client, limited, within};
use crate::proto::containerd::services::images::v1::ListImagesRequest;
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;
use crate::proto::runtime::v1::image_service_client::ImageServiceClient;
use crate::proto::runtime::v1::{ImageSpec, PullImageRequest, RemoveImageRequest};
use crate::{Config, Namespace, NamespaceError};

/// The limit for the pull. It takes milliseconds if containerd asks the mirror. If not, containerd may wait for its
/// resolver because of a name that does not exist.
const PULL_LIMIT: Duration = Duration::from_secs(30);
/// The namespace of CRI in containerd, `k8sContainerdNamespace`.
pub(crate) const CRI_NAMESPACE: &str = "k8s.io";

/// Why a trial did not show that containerd asks this mirror.
#[derive(Debug, thiserror::Error)]
pub enum TrialError {
    #[error("no trial image can be named for {registry}: {cause}")]
    Name {
        registry: Registry,
        cause: NameError,
    },
    #[error("the namespace of CRI is not understood")]
    Namespace(#[from] NamespaceError),
    #[error("containerd at {} {cause}", .socket.display())]
    Connect { socket: PathBuf, cause: CallError },
    #[error(
        "containerd did not ask this mirror for {reference}: it {cause}; check that config_path of containerd names the \
         folder of hosts.toml, and that the mirror's address in hosts.toml leads to this node"
    )]
    NotAsked { reference: String, cause: CallError },
    #[error("containerd asked this mirror for {reference}, but the pull failed: it {cause}")]
    Failed { reference: String, cause: CallError },
    #[error(
        "containerd has {reference}, but this mirror did not send all of it; that proves nothing, and the next trial \
         pulls another image"
    )]
    NotServed { reference: String },
}

/// Has containerd pull a trial image of this mirror and remove it again.
///
/// `registry` is one that hosts.toml leads to the mirror ([`mirror::trial_registry`]). Takes about 50 seconds at most.
/// The next trial removes what an interrupted one has left in containerd.
///
/// # Errors
/// The image did not come, or not from this mirror.
pub async fn run_trial(
    config: &Config,
    trials: &Arc<Trials>,
    registry: &Registry,
) -> Result<(), TrialError> {
    let connect = |cause| TrialError::Connect {
        socket: config.socket.clone(),
        cause,
    };
    let name = |cause| TrialError::Name {
        registry: registry.clone(),
        cause,
    };
    let client = Client::connect(config).await.map_err(connect)?;
    let trial = trials.begin(registry).map_err(name)?;
    let namespace: Namespace = CRI_NAMESPACE.parse()?;

    let cri = ImageServiceClient::new(client.channel.clone());
    let result = pull(cri.clone(), &trial).await;
    // A failed pull may leave a name too, as may a trial of a process that has died.
    remove_all(&client, cri, &namespace).await;
    result?;

    let served = trial.served();
    if !served.is_whole() {
        return Err(TrialError::NotServed {
            reference: trial.reference(),
        });
    }
    if !served.recognised {
        tracing::warn!(
            "containerd pulled the trial image, but the mirror did not recognise it as this node's own; write \
             hosts.toml again with `peili configuration` and the same --node-secret-file as the mirror has"
        );
    }
    Ok(())
}

async fn pull(
    mut cri: ImageServiceClient<tonic::transport::Channel>,
    trial: &Trial,
) -> Result<(), TrialError> {
    let reference = trial.reference();
    let image = Some(ImageSpec {
        image: reference.clone(),
    });
    let call = cri.pull_image(PullImageRequest { image });
    match limited("PullImage", PULL_LIMIT, call).await {
        Ok(_) => Ok(()),
        Err(cause) if trial.served().is_any() => Err(TrialError::Failed { reference, cause }),
        Err(cause) => Err(TrialError::NotAsked { reference, cause }),
    }
}

/// Removes all trial images. Those that cannot be removed are left to the kubelet's image garbage collection and to the
/// next trial.
async fn remove_all(
    client: &Client,
    mut cri: ImageServiceClient<tonic::transport::Channel>,
    namespace: &Namespace,
) {
    let names = match image_names(client, namespace).await {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(%error, "trial images cannot be listed; the next trial removes them");
            return;
        }
    };
    for name in names {
        let image = Some(ImageSpec {
            image: name.clone(),
        });
        let call = cri.remove_image(RemoveImageRequest { image });
        if let Err(error) = limited("RemoveImage", CALL_LIMIT, call).await {
            tracing::warn!(image = name, %error, "a trial image is not removed; the next trial removes it");
        }
    }
}

async fn image_names(client: &Client, namespace: &Namespace) -> Result<Vec<String>, CallError> {
    let mut images = ImagesClient::new(client.channel.clone());
    let filters = vec![format!("name~=\"/{TRIAL_REPOSITORY}/\"")];
    let call = images.list(within(namespace, ListImagesRequest { filters }));
    let images = limited("Images.List", CALL_LIMIT, call).await?.images;
    Ok(images.into_iter().map(|image| image.name).collect())
}

#[cfg(test)]
mod tests;
