//! containerd's settings and their sources: up to 1.7 the CRI plugin reports them, from 2.0 on only the file has them.

use std::collections::HashMap;
use std::path::Path;
use std::time::SystemTime;

use serde::Deserialize;
use toml_edit::{DocumentMut, Item};

use super::Generation;
use super::files::{Unread, Written};
use crate::client::Client;
use crate::listing::blocking;

/// The tables with the settings of the registry and the layers, in files of version 3, 2 and 1.
const IMAGES: &str = "io.containerd.cri.v1.images";
const CRI: &str = "io.containerd.grpc.v1.cri";
const CRI_OF_VERSION_1: &str = "cri";
/// The default root (containerd, `defaults/defaults_unix.go`).
const DEFAULT_ROOT: &str = "/var/lib/containerd";
/// The default of `config_path` from 2.2 on.
const DEFAULT_CONFIG_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

/// The default of `max_concurrent_downloads`.
const DEFAULT_DOWNLOADS: i64 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting<T> {
    Is(T),
    /// It is unknown. The reason.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The setting `config_path`. Empty: not set.
    pub config_path: Setting<String>,
    pub discard_unpacked_layers: Setting<bool>,
    /// The setting that makes containerd from 2.1 on pull in its local mode. `None`: it pulls with its transfer
    /// service.
    pub local_mode: Setting<Option<String>>,
    /// When the configuration was last written. `None`: that is unknown.
    pub changed: Option<SystemTime>,
    /// Why containerd cannot read its configuration any more.
    pub broken: Option<String>,
    /// The place of `config_path`, if it is not where containerd looks.
    pub in_vain: Option<String>,
}

impl Settings {
    pub async fn find(client: &Client, generation: Generation, file: &Path) -> Self {
        let told = client.cri_info().await.ok();
        if let Some(told) = told.and_then(|info| told_by_cri(&info)) {
            let file = file.to_owned();
            let written = blocking(move || Written::read(&file)).await;
            return match written {
                Ok(Err(Unread::NotToml(why))) => told.broken(why),
                Ok(_) | Err(_) => told,
            };
        }
        let content = client.content_root().await.ok();
        let file = file.to_owned();
        let found = blocking(move || in_file(&file, generation, content.as_deref())).await;
        found.unwrap_or_else(|error| Self::unknown(error.to_string()))
    }

    fn unknown(why: String) -> Self {
        Self {
            config_path: Setting::Unknown(why.clone()),
            discard_unpacked_layers: Setting::Unknown(why.clone()),
            local_mode: Setting::Unknown(why),
            changed: None,
            broken: None,
            in_vain: None,
        }
    }

    fn broken(self, why: String) -> Self {
        Self {
            broken: Some(why),
            ..self
        }
    }
}

#[derive(Deserialize)]
struct Told {
    registry: ToldRegistry,
    containerd: ToldContainerd,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldRegistry {
    #[serde(default)]
    config_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldContainerd {
    #[serde(default)]
    discard_unpacked_layers: bool,
}

/// Reads the `config` in the CRI plugin's verbose status. From 2.0 on it lacks these settings.
fn told_by_cri(info: &HashMap<String, String>) -> Option<Settings> {
    let told: Told = serde_json::from_str(info.get("config")?).ok()?;
    Some(Settings {
        config_path: Setting::Is(told.registry.config_path),
        discard_unpacked_layers: Setting::Is(told.containerd.discard_unpacked_layers),
        // These versions have no other mode.
        local_mode: Setting::Is(None),
        // It reports the settings in force.
        changed: None,
        broken: None,
        in_vain: None,
    })
}

/// The settings in a file and its imports, if they can be read and belong to this containerd. `content`: the folder of
/// its content.
fn in_file(file: &Path, generation: Generation, content: Option<&Path>) -> Settings {
    match Written::read(file) {
        Ok(written) => said(&written, generation, content)
            .unwrap_or_else(|why| Settings::unknown(format!("{}: {why}", file.display()))),
        Err(Unread::Here(why)) => Settings::unknown(why),
        Err(Unread::NotToml(why)) => Settings::unknown(why.clone()).broken(why),
    }
}

/// The settings in a configuration, or why it does not determine them.
fn said(
    written: &Written,
    generation: Generation,
    content: Option<&Path>,
) -> Result<Settings, String> {
    let roots = written.documents.iter().rev();
    let root = roots
        .filter_map(|(_, document)| document.get("root")?.as_str())
        .next();
    // If the root may be set in a file that was not read, there is nothing to compare.
    if root.is_some() || written.unread.is_empty() {
        belongs(Path::new(root.unwrap_or(DEFAULT_ROOT)), content)?;
    }
    let unread = written.unread.join(", ");
    let default = if generation >= Generation(2, 2) {
        DEFAULT_CONFIG_PATH
    } else {
        ""
    };
    let config_path = written.setting(&[&["registry", "config_path"]]);
    let config_path_in_vain = match &config_path {
        Ok(None) => in_vain(written),
        Ok(Some(_)) | Err(_) => None,
    };
    let discard = written.setting(&[
        &["discard_unpacked_layers"],
        &["containerd", "discard_unpacked_layers"],
    ]);
    let table = written.setting(&[&[]]);
    Ok(Settings {
        config_path: match config_path.map(|item| item.and_then(Item::as_str)) {
            Err(why) => Setting::Unknown(why),
            Ok(Some(path)) => Setting::Is(path.to_owned()),
            Ok(None) if !unread.is_empty() => unset("config_path", &unread),
            Ok(None) => Setting::Is(default.to_owned()),
        },
        discard_unpacked_layers: match discard.map(|item| item.and_then(Item::as_bool)) {
            Err(why) => Setting::Unknown(why),
            Ok(Some(discard)) => Setting::Is(discard),
            Ok(None) if !unread.is_empty() => unset("discard_unpacked_layers", &unread),
            Ok(None) => Setting::Is(false),
        },
        local_mode: match table.map(|item| item.and_then(local_mode)) {
            Err(why) => Setting::Unknown(why),
            Ok(None) if !unread.is_empty() => unset("what decides how containerd pulls", &unread),
            Ok(reason) => Setting::Is(reason),
        },
        changed: written.changed,
        broken: None,
        in_vain: config_path_in_vain,
    })
}

impl Written {
    /// A setting of CRI's images, by its possible paths below their table. The last file with the table counts.
    ///
    /// # Errors
    /// An earlier file has the setting, and a later one the table without it: containerd before 2.2 takes the later
    /// table whole.
    fn setting(&self, paths: &[&[&str]]) -> Result<Option<&Item>, String> {
        let tables = self.documents.iter().rev();
        let mut tables = tables.filter_map(|(path, document)| Some((path, images_of(document)?)));
        let below = |table| paths.iter().find_map(|path| at(table, path));
        let Some((last, table)) = tables.next() else {
            return Ok(None);
        };
        if let Some(item) = below(table) {
            return Ok(Some(item));
        }
        match tables.find(|(_, table)| below(table).is_some()) {
            None => Ok(None),
            Some((earlier, _)) => Err(format!(
                "{} and {} both have the table of CRI's images, and the second one may replace the first: write both into one file",
                earlier.display(),
                last.display()
            )),
        }
    }
}

/// The version of a file; 1 if it names none.
fn version_of(document: &DocumentMut) -> i64 {
    let version = document.get("version").and_then(Item::as_integer);
    version.unwrap_or(1)
}

/// The table of CRI's images in a file. containerd 2 takes the name of version 2 in files of version 2 alone (tried
/// with 2.1.9).
fn images_of(document: &DocumentMut) -> Option<&Item> {
    let plugins = document.get("plugins")?;
    let of_version_2 = || plugins.get(CRI).filter(|_| version_of(document) == 2);
    plugins.get(IMAGES).or_else(of_version_2)
}

/// The ineffective place of `config_path`: its table and the version of the file.
fn in_vain(written: &Written) -> Option<String> {
    let mut found = written.documents.iter().filter_map(|(path, document)| {
        let plugins = document.get("plugins")?;
        let is_set = |name: &&&str| {
            let table = plugins.get(name);
            table.is_some_and(|table| at(table, &["registry", "config_path"]).is_some())
        };
        let table = [CRI, CRI_OF_VERSION_1].iter().find(is_set)?;
        let (path, version) = (path.display(), version_of(document));
        Some(format!(
            "in {path} it stands in [plugins.{table:?}.registry], which means nothing in a file of version {version}"
        ))
    });
    found.next()
}

fn at<'a>(table: &'a Item, path: &[&str]) -> Option<&'a Item> {
    path.iter().try_fold(table, |item, key| item.get(key))
}

/// The first setting of CRI's images that the transfer service does not know, and that makes containerd from 2.1 on
/// pull as before (containerd, `internal/cri/config`, `CheckLocalImagePullConfigs`).
fn local_mode(table: &Item) -> Option<String> {
    let at = |path: &[&str]| at(table, path);
    let is = |path: &[&str], value: bool| at(path).and_then(Item::as_bool) == Some(value);
    let flags = [
        (&["use_local_image_pull"][..], true),
        (&["discard_unpacked_layers"], true),
        (&["containerd", "discard_unpacked_layers"], true),
        (&["disable_snapshot_annotations"], false),
        (&["image_pull_with_sync_fs"], true),
    ];
    let flag = flags.iter().find(|(path, value)| is(path, *value));
    if let Some((path, value)) = flag {
        return Some(format!("{} = {value}", path.last()?));
    }
    let old = ["mirrors", "configs", "auths"];
    let has = |name: &&&str| {
        let table = at(&["registry", name]).and_then(Item::as_table_like);
        table.is_some_and(|table| !table.is_empty())
    };
    if let Some(name) = old.iter().find(has) {
        return Some(format!("registry.{name}"));
    }
    let downloads = at(&["max_concurrent_downloads"]).and_then(Item::as_integer);
    downloads
        .filter(|number| *number != DEFAULT_DOWNLOADS)
        .map(|number| format!("max_concurrent_downloads = {number}"))
}

/// Whether a file with this root can be that of the containerd with this content folder: a file of another containerd
/// says nothing about this one.
fn belongs(root: &Path, content: Option<&Path>) -> Result<(), String> {
    match content {
        Some(content) if !content.starts_with(root) => Err(format!(
            "is another containerd's, whose root is {}; this one keeps its content in {}",
            root.display(),
            content.display()
        )),
        _ => Ok(()),
    }
}

fn unset<T>(what: &str, unread: &str) -> Setting<T> {
    Setting::Unknown(format!(
        "{what} may stand in {unread}, which is imported and cannot be read here"
    ))
}

#[cfg(test)]
mod tests;
