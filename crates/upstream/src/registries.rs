//! The registries, as the mirror uses them.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT_ENCODING, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use lru::LruCache;
use mirror::{
    List, Resolved, Upstream, UpstreamBlob, UpstreamError, UpstreamHead, UpstreamManifest,
    UpstreamPage, UpstreamRepository, Visibility,
};
use oci::{Digest, Origin, Ranges, Reference, Registry, RegistryUrl, Tag};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use url::Url;

use crate::call::{AnsweredBy, Call, Caller};
use crate::challenge::relayable;
use crate::client::{Clients, SetupError};
use crate::credentials::Credentials;
use crate::encoding::Forms;
use crate::fault::{EXPECTS_TLS, failed, protocol, unreachable};
use crate::manifests::Tags;
use crate::policy::Policy;
use crate::proxy::Proxies;
use crate::resolve::{Names, SystemNames};
use crate::routes::{OwnHosts, RegistryHosts, Routes};
use crate::session::{Granted, Sessions};

/// The most concurrent requests to one registry, without blobs.
pub(crate) const PARALLEL_REQUESTS: usize = 16;
/// The most concurrent blobs from one registry. They are counted separately, so that slow ones do not delay the
/// resolution of tags.
pub(crate) const PARALLEL_BLOBS: usize = 64;
/// The most registries whose requests are counted; the least recently used are forgotten.
const MAX_REGISTRIES: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");
/// The limit from a request to the head of its answer, with waiting for a permit, signing in and redirects.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The configuration of the client.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Registries listed by the operator: `http://` ones are called without TLS, and only these may be on loopback or
    /// at another special address, if they are named by it or as `localhost`. All others are called by https.
    pub registries: Vec<RegistryUrl>,
    /// A docker `config.json`; read again when it changes.
    pub auth_file: Option<PathBuf>,
    /// PEM certificates to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are respected, as Go's clients do.
    pub use_proxies: bool,
    pub limits: Limits,
}

/// The time limits of requests to upstream.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The limit for name resolution, TCP and TLS of one connection.
    pub connect: Duration,
    /// The limit from a request to the head of its answer, for each hop, connecting included.
    pub header: Duration,
    /// The limit between two pieces of a body.
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
    pub(crate) caller: Arc<Caller>,
    routes: Routes,
    sessions: Sessions,
    /// The permits, by registry, for blobs and for everything else.
    permits: Mutex<LruCache<(Registry, bool), Arc<Semaphore>>>,
    pub(crate) tags: Tags,
    pub(crate) forms: Arc<Forms>,
}

/// The permit of a running request.
pub(crate) type DownloadPermit = OwnedSemaphorePermit;

impl Registries {
    /// Reads the credentials and the certificates.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn new(options: Options) -> Result<Self, SetupError> {
        let proxies = match options.use_proxies {
            true => Proxies::of_environment(),
            false => Proxies::default(),
        };
        Self::with(options, Arc::new(SystemNames::new()), &proxies)
    }

    /// Registries at the hosts that `hosts` names, with the system's trust store and the environment's proxies, and
    /// without credentials of this node. `listed`: see [`Options::registries`].
    ///
    /// # Errors
    /// The certificates cannot be read.
    pub fn at_hosts(
        hosts: Arc<dyn RegistryHosts>,
        listed: Vec<RegistryUrl>,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        let options = Options {
            registries: listed,
            limits,
            ..Options::default()
        };
        let (names, proxies) = (Arc::new(SystemNames::new()), Proxies::of_environment());
        Self::with_hosts(options, names, &proxies, hosts)
    }

    pub(crate) fn with(
        options: Options,
        names: Arc<dyn Names>,
        proxies: &Proxies,
    ) -> Result<Self, SetupError> {
        Self::build(options, names, proxies, Arc::new(OwnHosts), false)
    }

    pub(crate) fn with_hosts(
        options: Options,
        names: Arc<dyn Names>,
        proxies: &Proxies,
        hosts: Arc<dyn RegistryHosts>,
    ) -> Result<Self, SetupError> {
        Self::build(options, names, proxies, hosts, true)
    }

    fn build(
        options: Options,
        names: Arc<dyn Names>,
        proxies: &Proxies,
        hosts: Arc<dyn RegistryHosts>,
        tells_faults: bool,
    ) -> Result<Self, SetupError> {
        let ca_file = options.ca_file.as_deref();
        let clients = Clients::new(&names, ca_file, proxies, &options.limits)?;
        let credentials = Credentials::new(options.auth_file)?;
        let caller = Arc::new(Caller {
            clients: Arc::new(clients),
            policy: Policy::new(options.registries, proxies.hosts()),
            names,
            limits: options.limits,
        });
        Ok(Self {
            routes: Routes::new(hosts, caller.clone(), proxies.clone()),
            caller,
            sessions: Sessions::new(credentials, tells_faults),
            permits: Mutex::new(LruCache::new(MAX_REGISTRIES)),
            tags: Tags::new(),
            forms: Arc::new(Forms::new()),
        })
    }

    /// Requests `/v2/<repository>/<path>`. The permit must be kept until the body has ended. The answer may be a
    /// refusal: see [`check`].
    pub(crate) async fn ask(
        &self,
        repository: &UpstreamRepository,
        method: Method,
        (path, query): (&str, &str),
        mut headers: HeaderMap,
    ) -> Result<Asked, UpstreamError> {
        let origin = &repository.origin;
        let route = self.routes.of(origin).await?;
        if repository.credentials.is_some() && (route.names_registry || route.knows_this_node()) {
            // They are for the registry, and not for another host that serves it. A host that knows this node would
            // accept any credentials.
            return Err(UpstreamError::Denied {
                origin: origin.clone(),
                challenges: Vec::new(),
            });
        }
        let mut url = route.base.url.clone();
        // Repositories, tags and digests contain no special characters of paths.
        url.set_path(&format!("{}/{}/{path}", route.path, origin.repository));
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        if route.names_registry {
            let registry = origin.registry.as_str();
            url.query_pairs_mut().append_pair("ns", registry);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let call = Call {
            method,
            url,
            headers,
            authorization: None,
            own_headers: route.headers.clone(),
            form: None,
        };
        let is_blob = call.method == Method::GET && path.starts_with("blobs/");
        let asking = async {
            let closed = |_| unreachable(origin, "the node is stopping");
            let permits = self.permits(origin, is_blob);
            let permit = permits.acquire_owned().await.map_err(closed)?;
            let (caller, base) = (&route.caller, &route.base);
            let mut granted = self.sessions.ask(caller, repository, base, &call).await?;
            if route.knows_this_node() {
                granted.visibility = Visibility::Private;
            }
            Ok((granted, permit))
        };
        let (granted, permit) = timeout(ANSWER_TIMEOUT, asking)
            .await
            .map_err(|_| failed(origin, &format!("no answer in {ANSWER_TIMEOUT:?}")))??;
        Ok(Asked {
            granted,
            permit,
            url: call.url,
        })
    }

    fn permits(&self, origin: &Origin, of_blobs: bool) -> Arc<Semaphore> {
        let mut permits = self.permits.lock();
        let most = match of_blobs {
            true => PARALLEL_BLOBS,
            false => PARALLEL_REQUESTS,
        };
        let new = || Arc::new(Semaphore::new(most));
        let key = (origin.registry.clone(), of_blobs);
        permits.get_or_insert(key, new).clone()
    }
}

/// An answer to a request, with its context.
pub(crate) struct Asked {
    pub(crate) granted: Granted,
    pub(crate) permit: DownloadPermit,
    /// The requested URL.
    pub(crate) url: Url,
}

impl Asked {
    pub(crate) fn status(&self) -> StatusCode {
        self.granted.answer.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.granted.answer.response.headers()
    }

    /// Converts the status to a result.
    ///
    /// # Errors
    /// The status is not a success.
    pub(crate) fn check(self, origin: &Origin) -> Result<Self, UpstreamError> {
        let (status, by) = (self.status(), self.granted.answer.by);
        Err(match status {
            _ if status.is_success() => return Ok(self),
            StatusCode::NOT_FOUND => UpstreamError::NotFound(origin.clone()),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if by == AnsweredBy::Elsewhere => {
                let host = self.granted.answer.response.url().host_str();
                let host = host.unwrap_or_default();
                let text = format!("{host}, to which it redirects, answers {status}");
                failed(origin, &text)
            }
            StatusCode::UNAUTHORIZED => UpstreamError::Denied {
                origin: origin.clone(),
                challenges: match by {
                    AnsweredBy::Asked => relayable(self.headers()),
                    AnsweredBy::SameOrigin | AnsweredBy::Elsewhere => Vec::new(),
                },
            },
            StatusCode::FORBIDDEN => UpstreamError::Denied {
                origin: origin.clone(),
                challenges: Vec::new(),
            },
            StatusCode::TOO_MANY_REQUESTS => UpstreamError::TooManyRequests {
                origin: origin.clone(),
                retry_after: retry_after(self.headers()),
            },
            _ if status.is_server_error() => failed(origin, &format!("it answers {status}")),
            // Servers written in Go answer HTTP in this way if they expect TLS.
            StatusCode::BAD_REQUEST if self.url.scheme() == "http" => {
                protocol(origin, &format!("{status}; {EXPECTS_TLS}"))
            }
            _ => protocol(origin, &status.to_string()),
        })
    }
}

/// How long to wait, if the answer says so.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(RETRY_AFTER);
    value.filter(|value| !value.is_empty()).cloned()
}

#[async_trait]
impl Upstream for Registries {
    async fn resolve(
        &self,
        repository: &UpstreamRepository,
        tag: &Tag,
    ) -> Result<Resolved, UpstreamError> {
        self.resolve_tag(repository, tag).await
    }

    async fn head(
        &self,
        repository: &UpstreamRepository,
        reference: &Reference,
    ) -> Result<UpstreamHead, UpstreamError> {
        self.head_of_manifest(repository, reference).await
    }

    async fn manifest(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<UpstreamManifest, UpstreamError> {
        self.manifest_by_digest(repository, digest).await
    }

    async fn blob_size(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
    ) -> Result<Option<u64>, UpstreamError> {
        self.size_of_blob(repository, digest).await
    }

    async fn blob(
        &self,
        repository: &UpstreamRepository,
        digest: &Digest,
        ranges: Option<&Ranges>,
    ) -> Result<UpstreamBlob, UpstreamError> {
        self.open_blob(repository, digest, ranges).await
    }

    async fn page(
        &self,
        repository: &UpstreamRepository,
        list: &List,
        query: &str,
    ) -> Result<UpstreamPage, UpstreamError> {
        self.page_of_list(repository, list, query).await
    }
}
