//! Generates the gRPC clients from the vendored definitions in `proto/`, without a `protoc` on the machine.

use std::error::Error;

/// What is compiled; the rest of `proto/` is imported by these.
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
        // Or else comments become documentation, and the examples in them tests.
        file.source_code_info = None;
    }
    tonic_prost_build::configure()
        .build_transport(false)
        .generate_default_stubs(true)
        // The tests run a containerd of their own.
        .server_mod_attribute(".", "#[cfg(test)]")
        .compile_fds(definitions)?;
    Ok(())
}
