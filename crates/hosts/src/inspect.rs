//! containerd's present registry configuration, for diagnosis.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use oci::{Registry, RegistryUrl};

use crate::ConfigPath;
use crate::configuration::DEFAULT_FOLDER;
use crate::next_host::{ListedHost, hosts_of, read};
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
    /// Folders of registries without a hosts.toml. For these, containerd does not read `_default` either.
    pub empty: Vec<PathBuf>,
    /// Paths that look like containerd's but are never read, or are hidden by another folder of the list, and what
    /// containerd reads instead.
    pub unread: Vec<(PathBuf, String)>,
}

/// A hosts.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedFile {
    pub path: PathBuf,
    /// The registry. `None`: all registries without a folder.
    pub registry: Option<Registry>,
    /// Why containerd cannot read it.
    pub problem: Option<String>,
    /// Whether Peili or Spegel wrote it.
    pub by_mirror: bool,
    /// The hosts in containerd's order, and whether each is a mirror of this cluster.
    pub hosts: Vec<(RegistryUrl, bool)>,
    /// Why containerd gets nothing from the first of these mirrors.
    pub in_vain: Option<String>,
    /// The node secret that the first of these mirrors gets. Must not be shown.
    pub secret: Option<String>,
    /// A folder for the same registry that containerd ignores because of this one.
    pub hides: Option<PathBuf>,
}

/// Reads all hosts.toml files, as containerd would. `is_mirror`: whether a host is this node's own mirror.
pub fn inspect(
    config_path: &ConfigPath,
    is_mirror: impl Fn(&RegistryUrl) -> bool,
) -> Vec<InspectedFolder> {
    let mut seen: Vec<PathBuf> = Vec::new();
    let mut inspected = Vec::new();
    for path in config_path.folders() {
        let mut folder = InspectedFolder {
            path: path.clone(),
            problem: None,
            files: Vec::new(),
            empty: Vec::new(),
            unread: Vec::new(),
        };
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        if seen.contains(&real) {
            continue;
        }
        let looked = folder.look(&seen, &is_mirror);
        folder.problem = looked.err().map(|error| error.to_string());
        seen.push(real);
        inspected.push(folder);
    }
    inspected
}

/// The names of Docker Hub for which containerd does not read its folder.
const NAMES_OF_DOCKER_HUB: [&str; 2] = ["registry-1.docker.io", "index.docker.io"];

impl InspectedFolder {
    /// `earlier`: the folders before this one.
    fn look(
        &mut self,
        earlier: &[PathBuf],
        is_mirror: &impl Fn(&RegistryUrl) -> bool,
    ) -> std::io::Result<()> {
        let root = self.path.clone();
        let mut names = Vec::new();
        for entry in fs::read_dir(&root)? {
            names.push(entry?.file_name());
        }
        names.sort();
        for name in names {
            let (path, is_default) = (root.join(&name), name == DEFAULT_FOLDER);
            // No registry's name begins with an underscore, so containerd never reads other such folders, for example
            // `_backup`.
            let is_name = !name.as_encoded_bytes().starts_with(b"_");
            let registry = registry_of(&name).filter(|_| is_name);
            if let Some(instead) = read_instead(&path) {
                self.unread.push((path, instead));
            } else if path.is_dir() && (registry.is_some() || is_default) {
                if let Some(first) = found_before(earlier, registry.as_ref()) {
                    self.unread.push((path, first.display().to_string()));
                    continue;
                }
                match file_of(&root, &name, registry, is_mirror) {
                    Some(file) => self.files.push(file),
                    None if is_default => {}
                    None => self.empty.push(path),
                }
            }
        }
        Ok(())
    }
}

/// The folder that containerd finds for a registry, or for all others (`None`), in an earlier folder of its list, where
/// its search then ends (containerd, `hostDirFromRoots`).
fn found_before(earlier: &[PathBuf], registry: Option<&Registry>) -> Option<PathBuf> {
    let name = registry.map(Registry::as_str);
    let underscored = name.and_then(|name| name.rsplit_once(':'));
    let underscored = underscored.map(|(host, port)| format!("{host}_{port}_"));
    let names = [underscored.as_deref(), name, Some(DEFAULT_FOLDER)];
    let names = names.into_iter().flatten();
    let mut found = earlier
        .iter()
        .flat_map(|root| names.clone().map(|name| root.join(name)));
    found.find(|path| path.is_dir())
}

/// The path that containerd reads instead of one that it never reads.
fn read_instead(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    if NAMES_OF_DOCKER_HUB.contains(&name) {
        return Some("docker.io".to_owned());
    }
    let registry = name.strip_suffix(".toml").filter(|_| path.is_file())?;
    Some(format!("{registry}/{HOSTS}"))
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
    let mut hosts: Vec<ListedHost> = Vec::new();
    if problem.is_none() {
        match hosts_of(&bytes, (&root.join(name), root), is_mirror) {
            Ok(found) => hosts = found,
            Err(what) => problem = Some(what),
        }
    }
    let hidden = registry
        .as_ref()
        .map(|registry| root.join(registry.as_str()));
    let hides = hidden.filter(|hidden| *hidden != root.join(name) && hidden.is_dir());
    let ours = hosts.iter().find(|host| host.is_ours);
    Some(InspectedFile {
        path,
        in_vain: ours.and_then(|host| host.in_vain.clone()),
        secret: ours.and_then(|host| host.secret.clone()),
        registry,
        problem,
        by_mirror: author(&bytes, Spegel::Roughly) != Author::User,
        hosts: hosts
            .into_iter()
            .map(|host| (host.url, host.is_ours))
            .collect(),
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
        for folder in ["empty.io", "registry-1.docker.io", "_other"] {
            fs::create_dir(root.path().join(folder)).expect("made");
        }
        fs::write(root.path().join("docker.io.toml"), ours).expect("written");
        fs::write(root.path().join("README"), "").expect("written");
        let config_path: ConfigPath = root.path().to_owned().into();
        let found = inspect(&config_path, |url| {
            url.to_string() == "http://127.0.0.1:5000"
        });
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].problem, None);
        assert_eq!(found[0].empty, [root.path().join("empty.io")]);
        let unread = [
            ("docker.io.toml", "docker.io/hosts.toml"),
            ("registry-1.docker.io", "docker.io"),
        ];
        let unread = unread.map(|(name, instead)| (root.path().join(name), instead.to_owned()));
        assert_eq!(found[0].unread, unread);
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

    #[test]
    fn of_a_list_containerd_reads_the_first_folder_that_has_a_registry_or_a_default() {
        let root = tempfile::tempdir().expect("a folder");
        let at = |path: &str| root.path().join(path);
        for folder in [
            "1/a.io",
            "1/b:5000",
            "2/a.io",
            "2/b_5000_",
            "2/_default",
            "2/c.io",
            "3/c.io",
            "3/_default",
        ] {
            fs::create_dir_all(at(folder)).expect("made");
            fs::write(at(folder).join(HOSTS), "server = 'https://x'\n").expect("written");
        }
        std::os::unix::fs::symlink(at("2"), at("same")).expect("linked");
        let list = ["1", "2", "same", "3"].map(|name| at(name).display().to_string());
        let found = inspect(&list.join(":").parse().expect("a list"), |_| false);
        let read: Vec<Vec<PathBuf>> = found
            .iter()
            .map(|folder| folder.files.iter().map(|file| file.path.clone()).collect())
            .collect();
        let hosts = |folders: &[&str]| -> Vec<PathBuf> {
            folders
                .iter()
                .map(|folder| at(folder).join(HOSTS))
                .collect()
        };
        let expected = [
            hosts(&["1/a.io", "1/b:5000"]),
            hosts(&["2/_default", "2/c.io"]),
            hosts(&[]),
        ];
        assert_eq!(read, expected);
        let unread: Vec<_> = found.into_iter().flat_map(|folder| folder.unread).collect();
        let unread: Vec<_> = unread
            .iter()
            .map(|(path, instead)| (path.clone(), PathBuf::from(instead)))
            .collect();
        let hidden = [
            ("2/a.io", "1/a.io"),
            ("2/b_5000_", "1/b:5000"),
            ("3/_default", "2/_default"),
            ("3/c.io", "2/c.io"),
        ];
        assert_eq!(
            unread,
            hidden.map(|(path, instead)| (at(path), at(instead)))
        );
    }

    #[test]
    fn a_mirror_that_is_listed_in_vain_says_why() {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("_default")).expect("made");
        let config_path: ConfigPath = root.path().to_owned().into();
        let look = |text: &str| {
            fs::write(root.path().join("_default").join(HOSTS), text).expect("written");
            inspect(&config_path, |url| url.registry.as_str() == "10.0.0.9:5000")
                .remove(0)
                .files
                .remove(0)
        };
        for (host, lines, is_in_vain) in [
            ("http://10.0.0.9:5000", "", false),
            ("http://10.0.0.9:5000/v2", "", false),
            ("http://10.0.0.9:5000/v2", "override_path = true", false),
            ("http://10.0.0.9:5000", "capabilities = ['pull']", false),
            (
                "http://10.0.0.9:5000",
                "capabilities = ['push', 'resolve']",
                true,
            ),
            ("http://10.0.0.9:5000", "override_path = true", true),
            ("http://10.0.0.9:5000/mirror", "", true),
            ("https://10.0.0.9:5000", "", true),
            ("http://b", "capabilities = ['push']", false),
        ] {
            let file = look(&format!("[host.'{host}']\n{lines}\n"));
            assert_eq!(file.in_vain.is_some(), is_in_vain, "{host} {lines}");
        }
        let header = "[host.'http://10.0.0.9:5000'.header]\nx-peili-NODE-secret = ";
        for value in ["'abc'", "['abc']"] {
            assert_eq!(
                look(&format!("{header}{value}")).secret.as_deref(),
                Some("abc")
            );
        }
    }
}
