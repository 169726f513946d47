//! Credentials from a docker `config.json`.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::Origin;
use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::sync::Mutex;

/// The most bytes of a config.json; a larger one is refused.
const MAX_FILE: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} has more than {MAX_FILE} bytes")]
    TooLarge { path: PathBuf },
    /// Contains only the position: a parser's message quotes its input.
    #[error("{path} is not a docker config.json (line {line}, column {column})")]
    Json {
        path: PathBuf,
        line: usize,
        column: usize,
    },
    #[error("{path}: `auth` of {registry:?} is not the base64 of user:password")]
    Auth { path: PathBuf, registry: String },
}

/// The credentials of this node at a registry. Has no `Debug` on purpose.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    Password {
        user: String,
        password: String,
    },
    /// A token that is exchanged for an access token.
    IdentityToken(String),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfigFile {
    #[serde(default)]
    auths: HashMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
}

/// The file, read again when it changes.
pub(crate) struct Credentials {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    stamp: Option<Stamp>,
    /// The secrets, by `registry` or `registry/path`.
    secrets: HashMap<String, Secret>,
}

/// The properties of a file that change when it is written or replaced.
type Stamp = (SystemTime, u64, u64);

/// Checks whether a file contains usable credentials.
///
/// # Errors
/// It does not, or it cannot be read.
pub fn check_auth_file(path: &Path) -> Result<(), CredentialsError> {
    Credentials::new(Some(path.to_owned())).map(drop)
}

impl Credentials {
    /// # Errors
    /// There is a path, and no valid file at it.
    pub(crate) fn new(path: Option<PathBuf>) -> Result<Self, CredentialsError> {
        let mut state = State {
            stamp: None,
            secrets: HashMap::new(),
        };
        if let Some(path) = &path {
            let failed = |source| CredentialsError::Read {
                path: path.clone(),
                source,
            };
            let metadata = std::fs::metadata(path).map_err(failed)?;
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path).map_err(failed)?;
            io::Read::read_to_end(&mut io::Read::take(file, MAX_FILE + 1), &mut bytes)
                .map_err(failed)?;
            state.secrets = parse(path, &bytes)?;
            state.stamp = Some(stamp(&metadata));
        }
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    /// The credentials for a repository: those of the longest entry that is its registry or a prefix of its path.
    pub(crate) async fn of(&self, origin: &Origin) -> Option<Secret> {
        let path = self.path.as_deref()?;
        let mut state = self.state.lock().await;
        state.refresh(path).await;
        let full = origin.to_string();
        let mut key = full.as_str();
        loop {
            if let Some(secret) = state.secrets.get(key) {
                return Some(secret.clone());
            }
            key = key.rsplit_once('/')?.0;
        }
    }
}

impl State {
    /// Reads the file if it has changed. If it cannot be read, the earlier content is kept.
    async fn refresh(&mut self, path: &Path) {
        let Ok(metadata) = tokio::fs::metadata(path).await else {
            return;
        };
        let now = stamp(&metadata);
        if self.stamp == Some(now) {
            return;
        }
        self.stamp = Some(now);
        match read(path).await {
            Ok(secrets) => self.secrets = secrets,
            Err(error) => {
                tracing::warn!(%error, "cannot read the credentials; keeping the previous ones");
            }
        }
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt as _;
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    (modified, metadata.len(), metadata.ino())
}

async fn read(path: &Path) -> Result<HashMap<String, Secret>, CredentialsError> {
    let failed = |source| CredentialsError::Read {
        path: path.to_owned(),
        source,
    };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .await
        .map_err(failed)?;
    parse(path, &bytes)
}

pub(crate) fn parse(
    path: &Path,
    bytes: &[u8],
) -> Result<HashMap<String, Secret>, CredentialsError> {
    let path_buf = || path.to_owned();
    if bytes.len() as u64 > MAX_FILE {
        return Err(CredentialsError::TooLarge { path: path_buf() });
    }
    let file: ConfigFile =
        serde_json::from_slice(bytes).map_err(|error| CredentialsError::Json {
            path: path_buf(),
            line: error.line(),
            column: error.column(),
        })?;
    for (registry, helper) in &file.cred_helpers {
        tracing::warn!(
            registry,
            "credential helper docker-credential-{helper} is not run; put `auth` of this registry into {}",
            path.display()
        );
    }
    if let Some(store) = &file.creds_store {
        tracing::warn!(
            "credential store docker-credential-{store} is not asked; put `auth` of each registry into {}",
            path.display()
        );
    }
    let mut secrets = HashMap::new();
    for (key, entry) in file.auths {
        let secret = entry.secret().ok_or_else(|| CredentialsError::Auth {
            path: path_buf(),
            registry: key.clone(),
        })?;
        // An empty entry means that a credential store has it.
        if let Some(secret) = secret {
            secrets.insert(normal(&key), secret);
        }
    }
    Ok(secrets)
}

impl AuthEntry {
    /// `None`: it is malformed. `Some(None)`: it is empty.
    fn secret(self) -> Option<Option<Secret>> {
        if !self.identitytoken.is_empty() {
            return Some(Some(Secret::IdentityToken(self.identitytoken)));
        }
        let (user, password) = if self.auth.is_empty() {
            (self.username, self.password)
        } else {
            let text = STANDARD.decode(self.auth.trim()).ok()?;
            let text = String::from_utf8(text).ok()?;
            let (user, password) = text.split_once(':')?;
            // Docker pads with NUL.
            let password = password.trim_end_matches('\0');
            (user.to_owned(), password.to_owned())
        };
        Some((!user.is_empty()).then_some(Secret::Password { user, password }))
    }
}

/// The registry in a key of `auths`, with the path if there is one (Podman).
fn normal(key: &str) -> String {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let rest = rest.trim_end_matches('/');
    let rest = rest
        .strip_suffix("/v1")
        .or_else(|| rest.strip_suffix("/v2"))
        .unwrap_or(rest);
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, None), |(h, p)| (h, Some(p)));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        let (registry, repository) = text.split_once('/').expect("both");
        Origin {
            registry: registry.parse().expect("a registry"),
            repository: repository.parse().expect("a repository"),
        }
    }

    async fn user(credentials: &Credentials, of: &str) -> Option<String> {
        credentials
            .of(&origin(of))
            .await
            .map(|secret| match secret {
                Secret::Password { user, password } => format!("{user}:{password}"),
                Secret::IdentityToken(token) => token,
            })
    }

    #[tokio::test]
    async fn finds_the_entry_that_fits_best() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let auth = |text: &str| format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(text));
        let json = format!(
            r#"{{"auths":{{
                "https://index.docker.io/v1/":{},
                "quay.io":{},
                "quay.io/team":{},
                "http://10.0.0.1:5000":{{"username":"u","password":"p:q"}},
                "azure.example":{{"auth":"{}","identitytoken":"idt"}},
                "stored.example":{{}}
            }},"credsStore":"desktop","credHelpers":{{"gcr.io":"gcloud"}},"HttpHeaders":{{}}}}"#,
            auth("hub:1"),
            auth("quay:2:3"),
            auth("team:4\0\0"),
            STANDARD.encode("00000000:")
        );
        std::fs::write(file.path(), json).expect("written");
        let credentials = Credentials::new(Some(file.path().to_owned())).expect("sound");
        for (name, expected) in [
            ("docker.io/library/a", Some("hub:1")),
            ("quay.io/other/b", Some("quay:2:3")),
            ("quay.io/team/b", Some("team:4")),
            ("quay.io/teams/b", Some("quay:2:3")),
            ("10.0.0.1:5000/a", Some("u:p:q")),
            ("azure.example/a", Some("idt")),
            ("stored.example/a", None),
            ("gcr.io/a", None),
            ("10.0.0.1/a", None),
        ] {
            assert_eq!(
                user(&credentials, name).await.as_deref(),
                expected,
                "{name}"
            );
        }
    }

    #[tokio::test]
    async fn reads_it_again_when_it_changes_and_keeps_it_while_it_is_broken() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let write = |text: &str| std::fs::write(file.path(), text).expect("written");
        write(r#"{"auths":{"a.io":{"username":"one","password":"x"}}}"#);
        let credentials = Credentials::new(Some(file.path().to_owned())).expect("sound");
        assert_eq!(user(&credentials, "a.io/a").await.as_deref(), Some("one:x"));
        write(r#"{"auths":{"a.io":{"username":"another","password":"x"}}}"#);
        assert_eq!(
            user(&credentials, "a.io/a").await.as_deref(),
            Some("another:x")
        );
        write("{");
        assert_eq!(
            user(&credentials, "a.io/a").await.as_deref(),
            Some("another:x")
        );
    }

    #[test]
    fn a_fault_is_named_and_quotes_no_secret() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        for broken in [
            r#"{"auths":{"a.io":{"auth":"hunter2"}}}"#,
            r#"{"auths":{"a.io":"hunter2"}}"#,
            r#"{"auths":{"a.io":{"auth":"aHVudGVyMg=="}}}"#,
        ] {
            std::fs::write(file.path(), broken).expect("written");
            let fault = Credentials::new(Some(file.path().to_owned()))
                .err()
                .expect("broken");
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
        assert!(Credentials::new(Some("/does/not/exist".into())).is_err());
    }
}
