//! Generates the messages of `proto/flights.proto` and `proto/members.proto`, without a `protoc` on the machine.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let definitions = protox::compile(["flights.proto"], ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(definitions)?;
    Ok(())
}
