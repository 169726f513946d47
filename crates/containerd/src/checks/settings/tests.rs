use super::*;

fn is(path: &str, discard: bool) -> Settings {
    let reason = "discard_unpacked_layers = true".to_owned();
    Settings {
        config_path: Setting::Is(path.into()),
        discard_unpacked_layers: Setting::Is(discard),
        local_mode: Setting::Is(discard.then_some(reason)),
        changed: None,
        broken: None,
        in_vain: None,
    }
}

/// The settings in one file.
fn written(text: &str, generation: Generation, content: Option<&Path>) -> Result<Settings, String> {
    let document: DocumentMut = text.parse().map_err(|_| "no TOML".to_owned())?;
    let unread = document.get("imports").and_then(Item::as_array);
    let unread = unread.into_iter().flatten().map(ToString::to_string);
    let written = Written {
        unread: unread.collect(),
        documents: vec![("config.toml".into(), document)],
        changed: None,
    };
    said(&written, generation, content)
}

#[test]
fn cri_tells_up_to_1_7() {
    let info = |config: &str| HashMap::from([("config".to_owned(), config.to_owned())]);
    let told = r#"{"containerd":{"snapshotter":"overlayfs","discardUnpackedLayers":true},
                   "registry":{"configPath":"/etc/containerd/certs.d","mirrors":null}}"#;
    let told = told_by_cri(&info(told)).expect("it tells");
    let expected = Settings {
        local_mode: Setting::Is(None),
        ..is("/etc/containerd/certs.d", true)
    };
    assert_eq!(told, expected);
    let of_2_1 = r#"{"containerd":{"defaultRuntimeName":"runc"},"cni":{}}"#;
    assert_eq!(told_by_cri(&info(of_2_1)), None);
    assert_eq!(told_by_cri(&info("{")), None);
    assert_eq!(told_by_cri(&HashMap::new()), None);
}

#[test]
fn files_of_each_version_are_read() {
    let v3 = r#"
        version = 3
        [plugins."io.containerd.cri.v1.images"]
          discard_unpacked_layers = true
          [plugins."io.containerd.cri.v1.images".registry]
            config_path = "/a"
    "#;
    assert_eq!(written(v3, Generation(2, 1), None), Ok(is("/a", true)));
    let v2 = r#"
        version = 2
        [plugins."io.containerd.grpc.v1.cri"]
          containerd = { discard_unpacked_layers = true }
          registry.config_path = "/b"
    "#;
    assert_eq!(written(v2, Generation(2, 1), None), Ok(is("/b", true)));
    for (version, table) in [
        ("", "cri"),
        ("", CRI),
        ("version = 1", CRI),
        ("version = 2", "cri"),
        ("version = 3", CRI),
    ] {
        let text = format!("{version}\n[plugins.'{table}'.registry]\nconfig_path = '/c'\n");
        let settings = written(&text, Generation(2, 1), None).expect("TOML");
        assert_eq!(settings.config_path, Setting::Is(String::new()), "{text}");
        let told = settings.in_vain.expect("it is told");
        assert!(
            told.contains(&format!("[plugins.{table:?}.registry]")),
            "{told}"
        );
    }
}

#[test]
fn what_the_transfer_service_does_not_know_makes_pulls_local() {
    let mode = |lines: &str| {
        let text = format!("[plugins.'io.containerd.cri.v1.images']\n{lines}");
        written(&text, Generation(2, 1), None)
            .expect("TOML")
            .local_mode
    };
    for (lines, reason) in [
        ("snapshotter = 'overlayfs'", None),
        ("max_concurrent_downloads = 3", None),
        ("use_local_image_pull = false", None),
        ("disable_snapshot_annotations = true", None),
        ("registry.config_path = '/a'", None),
        ("registry.mirrors = {}", None),
        (
            "use_local_image_pull = true",
            Some("use_local_image_pull = true"),
        ),
        (
            "disable_snapshot_annotations = false",
            Some("disable_snapshot_annotations = false"),
        ),
        (
            "image_pull_with_sync_fs = true",
            Some("image_pull_with_sync_fs = true"),
        ),
        (
            "max_concurrent_downloads = 8",
            Some("max_concurrent_downloads = 8"),
        ),
        (
            "registry.mirrors.'docker.io'.endpoint = []",
            Some("registry.mirrors"),
        ),
        (
            "registry.configs.'a.io'.auth = {}",
            Some("registry.configs"),
        ),
    ] {
        let reason = reason.map(ToOwned::to_owned);
        assert_eq!(mode(lines), Setting::Is(reason), "{lines}");
    }
}

#[test]
fn of_two_files_with_the_table_the_later_counts() {
    let document = |lines: &str| {
        let text = format!("version = 3\n[plugins.'io.containerd.cri.v1.images']\n{lines}");
        text.parse::<DocumentMut>().expect("TOML")
    };
    let said_of = |first: &str, second: &str| {
        let written = Written {
            documents: vec![
                ("a".into(), document(first)),
                ("b".into(), document(second)),
            ],
            ..Written::default()
        };
        said(&written, Generation(2, 1), None)
            .expect("settled")
            .config_path
    };
    let (one, two) = ("registry.config_path = '/1'", "registry.config_path = '/2'");
    assert_eq!(said_of(one, two), Setting::Is("/2".into()));
    assert_eq!(said_of("", two), Setting::Is("/2".into()));
    assert_eq!(said_of("", ""), Setting::Is(String::new()));
    let unsure = said_of(one, "snapshotter = 'x'");
    assert!(matches!(unsure, Setting::Unknown(why) if why.contains("a and b")));
}

#[test]
fn what_a_file_leaves_out() {
    assert_eq!(written("", Generation(2, 1), None), Ok(is("", false)));
    let from_2_2 = written("", Generation(2, 2), None);
    assert_eq!(from_2_2, Ok(is(DEFAULT_CONFIG_PATH, false)));
    let imports = written(
        "imports = ['/etc/containerd/conf.d/*.toml']",
        Generation(2, 2),
        None,
    );
    let imports = imports.expect("TOML");
    assert!(matches!(imports.config_path, Setting::Unknown(_)));
    assert!(matches!(
        imports.discard_unpacked_layers,
        Setting::Unknown(_)
    ));
    assert!(written("= x", Generation(2, 2), None).is_err());
    assert_eq!(
        written("plugins = 1\nversion = [3]", Generation(2, 1), None),
        Ok(is("", false))
    );
}

#[test]
fn a_file_that_cannot_be_read_or_is_another_containerds_settles_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.toml");
    let why = |root: &str| {
        let content = Path::new(root).join("io.containerd.content.v1.content");
        match in_file(&file, Generation(2, 1), Some(&content)) {
            Settings {
                config_path: Setting::Unknown(why),
                discard_unpacked_layers: Setting::Unknown(_),
                local_mode: Setting::Unknown(_),
                ..
            } => Some(why),
            _ => None,
        }
    };
    let none = why(DEFAULT_ROOT).expect("there is no file");
    assert!(none.contains("config.toml: cannot be read here"), "{none}");
    std::fs::create_dir(&file).expect("a folder");
    assert!(why(DEFAULT_ROOT).is_some(), "what a mount of nothing makes");
    std::fs::remove_dir(&file).expect("empty");

    let k3s = "/var/lib/rancher/k3s/agent/containerd";
    std::fs::write(&file, "version = 3").expect("written");
    assert_eq!(why(DEFAULT_ROOT), None);
    let other = why(k3s).expect("another root");
    assert!(
        other.contains(k3s) && other.contains(DEFAULT_ROOT),
        "{other}"
    );
    std::fs::write(&file, format!("root = '{k3s}/'")).expect("written");
    assert_eq!(why(k3s), None);
    assert!(why(DEFAULT_ROOT).is_some());
    std::fs::write(&file, "imports = ['x/*.toml']\n[plugins]").expect("written");
    let imports = why(k3s).expect("it may stand in the other file");
    assert!(imports.contains("imported"), "{imports}");
}
