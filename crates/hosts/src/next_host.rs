//! The host that containerd asks after the mirrors. Checks of upstream use the same host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};
use oci::{Registry, RegistryUrl, Scheme};
use toml_edit::{Document, Item, TableLike};

use crate::configuration::DEFAULT_FOLDER;
use crate::merge;
use crate::recognise::{Author, Spegel, author};
use crate::render::DIAL_TIMEOUT;
use crate::tree::HOSTS;
use crate::unusable::{self, FileState};
use crate::{ConfigPath, NODE_SECRET_HEADER};

/// The most bytes of a file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// A host of hosts.toml, with its connection settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHost {
    pub url: RegistryUrl,
    /// The prefix of `/<repository>/manifests/…`, without a trailing slash.
    pub path: String,
    /// PEM files with authorities to trust besides the system's.
    pub authorities: Vec<PathBuf>,
    /// PEM files with a client certificate and its key. Without a second file, the first has both.
    pub identity: Option<(PathBuf, Option<PathBuf>)>,
    pub skip_verify: bool,
    pub headers: HeaderMap,
}

#[derive(Debug, thiserror::Error)]
pub enum NextHostError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {what}")]
    Content { path: PathBuf, what: String },
}

/// The first host that containerd asks for images of a registry and that is not a mirror of this cluster, from the
/// present files (containerd, `docs/hosts.md`). `None`: the registry itself, by its name. Reads files.
///
/// `is_mirror`: whether a host is this node's own mirror. Hosts that a mirror wrote are recognised by their file.
///
/// # Errors
/// A file cannot be read, or containerd could not read it either.
pub fn next_host(
    config_path: &ConfigPath,
    registry: &Registry,
    is_mirror: impl Fn(&RegistryUrl) -> bool,
) -> Result<Option<NextHost>, NextHostError> {
    let Some(folder) = folder_of(config_path, registry) else {
        return Ok(None);
    };
    let path = folder.join(HOSTS);
    let Some(bytes) = read(&path)? else {
        return Ok(by_certificates(&folder, registry));
    };
    of_file(&bytes, &folder, registry, is_mirror)
        .map_err(|what| NextHostError::Content { path, what })
}

/// The same for one file of a folder. Errors are texts.
pub(crate) fn of_file(
    bytes: &[u8],
    folder: &Path,
    registry: &Registry,
    is_mirror: impl Fn(&RegistryUrl) -> bool,
) -> Result<Option<NextHost>, String> {
    let (_, document) = merge::parse(bytes).map_err(|error| error.message)?;
    for (address, table, is_ours) in tables_of(bytes, &document, &is_mirror)? {
        if !is_ours && is_asked(table) {
            return Ok(Some(host(folder, address, table)));
        }
    }
    let root = document.as_table();
    let address = match text_of(root, "server") {
        Some(server) => {
            Address::parse(server).ok_or_else(|| format!("server {server:?} is no host"))?
        }
        None => Address::of(registry),
    };
    Ok(Some(host(folder, address, root)).filter(|host| !is_plain(host, registry)))
}

/// A host of a file.
pub(crate) struct ListedHost {
    pub url: RegistryUrl,
    /// Whether it is a mirror of this cluster.
    pub is_ours: bool,
    /// Why containerd does not ask it, or gets nothing from it, if it is a mirror of this cluster.
    pub in_vain: Option<String>,
    /// The value of its [`NODE_SECRET_HEADER`].
    pub secret: Option<String>,
}

/// The hosts of a file in containerd's order. `folder`: the file's; `root`: that of the configuration.
///
/// # Errors
/// Why containerd cannot use the file, as a text.
pub(crate) fn hosts_of(
    bytes: &[u8],
    (folder, root): (&Path, &Path),
    is_mirror: &impl Fn(&RegistryUrl) -> bool,
) -> Result<Vec<ListedHost>, String> {
    let (_, document) = merge::parse(bytes).map_err(|error| {
        let what = match error.position {
            Some((line, column)) => format!("line {line}, column {column}: {}", error.message),
            None => error.message,
        };
        format!("{what}: {}", FileState::Ignored.words())
    })?;
    if let Some((fault, outcome)) = unusable::fault(&document, folder, root) {
        return Err(format!("{fault}: {}", outcome.words()));
    }
    let tables = tables_of(bytes, &document, is_mirror)?.into_iter();
    let hosts = tables.map(|(address, table, is_ours)| ListedHost {
        in_vain: in_vain(&address, table),
        secret: secret(table),
        url: address.url,
        is_ours,
    });
    Ok(hosts.collect())
}

/// Why containerd gets nothing from a mirror with these settings.
fn in_vain(address: &Address, table: &dyn TableLike) -> Option<String> {
    if let Some(capabilities) = table.get("capabilities").and_then(Item::as_array)
        && !capabilities.is_empty()
        && !capabilities.iter().any(|c| is_text(c, "pull"))
    {
        return Some("its capabilities have no 'pull'".to_owned());
    }
    if address.url.scheme == Scheme::Https {
        return Some("the mirror speaks http, and https is written there".to_owned());
    }
    let overrides = table.get("override_path").and_then(Item::as_bool) == Some(true);
    let path = match overrides || address.path.ends_with("/v2") {
        true => address.path.clone(),
        false => format!("{}/v2", address.path),
    };
    (path != "/v2")
        .then(|| format!("containerd asks it below {path:?} instead of \"/v2\" (override_path)"))
}

fn secret(table: &dyn TableLike) -> Option<String> {
    let headers = table.get("header")?.as_table_like()?;
    let mut headers = headers.iter();
    let (_, value) = headers.find(|(name, _)| name.eq_ignore_ascii_case(NODE_SECRET_HEADER))?;
    let first = || value.as_array()?.get(0)?.as_str();
    value.as_str().or_else(first).map(ToOwned::to_owned)
}

type HostTable<'a> = (Address, &'a dyn TableLike, bool);

fn tables_of<'a>(
    bytes: &[u8],
    document: &'a Document<&str>,
    is_mirror: &impl Fn(&RegistryUrl) -> bool,
) -> Result<Vec<HostTable<'a>>, String> {
    let by_a_mirror = author(bytes, Spegel::Roughly) != Author::User;
    let hosts = document.get("host").and_then(Item::as_table_like);
    let mut tables = Vec::new();
    for (name, item) in hosts.into_iter().flat_map(TableLike::iter) {
        let Some(table) = item.as_table_like() else {
            continue;
        };
        let address = Address::parse(name).ok_or_else(|| format!("{name:?} is no host"))?;
        // As in Peili's and Spegel's files.
        let has_our_timeout =
            text_of(table, "dial_timeout") == Some(DIAL_TIMEOUT.trim_matches('\''));
        let is_ours = (by_a_mirror && has_our_timeout) || is_mirror(&address.url);
        tables.push((address, table, is_ours));
    }
    Ok(tables)
}

/// The folder that containerd reads for a registry (containerd, `HostDirFromRoot` in `hosts.go`).
fn folder_of(config_path: &ConfigPath, registry: &Registry) -> Option<PathBuf> {
    let name = registry.as_str();
    let underscored = name
        .rsplit_once(':')
        .map(|(host, port)| format!("{host}_{port}_"));
    let names = || {
        underscored
            .as_deref()
            .into_iter()
            .chain([name, DEFAULT_FOLDER])
    };
    let folders = config_path.folders().iter();
    let mut folders = folders.flat_map(|root| names().map(|name| root.join(name)));
    folders.find(|folder| folder.is_dir())
}

pub(crate) fn read(path: &Path) -> Result<Option<Vec<u8>>, NextHostError> {
    let fault = |source| NextHostError::Read {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_FILE => Err(NextHostError::Content {
            path: path.to_owned(),
            what: format!("has more than {MAX_FILE} bytes"),
        }),
        Ok(_) => fs::read(path).map(Some).map_err(fault),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error)),
    }
}

/// A host as written in hosts.toml.
struct Address {
    url: RegistryUrl,
    /// The path without a trailing slash.
    path: String,
}

impl Address {
    fn of(registry: &Registry) -> Self {
        let name = match registry.as_str() {
            "docker.io" => "registry-1.docker.io",
            name => name,
        };
        // The name of a registry is also that of its host.
        let registry = name.parse().unwrap_or_else(|_| registry.clone());
        Self {
            url: RegistryUrl {
                scheme: oci::Scheme::Https,
                registry,
            },
            path: String::new(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
        let (host, path) = match rest.split_once('/') {
            Some((host, path)) => (host, format!("/{}", path.trim_end_matches('/'))),
            None => (rest, String::new()),
        };
        Some(Self {
            url: format!("{scheme}://{host}").parse().ok()?,
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

/// Whether a host is asked for manifests, including by tag.
fn is_asked(table: &dyn TableLike) -> bool {
    let Some(capabilities) = table.get("capabilities").and_then(Item::as_array) else {
        return true;
    };
    let has = |name| capabilities.iter().any(|c| is_text(c, name));
    capabilities.is_empty() || has("pull") && has("resolve")
}

/// Whether the value is this text, ignoring case.
fn is_text(value: &toml_edit::Value, text: &str) -> bool {
    value
        .as_str()
        .is_some_and(|given| given.eq_ignore_ascii_case(text))
}

fn host(folder: &Path, address: Address, table: &dyn TableLike) -> NextHost {
    let overrides = table.get("override_path").and_then(Item::as_bool) == Some(true);
    let path = match overrides || address.path.ends_with("/v2") {
        true => address.path,
        false => format!("{}/v2", address.path),
    };
    let file = |name: &str| folder.join(name);
    let texts = |item: Option<&Item>| match item {
        Some(item) => match (item.as_str(), item.as_array()) {
            (Some(one), _) => vec![one.to_owned()],
            (None, Some(list)) => {
                let texts = list.iter().filter_map(toml_edit::Value::as_str);
                texts.map(ToOwned::to_owned).collect()
            }
            (None, None) => Vec::new(),
        },
        None => Vec::new(),
    };
    let client = table.get("client");
    let pair = client
        .and_then(Item::as_array)
        .and_then(|list| list.get(0)?.as_array());
    let identity = match pair {
        Some(pair) => {
            let name = |n| pair.get(n).and_then(toml_edit::Value::as_str);
            let key = name(1).filter(|key| !key.is_empty()).map(file);
            name(0).map(|chain| (file(chain), key))
        }
        None => texts(client).first().map(|chain| (file(chain), None)),
    };
    NextHost {
        url: address.url,
        path,
        authorities: texts(table.get("ca"))
            .iter()
            .map(|name| file(name))
            .collect(),
        identity,
        skip_verify: table.get("skip_verify").and_then(Item::as_bool) == Some(true),
        headers: headers(table),
    }
}

/// The valid headers; containerd does not send invalid ones either.
fn headers(table: &dyn TableLike) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let given = table.get("header").and_then(Item::as_table_like);
    for (name, item) in given.into_iter().flat_map(TableLike::iter) {
        let values = match (item.as_str(), item.as_array()) {
            (Some(one), _) => vec![one],
            (None, Some(list)) => list.iter().filter_map(toml_edit::Value::as_str).collect(),
            (None, None) => Vec::new(),
        };
        for value in values {
            let (Ok(name), Ok(mut value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            else {
                continue;
            };
            value.set_sensitive(true);
            headers.append(name, value);
        }
    }
    headers
}

fn text_of<'a>(table: &'a dyn TableLike, key: &str) -> Option<&'a str> {
    table.get(key)?.as_str()
}

/// The host in a folder without `hosts.toml`: the registry itself, with the certificates of Docker's pattern.
fn by_certificates(folder: &Path, registry: &Registry) -> Option<NextHost> {
    let names = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut names: Vec<_> = names
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    let file = |name: &str| folder.join(name);
    let authorities: Vec<_> = names
        .iter()
        .filter(|n| n.ends_with(".crt"))
        .map(|n| file(n))
        .collect();
    let identity = names.iter().find_map(|name| {
        let key = format!("{}.key", name.strip_suffix(".cert")?);
        let key = names.contains(&key).then(|| file(&key));
        Some((file(name), key))
    });
    let host = NextHost {
        authorities,
        identity,
        ..host(folder, Address::of(registry), &toml_edit::Table::new())
    };
    Some(host).filter(|host| !is_plain(host, registry))
}

/// Whether this is the registry with its default settings.
fn is_plain(host: &NextHost, registry: &Registry) -> bool {
    let address = Address::of(registry);
    let plain = NextHost {
        url: address.url,
        path: "/v2".to_owned(),
        authorities: Vec::new(),
        identity: None,
        skip_verify: false,
        headers: HeaderMap::new(),
    };
    *host == plain
}

#[cfg(test)]
mod tests;
