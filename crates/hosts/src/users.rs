//! The contents of the folder without any mirror; the rules are in the crate's documentation.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use crate::recognise::{Author, Spegel, author};
use crate::tree::{
    Entries, Entry, HOSTS, Link, Node, Snapshot, hosts_toml, is_empty_folder, is_folder,
};

/// The user's entries, from the live folder and `_backup`.
pub(crate) fn users_own(snapshot: &Snapshot, spegel: Spegel) -> Entries {
    let none = Entries::new();
    let backup = snapshot.backup.as_ref().unwrap_or(&none);
    names(&snapshot.live, backup.keys().map(OsString::as_os_str))
        .into_iter()
        .filter_map(|name| {
            let kept = backup
                .get(name)
                .and_then(|kept| without_hosts_by(kept, Spegel::Never));
            let entry = match snapshot.live.get(name) {
                None => kept,
                Some(live) => users_entry(live, kept, spegel),
            };
            Some((name.to_owned(), entry?))
        })
        .collect()
}

fn users_entry(live: &Entry, kept: Option<Entry>, spegel: Spegel) -> Option<Entry> {
    let author = hosts_toml(live).map_or(Author::User, |file| author(file, spegel));
    let users_hosts = live.contains_key(Path::new(HOSTS)) && author == Author::User;
    if users_hosts || !is_folder(live) {
        return Some(live.clone());
    }
    let Some(kept) = kept else {
        return link_to_mirrors(live).or_else(|| without_hosts_by(live, spegel));
    };
    let Some(rest) = without_hosts_by(live, spegel).filter(|rest| !is_empty_folder(rest)) else {
        return Some(kept);
    };
    match author {
        // Spegel has followed a link when it copied the files beside its own (`--prepend-existing`).
        Author::Spegel if !is_folder(&kept) => Some(kept),
        _ if !is_folder(&kept) => Some(rest),
        Author::Spegel => Some(supplement(kept, rest)),
        Author::User | Author::Peili => Some(overlay(kept, rest)),
    }
}

/// The entry, if its `hosts.toml` is a link: no mirror writes one, so it is the user's, even if it now leads to a
/// mirror's file. As that file is not the user's text, the link counts as unreadable.
fn link_to_mirrors(entry: &Entry) -> Option<Entry> {
    let Some(Node::Link(link)) = entry.get(Path::new(HOSTS)) else {
        return None;
    };
    let link = Link {
        contents: None,
        ..link.clone()
    };
    let mut users = entry.clone();
    users.insert(HOSTS.into(), Node::Link(link));
    Some(users)
}

/// The entry without a `hosts.toml` of a mirror. `None`: it existed only for that.
fn without_hosts_by(entry: &Entry, spegel: Spegel) -> Option<Entry> {
    let mirrors = hosts_toml(entry).is_some_and(|file| author(file, spegel) != Author::User);
    if !mirrors {
        return Some(entry.clone());
    }
    let mut rest = entry.clone();
    rest.remove(Path::new(HOSTS));
    (!is_empty_folder(&rest)).then_some(rest)
}

/// `kept`, with everything that `live` adds or changes. Folders in both keep their permissions.
fn overlay(mut kept: Entry, live: Entry) -> Entry {
    for (path, node) in live {
        let both_folders = matches!(
            (kept.get(&path), &node),
            (Some(Node::Folder(_)), Node::Folder(_))
        );
        if both_folders {
            continue;
        }
        kept.retain(|other, _| *other == path || !other.starts_with(&path));
        kept.insert(path, node);
    }
    kept
}

/// `kept`, with everything that `live` adds. The files that Spegel copied beside its own (`--prepend-existing`) have
/// lost their permissions, and links have become files.
fn supplement(mut kept: Entry, live: Entry) -> Entry {
    for (path, node) in live {
        let folder = path.parent().and_then(|folder| kept.get(folder));
        if !kept.contains_key(&path) && matches!(folder, Some(Node::Folder(_))) {
            kept.insert(path, node);
        }
    }
    kept
}

/// The names in either.
pub(crate) fn names<'a>(
    entries: &'a Entries,
    more: impl Iterator<Item = &'a OsStr>,
) -> BTreeSet<&'a OsStr> {
    entries
        .keys()
        .map(OsString::as_os_str)
        .chain(more)
        .collect()
}
