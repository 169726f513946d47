//! The two commands on real folders: what they write and what they restore, in any order, interrupted, and mixed with
//! Spegel's.

mod default;
mod faults;
mod folders;
mod lists;
mod prepend;
mod properties;
mod sequences;
mod snapshots;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::scan::scan;
use crate::tree::{BACKUP, HOSTS, Snapshot};

/// A configuration folder for one test.
struct Folder {
    _temporary: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        // In memory if possible: everything is made durable, thousands of times.
        let temporary = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .expect("a folder");
        let path = temporary.path().join("certs.d");
        fs::create_dir(&path).expect("made");
        Self {
            _temporary: temporary,
            path,
        }
    }

    fn with(files: &[(&str, &str)]) -> Self {
        let folder = Self::new();
        for (path, text) in files {
            folder.put(path, text);
        }
        folder
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn link(&self, path: &str, target: impl AsRef<Path>) {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().expect("has one")).expect("made");
        symlink(target, path).expect("linked");
    }

    fn set_mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.path.join(path), fs::Permissions::from_mode(mode)).expect("set");
    }

    fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.path.join(path))
            .expect("there")
            .permissions()
            .mode()
            & 0o7777
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path.join(path)).expect("readable")
    }

    fn exists(&self, path: &str) -> bool {
        self.path.join(path).symlink_metadata().is_ok()
    }

    fn snapshot(&self) -> Snapshot {
        scan(&self.path).expect("readable")
    }

    fn configuration(&self, registries: &[&str]) -> Configuration {
        Configuration {
            path: self.path.clone().into(),
            registries: registries
                .iter()
                .map(|r| r.parse().expect("well-formed"))
                .collect(),
            targets: vec!["http://127.0.0.1:5000".parse().expect("well-formed")],
            resolve_tags: true,
            prepend_existing: false,
            credentials: None,
            node_secret: None,
        }
    }

    fn configure(&self, registries: &[&str]) -> Report {
        configure(&self.configuration(registries)).expect("configured")
    }

    fn prepend(&self, registries: &[&str]) -> Report {
        let configuration = Configuration {
            prepend_existing: true,
            ..self.configuration(registries)
        };
        configure(&configuration).expect("configured")
    }

    fn cleanup(&self) -> Report {
        cleanup(&self.path.clone().into()).expect("cleaned up")
    }

    fn configure_plan(&self, configuration: &Configuration) -> Plan {
        let roots = [Root::read(&self.path, Spegel::Exactly).expect("readable")];
        let targets = configuration.distinct_targets().expect("some");
        let selected = select(configuration, &roots, &mut Vec::new()).expect("sound");
        plan::configure(&roots[0], &selected[0], configuration, &targets)
    }

    fn cleanup_plan(&self) -> Plan {
        plan::cleanup(&Root::read(&self.path, Spegel::Never).expect("readable"))
    }

    fn entries(&self) -> impl Iterator<Item = fs::DirEntry> {
        fs::read_dir(&self.path)
            .expect("readable")
            .map(|entry| entry.expect("readable"))
    }

    /// Does what Spegel's `configuration` does: everything is moved to `_backup` unless there is one, then only its own
    /// files are written.
    fn spegel_configures(&self, registries: &[&str]) {
        let backup = self.path.join(BACKUP);
        if !backup.exists() {
            let all: Vec<_> = self.entries().collect();
            fs::create_dir(&backup).expect("made");
            for entry in all {
                fs::rename(entry.path(), backup.join(entry.file_name())).expect("moved");
            }
        }
        self.spegel_clears();
        for registry in registries {
            let host = spegel_folder(registry);
            let server = match *registry {
                "_default" => String::new(),
                other => format!("server = '{other}'\n\n"),
            };
            let text = "[host.'http://10.0.0.9:30020']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'";
            self.put(&format!("{host}/{HOSTS}"), &format!("{server}{text}"));
        }
    }

    /// The same with `--prepend-existing`: the user's hosts follow, rewritten, and the files beside them are copied,
    /// without their permissions and through links.
    fn spegel_prepends(&self, registries: &[&str]) {
        self.spegel_configures(registries);
        for registry in registries {
            let host = spegel_folder(registry);
            let kept = self.path.join(BACKUP).join(host);
            let file = format!("{host}/{HOSTS}");
            if !fs::read_to_string(kept.join(HOSTS)).is_ok_and(|text| text.contains("[host.")) {
                continue;
            }
            let text = format!("{}\n\n[host.'https://b']\nca = 'ca.crt'", self.read(&file));
            self.put(&file, &text);
            for beside in ["ca.crt", "sub/x", "sub/sub/y"] {
                if let Ok(text) = fs::read_to_string(kept.join(beside)) {
                    self.put(&format!("{host}/{beside}"), &text);
                }
            }
        }
    }

    /// Does what Spegel's clean-up does, which its chart runs on uninstallation.
    fn spegel_cleans_up(&self) {
        let backup = self.path.join(BACKUP);
        if !backup.exists() {
            return;
        }
        self.spegel_clears();
        for entry in fs::read_dir(&backup).expect("readable") {
            let entry = entry.expect("readable");
            fs::rename(entry.path(), self.path.join(entry.file_name())).expect("moved");
        }
        fs::remove_dir(backup).expect("empty");
    }

    fn spegel_clears(&self) {
        for entry in self.entries().filter(|entry| entry.file_name() != BACKUP) {
            match entry.file_type().expect("known").is_dir() {
                true => fs::remove_dir_all(entry.path()).expect("removed"),
                false => fs::remove_file(entry.path()).expect("removed"),
            }
        }
    }
}

fn spegel_folder(registry: &str) -> &str {
    registry.rsplit('/').next().unwrap_or(registry)
}
