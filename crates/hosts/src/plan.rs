//! What should stand in the configuration folder, decided from a snapshot of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::merge::{self, TextFault};
use crate::recognise::Spegel;
use crate::select::{Selected, UsersHosts, select};
use crate::steps::{Step, Steps, Want, Wanted, unchanged};
use crate::tree::{BACKUP, Entries, Entry, HOSTS, Node, STAGING, Snapshot, hosts_toml};
use crate::users::{names, users_own};
use crate::{Configuration, FileFault, HostsError, Report, Target, Warning, render};

/// Rights of a file of ours that holds a secret, and of one that does not.
const CONFIDENTIAL: u32 = 0o600;
const PUBLIC: u32 = 0o644;

/// What to do, and what will have been done then.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) report: Report,
}

pub(crate) fn configure(
    snapshot: &Snapshot,
    configuration: &Configuration,
) -> Result<Plan, HostsError> {
    let targets = configuration.distinct_targets()?;
    let spegel = if snapshot.backup.is_some() {
        Spegel::Roughly
    } else {
        Spegel::Exactly
    };
    let users = users_own(snapshot, spegel);
    let mut report = Report::default();
    let selected = select(configuration, &users, &mut report.warnings)?;
    let mut wanted: BTreeMap<&OsStr, Wanted> = BTreeMap::new();
    let mut left: BTreeMap<&OsStr, FileFault> = BTreeMap::new();
    let mut faults = Vec::new();
    for selected in &selected {
        let folder = selected.folder.as_os_str();
        match mirrored(configuration, &targets, selected, users.get(folder)) {
            Ok(entry) => {
                wanted.insert(folder, entry);
            }
            Err(fault) if selected.users_hosts == UsersHosts::BehindIfPossible => {
                left.insert(folder, in_file(configuration, folder, fault));
            }
            Err(fault) => faults.push(in_file(configuration, folder, fault)),
        }
    }
    if !faults.is_empty() {
        return Err(HostsError::Files(faults));
    }
    warn(
        configuration,
        &targets,
        &users,
        &wanted,
        left,
        &mut report.warnings,
    );
    for (folder, entry) in &users {
        wanted.entry(folder).or_insert_with(|| unchanged(entry));
    }

    let mut steps = Steps::new(spegel);
    match &snapshot.backup {
        None => steps.make_backup(Path::new(BACKUP), &users),
        Some(backup) => {
            for folder in names(backup, users.keys().map(OsString::as_os_str)) {
                let kept = users.get(folder).map(unchanged);
                let (path, source) = (Path::new(BACKUP).join(folder), Path::new(folder));
                steps.change(&path, source, backup.get(folder), kept.as_ref());
            }
        }
    }
    if snapshot.staging_in_backup {
        steps.discard(&Path::new(BACKUP).join(STAGING));
    }
    change_live(
        &configuration.path,
        snapshot,
        &wanted,
        &mut steps,
        &mut report,
    );
    Ok(Plan {
        steps: steps.finish(snapshot.staging),
        report,
    })
}

pub(crate) fn cleanup(snapshot: &Snapshot, path: &Path) -> Plan {
    let spegel = if snapshot.backup.is_some() {
        Spegel::Roughly
    } else {
        Spegel::Never
    };
    let users = users_own(snapshot, spegel);
    let wanted = users
        .iter()
        .map(|(name, entry)| (name.as_os_str(), unchanged(entry)))
        .collect();
    let mut steps = Steps::new(spegel);
    let mut report = Report::default();
    change_live(path, snapshot, &wanted, &mut steps, &mut report);
    if snapshot.backup.is_some() {
        steps.discard(Path::new(BACKUP));
    }
    Plan {
        steps: steps.finish(snapshot.staging),
        report,
    }
}

fn change_live(
    root: &Path,
    snapshot: &Snapshot,
    wanted: &BTreeMap<&OsStr, Wanted>,
    steps: &mut Steps,
    report: &mut Report,
) {
    for folder in names(&snapshot.live, wanted.keys().copied()) {
        let (current, want) = (snapshot.live.get(folder), wanted.get(folder));
        let steps_before = steps.len();
        steps.change(
            Path::new(folder),
            &Path::new(BACKUP).join(folder),
            current,
            want,
        );
        let changed = steps.len() > steps_before;
        let ours = want.is_some_and(|w| matches!(w.get(Path::new(HOSTS)), Some(Want::Ours { .. })));
        let list = match (ours, changed, want) {
            (true, true, _) => &mut report.written,
            (true, false, _) => &mut report.unchanged,
            (false, true, Some(_)) => &mut report.restored,
            (false, true, None) => &mut report.removed,
            (false, false, _) => continue,
        };
        let path = root.join(folder);
        list.push(if ours { path.join(HOSTS) } else { path });
    }
}

/// A folder with a file of ours in it, and what the user has there if that is kept.
fn mirrored(
    configuration: &Configuration,
    targets: &[&Target],
    selected: &Selected<'_>,
    users: Option<&Entry>,
) -> Result<Wanted, TextFault> {
    let upstream = selected.upstream;
    let keep = selected.users_hosts != UsersHosts::PutAside;
    let plain = |root: &str| render::file(configuration, targets, upstream, root).into_bytes();
    let mode = if configuration.is_confidential() {
        CONFIDENTIAL
    } else {
        PUBLIC
    };
    let folder = users.and_then(|users| users.get(Path::new("")));
    let (mut wanted, bytes, mode) = match (users, folder) {
        (Some(_), Some(Node::Link(link))) if keep => {
            return Err(TextFault {
                position: None,
                message: format!(
                    "the folder is a symbolic link to {}; make it a folder",
                    link.target.display()
                ),
            });
        }
        (Some(users), Some(Node::Folder(_))) if keep => {
            let (file, users_mode) = users_file(users)?;
            let bytes = match file {
                Some(file) => merge::prepend(configuration, targets, upstream, file)?.into_bytes(),
                None => plain(&merge::certificates(&files(users))),
            };
            // What the user keeps from others on the node stays kept from them.
            let mode = if users_mode & 0o004 == 0 {
                CONFIDENTIAL
            } else {
                mode
            };
            (unchanged(users), bytes, mode)
        }
        (_, Some(folder @ Node::Folder(_))) => {
            let wanted = Wanted::from([(PathBuf::new(), Want::Users(folder.clone()))]);
            (wanted, plain(""), mode)
        }
        _ => (
            Wanted::from([(PathBuf::new(), Want::Folder)]),
            plain(""),
            mode,
        ),
    };
    wanted.insert(HOSTS.into(), Want::Ours { bytes, mode });
    Ok(wanted)
}

/// The bytes and mode of the user's `hosts.toml`. containerd treats an empty one as none.
fn users_file(users: &Entry) -> Result<(Option<&[u8]>, u32), TextFault> {
    let (bytes, mode) = match users.get(Path::new(HOSTS)) {
        None | Some(Node::Folder(_)) => return Ok((None, PUBLIC)),
        Some(Node::File { bytes, meta }) => (bytes, meta.mode),
        Some(Node::Link(link)) => {
            let (bytes, mode) = link.contents.as_ref().ok_or_else(|| TextFault {
                position: None,
                message: format!(
                    "is a symbolic link to {}, which cannot be read from here; put the file itself there",
                    link.target.display()
                ),
            })?;
            (bytes, *mode)
        }
    };
    Ok((
        Some(bytes.as_slice()).filter(|bytes| !bytes.is_empty()),
        mode,
    ))
}

/// The names of what lies directly in the folder and is no folder itself.
fn files(users: &Entry) -> impl Iterator<Item = &str> + Clone {
    users.iter().filter_map(|(path, node)| {
        let direct = path.components().count() == 1 && !matches!(node, Node::Folder(_));
        direct.then(|| path.to_str()).flatten()
    })
}

/// What the operator may not expect. `wanted` are the folders with a file of ours, `left` those that were to have one
/// and cannot.
fn warn(
    configuration: &Configuration,
    targets: &[&Target],
    users: &Entries,
    wanted: &BTreeMap<&OsStr, Wanted>,
    mut left: BTreeMap<&OsStr, FileFault>,
    warnings: &mut Vec<Warning>,
) {
    for (name, entry) in users {
        if let Some(fault) = left.remove(name.as_os_str()) {
            if !leads_to_one_of(wanted, entry) {
                warnings.push(Warning::NotMirrored(fault));
            }
        } else if let Some(file) = hosts_toml(entry)
            && let Err(fault) = merge::check(file)
        {
            warnings.push(Warning::Broken(in_file(configuration, name, fault)));
        }
    }
    for target in targets.iter().filter(|target| target.is_ipv6_literal()) {
        warnings.push(Warning::Ipv6Literal {
            target: (*target).clone(),
        });
    }
}

/// Whether this entry, or its `hosts.toml`, is a link to one of these folders beside it, or to the `hosts.toml` there,
/// so that containerd finds the same file.
fn leads_to_one_of(folders: &BTreeMap<&OsStr, Wanted>, entry: &Entry) -> bool {
    let node = |path: &str| entry.get(Path::new(path));
    let folder = match (node(""), node(HOSTS)) {
        (Some(Node::Link(link)), _) => Some(link.target.as_path()),
        (_, Some(Node::Link(link))) => link
            .target
            .strip_prefix("..")
            .ok()
            .filter(|file| file.ends_with(HOSTS))
            .and_then(Path::parent),
        _ => None,
    };
    folder.is_some_and(|folder| folders.contains_key(folder.as_os_str()))
}

fn in_file(configuration: &Configuration, folder: &OsStr, fault: TextFault) -> FileFault {
    FileFault {
        path: configuration.path.join(folder).join(HOSTS),
        position: fault.position,
        message: fault.message,
    }
}
