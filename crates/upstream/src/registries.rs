//! The registries, as the mirror asks them.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lru::LruCache;
use mirror::{Upstream, UpstreamBlob, UpstreamError, UpstreamManifest};
use oci::{Digest, MAX_MANIFEST_SIZE, MediaType, Origin, Reference, Registry, RegistryUrl};
use parking_lot::Mutex;
use reqwest::Response;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::blob;
use crate::call::{Call, Caller, forbidden, protocol, unreachable};
use crate::client::{Clients, SetupError, proxies_of_environment};
use crate::credentials::Credentials;
use crate::policy::Policy;
use crate::resolve::{Names, SystemNames};
use crate::session::{Answer, Sessions};

/// Requests of one registry at the same time, blobs on their way included: five pulls of three layers each.
pub(crate) const PARALLEL_REQUESTS: usize = 16;
/// Registries whose requests are counted; those not asked for longest are forgotten.
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// From a request to the head of its answer, with waiting for a turn, signing in and redirects.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const DOCKER_CONTENT_DIGEST: &str = "docker-content-digest";

/// How registries are talked to.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Registries that the operator names: `http://` ones are called without TLS, and only these may stand on loopback
    /// or another special address, if they are named by it or as `localhost`. All others are called by https.
    pub registries: Vec<RegistryUrl>,
    /// A docker `config.json`; read again when it changes.
    pub auth_file: Option<PathBuf>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured.
    pub use_proxies: bool,
    pub limits: Limits,
}

/// How long upstream is waited for.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Name resolution, TCP and TLS of one connection.
    pub connect: Duration,
    /// From a request to the head of its answer, for each hop, connecting included.
    pub header: Duration,
    /// Between two pieces of a body.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            header: Duration::from_secs(30),
            stall: Duration::from_secs(30),
        }
    }
}

/// Upstream registries over HTTP.
pub struct Registries {
    caller: Caller,
    sessions: Sessions,
    turns: Mutex<LruCache<Registry, Arc<Semaphore>>>,
}

impl Registries {
    /// Reads the credentials and the certificates.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn new(options: Options) -> Result<Self, SetupError> {
        Self::with_names(options, Arc::new(SystemNames::new()))
    }

    pub(crate) fn with_names(options: Options, names: Arc<dyn Names>) -> Result<Self, SetupError> {
        let proxies: Option<BTreeSet<String>> = options.use_proxies.then(proxies_of_environment);
        let ca_file = options.ca_file.as_deref();
        let clients = Clients::new(&names, ca_file, proxies.as_ref(), &options.limits)?;
        let credentials = Credentials::new(options.auth_file)?;
        Ok(Self {
            caller: Caller {
                clients,
                policy: Policy::new(options.registries, proxies.unwrap_or_default()),
                names,
                limits: options.limits,
            },
            sessions: Sessions::new(credentials),
            turns: Mutex::new(LruCache::new(MAX_REGISTRIES)),
        })
    }

    /// Asks for `/v2/<repository>/<path>`. The turn is to be kept until the body has ended.
    async fn ask(
        &self,
        origin: &Origin,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
    ) -> Result<(Answer, OwnedSemaphorePermit), UpstreamError> {
        let base = self
            .caller
            .policy
            .base(&origin.registry)
            .map_err(|refused| forbidden(origin, &refused))?;
        let mut url = base.url.clone();
        // A repository, a tag and a digest have no character that means something in a path.
        url.set_path(&format!("/v2/{}/{path}", origin.repository));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let call = Call {
            method,
            url,
            headers,
            authorization: None,
            form: None,
        };
        let asking = async {
            let closed = |_| unreachable(origin, "the node is stopping");
            let turn = self.turns(origin).acquire_owned().await.map_err(closed)?;
            let answer = self
                .sessions
                .ask(&self.caller, origin, &base, &call)
                .await?;
            Ok((answer, turn))
        };
        let ((response, visibility), turn) = timeout(ANSWER_TIMEOUT, asking)
            .await
            .map_err(|_| unreachable(origin, &format!("no answer in {ANSWER_TIMEOUT:?}")))??;
        check(origin, &response)?;
        Ok(((response, visibility), turn))
    }

    fn turns(&self, origin: &Origin) -> Arc<Semaphore> {
        let mut turns = self.turns.lock();
        let new = || Arc::new(Semaphore::new(PARALLEL_REQUESTS));
        turns.get_or_insert(origin.registry.clone(), new).clone()
    }

    async fn ask_manifest(
        &self,
        origin: &Origin,
        method: Method,
        reference: &Reference,
    ) -> Result<(Answer, OwnedSemaphorePermit), UpstreamError> {
        let accept = HeaderValue::from_static(MediaType::ACCEPT);
        let headers = HeaderMap::from_iter([(ACCEPT, accept)]);
        self.ask(origin, method, &format!("manifests/{reference}"), headers)
            .await
    }
}

#[async_trait]
impl Upstream for Registries {
    async fn resolve(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<Digest, UpstreamError> {
        let asked = self.ask_manifest(origin, Method::HEAD, reference).await;
        let named = match asked {
            Ok(((response, _), _)) => named_digest(origin, &response)?,
            // Not all registries know HEAD: GET tells what is wrong, if something is.
            Err(UpstreamError::Protocol(..)) => None,
            Err(error) => return Err(error),
        };
        match (named, reference) {
            (Some(named), Reference::Digest(digest)) if named != *digest => {
                Err(protocol(origin, "another digest than was asked for"))
            }
            (Some(named), _) => Ok(named),
            (None, _) => Ok(self.manifest(origin, reference).await?.digest),
        }
    }

    async fn manifest(
        &self,
        origin: &Origin,
        reference: &Reference,
    ) -> Result<UpstreamManifest, UpstreamError> {
        let ((response, visibility), _turn) =
            self.ask_manifest(origin, Method::GET, reference).await?;
        if response.status() != StatusCode::OK {
            return Err(protocol(origin, &format!("{} to a GET", response.status())));
        }
        let named = named_digest(origin, &response)?;
        let bytes = self
            .caller
            .read(origin, response, MAX_MANIFEST_SIZE)
            .await?;
        let digest = match (reference, named) {
            (Reference::Digest(digest), _) => digest.clone(),
            (Reference::Tag(_), Some(named)) => named,
            (Reference::Tag(_), None) => Digest::sha256(&bytes),
        };
        if !digest.verifies(&bytes) {
            let text = format!("a manifest that is not {digest}");
            return Err(protocol(origin, &text));
        }
        Ok(UpstreamManifest {
            bytes,
            digest,
            visibility,
        })
    }

    async fn blob(
        &self,
        origin: &Origin,
        digest: &Digest,
        offset: u64,
    ) -> Result<UpstreamBlob, UpstreamError> {
        let mut headers = HeaderMap::new();
        if offset > 0
            && let Ok(range) = HeaderValue::from_str(&format!("bytes={offset}-"))
        {
            headers.insert(RANGE, range);
        }
        let path = format!("blobs/{digest}");
        let ((response, visibility), turn) = self.ask(origin, Method::GET, &path, headers).await?;
        let stall = self.caller.limits.stall;
        blob::open(origin, response, offset, stall, turn).map(|(size, body)| UpstreamBlob {
            size,
            visibility,
            body,
        })
    }
}

/// What an answer's status means for whoever asked.
fn check(origin: &Origin, response: &Response) -> Result<(), UpstreamError> {
    let status = response.status();
    match status {
        _ if status.is_success() => {}
        StatusCode::NOT_FOUND => return Err(UpstreamError::NotFound(origin.clone())),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err(UpstreamError::Denied(origin.clone()));
        }
        StatusCode::TOO_MANY_REQUESTS => {
            return Err(UpstreamError::TooManyRequests(origin.clone()));
        }
        _ if status.is_server_error() => {
            return Err(unreachable(origin, &format!("it answers {status}")));
        }
        _ => return Err(protocol(origin, &status.to_string())),
    }
    // Encoded bytes are not the bytes that a digest names.
    let encoding = response.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|value| value != "identity") {
        return Err(protocol(origin, "an encoded body, which was not asked for"));
    }
    Ok(())
}

/// What an answer says that its manifest's digest is.
fn named_digest(origin: &Origin, response: &Response) -> Result<Option<Digest>, UpstreamError> {
    let Some(value) = response.headers().get(DOCKER_CONTENT_DIGEST) else {
        return Ok(None);
    };
    let digest = value.to_str().ok().and_then(|text| text.parse().ok());
    digest
        .map(Some)
        .ok_or_else(|| protocol(origin, "a Docker-Content-Digest that is no digest"))
}
