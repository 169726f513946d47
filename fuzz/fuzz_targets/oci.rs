//! Names, ranges and manifests, as peers, clients and registries may send them. What is taken comes back unchanged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::{Digest, Manifest, Name, Ranges, Reference, Registry, Repository};

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::parse(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let same = |taken: Option<String>| assert!(taken.is_none_or(|taken| taken == text));
    same(text.parse::<Digest>().ok().map(|x| x.to_string()));
    same(text.parse::<Registry>().ok().map(|x| x.to_string()));
    same(text.parse::<Repository>().ok().map(|x| x.to_string()));
    same(text.parse::<Reference>().ok().map(|x| x.to_string()));
    let _ = text.parse::<Name>();
    if let Ok(Some(ranges)) = Ranges::parse(text)
        && let Ok(resolved) = ranges.resolve(1000)
    {
        assert!(resolved.iter().all(|r| r.start < r.end && r.end <= 1000));
    }
});
