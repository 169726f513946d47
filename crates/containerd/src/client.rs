//! The calls to containerd that the store makes. One client is one connection. It does not reconnect by itself, so that
//! its user notices a restart and lists everything again.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use oci::{Digest, Origin, Registry};
use prost::Message;
use tokio::net::UnixStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::connector::Once;
use crate::labels::origins;
use crate::proto::containerd::services::content::v1 as content;
use crate::proto::containerd::services::events::v1 as events;
use crate::proto::containerd::services::images::v1 as images;
use crate::proto::containerd::services::introspection::v1 as introspection;
use crate::proto::containerd::services::version::v1 as version;
use crate::proto::containerd::types::Envelope;
use crate::proto::runtime::v1 as runtime;
use crate::{Config, Error, Namespace};

/// The limit for connecting to the socket.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The limit for an answer about one object. Writers lock containerd's database for as long as a disk takes to sync.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(10);
/// The limit for a whole list.
pub(crate) const LIST_LIMIT: Duration = Duration::from_secs(60);
/// The most bytes of one message. All images come in one, about 500 bytes each.
pub(crate) const MAX_MESSAGE: usize = 256 << 20;
/// The plugin whose `root` is the content folder.
const CONTENT_PLUGIN: &str = "io.containerd.content.v1";
/// The plugin that the kubelet talks to.
const CRI_PLUGIN: &str = "io.containerd.grpc.v1";
const CRI: &str = "cri";

/// A failed call. The text continues "containerd at …".
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("does not answer: {reason}; {advice}")]
    Connect {
        reason: String,
        /// What the operator can do about it.
        advice: &'static str,
    },
    #[error("gave no answer to {call} within {} s", .limit.as_secs())]
    TimedOut { call: &'static str, limit: Duration },
    #[error("answered {call} with {code:?}: {message}")]
    Refused {
        call: &'static str,
        code: Code,
        message: String,
    },
    #[error(
        "does not say where its content lies (plugin {CONTENT_PLUGIN}); name the folder with --containerd-content-path"
    )]
    NoContentRoot,
}

/// An image, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub name: String,
    pub target: Digest,
}

/// The part of containerd that pulls for the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cri {
    Runs,
    /// It did not start. The reason.
    Failed(String),
    Disabled,
}

/// An event. It says what happened; the present state must be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Image { namespace: String, name: String },
    Content { digest: Digest },
}

#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) channel: Channel,
    /// See [`Config::registries`].
    ported: Vec<Registry>,
}

fn unconnected(error: &io::Error) -> CallError {
    CallError::Connect {
        reason: error.to_string(),
        advice: match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "its socket is root's: run this as root, or give this user's group the right to write to the socket"
            }
            io::ErrorKind::NotADirectory => {
                "a part of the path is a file: name containerd's socket"
            }
            _ => "is it running, and is its socket mounted here?",
        },
    }
}

impl Client {
    pub async fn connect(config: &Config) -> Result<Self, CallError> {
        let limit = CONNECT_LIMIT;
        let call = "connect";
        let connecting = async {
            let stream = UnixStream::connect(&config.socket)
                .await
                .map_err(|error| unconnected(&error))?;
            // The address means nothing on a socket, but a request must have one.
            Endpoint::from_static("http://containerd")
                .connect_with_connector(Once::new(stream))
                .await
                .map_err(|error| unconnected(&io::Error::other(error)))
        };
        let channel = tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| CallError::TimedOut { call, limit })??;
        Ok(Self {
            channel,
            ported: config.registries.clone(),
        })
    }

    /// containerd's version as it writes it: `1.6.20~ds1`, `v2.1.9`, `2.1.9+unknown`.
    pub async fn version(&self) -> Result<String, CallError> {
        let mut client = version::version_client::VersionClient::new(self.channel.clone());
        Ok(limited("Version", CALL_LIMIT, client.version(()))
            .await?
            .version)
    }

    /// The content store's folder, as containerd sees it.
    pub async fn content_root(&self) -> Result<PathBuf, CallError> {
        let plugins = self.plugins(CONTENT_PLUGIN).await?.into_iter();
        let roots = plugins.filter_map(|mut plugin| plugin.exports.remove("root"));
        roots
            .map(PathBuf::from)
            .find(|root| root.is_absolute())
            .ok_or(CallError::NoContentRoot)
    }

    pub async fn cri(&self) -> Result<Cri, CallError> {
        let mut plugins = self.plugins(CRI_PLUGIN).await?.into_iter();
        Ok(match plugins.find(|plugin| plugin.id == CRI) {
            None => Cri::Disabled,
            Some(cri) => match cri.init_err {
                None => Cri::Runs,
                Some(error) => Cri::Failed(error.message),
            },
        })
    }

    async fn plugins(&self, kind: &str) -> Result<Vec<introspection::Plugin>, CallError> {
        let channel = self.channel.clone();
        let mut client = introspection::introspection_client::IntrospectionClient::new(channel);
        let request = introspection::PluginsRequest {
            filters: vec![format!("type=={kind}")],
        };
        let answer = limited("Plugins", CALL_LIMIT, client.plugins(request)).await?;
        let plugins = answer.plugins.into_iter();
        Ok(plugins.filter(|plugin| plugin.r#type == kind).collect())
    }

    /// All content of a namespace, with the origins in its labels.
    pub async fn content(
        &self,
        namespace: &Namespace,
    ) -> Result<HashMap<Digest, BTreeSet<Origin>>, CallError> {
        let mut client = self.content_client();
        let request = within(namespace, content::ListContentRequest::default());
        let listing = async {
            let mut stream = client.list(request).await?.into_inner();
            let mut found = HashMap::new();
            while let Some(batch) = stream.try_next().await? {
                for info in batch.info {
                    if let Ok(digest) = info.digest.parse() {
                        found.insert(digest, origins(&info.labels, &self.ported));
                    }
                }
            }
            Ok(Response::new(found))
        };
        limited("Content.List", LIST_LIMIT, listing).await
    }

    /// The origins in an object's labels. `None`: the namespace does not have the object.
    pub async fn info(
        &self,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Result<Option<BTreeSet<Origin>>, CallError> {
        let mut client = self.content_client();
        let digest = digest.to_string();
        let request = within(namespace, content::InfoRequest { digest });
        let answer = limited("Content.Info", CALL_LIMIT, client.info(request)).await;
        let info = found(answer)?.and_then(|a| a.info);
        Ok(info.map(|i| origins(&i.labels, &self.ported)))
    }

    /// All images of a namespace with a well-formed target.
    pub async fn images(&self, namespace: &Namespace) -> Result<Vec<Image>, CallError> {
        let mut client = self.images_client();
        let request = within(namespace, images::ListImagesRequest::default());
        let answer = limited("Images.List", LIST_LIMIT, client.list(request)).await?;
        Ok(answer.images.into_iter().filter_map(image).collect())
    }

    /// An image, by its name. `None`: the namespace has none of that name.
    pub async fn image(
        &self,
        namespace: &Namespace,
        name: &str,
    ) -> Result<Option<Image>, CallError> {
        let mut client = self.images_client();
        let name = name.to_owned();
        let request = within(namespace, images::GetImageRequest { name });
        let answer = limited("Images.Get", CALL_LIMIT, client.get(request)).await;
        Ok(found(answer)?.and_then(|a| a.image).and_then(image))
    }

    /// The events of images and content from now on, for as long as the connection lasts. containerd sends nothing, not
    /// even a header, before the first event, so it is unknown when the subscription takes effect.
    pub fn events(
        &self,
        namespaces: &[Namespace],
    ) -> impl Stream<Item = Result<Event, Error>> + Send + use<> {
        let mut client = events::events_client::EventsClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE);
        let filter = |n: &Namespace| format!(r#"namespace=="{n}",topic~="^/(images|content)/""#);
        let filters = namespaces.iter().map(filter).collect();
        let subscribing = async move {
            let request = events::SubscribeRequest { filters };
            client.subscribe(request).await.map(Response::into_inner)
        };
        futures::stream::once(subscribing)
            .try_flatten()
            .map_err(|status| match status.code() {
                // The end of the connection, as seen from within a stream.
                Code::Unknown | Code::Unavailable | Code::Cancelled => Error::Closed,
                _ => refused("Events.Subscribe", &status).into(),
            })
            .try_filter_map(|envelope| std::future::ready(Ok(event(envelope))))
    }

    /// The CRI plugin's report on itself: JSON texts by name.
    pub async fn cri_info(&self) -> Result<HashMap<String, String>, CallError> {
        let channel = self.channel.clone();
        let mut client = runtime::runtime_service_client::RuntimeServiceClient::new(channel);
        let request = runtime::StatusRequest { verbose: true };
        Ok(limited("Status", CALL_LIMIT, client.status(request))
            .await?
            .info)
    }

    fn content_client(&self) -> content::content_client::ContentClient<Channel> {
        content::content_client::ContentClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }

    fn images_client(&self) -> images::images_client::ImagesClient<Channel> {
        images::images_client::ImagesClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
    }
}

/// A request for a namespace.
pub(crate) fn within<T>(namespace: &Namespace, message: T) -> Request<T> {
    let mut request = Request::new(message);
    // A namespace consists of letters, digits, dots and dashes, so it is a valid header.
    if let Ok(value) = AsciiMetadataValue::try_from(namespace.as_str()) {
        request.metadata_mut().insert("containerd-namespace", value);
    }
    request
}

pub(crate) async fn limited<T>(
    call: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(refused(call, &status)),
        Err(_) => Err(CallError::TimedOut { call, limit }),
    }
}

fn refused(call: &'static str, status: &Status) -> CallError {
    CallError::Refused {
        call,
        code: status.code(),
        message: status.message().to_owned(),
    }
}

/// An answer, with `None` for "not found".
pub(crate) fn found<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(CallError::Refused {
            code: Code::NotFound,
            ..
        }) => Ok(None),
        Err(e) => Err(e),
    }
}

fn image(image: images::Image) -> Option<Image> {
    Some(Image {
        target: image.target?.digest.parse().ok()?,
        name: image.name,
    })
}

/// The only field that is read of any event: the image's name or the object's digest, always the first field
/// (`api/events/image.proto`, `content.proto`).
#[derive(Clone, PartialEq, Message)]
struct Subject {
    #[prost(string, tag = "1")]
    text: String,
}

fn event(envelope: Envelope) -> Option<Event> {
    let subject = Subject::decode(envelope.event?.value.as_slice()).ok()?.text;
    if envelope.topic.starts_with("/images/") {
        return Some(Event::Image {
            namespace: envelope.namespace,
            name: subject,
        });
    }
    let digest = subject.parse().ok()?;
    Some(Event::Content { digest })
}

/// The content folder: from the configuration, or else as containerd reports it.
pub(crate) async fn content_path(config: &Config, client: &Client) -> Result<PathBuf, CallError> {
    match &config.content_path {
        Some(path) => Ok(path.clone()),
        None => client.content_root().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_why_containerd_does_not_answer() {
        for (kind, word) in [
            (io::ErrorKind::PermissionDenied, "root's"),
            (io::ErrorKind::NotFound, "is it running"),
            (io::ErrorKind::ConnectionRefused, "is it running"),
            (io::ErrorKind::NotADirectory, "is a file"),
        ] {
            let told = unconnected(&kind.into()).to_string();
            assert!(told.contains(word), "{told}");
            assert_eq!(told.contains("running"), word.contains("running"), "{told}");
        }
    }
}
