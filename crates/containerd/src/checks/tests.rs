use std::time::{Duration, SystemTime};

use super::*;

fn settings(config_path: Setting<String>, discard: Setting<bool>) -> Settings {
    let reason = || "discard_unpacked_layers = true".to_owned();
    let local_mode = match &discard {
        Setting::Is(discards) => Setting::Is(discards.then(reason)),
        Setting::Unknown(why) => Setting::Unknown(why.clone()),
    };
    Settings {
        config_path,
        discard_unpacked_layers: discard,
        local_mode,
        changed: None,
        broken: None,
        in_vain: None,
    }
}

/// The mirror's hosts.toml files are in these folders.
fn setup<T: AsRef<Path>>(folders: &[T]) -> Setup {
    Setup {
        config_file: "/etc/containerd/config.toml".into(),
        registry_config_paths: folders.iter().map(|path| path.as_ref().into()).collect(),
    }
}

#[test]
fn generations() {
    for (text, generation) in [
        ("1.6.20~ds1", Generation(1, 6)),
        ("v2.1.9", Generation(2, 1)),
        ("2.1.9+unknown", Generation(2, 1)),
        ("2", Generation(2, 0)),
        ("devel", Generation(0, 0)),
        ("", Generation(0, 0)),
        ("99999999999999.1", Generation(0, 1)),
    ] {
        assert_eq!(Generation::of(text), generation, "{text}");
        let shares = generation == Generation(2, 1);
        assert_eq!(generation >= Generation::SHARES_SLOTS, shares, "{text}");
    }
    assert_eq!(
        version("devel", Generation::of("devel")).state,
        State::Unknown
    );
    assert_eq!(version("1.5.9", Generation(1, 5)).state, State::Warning);
}

#[test]
fn a_registry_without_config_path_gets_the_lines_for_its_version() {
    let unset = settings(Setting::Is(String::new()), Setting::Is(false));
    let expected = setup(&["/etc/containerd/certs.d"]);
    for (generation, table) in [
        (
            Generation(1, 7),
            r#"[plugins."io.containerd.grpc.v1.cri".registry]"#,
        ),
        (
            Generation(2, 1),
            r#"[plugins."io.containerd.cri.v1.images".registry]"#,
        ),
    ] {
        let finding = registry_config(&unset, generation, &expected);
        assert_eq!(finding.state, State::Warning);
        let remedy = finding.remedy.expect("lines to write");
        let lines = format!("{table}\n  config_path = \"/etc/containerd/certs.d\"");
        assert!(remedy.contains(&lines), "{remedy}");
    }
}

#[test]
fn what_is_not_known_is_no_warning_and_has_a_way_to_know() {
    let unknown = settings(
        Setting::Unknown("config.toml: cannot be read here".into()),
        Setting::Unknown(String::new()),
    );
    let expected = setup(&["/etc/containerd/certs.d"]);
    let finding = registry_config(&unknown, Generation(2, 1), &expected);
    assert_eq!(finding.state, State::Unknown);
    let text = finding.to_string();
    for part in [
        "cannot be read here",
        "--containerd-config",
        "config_path = ",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_list_of_paths_is_right_if_ours_is_in_it() {
    let list = "/etc/docker/certs.d:/etc/containerd/certs.d";
    let list = settings(Setting::Is(list.into()), Setting::Is(false));
    let state =
        |expected: &[&str]| registry_config(&list, Generation(1, 7), &setup(expected)).state;
    assert_eq!(state(&["/etc/containerd/certs.d"]), State::Ok);
    let both = ["/etc/docker/certs.d", "/etc/containerd/certs.d"];
    assert_eq!(state(&both), State::Ok);
    assert_eq!(state(&["/etc/containerd"]), State::Warning);
    assert_eq!(state(&["/etc/docker/certs.d", "/other"]), State::Warning);
}

#[test]
fn from_2_1_on_a_list_is_read_only_where_layers_are_discarded() {
    let list = "/etc/containerd/certs.d:/etc/docker/certs.d";
    let find = |path: &str, discard: Setting<bool>, generation| {
        let settings = settings(Setting::Is(path.into()), discard);
        let ours = setup(&["/etc/containerd/certs.d"]);
        let finding = registry_config(&settings, generation, &ours);
        let layers = layers(&settings, generation, Path::new("config.toml"), None).remedy;
        (finding.state, layers.unwrap_or_default())
    };
    let unknown = || Setting::Unknown(String::new());
    for (path, discard, generation, state) in [
        (list, Setting::Is(false), Generation(2, 0), State::Ok),
        (list, Setting::Is(false), Generation(2, 1), State::Warning),
        (list, Setting::Is(true), Generation(2, 1), State::Ok),
        (list, unknown(), Generation(2, 4), State::Unknown),
        ("", Setting::Is(true), Generation(2, 3), State::Ok),
        ("", Setting::Is(false), Generation(2, 3), State::Warning),
        ("", Setting::Is(true), Generation(2, 1), State::Warning),
    ] {
        assert_eq!(
            find(path, discard, generation).0,
            state,
            "{path} {generation:?}"
        );
    }
    let remedy = find(list, Setting::Is(true), Generation(2, 3)).1;
    assert!(
        remedy.contains("--retain-for") && !remedy.contains("= false"),
        "{remedy}"
    );
    let remedy = find(
        "/etc/containerd/certs.d",
        Setting::Is(true),
        Generation(2, 3),
    )
    .1;
    assert!(
        remedy.contains("discard_unpacked_layers = false"),
        "{remedy}"
    );
}

#[test]
fn discarded_layers_are_a_warning() {
    let discards = settings(Setting::Is(String::new()), Setting::Is(true));
    let finding = layers(&discards, Generation(1, 6), Path::new("config.toml"), None);
    assert_eq!(finding.state, State::Warning);
    let remedy = finding.remedy.expect("lines to write");
    assert!(remedy.contains(r#"[plugins."io.containerd.grpc.v1.cri".containerd]"#));
    let finding = layers(
        &discards,
        Generation(1, 6),
        Path::new("config.toml"),
        Some(Duration::from_secs(600)),
    );
    assert_eq!(finding.state, State::Ok);
}

#[test]
fn the_pull_mode_is_told_with_its_reason() {
    let told = |discard, generation| {
        let settings = settings(Setting::Is(String::new()), discard);
        pull_mode(&settings, generation).map(|finding| finding.found)
    };
    let told = [
        told(Setting::Is(true), Generation(2, 0)),
        told(Setting::Is(true), Generation(2, 1)),
        told(Setting::Is(false), Generation(2, 1)),
        told(Setting::Unknown(String::new()), Generation(2, 1)),
    ];
    let expected = [
        Some("local, as always before containerd 2.1"),
        Some("local, because of discard_unpacked_layers = true"),
        Some("transfer service"),
        None,
    ];
    assert_eq!(told, expected.map(|text| text.map(ToOwned::to_owned)));
}

#[test]
fn a_configuration_that_is_newer_than_the_socket_is_not_in_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("containerd.sock");
    let state = |changed| {
        let known = settings(Setting::Is(String::new()), Setting::Is(false));
        let settings = Settings { changed, ..known };
        in_force(&settings, &socket).map(|finding| finding.state)
    };
    assert_eq!(state(Some(SystemTime::now())), None);
    std::fs::write(&socket, "").expect("written");
    let started = socket.metadata().and_then(|status| status.modified());
    let started = started.expect("a time");
    assert_eq!(state(None), None);
    assert_eq!(state(Some(started)), Some(State::Ok));
    let later = started + Duration::from_secs(1);
    assert_eq!(state(Some(later)), Some(State::Warning));
    let broken = Settings {
        broken: Some("/etc/containerd/config.toml is not TOML".into()),
        ..settings(Setting::Is(String::new()), Setting::Is(false))
    };
    let finding = in_force(&broken, &folder.path().join("no.sock"));
    assert!(finding.is_some_and(|finding| finding.found.contains("cannot start again")));
}

#[test]
fn cri_runs_or_says_why_not() {
    assert_eq!(cri(Cri::Runs).state, State::Ok);
    assert_eq!(cri(Cri::Failed("mirrors".into())).state, State::Warning);
    let disabled = cri(Cri::Disabled);
    assert_eq!(disabled.state, State::Unknown, "ctr does without it");
    assert!(
        disabled
            .remedy
            .is_some_and(|remedy| remedy.contains("disabled_plugins"))
    );
}

#[test]
fn a_folder_may_have_two_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let (real, link) = (folder.path().join("real"), folder.path().join("link"));
    std::fs::create_dir(&real).expect("made");
    std::os::unix::fs::symlink("real", &link).expect("linked");
    let state = |path: &Path, expected: &Path| {
        let settings = settings(Setting::Is(path.display().to_string()), Setting::Is(false));
        registry_config(&settings, Generation(2, 1), &setup(&[expected])).state
    };
    assert_eq!(state(&link, &real), State::Ok);
    assert_eq!(state(&real.join(""), &real), State::Ok);
    assert_eq!(state(folder.path(), &real), State::Warning);
    let gone = folder.path().join("gone");
    assert_eq!(state(&gone, &gone), State::Ok);
    assert_eq!(
        state(&gone, &folder.path().join("also gone")),
        State::Warning
    );
}

#[test]
fn content_that_is_not_mounted_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(content(folder.path(), None, &[]).state, State::Ok);
    let finding = content(&folder.path().join("not/mounted"), None, &[]);
    assert_eq!(finding.state, State::Warning);
    assert!(finding.to_string().contains("not/mounted"));
}

#[test]
fn content_of_another_containerd_is_told_from_ones_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = |text: &[u8]| Image {
        name: "a.io/b:c".into(),
        target: Digest::sha256(text),
    };
    let (here, gone) = (image(b"here"), image(b"gone"));
    let file = blobs::path(folder.path(), &here.target);
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
    std::fs::write(file, "here").expect("written");
    let state = |images: &[Image]| content(folder.path(), None, images).state;
    assert_eq!(state(&[]), State::Ok, "a containerd without images");
    assert_eq!(state(&[gone.clone(), here]), State::Ok);
    assert_eq!(state(std::slice::from_ref(&gone)), State::Warning);
    let told = content(folder.path(), Some(Path::new("/var/lib/other")), &[gone]).to_string();
    assert!(told.contains("/var/lib/other"), "{told}");
}
