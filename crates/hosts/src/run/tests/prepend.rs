//! `--prepend-existing`.

use super::*;

const OFFICE: &str =
    "server = \"https://registry-1.docker.io\"\n\n[host.\"https://office\"]\nca = \"office.crt\"\n";

#[test]
fn the_users_file_and_what_it_refers_to_stay() {
    let folder = Folder::with(&[
        ("docker.io/hosts.toml", OFFICE),
        ("docker.io/office.crt", "certificate"),
        ("docker.io/nested/key", "key"),
    ]);
    let before = folder.snapshot();
    folder.prepend(&["https://docker.io", "https://ghcr.io"]);
    let text = folder.read("docker.io/hosts.toml");
    let ours = "[host.'http://127.0.0.1:5000']\ncapabilities = ['pull', 'resolve']\ndial_timeout = '200ms'\n";
    let (server, office) = OFFICE.split_at(OFFICE.find("\n[host").expect("there"));
    assert!(
        text.ends_with(&format!("{server}\n{ours}{office}")),
        "{text}"
    );
    assert!(folder.exists("docker.io/office.crt") && folder.exists("docker.io/nested/key"));
    let ours = folder.snapshot();
    assert_eq!(
        folder
            .prepend(&["https://docker.io", "https://ghcr.io"])
            .written,
        [] as [PathBuf; 0]
    );
    assert_eq!(folder.snapshot(), ours);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_certificate_renewed_meanwhile_stays_renewed() {
    let folder = Folder::with(&[
        ("docker.io/hosts.toml", OFFICE),
        ("docker.io/office.crt", "old"),
    ]);
    folder.prepend(&["https://docker.io"]);
    folder.put("docker.io/office.crt", "new");
    folder.prepend(&["https://docker.io"]);
    assert_eq!(folder.read("docker.io/office.crt"), "new");
    folder.cleanup();
    assert_eq!(folder.read("docker.io/office.crt"), "new");
    assert_eq!(folder.read("docker.io/hosts.toml"), OFFICE);
}

#[test]
fn certificates_without_hosts_toml_go_on_working() {
    let folder = Folder::with(&[
        ("a.io/up.crt", ""),
        ("a.io/me.cert", ""),
        ("a.io/me.key", ""),
    ]);
    folder.prepend(&["https://a.io"]);
    let text = folder.read("a.io/hosts.toml");
    let settings = "server = 'https://a.io'\nca = [\"up.crt\"]\nclient = [[\"me.cert\", \"me.key\"]]\n\n[host.";
    assert!(text.contains(settings), "{text}");
}

#[test]
fn broken_files_are_all_named_and_left_and_the_others_written() {
    let folder = Folder::with(&[
        ("a.io/hosts.toml", "server = 'x'\n[host"),
        ("b.io/hosts.toml", "host = { a = {} }"),
        ("c.io/hosts.toml", "x = 1"),
    ]);
    folder.link("d.io", "c.io");
    folder.link("e.io/hosts.toml", "/nowhere/hosts.toml");
    let before = folder.snapshot();
    let all = [
        "https://a.io",
        "https://b.io",
        "https://c.io",
        "https://d.io",
        "https://e.io",
        "https://f.io",
    ];
    let report = folder.prepend(&all);
    let failures: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
    assert_eq!(failures.len(), 4, "{failures:?}");
    for (failure, part) in failures.iter().zip([
        "a.io/hosts.toml:2:6: is not TOML",
        "b.io/hosts.toml:1:1: ",
        "d.io/hosts.toml: the folder is a symb",
        "e.io/hosts.toml: is a symb",
    ]) {
        assert!(failure.contains(part), "{part} in {failure}");
        assert!(failure.contains("--prepend-existing"), "{failure}");
    }
    let written = ["c.io/hosts.toml", "f.io/hosts.toml"].map(|file| folder.path.join(file));
    assert_eq!(report.written, written);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
    // A user's file that need not be read is moved aside unchanged.
    let report = folder.configure(&all);
    let warnings: Vec<_> = report.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("a.io/hosts.toml:2:6"), "{warnings:?}");
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_link_out_of_the_folder_is_read_from_where_it_belongs() {
    let folder = Folder::new();
    fs::write(
        folder.path.with_file_name("shared.toml"),
        "[host.'https://shared']\n",
    )
    .expect("written");
    folder.link("a.io/hosts.toml", "../../shared.toml");
    folder.put("b.io/real", "[host.'https://real']\n");
    folder.link("b.io/hosts.toml", "real");
    let before = folder.snapshot();
    for _ in 0..2 {
        folder.prepend(&["https://a.io", "https://b.io"]);
        assert!(
            folder
                .read("a.io/hosts.toml")
                .contains("[host.'https://shared']")
        );
        assert!(
            folder
                .read("b.io/hosts.toml")
                .contains("[host.'https://real']")
        );
    }
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn a_file_that_was_not_for_everybody_still_is_not() {
    let folder = Folder::with(&[(
        "a.io/hosts.toml",
        "[host.'https://x'.header]\nAuthorization = 'Basic eA=='\n",
    )]);
    folder.set_mode("a.io/hosts.toml", 0o600);
    folder.prepend(&["https://a.io"]);
    assert_eq!(folder.mode("a.io/hosts.toml"), 0o600);
}

#[test]
fn a_folder_that_is_a_link_is_one_again_after_spegel_copied_through_it() {
    let folder = Folder::new();
    folder.put(
        "quay.io/hosts.toml",
        "server = 'https://a'\n[host.\"https://b\"]\nca = 'ca.crt'\n",
    );
    folder.put("quay.io/sub/x", "");
    std::os::unix::fs::symlink("quay.io", folder.path.join("docker.io")).expect("linked");
    let before = folder.snapshot();
    folder.spegel_prepends(&["https://docker.io"]);
    assert_ne!(folder.snapshot(), before);
    folder.cleanup();
    assert_eq!(folder.snapshot(), before);
}
