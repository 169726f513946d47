use super::*;
use proptest::prelude::*;

fn descriptor(text: &str) -> String {
    format!(
        r#"{{"mediaType":"x","digest":"{}","size":7}}"#,
        Digest::sha256(text.as_bytes())
    )
}

#[test]
fn an_image_and_its_children() {
    let json = format!(
        r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{},"layers":[{},{}]}}"#,
        descriptor("c"),
        descriptor("l"),
        descriptor("m")
    );
    let manifest = Manifest::parse(json.as_bytes()).expect("a manifest");
    assert_eq!(manifest.media_type.as_str(), DOCKER_MANIFEST);
    let roles: Vec<_> = manifest.children.iter().map(|c| (c.role, c.size)).collect();
    assert_eq!(
        roles,
        [
            (Role::Config, Some(7)),
            (Role::Layer, Some(7)),
            (Role::Layer, Some(7))
        ]
    );
}

#[test]
fn an_index_without_a_media_type() {
    let json = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor("m"));
    let manifest = Manifest::parse(json.as_bytes()).expect("an index");
    assert_eq!(manifest.media_type.as_str(), OCI_INDEX);
    assert_eq!(manifest.children[0].role, Role::Manifest);
}

#[test]
fn anything_else_is_not_one() {
    let config = br#"{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}"#;
    for other in [
        &b""[..],
        b"{}",
        b"[]",
        b"null",
        b"\x1f\x8b\x08",
        config,
        br#"{"config":{},"layers":[]}"#,
        br#"{"layers":[{"digest":"sha256:../../etc"}]}"#,
        br#"{"schemaVersion":1,"config":{}}"#,
        br#"{"apiVersion":"v2","name":"chart","version":"1.0.0"}"#,
        br#"{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"ab"}}]}"#,
        br#"{"descriptor":{"name":"model"},"modelfs":{"type":"layers"},"config":{"precision":"int8"}}"#,
        br#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{}}"#,
    ] {
        assert!(
            Manifest::parse(other).is_err(),
            "{:?}",
            String::from_utf8_lossy(other)
        );
    }
    assert!(matches!(
        Manifest::parse(&vec![b' '; 5 << 20]),
        Err(ManifestError::TooLarge(_))
    ));
}

/// A document as a manifest: its media type, and the sizes of its children.
fn form(json: &str) -> (String, Vec<Option<u64>>) {
    let manifest = Manifest::parse(json.as_bytes()).unwrap_or_else(|e| panic!("{json}: {e}"));
    let of_bytes = MediaType::of_manifest(json.as_bytes(), MediaType::new("a/hint"));
    assert_eq!(manifest.media_type, of_bytes, "{json}");
    let sizes = manifest.children.iter().map(|child| child.size).collect();
    (manifest.media_type.to_string(), sizes)
}

#[test]
fn odd_forms_are_manifests_too() {
    let (c, l, x) = (descriptor("c"), descriptor("l"), descriptor("x"));
    let sized = |size: &str| format!(r#"{{"digest":"{}","size":{size}}}"#, Digest::sha256(b"s"));
    let other = format!(r#"{{"digest":"blake3:{}","size":1}}"#, "ab".repeat(32));
    let sums = |names: &[&str]| {
        let sum = |name: &&str| format!(r#"{{"blobSum":"{}"}}"#, Digest::sha256(name.as_bytes()));
        names.iter().map(sum).collect::<Vec<_>>().join(",")
    };
    let sums = sums(&["top", "middle", "lowest"]);
    let seven = |n| vec![Some(7); n];
    let v2 = r#""schemaVersion":2"#;
    for (json, media_type, sizes) in [
        (format!(r#"{{{v2},"config":{c}}}"#), OCI_MANIFEST, seven(1)),
        (
            format!(r#"{{{v2},"config":{c},"layers":null}}"#),
            OCI_MANIFEST,
            seven(1),
        ),
        (
            format!(r#"{{{v2},"layers":[{l}]}}"#),
            OCI_MANIFEST,
            seven(1),
        ),
        (format!(r#"{{{v2},"layers":null}}"#), OCI_MANIFEST, vec![]),
        (
            format!(r#"{{"mediaType":"","config":{c},"layers":[{l},{l}]}}"#),
            OCI_MANIFEST,
            seven(3),
        ),
        (
            format!(r#"{{"mediaType":null,"config":{c}}}"#),
            OCI_MANIFEST,
            seven(1),
        ),
        (
            format!(r#"{{"mediaType":7,"config":{c}}}"#),
            OCI_MANIFEST,
            seven(1),
        ),
        (
            format!(r#"{{{v2},"config":{other},"layers":[{other},{l}]}}"#),
            OCI_MANIFEST,
            seven(1),
        ),
        (
            format!(r#"{{{v2},"config":{other}}}"#),
            OCI_MANIFEST,
            vec![],
        ),
        (
            format!("\u{feff}{{{v2},\"config\":{c},\"layers\":[{l}]}}"),
            OCI_MANIFEST,
            seven(2),
        ),
        (
            format!(
                r#"{{"layers":[],"layers":[{l}],"config":{x},"config":{c},"mediaType":"a/b","mediaType":"c/d"}}"#
            ),
            "c/d",
            seven(2),
        ),
        (
            format!(
                r#"{{"config":{c},"layers":[{},{},{},{},{}]}}"#,
                sized("-1"),
                sized("250.0"),
                sized("null"),
                sized("\"7\""),
                sized("99999999999999999999")
            ),
            OCI_MANIFEST,
            [seven(1), vec![None; 5]].concat(),
        ),
        (
            format!(
                r#"{{"config":{c},"layers":[null,1,"x",[{l}],{{"digest":5}},{{"digest":{l}}},{l}]}}"#
            ),
            OCI_MANIFEST,
            seven(2),
        ),
        (format!(r#"{{{v2},"manifests":null}}"#), OCI_INDEX, vec![]),
        (format!(r#"{{{v2},"manifests":{{}}}}"#), OCI_INDEX, vec![]),
        (
            format!(r#"{{"manifests":[{x}],"config":{c},"layers":[{l}]}}"#),
            OCI_INDEX,
            seven(3),
        ),
        (
            format!(r#"{{"mediaType":"{OCI_MANIFEST}","layers":[{l}],"manifests":[]}}"#),
            OCI_MANIFEST,
            seven(1),
        ),
        (
            format!(r#"{{"mediaType":"{OCI_ARTIFACT}","artifactType":"a/b","blobs":[{l},{x}]}}"#),
            OCI_ARTIFACT,
            seven(2),
        ),
        (
            format!(r#"{{"mediaType":"{OCI_MANIFEST}"}}"#),
            OCI_MANIFEST,
            vec![],
        ),
        (
            format!(r#"{{"mediaType":"x/y","config":{c},"layers":[]}}"#),
            "x/y",
            seven(1),
        ),
        (
            format!(r#"{{"schemaVersion":1,"fsLayers":[{sums}]}}"#),
            DOCKER_SCHEMA_1,
            vec![None; 3],
        ),
        (
            format!(r#"{{"schemaVersion":1,"fsLayers":[{sums}],"signatures":[]}}"#),
            DOCKER_SCHEMA_1_SIGNED,
            vec![None; 3],
        ),
    ] {
        assert_eq!(form(&json), (media_type.to_owned(), sizes), "{json}");
    }
    let schema_1 = format!(r#"{{"schemaVersion":1,"fsLayers":[{sums}]}}"#);
    let schema_1 = Manifest::parse(schema_1.as_bytes()).expect("a manifest");
    let lowest = &schema_1.children[0].digest;
    assert_eq!(
        *lowest,
        Digest::sha256(b"lowest"),
        "schema 1 has the topmost first"
    );
}

#[test]
fn every_object_has_a_media_type_as_a_manifest() {
    let of = |bytes: &[u8], hint| MediaType::of_manifest(bytes, hint).to_string();
    let hint = || MediaType::new("application/x-sent");
    let deep = "[".repeat(100_000);
    let large = format!(
        r#"{{"manifests":[],"annotations":{{"x":"{}"}}}}"#,
        "y".repeat(5 << 20)
    );
    for bytes in [
        &b""[..],
        b"{}",
        b"\xff",
        b"{",
        deep.as_bytes(),
        large.as_bytes(),
        br#"{"mediaType":"a\nb"}"#,
    ] {
        assert_eq!(of(bytes, None), "application/octet-stream");
        assert_eq!(of(bytes, hint()), "application/x-sent");
    }
    assert_eq!(of(br#"{"mediaType":"a/b"}"#, hint()), "a/b");
    for bad in ["", " ", "a\r\nb", "\u{e9}/x", &"a".repeat(256)] {
        assert_eq!(MediaType::new(bad), None, "{bad:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Manifest::parse(&bytes);
        let _ = MediaType::of_manifest(&bytes, None);
    }

    /// Whatever the values of the parsed fields, a document is a manifest with the media type that it names.
    #[test]
    fn no_field_makes_a_named_manifest_another_thing(
        field in "config|layers|manifests|blobs|fsLayers|schemaVersion|size|signatures",
        value in r#"null|true|-1|2\.5|"x"|\[\]|\[\[\]\]|\{\}|\[\{"digest":1\}\]|\{"digest":\{\}\}"#,
    ) {
        let json = format!(r#"{{"mediaType":"{OCI_INDEX}","{field}":{value}}}"#);
        let manifest = Manifest::parse(json.as_bytes()).expect("a manifest");
        prop_assert_eq!(manifest.media_type.as_str(), OCI_INDEX);
        prop_assert_eq!(manifest.children, []);
    }
}
