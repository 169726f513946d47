//! Changes an entry from one state to another, in steps that may be interrupted after any of them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::recognise::{Author, Spegel, author};
use crate::tree::{Entry, HOSTS, Meta, Node, STAGING, hosts_toml};
use crate::want::{Want, WantedFiles, unchanged};

/// One change of the configuration folder. Each is atomic or changes only `_peili.tmp`. Paths are relative to the
/// configuration folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The scope of the steps up to the next one of this kind.
    For(StepScope),
    /// Creates an empty `_peili.tmp`, whatever is left in it.
    BeginStaging,
    /// Removes `_peili.tmp`.
    EndStaging,
    MakeFolder {
        path: PathBuf,
        meta: Option<Meta>,
    },
    SetMeta {
        path: PathBuf,
        meta: Meta,
    },
    /// Copies a file or a link with its permissions, owner and times, over any existing file or link.
    Copy {
        from: PathBuf,
        to: PathBuf,
    },
    /// Writes a file of the mirror, over any existing file or link.
    Write {
        path: PathBuf,
        bytes: Vec<u8>,
        mode: u32,
    },
    /// Removes a file or a link.
    Remove {
        path: PathBuf,
    },
    /// Removes an empty folder.
    RemoveFolder {
        path: PathBuf,
    },
    Move {
        from: PathBuf,
        to: PathBuf,
    },
}

/// What happens to the other steps if one fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StepScope {
    /// All later steps are skipped.
    Whole,
    /// The later steps for the same entry of the configuration folder are skipped.
    Entry(OsString),
    /// As `Whole`; and these are skipped themselves if one for an entry has failed.
    Finish,
}

/// Collects steps.
pub(crate) struct Steps {
    steps: Vec<Step>,
    /// When a `hosts.toml` counts as Spegel's.
    spegel: Spegel,
    /// The number of names used in `_peili.tmp`.
    staged: usize,
}

impl Steps {
    pub(crate) fn new(spegel: Spegel) -> Self {
        Self {
            steps: Vec::new(),
            spegel,
            staged: 0,
        }
    }

    /// All steps, or none if there is nothing to change.
    pub(crate) fn finish(self, staging_left: bool) -> Vec<Step> {
        if self.steps.is_empty() && !staging_left {
            return Vec::new();
        }
        let mut steps = vec![Step::BeginStaging];
        steps.extend(self.steps);
        steps.push(Step::EndStaging);
        steps
    }

    /// Collects what `plan` adds for this entry alone. Returns whether it added anything.
    pub(crate) fn for_entry(&mut self, entry: &OsStr, plan: impl FnOnce(&mut Self)) -> bool {
        self.scoped(StepScope::Entry(entry.to_owned()), plan)
    }

    /// Collects what `plan` adds, which is skipped if anything failed before.
    pub(crate) fn finishing(&mut self, plan: impl FnOnce(&mut Self)) {
        self.scoped(StepScope::Finish, plan);
    }

    fn scoped(&mut self, scope: StepScope, plan: impl FnOnce(&mut Self)) -> bool {
        let before = self.steps.len();
        self.steps.push(Step::For(scope));
        plan(self);
        let added = self.steps.len() > before + 1;
        if added {
            self.steps.push(Step::For(StepScope::Whole));
        } else {
            self.steps.truncate(before);
        }
        added
    }

    /// Makes the whole backup at once, without the entries that cannot be read.
    pub(crate) fn make_backup(&mut self, backup: &Path, entries: &crate::tree::Entries) {
        let staged = self.staged_path();
        self.steps.push(Step::MakeFolder {
            path: staged.clone(),
            meta: None,
        });
        for (name, entry) in entries {
            self.for_entry(name, |steps| {
                steps.create(&staged.join(name), Path::new(name), &unchanged(entry));
            });
        }
        self.steps.push(Step::Move {
            from: staged,
            to: backup.to_owned(),
        });
    }

    /// Changes the entry at `path`, which is `current`, to `wanted`. The user's files are copied from `source`.
    pub(crate) fn change(
        &mut self,
        path: &Path,
        source: &Path,
        current: Option<&Entry>,
        wanted: Option<&WantedFiles>,
    ) {
        let root = Path::new("");
        match (current, wanted) {
            (None, None) => {}
            (Some(_), None) => self.discard(path),
            (None, Some(wanted)) => self.create(path, source, wanted),
            (Some(current), Some(wanted)) => {
                let were = matches!(current.get(root), Some(Node::Folder(_)));
                let will_be = wanted.get(root).is_some_and(Want::is_folder);
                let same = current.len() == wanted.len()
                    && wanted
                        .iter()
                        .all(|(p, w)| current.get(p).is_some_and(|n| w.is_met_by(n)));
                if same {
                    return;
                }
                if were && will_be {
                    self.change_inside(path, source, current, wanted);
                } else {
                    self.discard(path);
                    self.create(path, source, wanted);
                }
            }
        }
    }

    /// `hosts.toml` shows the owner of the folder. It changes first if the user's folder becomes the mirror's. It
    /// changes last if the folder becomes the user's, or was a mirror's already, as the files beside it may not be the
    /// user's.
    fn change_inside(&mut self, path: &Path, source: &Path, current: &Entry, wanted: &WantedFiles) {
        let hosts = Path::new(HOSTS);
        let was_users = hosts_toml(current).is_none_or(|f| author(f, self.spegel) == Author::User);
        let becomes_ours = was_users && matches!(wanted.get(hosts), Some(Want::Ours { .. }));
        if becomes_ours {
            self.change_node(path, source, hosts, current, wanted);
        }
        let obsolete = |p: &Path, node: &Node| match wanted.get(p) {
            None => true,
            Some(want) => want.is_folder() != matches!(node, Node::Folder(_)),
        };
        for (inner, node) in current.iter().rev() {
            if inner != hosts && obsolete(inner, node) {
                self.remove(path.join(inner), node);
            }
        }
        for inner in wanted.keys().filter(|inner| *inner != hosts) {
            self.change_node(path, source, inner, current, wanted);
        }
        if !becomes_ours {
            self.change_node(path, source, hosts, current, wanted);
        }
    }

    fn change_node(
        &mut self,
        path: &Path,
        source: &Path,
        inner: &Path,
        current: &Entry,
        wanted: &WantedFiles,
    ) {
        let at = under(path, inner);
        match (current.get(inner), wanted.get(inner)) {
            (None, None) => {}
            (Some(node), None) => self.remove(at, node),
            (Some(node), Some(want)) if want.is_met_by(node) => {}
            (Some(Node::Folder(_)), Some(Want::Users(Node::Folder(meta)))) => {
                self.steps.push(Step::SetMeta {
                    path: at,
                    meta: *meta,
                });
            }
            (_, Some(want)) => self.put(at, under(source, inner), want),
        }
    }

    /// Builds a new entry in the staging folder, then renames it into place.
    fn create(&mut self, path: &Path, source: &Path, wanted: &WantedFiles) {
        let staged = self.staged_path();
        self.build(&staged, source, wanted);
        self.steps.push(Step::Move {
            from: staged,
            to: path.to_owned(),
        });
    }

    fn build(&mut self, path: &Path, source: &Path, wanted: &WantedFiles) {
        for (inner, want) in wanted {
            self.put(under(path, inner), under(source, inner), want);
        }
    }

    fn put(&mut self, path: PathBuf, from: PathBuf, want: &Want) {
        self.steps.push(match want {
            Want::Folder => Step::MakeFolder { path, meta: None },
            Want::Users(Node::Folder(meta)) => Step::MakeFolder {
                path,
                meta: Some(*meta),
            },
            Want::Users(Node::File { .. } | Node::Link(_)) => Step::Copy { from, to: path },
            Want::Ours { bytes, mode } => Step::Write {
                path,
                bytes: bytes.clone(),
                mode: *mode,
            },
        });
    }

    fn remove(&mut self, path: PathBuf, node: &Node) {
        self.steps.push(match node {
            Node::Folder(_) => Step::RemoveFolder { path },
            Node::File { .. } | Node::Link(_) => Step::Remove { path },
        });
    }

    /// Removes an entry with its contents from the configuration at once.
    pub(crate) fn discard(&mut self, path: &Path) {
        let to = self.staged_path();
        self.steps.push(Step::Move {
            from: path.to_owned(),
            to,
        });
    }

    fn staged_path(&mut self) -> PathBuf {
        self.staged += 1;
        Path::new(STAGING).join(self.staged.to_string())
    }
}

/// Like `join`, which would append a slash for the empty path.
fn under(path: &Path, inner: &Path) -> PathBuf {
    if inner.as_os_str().is_empty() {
        path.to_owned()
    } else {
        path.join(inner)
    }
}
