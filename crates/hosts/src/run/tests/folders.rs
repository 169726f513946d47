//! Other things in the folder.

use super::*;
use crate::Warning;
use crate::tree::STAGING;

#[test]
fn ours_goes_where_containerd_looks_first() {
    let folder = Folder::with(&[
        ("10.0.0.1_5000_/hosts.toml", "[host.'https://x']\n"),
        ("10.0.0.1:5000/hosts.toml", ""),
    ]);
    let before = folder.snapshot();
    let report = folder.configure(&["http://10.0.0.1:5000"]);
    assert!(
        folder
            .read("10.0.0.1_5000_/hosts.toml")
            .starts_with("# Written by Peili")
    );
    assert_eq!(folder.read("10.0.0.1:5000/hosts.toml"), "");
    let registry = "10.0.0.1:5000".parse().expect("well-formed");
    assert_eq!(
        report.warnings,
        [Warning::Underscored {
            registry,
            folder: folder.path.join("10.0.0.1_5000_")
        }]
    );
    assert_eq!(
        folder.configure(&["http://10.0.0.1:5000"]).unchanged.len(),
        1
    );
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_folder_of_ours_that_hides_the_users_default_is_told() {
    let folder = Folder::with(&[
        ("_default/hosts.toml", "[host.'https://office']\n"),
        ("a.io/hosts.toml", "[host.'https://x']\n"),
    ]);
    let hidden = |report: &Report| {
        let default = folder.path.join("_default");
        let registry = "new.io".parse().expect("well-formed");
        report.warnings == [Warning::HidesDefault { registry, default }]
    };
    let registries = ["https://a.io", "https://new.io"];
    assert!(hidden(&folder.configure(&registries)));
    assert!(hidden(&folder.prepend(&registries)), "also in a second run");
    assert!(folder.configure(&["https://a.io", "*"]).warnings.is_empty());
}

#[test]
fn what_a_run_left_behind_is_cleared_away() {
    let folder = Folder::with(&[
        (&format!("{STAGING}/1/x"), "half"),
        ("a.io/hosts.toml", "x = 1"),
    ]);
    folder.cleanup();
    assert!(!folder.exists(STAGING) && folder.exists("a.io/hosts.toml"));
    folder.put(STAGING, "not even a folder");
    folder.configure(&[]);
    assert!(!folder.exists(STAGING));
}

#[test]
fn what_no_configuration_holds_as_a_whole_is_refused_and_left_alone() {
    let folder = Folder::with(&[("_backup", "a file")]);
    let refused = configure(&folder.configuration(&[]))
        .expect_err("a file")
        .to_string();
    assert!(refused.contains("_backup is not a folder"), "{refused}");
    assert!(!folder.exists("_default") && !folder.exists(STAGING));
}

#[test]
fn a_mirrors_name_may_be_taken_by_a_file() {
    let folder = Folder::with(&[("docker.io", "a file")]);
    let before = folder.snapshot();
    folder.prepend(&["https://docker.io"]);
    assert!(folder.exists("docker.io/hosts.toml"));
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn two_runs_at_once_wait_for_each_other() {
    let folder = Folder::with(&[("docker.io/hosts.toml", "x = 1")]);
    let before = folder.snapshot();
    std::thread::scope(|scope| {
        for turn in 0..8 {
            let folder = &folder;
            scope.spawn(move || match turn % 2 {
                0 => drop(folder.configure(&["https://docker.io"])),
                _ => drop(folder.cleanup()),
            });
        }
    });
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}
