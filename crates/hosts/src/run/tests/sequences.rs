//! Peili's commands and Spegel's, one after the other.

use std::os::unix::fs::MetadataExt as _;

use super::*;

/// A possible folder of a user: hosts of several kinds, certificates, links, unusual modes, a stray file.
fn users() -> Folder {
    let folder = Folder::with(&[
        (
            "docker.io/hosts.toml",
            "server = \"https://registry-1.docker.io\"\n[host.\"https://office\"]\n",
        ),
        ("docker.io/office.crt", "certificate"),
        ("docker.io/deep/er/key", "key"),
        ("quay.io/hosts.toml", "# quay\n"),
        ("_default/hosts.toml", "[host.\"https://default\"]"),
        ("README", "mine"),
    ]);
    folder.link("ghcr.io/hosts.toml", "../quay.io/hosts.toml");
    folder.link("linked.io", "quay.io");
    folder.link("dangling", "nowhere");
    fs::create_dir(folder.path.join("empty.io")).expect("made");
    folder.set_mode("docker.io/deep/er/key", 0o600);
    folder.set_mode("docker.io/deep", 0o700);
    folder.set_mode("README", 0o640);
    folder
}

const REGISTRIES: &[&str] = &[
    "https://docker.io",
    "https://ghcr.io",
    "https://new.io",
    "https://linked.io",
    "_default",
];

#[test]
fn configured_and_cleaned_up_is_as_it_was() {
    let folder = users();
    let before = folder.snapshot();
    let modified = |path: &str| {
        fs::metadata(folder.path.join(path))
            .expect("there")
            .modified()
            .expect("known")
    };
    let certificate = modified("docker.io/office.crt");
    let report = folder.configure(REGISTRIES);
    // Those and, because of `_default`, empty.io and quay.io.
    assert_eq!(report.written.len(), 7);
    assert_eq!(
        folder.snapshot().backup.as_ref(),
        Some(&before.live),
        "all of it is kept"
    );
    assert!(
        folder.read("quay.io/hosts.toml").ends_with("# quay\n"),
        "what is not named stays in force"
    );
    assert!(
        !folder.exists("docker.io/office.crt"),
        "what is named is ours alone"
    );
    let report = folder.cleanup();
    assert_eq!(folder.snapshot(), before);
    assert_eq!(modified("docker.io/office.crt"), certificate);
    let names = [
        "_default",
        "docker.io",
        "empty.io",
        "ghcr.io",
        "linked.io",
        "quay.io",
    ];
    assert_eq!(report.restored, names.map(|name| folder.path.join(name)));
    assert_eq!(report.removed, [folder.path.join("new.io")]);
    assert_eq!(
        folder.cleanup(),
        Report::default(),
        "a second time there is nothing to do"
    );
}

#[test]
fn configured_twice_nothing_is_touched() {
    let folder = users();
    folder.configure(REGISTRIES);
    let stamp = |path: &Path| {
        let meta = fs::metadata(path).expect("there");
        (
            meta.ino(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
        )
    };
    let paths = [
        "",
        "_backup",
        "_default",
        "docker.io",
        "docker.io/hosts.toml",
        "_backup/docker.io/hosts.toml",
    ]
    .map(|path| folder.path.join(path));
    let before = paths.each_ref().map(|path| stamp(path));
    let report = folder.configure(REGISTRIES);
    assert_eq!(paths.each_ref().map(|path| stamp(path)), before);
    assert_eq!((report.written.len(), report.unchanged.len()), (0, 7));
}

#[test]
fn after_spegel_the_folder_ends_as_before_spegel() {
    let folder = users();
    let before = folder.snapshot();
    folder.spegel_configures(&["https://docker.io", "https://old.io"]);
    folder.configure(REGISTRIES);
    assert!(
        !folder.exists("_backup/old.io"),
        "Spegel's files are not the user's"
    );
    assert!(!folder.exists("old.io"));
    assert!(
        folder.exists("quay.io/hosts.toml"),
        "what Spegel had put aside is in force again"
    );
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn rights_and_links_that_spegel_lost_come_back() {
    let folder = Folder::with(&[
        (
            "docker.io/hosts.toml",
            "[host.'https://b']\nca = 'ca.crt'\n",
        ),
        ("docker.io/sub/x", "key"),
        ("docker.io/real", "certificate"),
    ]);
    folder.link("docker.io/ca.crt", "real");
    folder.set_mode("docker.io/sub/x", 0o600);
    let before = folder.snapshot();
    folder.spegel_prepends(&["https://docker.io"]);
    assert_eq!(folder.mode("docker.io/sub/x"), 0o644);
    folder.prepend(&["https://docker.io"]);
    assert_eq!(folder.mode("docker.io/sub/x"), 0o600);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn spegels_clean_up_ends_right_after_us() {
    let folder = users();
    let before = folder.snapshot();
    folder.configure(REGISTRIES);
    folder.spegel_cleans_up();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn spegels_hook_that_comes_late_costs_one_run() {
    let folder = users();
    let before = folder.snapshot();
    folder.spegel_configures(&["https://docker.io"]);
    folder.configure(REGISTRIES);
    let ours = folder.snapshot();
    folder.spegel_cleans_up();
    assert_eq!(folder.snapshot(), before);
    assert_eq!(folder.configure(REGISTRIES).written.len(), 7);
    assert_eq!(folder.snapshot(), ours);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn back_to_spegel_and_its_clean_up() {
    let folder = users();
    let before = folder.snapshot();
    folder.configure(REGISTRIES);
    folder.spegel_configures(&["_default"]);
    folder.spegel_cleans_up();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn files_of_a_spegel_that_kept_no_backup_are_not_the_users() {
    let folder = Folder::new();
    folder.spegel_configures(&["https://docker.io"]);
    fs::remove_dir(folder.path.join(BACKUP)).expect("empty");
    folder.configure(&["https://ghcr.io"]);
    assert!(!folder.exists("docker.io"));
    folder.cleanup();
    assert_eq!(folder.snapshot(), Snapshot::default());
}

#[test]
fn a_registry_that_is_no_longer_mirrored_is_the_users_again() {
    let folder = users();
    let before = folder.snapshot();
    folder.configure(REGISTRIES);
    let report = folder.configure(&["https://ghcr.io"]);
    assert_eq!(report.removed, [folder.path.join("new.io")]);
    assert_eq!(
        folder
            .snapshot()
            .live
            .get(std::ffi::OsStr::new("docker.io")),
        before.live.get(std::ffi::OsStr::new("docker.io"))
    );
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn what_the_user_writes_meanwhile_is_kept() {
    let folder = users();
    folder.configure(REGISTRIES);
    folder.put("docker.io/hosts.toml", "# by hand, over ours\n");
    folder.put("quay.io/hosts.toml", "# quay, edited\n");
    folder.put("later.io/hosts.toml", "# later\n");
    folder.put("new.io/new.crt", "beside ours");
    folder.configure(REGISTRIES);
    assert!(
        folder
            .read("docker.io/hosts.toml")
            .starts_with("# Written by Peili")
    );
    folder.cleanup();
    assert_eq!(
        folder.read("docker.io/hosts.toml"),
        "# by hand, over ours\n"
    );
    assert!(
        !folder.exists("docker.io/office.crt"),
        "it was not there when the user wrote anew"
    );
    assert_eq!(folder.read("quay.io/hosts.toml"), "# quay, edited\n");
    assert_eq!(folder.read("later.io/hosts.toml"), "# later\n");
    assert_eq!(folder.read("new.io/new.crt"), "beside ours");
    assert!(!folder.exists("new.io/hosts.toml"));
}

#[test]
fn without_a_backup_only_files_of_ours_go() {
    let folder = Folder::new();
    folder.configure(&["https://docker.io"]);
    fs::remove_dir(folder.path.join(BACKUP)).expect("empty");
    folder.spegel_configures(&[]);
    folder.spegel_cleans_up();
    assert!(
        folder.exists("docker.io/hosts.toml"),
        "moved there and back"
    );
    folder.put(
        "ghcr.io/hosts.toml",
        "[host.'http://a']\ncapabilities = ['pull']\ndial_timeout = '200ms'",
    );
    folder.cleanup();
    assert_eq!(
        folder.entries().map(|e| e.file_name()).collect::<Vec<_>>(),
        ["ghcr.io"]
    );
}

#[test]
fn a_folder_that_is_not_there() {
    let temporary = tempfile::tempdir().expect("a folder");
    let path = temporary.path().join("etc/containerd/certs.d");
    let nothing = cleanup(&path.clone().into()).expect("nothing to do");
    assert_eq!(nothing, Report::default());
    let folder = Folder {
        _temporary: temporary,
        path,
    };
    folder.configure(&[]);
    assert!(folder.exists("_default/hosts.toml"));
    folder.cleanup();
    assert_eq!(folder.entries().count(), 0);
}
