//! Names, ranges and manifests, as peers, clients and registries may send them. What is taken comes back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::{Digest, Manifest, MediaType, Name, Ranges, Reference, Registry, Repository};

fuzz_target!(|bytes: &[u8]| {
    let media_type = MediaType::of_manifest(bytes, None);
    if let Ok(manifest) = Manifest::parse(bytes) {
        assert_eq!(manifest.media_type, media_type);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let same = |taken: Option<String>| assert!(taken.is_none_or(|taken| taken == text));
    same(text.parse::<Digest>().ok().map(|x| x.to_string()));
    same(text.parse::<Registry>().ok().map(|x| x.to_string()));
    same(Registry::with_underscored_port(text).map(|x| {
        let (host, port) = x.as_str().rsplit_once(':').expect("it has a port");
        format!("{host}_{port}")
    }));
    same(text.parse::<Repository>().ok().map(|x| x.to_string()));
    same(text.parse::<Reference>().ok().map(|x| x.to_string()));
    let _ = text.parse::<Name>();
    if let Ok(Some(ranges)) = Ranges::parse(text)
        && let Ok(resolved) = ranges.resolve(1000)
    {
        assert!(resolved.iter().all(|r| r.start < r.end && r.end <= 1000));
    }
});
