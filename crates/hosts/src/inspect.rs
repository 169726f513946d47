//! containerd's registry configuration as it stands, for whoever looks for what is wrong with it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use oci::{Registry, RegistryUrl};

use crate::ConfigPath;
use crate::configuration::DEFAULT_FOLDER;
use crate::next_host::{hosts_of, read};
use crate::recognise::{Author, Spegel, author};
use crate::select::registry_of;
use crate::tree::HOSTS;

/// A folder of `config_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedFolder {
    pub path: PathBuf,
    /// Why it cannot be read.
    pub problem: Option<String>,
    pub files: Vec<InspectedFile>,
}

/// A hosts.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedFile {
    pub path: PathBuf,
    /// `None`: it is for all registries without a folder.
    pub registry: Option<Registry>,
    /// Why containerd cannot read it.
    pub problem: Option<String>,
    /// Whether Peili or Spegel wrote it.
    pub by_mirror: bool,
    /// The hosts in containerd's order, and whether each is a mirror of ours.
    pub hosts: Vec<(RegistryUrl, bool)>,
    /// A folder for the same registry that containerd does not read because of this one.
    pub hides: Option<PathBuf>,
}

/// Reads all hosts.toml files, as containerd would. `is_mirror` says of a host whether it is this node's own mirror.
pub fn inspect(
    config_path: &ConfigPath,
    is_mirror: impl Fn(&RegistryUrl) -> bool,
) -> Vec<InspectedFolder> {
    let folders = config_path.folders().iter();
    let inspected = folders.map(|path| {
        let (files, problem) = match files_of(path, &is_mirror) {
            Ok(files) => (files, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        InspectedFolder {
            path: path.clone(),
            problem,
            files,
        }
    });
    inspected.collect()
}

fn files_of(
    root: &Path,
    is_mirror: &impl Fn(&RegistryUrl) -> bool,
) -> std::io::Result<Vec<InspectedFile>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root)? {
        names.push(entry?.file_name());
    }
    names.sort();
    let files = names.iter().filter_map(|name| {
        let is_default = name == DEFAULT_FOLDER;
        // No registry's name begins with an underscore, so others, `_backup` among them, containerd never reads.
        let is_name = !name.as_encoded_bytes().starts_with(b"_");
        let registry = registry_of(name).filter(|_| is_name);
        if registry.is_none() && !is_default {
            return None;
        }
        file_of(root, name, registry, is_mirror)
    });
    Ok(files.collect())
}

fn file_of(
    root: &Path,
    name: &OsStr,
    registry: Option<Registry>,
    is_mirror: &impl Fn(&RegistryUrl) -> bool,
) -> Option<InspectedFile> {
    let path = root.join(name).join(HOSTS);
    let (bytes, mut problem) = match read(&path) {
        Ok(None) => return None,
        Ok(Some(bytes)) => (bytes, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let mut hosts = Vec::new();
    if problem.is_none() {
        match hosts_of(&bytes, is_mirror) {
            Ok(found) => hosts = found,
            Err(what) => problem = Some(what),
        }
    }
    let hidden = registry
        .as_ref()
        .map(|registry| root.join(registry.as_str()));
    let hides = hidden.filter(|hidden| *hidden != root.join(name) && hidden.is_dir());
    Some(InspectedFile {
        path,
        registry,
        problem,
        by_mirror: author(&bytes, Spegel::Roughly) != Author::User,
        hosts,
        hides,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_as_containerd_reads_them() {
        let root = tempfile::tempdir().expect("a folder");
        let ours = "# Written by Peili. x\n[host.'http://10.0.0.9:5000']\ndial_timeout = '200ms'\n[host.'https://b']\n";
        for (folder, text) in [
            ("_default", ours),
            ("a.io", "server = 'x'\n[host.'http://127.0.0.1:5000']\n"),
            ("b.io", "server = "),
            ("10.0.0.1_5000_", "[host.'https://c']\n"),
            ("10.0.0.1:5000", ours),
            ("_backup", ours),
        ] {
            let folder = root.path().join(folder);
            fs::create_dir(&folder).expect("made");
            fs::write(folder.join(HOSTS), text).expect("written");
        }
        fs::create_dir(root.path().join("empty.io")).expect("made");
        let config_path: ConfigPath = root.path().to_owned().into();
        let found = inspect(&config_path, |url| {
            url.to_string() == "http://127.0.0.1:5000"
        });
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].problem, None);
        let shown: Vec<_> = found[0]
            .files
            .iter()
            .map(|file| {
                let hosts: Vec<_> = file.hosts.iter().map(|(_, is_ours)| *is_ours).collect();
                let registry = file.registry.as_ref().map(Registry::as_str);
                (
                    registry,
                    file.problem.is_some(),
                    file.by_mirror,
                    hosts,
                    file.hides.is_some(),
                )
            })
            .collect();
        assert_eq!(
            shown,
            [
                (Some("10.0.0.1:5000"), false, true, vec![true, false], false),
                (Some("10.0.0.1:5000"), false, false, vec![false], true),
                (None, false, true, vec![true, false], false),
                (Some("a.io"), false, false, vec![true], false),
                (Some("b.io"), true, false, vec![], false),
            ]
        );
        let missing: ConfigPath = root.path().join("nowhere").into();
        assert!(inspect(&missing, |_| false)[0].problem.is_some());
    }
}
