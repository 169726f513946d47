//! An entry that cannot be read or written is reported, and all others are processed.

use std::os::unix::net::UnixListener;

use super::*;
use crate::tree::STAGING;
use crate::{Failure, Warning};

const HUB: &str = "server = 'https://registry-1.docker.io'\n[host.'https://m']\n";

/// The only failure, which must be reported for this entry.
fn only_failure(report: &Report, entry: &Path) -> String {
    let [Failure { path, reason }] = &report.failures[..] else {
        panic!("not one failure: {report:?}")
    };
    assert_eq!(path, entry);
    reason.clone()
}

#[test]
fn an_entry_that_cannot_be_read_is_left_and_the_others_are_written() {
    let deep = format!("docker.io/{}x", "d/".repeat(20));
    for (path, text, word) in [
        ("docker.io/hosts.toml/x", "", "hosts.toml is a folder"),
        (&*deep, "", "16 folders deep"),
        ("docker.io/large", "large", "4 MiB a file"),
        ("docker.io/socket", "socket", "socket is neither"),
    ] {
        let folder = Folder::with(&[("quay.io/hosts.toml", HUB)]);
        let _socket = match text {
            "large" => {
                fs::create_dir(folder.path.join("docker.io")).expect("made");
                let large = fs::File::create(folder.path.join(path)).expect("made");
                large.set_len((4 << 20) + 1).expect("sparse");
                None
            }
            "socket" => {
                fs::create_dir(folder.path.join("docker.io")).expect("made");
                Some(UnixListener::bind(folder.path.join(path)).expect("bound"))
            }
            text => {
                folder.put(path, text);
                None
            }
        };
        for registries in [&[][..], &["https://docker.io", "https://quay.io"]] {
            let report = folder.configure(registries);
            let reason = only_failure(&report, &folder.path.join("docker.io"));
            assert!(reason.contains(word), "{reason}");
            assert!(folder.read("quay.io/hosts.toml").contains("127.0.0.1"));
            assert!(!folder.exists(&format!("{BACKUP}/docker.io")));
            assert!(folder.exists(path) && !folder.exists(STAGING));
            let report = folder.cleanup();
            assert_eq!(report.failures, [], "it was never the mirror's");
            assert_eq!(folder.read("quay.io/hosts.toml"), HUB);
            assert!(folder.exists(path) && !folder.exists(BACKUP));
        }
    }
}

#[test]
fn a_special_file_beside_the_folders_is_a_warning() {
    let folder = Folder::new();
    let path = folder.path.join("socket");
    let _socket = UnixListener::bind(&path).expect("bound");
    let report = folder.configure(&[]);
    assert_eq!(
        (report.warnings, report.failures),
        (vec![Warning::Special { path }], vec![])
    );
    assert!(folder.exists("_default/hosts.toml"));
}

/// A folder that a file cannot be renamed over represents a mount, a full disk or an immutable file: a test may lack
/// the privileges to make these.
#[test]
fn a_step_that_fails_ends_the_steps_of_its_entry_alone() {
    let folder = Folder::with(&[
        ("a.io/hosts.toml", HUB),
        ("b.io/hosts.toml", HUB),
        ("c.io/hosts.toml", HUB),
    ]);
    let before = folder.snapshot();
    let plan = folder.configure_plan(&folder.configuration(&[]));
    // Changed after the folder was read: a file cannot be renamed over it.
    fs::remove_file(folder.path.join("b.io/hosts.toml")).expect("removed");
    folder.put("b.io/hosts.toml/x", "");
    let root = Root::read(&folder.path, Spegel::Exactly).expect("readable");
    let report = carry_out(&root, plan, true).expect("carried out");
    let reason = only_failure(&report, &folder.path.join("b.io"));
    assert!(reason.contains("b.io/hosts.toml: "), "{reason}");
    let written = ["_default", "a.io", "c.io"].map(|name| folder.path.join(name).join(HOSTS));
    assert_eq!(report.written, written);
    for name in ["a.io", "c.io"] {
        assert!(
            folder
                .read(&format!("{name}/hosts.toml"))
                .contains("127.0.0.1")
        );
    }
    assert!(!folder.exists(STAGING));
    fs::remove_dir_all(folder.path.join("b.io/hosts.toml")).expect("removed");
    folder.put("b.io/hosts.toml", HUB);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn what_cannot_be_put_back_is_named_and_kept_in_the_backup() {
    let folder = Folder::with(&[("a.io/hosts.toml", HUB), ("b.io/hosts.toml", HUB)]);
    let before = folder.snapshot();
    folder.configure(&["https://a.io", "https://b.io", "https://new.io"]);
    let plan = folder.cleanup_plan();
    let ours = folder.read("b.io/hosts.toml");
    fs::remove_file(folder.path.join("b.io/hosts.toml")).expect("removed");
    folder.put("b.io/hosts.toml/x", "");
    let root = Root::read(&folder.path, Spegel::Never).expect("readable");
    let report = carry_out(&root, plan, true).expect("carried out");
    only_failure(&report, &folder.path.join("b.io"));
    assert_eq!(folder.read("a.io/hosts.toml"), HUB);
    assert!(!folder.exists("new.io"));
    assert_eq!(folder.read(&format!("{BACKUP}/b.io/hosts.toml")), HUB);
    fs::remove_dir_all(folder.path.join("b.io/hosts.toml")).expect("removed");
    folder.put("b.io/hosts.toml", &ours);
    assert_eq!(folder.cleanup().failures, []);
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_mirrors_entry_that_cannot_be_read_keeps_the_backup() {
    let folder = Folder::with(&[("a.io/hosts.toml", HUB), ("b.io/hosts.toml", HUB)]);
    let before = folder.snapshot();
    folder.configure(&["https://a.io", "https://b.io"]);
    let socket = UnixListener::bind(folder.path.join("b.io/socket")).expect("bound");
    let report = folder.cleanup();
    let reason = only_failure(&report, &folder.path.join("b.io"));
    assert!(reason.contains("socket is neither"), "{reason}");
    assert_eq!(folder.read("a.io/hosts.toml"), HUB);
    assert!(folder.exists(&format!("{BACKUP}/b.io")));
    drop(socket);
    fs::remove_file(folder.path.join("b.io/socket")).expect("removed");
    assert_eq!(folder.cleanup().failures, []);
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_dormant_file_is_left_with_the_way_out() {
    let dormant = "server = 'https://office'\nca = '/nowhere/ca.crt'\n";
    let folder = Folder::with(&[
        ("a.io/hosts.toml", dormant),
        ("b.io/hosts.toml", "server = 'https://b.io'\n"),
    ]);
    let before = folder.snapshot();
    for prepend in [false, true] {
        let report = match prepend {
            false => folder.configure(&[]),
            true => folder.prepend(&["https://a.io", "*"]),
        };
        let [Warning::OtherMeaning(fault)] = &report.warnings[..] else {
            panic!("{report:?}")
        };
        assert_eq!(fault.path, folder.path.join("a.io/hosts.toml"));
        assert_eq!(report.failures, []);
        assert_eq!(folder.read("a.io/hosts.toml"), dormant);
        assert!(folder.read("b.io/hosts.toml").contains("127.0.0.1"));
    }
    // In force because of the user.
    folder.put("a.io/hosts.toml", &format!("{dormant}[host]\n"));
    assert_eq!(folder.configure(&[]).warnings, []);
    assert!(folder.read("a.io/hosts.toml").contains("127.0.0.1"));
    folder.put("a.io/hosts.toml", dormant);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_link_that_leads_to_a_mirrors_file_is_the_users_also_without_a_backup() {
    let folder = Folder::with(&[("quay.io/ca.crt", "certificate")]);
    folder.link("docker.io/hosts.toml", "../quay.io/hosts.toml");
    let before = folder.snapshot();
    let steps = folder
        .configure_plan(&folder.configuration(&["https://quay.io"]))
        .steps;
    apply::run(&folder.path, &steps).expect("carried out");
    // As if it could not be copied there.
    fs::remove_dir_all(folder.path.join(BACKUP).join("docker.io")).expect("removed");
    folder.configure(&["https://quay.io"]);
    assert!(folder.exists(&format!("{BACKUP}/docker.io/hosts.toml")));
    fs::remove_dir_all(folder.path.join(BACKUP).join("docker.io")).expect("removed");
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}
