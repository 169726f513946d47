//! Generates the client of the CRI's image service, and the messages between mirrors for the forger, without a `protoc`
//! on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let definitions = protox::compile(["image_service.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_server(false)
        .compile_fds(definitions)?;
    println!("cargo::rerun-if-changed=../crates/flights/proto");
    let messages = protox::compile(["flights.proto"], ["../crates/flights/proto"])?;
    tonic_prost_build::configure().compile_fds(messages)?;
    Ok(())
}
