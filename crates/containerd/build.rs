//! Generates the gRPC clients from the vendored definitions in `proto/`, without a `protoc` on the machine.

use std::error::Error;

/// The compiled definitions; they import the rest of `proto/`.
const DEFINITIONS: &[&str] = &[
    "services/content/v1/content.proto",
    "services/events/v1/events.proto",
    "services/images/v1/images.proto",
    "services/introspection/v1/introspection.proto",
    "services/leases/v1/leases.proto",
    "services/version/v1/version.proto",
    "events/content.proto",
    "events/image.proto",
    "cri/runtime.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let mut definitions = protox::compile(DEFINITIONS, ["proto/containerd", "proto"])?;
    for file in &mut definitions.file {
        // Otherwise comments would become documentation, and examples in them tests.
        file.source_code_info = None;
    }
    tonic_prost_build::configure()
        .build_transport(false)
        .generate_default_stubs(true)
        // The tests run a fake containerd.
        .server_mod_attribute(".", "#[cfg(test)]")
        .compile_fds(definitions)?;
    Ok(())
}
