//! The desired contents of the configuration folder, decided from a snapshot of it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::merge;
use crate::mirrored::{Obstacle, mirrored};
use crate::root::Root;
use crate::select::{Selected, UsersHosts};
use crate::steps::{Step, Steps};
use crate::tree::{BACKUP, Entry, HOSTS, Node, STAGING, hosts_toml};
use crate::users::names;
use crate::want::{Want, WantedFiles, unchanged};
use crate::{Configuration, FileFault, Report, Target, Warning};

/// The steps, and the report of what they do.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) report: Report,
}

/// The plan for one configuration folder in which these folders get a mirror's file.
pub(crate) fn configure(
    root: &Root<'_>,
    selected: &[Selected<'_>],
    configuration: &Configuration,
    targets: &[&Target],
) -> Plan {
    let (snapshot, users) = (&root.snapshot, &root.users);
    let mut report = Report::default();
    let mut steps = Steps::new(root.spegel);
    if selected.is_empty() && snapshot.backup.is_none() {
        // A folder of a list without any changes.
        let steps = steps.finish(snapshot.staging);
        return Plan { steps, report };
    }
    let mut wanted = Choice::default();
    for selected in selected {
        wanted.choose(root, selected, configuration, targets, &mut report);
    }
    wanted.warn(root, &mut report);
    let mut wanted = wanted.ours;
    for (folder, entry) in users {
        wanted.entry(folder).or_insert_with(|| unchanged(entry));
    }

    match &snapshot.backup {
        None => steps.make_backup(Path::new(BACKUP), users),
        Some(backup) => {
            for folder in names(backup, users.keys().map(OsString::as_os_str)) {
                let kept = users.get(folder).map(unchanged);
                let (path, source) = (Path::new(BACKUP).join(folder), Path::new(folder));
                steps.for_entry(folder, |steps| {
                    steps.change(&path, source, backup.get(folder), kept.as_ref());
                });
            }
        }
    }
    if snapshot.staging_in_backup {
        steps.discard(&Path::new(BACKUP).join(STAGING));
    }
    change_live(root, &wanted, &mut steps, &mut report);
    Plan {
        steps: steps.finish(snapshot.staging),
        report,
    }
}

/// The plan for removing the mirror from one configuration folder. What cannot be restored stays in `_backup`.
pub(crate) fn cleanup(root: &Root<'_>) -> Plan {
    let snapshot = &root.snapshot;
    let wanted = root
        .users
        .iter()
        .map(|(name, entry)| (name.as_os_str(), unchanged(entry)))
        .collect();
    let mut steps = Steps::new(root.spegel);
    let mut report = Report::default();
    change_live(root, &wanted, &mut steps, &mut report);
    for (name, refused) in snapshot.refused.iter().filter(|(_, r)| !r.is_users) {
        report.fail(&root.path.join(name), &refused.reason);
    }
    if snapshot.backup.is_some() && report.failures.is_empty() {
        steps.finishing(|steps| steps.discard(Path::new(BACKUP)));
    }
    Plan {
        steps: steps.finish(snapshot.staging),
        report,
    }
}

fn change_live(
    root: &Root<'_>,
    wanted: &BTreeMap<&OsStr, WantedFiles>,
    steps: &mut Steps,
    report: &mut Report,
) {
    let live = &root.snapshot.live;
    for folder in names(live, wanted.keys().copied()) {
        let (current, want) = (live.get(folder), wanted.get(folder));
        let source = Path::new(BACKUP).join(folder);
        let changed = steps.for_entry(folder, |steps| {
            steps.change(Path::new(folder), &source, current, want);
        });
        let ours = want.is_some_and(|w| matches!(w.get(Path::new(HOSTS)), Some(Want::Ours { .. })));
        let list = match (ours, changed, want) {
            (true, true, _) => &mut report.written,
            (true, false, _) => &mut report.unchanged,
            (false, true, Some(_)) => &mut report.restored,
            (false, true, None) => &mut report.removed,
            (false, false, _) => continue,
        };
        let path = root.path.join(folder);
        list.push(if ours { path.join(HOSTS) } else { path });
    }
}

/// The folders with a mirror's file, and those that were to have one.
#[derive(Default)]
struct Choice<'a> {
    ours: BTreeMap<&'a OsStr, WantedFiles>,
    /// The folders that cannot be combined with the mirror's hosts.
    left: BTreeMap<&'a OsStr, FileFault>,
}

impl<'a> Choice<'a> {
    fn choose(
        &mut self,
        root: &Root<'_>,
        selected: &'a Selected<'_>,
        configuration: &Configuration,
        targets: &[&Target],
        report: &mut Report,
    ) {
        let folder = selected.folder.as_os_str();
        if let Some(refused) = root.snapshot.refused.get(folder) {
            report.fail(&root.path.join(folder), &refused.reason);
            return;
        }
        match mirrored(configuration, targets, selected, root.users.get(folder)) {
            Ok(entry) => {
                self.ours.insert(folder, entry);
            }
            Err(Obstacle::Meaning(fault)) => {
                let fault = root.in_file(folder, fault);
                report.warnings.push(Warning::OtherMeaning(fault));
            }
            Err(Obstacle::Text(fault)) if selected.users_hosts == UsersHosts::BehindIfPossible => {
                self.left.insert(folder, root.in_file(folder, fault));
            }
            Err(Obstacle::Text(fault)) => {
                let fault = root.in_file(folder, fault);
                let way_out = "correct it, or leave --prepend-existing out; it was left as it is";
                report.fail(&root.path.join(folder), format!("{fault}; {way_out}"));
            }
        }
    }

    /// Warns of what the operator may not expect.
    fn warn(&mut self, root: &Root<'_>, report: &mut Report) {
        for (name, entry) in &root.users {
            if let Some(fault) = self.left.remove(name.as_os_str()) {
                if !leads_to_one_of(&self.ours, entry) {
                    report.warnings.push(Warning::NotMirrored(fault));
                }
            } else if let Some(file) = hosts_toml(entry)
                && let Err(fault) = merge::check(file)
            {
                let fault = root.in_file(name, fault);
                let is_told = report
                    .failures
                    .iter()
                    .any(|failure| fault.path.starts_with(&failure.path));
                if !is_told {
                    report.warnings.push(Warning::Broken(fault));
                }
            }
        }
        for (name, _) in root.snapshot.refused.iter().filter(|(_, r)| !r.is_folder) {
            let path = root.path.join(name);
            if !report.failures.iter().any(|failure| failure.path == path) {
                report.warnings.push(Warning::Special { path });
            }
        }
    }
}
/// Whether this entry, or its `hosts.toml`, is a link to one of these folders beside it, or to the `hosts.toml` there,
/// so that containerd finds the same file.
fn leads_to_one_of(folders: &BTreeMap<&OsStr, WantedFiles>, entry: &Entry) -> bool {
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
