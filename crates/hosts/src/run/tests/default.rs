//! Mirrors all registries, through `_default`, where the user has folders for some of them.

use super::*;
use crate::Warning;

const OURS: &str =
    "[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n";

fn messages(report: &Report) -> Vec<String> {
    report.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn ours_go_in_front_of_what_the_user_has_for_single_hosts() {
    let folder = Folder::with(&[
        (
            "a.io/hosts.toml",
            "# mine\nserver = \"https://a.io\"\n[host.\"https://x\"]\nca = \"x.crt\"\n",
        ),
        ("a.io/x.crt", "certificate"),
        ("b.io_5000_/ca.crt", ""),
        ("c.io/hosts.toml", ""),
        ("notes/x", ""),
        ("README", ""),
        ("_default/hosts.toml", "[host.'https://other']\n"),
    ]);
    fs::create_dir(folder.path.join("empty.io")).expect("made");
    let before = folder.snapshot();
    for prepend in [false, true] {
        let report = match prepend {
            false => folder.configure(&[]),
            true => folder.prepend(&[]),
        };
        assert_eq!((report.written.len(), report.warnings), (6, vec![]));
        assert!(folder.read("a.io/hosts.toml").ends_with(&format!(
            "# mine\nserver = \"https://a.io\"\n\n{OURS}\n[host.\"https://x\"]\nca = \"x.crt\"\n"
        )));
        assert_eq!(folder.read("a.io/x.crt"), "certificate");
        let certificates = folder.read("b.io_5000_/hosts.toml");
        assert!(certificates.ends_with(&format!("cleanup`.\nca = [\"ca.crt\"]\n\n{OURS}")));
        assert!(
            !certificates.contains("server"),
            "containerd knows it from the image's name"
        );
        for plain in ["c.io/hosts.toml", "notes/hosts.toml", "empty.io/hosts.toml"] {
            assert!(
                folder
                    .read(plain)
                    .ends_with(&format!("cleanup`.\n\n{OURS}")),
                "{plain}"
            );
        }
        assert_eq!(
            folder.read("_default/hosts.toml").contains("https://other"),
            prepend,
            "it is not for a single host"
        );
        folder.cleanup();
        assert_eq!(folder.snapshot(), before);
    }
}

#[test]
fn a_registry_that_is_named_as_well_is_ours_alone() {
    let folder = Folder::with(&[
        ("a.io/hosts.toml", "[host.'https://x']\n"),
        ("b.io/hosts.toml", "[host.'https://x']\n"),
        ("c.io/hosts.toml", "broken = "),
    ]);
    let report = folder.configure(&["https://a.io", "https://c.io", "*"]);
    assert!(!folder.read("a.io/hosts.toml").contains("https://x"));
    assert!(folder.read("b.io/hosts.toml").contains("https://x"));
    assert!(folder.read("c.io/hosts.toml").contains("127.0.0.1"));
    assert!(
        matches!(&report.warnings[..], [Warning::Broken(_)]),
        "{report:?}"
    );
    let report = folder.prepend(&["https://c.io", "*"]);
    let failed: Vec<_> = report.failures.iter().map(|f| f.path.clone()).collect();
    assert_eq!(
        failed,
        [folder.path.join("c.io")],
        "asked for and impossible"
    );
    assert!(folder.read("b.io/hosts.toml").contains("127.0.0.1"));
    assert_eq!(report.warnings, [], "it is told once");
}

#[test]
fn what_cannot_be_combined_is_left_and_named() {
    let folder = Folder::with(&[
        ("a.io/hosts.toml", "server = 'x'\n[host"),
        ("b.io/hosts.toml", "x = 1\nhost = { a = {} }"),
        ("c.io/hosts.toml", "[host.'https://x']\n"),
    ]);
    folder.link("d.io", "/etc/elsewhere");
    folder.link("e.io/hosts.toml", "/nowhere/hosts.toml");
    let before = folder.snapshot();
    for prepend in [false, true] {
        let run = || match prepend {
            false => folder.configure(&[]),
            true => folder.prepend(&[]),
        };
        let report = run();
        let expected = [
            "a.io/hosts.toml:2:6: is not TOML",
            "b.io/hosts.toml:2:1: a host is not in a table of its own",
            "d.io/hosts.toml: the folder is a symbolic link to /etc/elsewhere",
            "e.io/hosts.toml: is a symbolic link to /nowhere/hosts.toml",
        ];
        let warned = messages(&report);
        assert_eq!(warned.len(), expected.len(), "{warned:?}");
        for (warning, start) in warned.iter().zip(expected) {
            let path = folder.path.join(start);
            assert!(
                warning.starts_with(path.to_str().expect("text")),
                "{warning}"
            );
            assert!(
                warning.ends_with("this registry is not mirrored"),
                "{warning}"
            );
        }
        let after = folder.snapshot();
        for name in ["a.io", "b.io", "d.io", "e.io"].map(std::ffi::OsStr::new) {
            assert_eq!(after.live.get(name), before.live.get(name), "{name:?}");
        }
        let files = ["_default/hosts.toml", "c.io/hosts.toml"].map(|file| folder.path.join(file));
        assert_eq!(report.written, files);
        let again = run();
        assert_eq!(
            (&again.unchanged[..], messages(&again)),
            (&files[..], warned)
        );
        assert_eq!(folder.snapshot(), after);
        folder.cleanup();
        assert_eq!(folder.snapshot(), before);
    }
}

#[test]
fn what_was_left_is_mirrored_when_it_is_mended() {
    let folder = Folder::with(&[("a.io/hosts.toml", "[host")]);
    assert_eq!(folder.configure(&[]).warnings.len(), 1);
    folder.put("a.io/hosts.toml", "[host.'https://x']\n");
    assert_eq!(folder.configure(&[]).warnings, []);
    assert!(
        folder
            .read("a.io/hosts.toml")
            .ends_with(&format!("{OURS}\n[host.'https://x']\n"))
    );
    folder.cleanup();
    assert_eq!(folder.read("a.io/hosts.toml"), "[host.'https://x']\n");
}

#[test]
fn a_link_to_a_folder_that_is_mirrored_is_mirrored_with_it() {
    let folder = Folder::with(&[
        ("b.io/hosts.toml", "[host.'https://x']\n"),
        ("c.io/ca.crt", ""),
    ]);
    folder.link("a.io", "b.io");
    folder.link("d.io/hosts.toml", "../c.io/hosts.toml");
    folder.link("e.io", "b.io/elsewhere");
    folder.link("f.io/hosts.toml", "../c.io/elsewhere");
    let before = folder.snapshot();
    for _ in 0..2 {
        let report = folder.configure(&[]);
        for name in ["a.io", "d.io"] {
            assert!(
                folder
                    .read(&format!("{name}/hosts.toml"))
                    .contains("127.0.0.1")
            );
        }
        let warned = messages(&report);
        assert_eq!(warned.len(), 2, "{warned:?}");
        assert!(
            warned[0].contains("e.io") && warned[1].contains("f.io"),
            "{warned:?}"
        );
    }
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn what_spegel_had_put_aside_is_in_force_again_behind_ours() {
    let folder = Folder::with(&[
        ("a.io/hosts.toml", "[host.'https://x']\n"),
        ("a.io/x.crt", ""),
    ]);
    let before = folder.snapshot();
    folder.spegel_configures(&["_default"]);
    assert!(!folder.exists("a.io"));
    folder.configure(&[]);
    assert!(
        folder
            .read("a.io/hosts.toml")
            .ends_with(&format!("{OURS}\n[host.'https://x']\n"))
    );
    assert!(folder.exists("a.io/x.crt"));
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}
