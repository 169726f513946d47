//! containerd's settings, from whoever tells them: up to 1.7 the CRI plugin does, from 2.0 on only the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;
use toml_edit::{DocumentMut, Item};

use super::Generation;
use crate::client::Client;
use crate::listing::blocking;

/// Bytes of a configuration file that is read.
const MAX_FILE: u64 = 1 << 20;
/// Where the registry's and the layers' settings stand, in files of version 3 and 2.
const IMAGES: &str = "io.containerd.cri.v1.images";
const CRI: &str = "io.containerd.grpc.v1.cri";
/// containerd, `defaults/defaults_unix.go`.
const DEFAULT_ROOT: &str = "/var/lib/containerd";
/// What `config_path` is from 2.2 on where it is not set.
const DEFAULT_CONFIG_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

/// `max_concurrent_downloads` where it is not set.
const DEFAULT_DOWNLOADS: i64 = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setting<T> {
    Is(T),
    /// Why it is not known.
    Unknown(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Empty: not set.
    pub config_path: Setting<String>,
    pub discard_unpacked_layers: Setting<bool>,
    /// What makes containerd from 2.1 on pull in its local mode; `None`: it pulls with its transfer service.
    pub local_mode: Setting<Option<String>>,
}

impl Settings {
    pub async fn find(client: &Client, generation: Generation, file: &Path) -> Self {
        let told = client.cri_info().await.ok();
        if let Some(settings) = told.and_then(|info| told_by_cri(&info)) {
            return settings;
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

/// The `config` of the CRI plugin's verbose status; from 2.0 on it lacks what is looked for.
fn told_by_cri(info: &HashMap<String, String>) -> Option<Settings> {
    let told: Told = serde_json::from_str(info.get("config")?).ok()?;
    Some(Settings {
        config_path: Setting::Is(told.registry.config_path),
        discard_unpacked_layers: Setting::Is(told.containerd.discard_unpacked_layers),
        // These know no other.
        local_mode: Setting::Is(None),
    })
}

/// What a file says, if it can be read and is this containerd's. `content`: where that one's content lies.
fn in_file(file: &Path, generation: Generation, content: Option<&Path>) -> Settings {
    let text = read(file).map_err(|error| format!("cannot be read here ({error})"));
    let found = text.and_then(|text| written(&text, generation, content));
    found.unwrap_or_else(|why| Settings::unknown(format!("{}: {why}", file.display())))
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

/// What a configuration file says, or why that does not settle it.
fn written(text: &str, generation: Generation, content: Option<&Path>) -> Result<Settings, String> {
    let document: DocumentMut = text
        .parse()
        .map_err(|e: toml_edit::TomlError| format!("is not TOML: {}", e.message()))?;
    let imports = document.get("imports").and_then(Item::as_array);
    let imports = imports.is_some_and(|i| !i.is_empty());
    let root = document.get("root").and_then(Item::as_str);
    // Where the root may stand in a file that is imported, there is nothing to compare.
    if root.is_some() || !imports {
        belongs(Path::new(root.unwrap_or(DEFAULT_ROOT)), content)?;
    }
    let plugins = document.get("plugins");
    let at = |path: &[&str]| {
        path.iter()
            .try_fold(plugins?, |item, key| item.get(key))
            .cloned()
    };
    let first = |paths: [&[&str]; 2]| paths.into_iter().find_map(at);
    let path = first([
        &[IMAGES, "registry", "config_path"],
        &[CRI, "registry", "config_path"],
    ]);
    let discard = first([
        &[IMAGES, "discard_unpacked_layers"],
        &[CRI, "containerd", "discard_unpacked_layers"],
    ]);
    let table = first([&[IMAGES], &[CRI]]);
    let default = if generation >= Generation(2, 2) {
        DEFAULT_CONFIG_PATH
    } else {
        ""
    };
    Ok(Settings {
        config_path: match path.as_ref().and_then(Item::as_str) {
            Some(path) => Setting::Is(path.to_owned()),
            None if imports => unset("config_path"),
            None => Setting::Is(default.to_owned()),
        },
        discard_unpacked_layers: match discard.as_ref().and_then(Item::as_bool) {
            Some(discard) => Setting::Is(discard),
            None if imports => unset("discard_unpacked_layers"),
            None => Setting::Is(false),
        },
        local_mode: match table.as_ref().and_then(local_mode) {
            None if imports => unset("what decides how containerd pulls"),
            reason => Setting::Is(reason),
        },
    })
}

/// The first setting of CRI's images that the transfer service does not know, and for which containerd from 2.1 on pulls
/// as it did before (containerd, `internal/cri/config`, `CheckLocalImagePullConfigs`).
fn local_mode(table: &Item) -> Option<String> {
    let at = |path: &[&str]| path.iter().try_fold(table, |item, key| item.get(key));
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

/// Whether a file with this root can be that of the containerd whose content lies there: one that was started with
/// another file says nothing of this one.
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

fn unset<T>(what: &str) -> Setting<T> {
    Setting::Unknown(format!("{what} may stand in a file that is imported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(path: &str, discard: bool) -> Settings {
        let reason = "discard_unpacked_layers = true".to_owned();
        Settings {
            config_path: Setting::Is(path.into()),
            discard_unpacked_layers: Setting::Is(discard),
            local_mode: Setting::Is(discard.then_some(reason)),
        }
    }

    #[test]
    fn cri_tells_up_to_1_7() {
        let info = |config: &str| HashMap::from([("config".to_owned(), config.to_owned())]);
        let told = r#"{"containerd":{"snapshotter":"overlayfs","discardUnpackedLayers":true},
                       "registry":{"configPath":"/etc/containerd/certs.d","mirrors":null}}"#;
        let told = told_by_cri(&info(told)).expect("it tells");
        let expected = Settings {
            local_mode: Setting::Is(None),
            ..is("/etc/containerd/certs.d", true)
        };
        assert_eq!(told, expected);
        let of_2_1 = r#"{"containerd":{"defaultRuntimeName":"runc"},"cni":{}}"#;
        assert_eq!(told_by_cri(&info(of_2_1)), None);
        assert_eq!(told_by_cri(&info("{")), None);
        assert_eq!(told_by_cri(&HashMap::new()), None);
    }

    #[test]
    fn files_of_both_versions_are_read() {
        let v3 = r#"
            version = 3
            [plugins."io.containerd.cri.v1.images"]
              discard_unpacked_layers = true
              [plugins."io.containerd.cri.v1.images".registry]
                config_path = "/a"
        "#;
        assert_eq!(written(v3, Generation(2, 1), None), Ok(is("/a", true)));
        let v2 = r#"
            version = 2
            [plugins."io.containerd.grpc.v1.cri"]
              containerd = { discard_unpacked_layers = true }
              registry.config_path = "/b"
        "#;
        assert_eq!(written(v2, Generation(2, 1), None), Ok(is("/b", true)));
    }

    #[test]
    fn what_the_transfer_service_does_not_know_makes_pulls_local() {
        let mode = |lines: &str| {
            let text = format!("[plugins.'io.containerd.cri.v1.images']\n{lines}");
            written(&text, Generation(2, 1), None)
                .expect("TOML")
                .local_mode
        };
        for (lines, reason) in [
            ("snapshotter = 'overlayfs'", None),
            ("max_concurrent_downloads = 3", None),
            ("use_local_image_pull = false", None),
            ("disable_snapshot_annotations = true", None),
            ("registry.config_path = '/a'", None),
            ("registry.mirrors = {}", None),
            (
                "use_local_image_pull = true",
                Some("use_local_image_pull = true"),
            ),
            (
                "disable_snapshot_annotations = false",
                Some("disable_snapshot_annotations = false"),
            ),
            (
                "image_pull_with_sync_fs = true",
                Some("image_pull_with_sync_fs = true"),
            ),
            (
                "max_concurrent_downloads = 8",
                Some("max_concurrent_downloads = 8"),
            ),
            (
                "registry.mirrors.'docker.io'.endpoint = []",
                Some("registry.mirrors"),
            ),
            (
                "registry.configs.'a.io'.auth = {}",
                Some("registry.configs"),
            ),
        ] {
            let reason = reason.map(ToOwned::to_owned);
            assert_eq!(mode(lines), Setting::Is(reason), "{lines}");
        }
    }

    #[test]
    fn what_a_file_leaves_out() {
        assert_eq!(written("", Generation(2, 1), None), Ok(is("", false)));
        let from_2_2 = written("", Generation(2, 2), None);
        assert_eq!(from_2_2, Ok(is(DEFAULT_CONFIG_PATH, false)));
        let imports = written(
            "imports = ['/etc/containerd/conf.d/*.toml']",
            Generation(2, 2),
            None,
        );
        let imports = imports.expect("TOML");
        assert!(matches!(imports.config_path, Setting::Unknown(_)));
        assert!(matches!(
            imports.discard_unpacked_layers,
            Setting::Unknown(_)
        ));
        assert!(written("= x", Generation(2, 2), None).is_err());
        assert_eq!(
            written("plugins = 1\nversion = [3]", Generation(2, 1), None),
            Ok(is("", false))
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_or_is_another_containerds_settles_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.toml");
        let why = |root: &str| {
            let content = Path::new(root).join("io.containerd.content.v1.content");
            match in_file(&file, Generation(2, 1), Some(&content)) {
                Settings {
                    config_path: Setting::Unknown(why),
                    discard_unpacked_layers: Setting::Unknown(_),
                    local_mode: Setting::Unknown(_),
                } => Some(why),
                _ => None,
            }
        };
        let none = why(DEFAULT_ROOT).expect("there is no file");
        assert!(none.contains("config.toml: cannot be read here"), "{none}");
        std::fs::create_dir(&file).expect("a folder");
        assert!(why(DEFAULT_ROOT).is_some(), "what a mount of nothing makes");
        std::fs::remove_dir(&file).expect("empty");

        let k3s = "/var/lib/rancher/k3s/agent/containerd";
        std::fs::write(&file, "version = 3").expect("written");
        assert_eq!(why(DEFAULT_ROOT), None);
        let other = why(k3s).expect("another root");
        assert!(
            other.contains(k3s) && other.contains(DEFAULT_ROOT),
            "{other}"
        );
        std::fs::write(&file, format!("root = '{k3s}/'")).expect("written");
        assert_eq!(why(k3s), None);
        assert!(why(DEFAULT_ROOT).is_some());
        std::fs::write(&file, "imports = ['x.toml']\n[plugins]").expect("written");
        let imports = why(k3s).expect("it may stand in the other file");
        assert!(imports.contains("imported"), "{imports}");
    }
}
