//! `cargo xtask fuzz`: runs the fuzz targets, each for a while.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;
use crate::workspace::Workspace;

/// How long, and which.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds for each target
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// The targets, by the names of the files in fuzz/fuzz_targets; all without any
    targets: Vec<String>,
}

/// Runs the targets one after the other, with the committed seeds and what earlier runs found. Needs a nightly compiler
/// and cargo-fuzz.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    let folder = workspace.root().join("fuzz");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder.join("fuzz_targets"))? {
        let path = entry?.path();
        all.extend(
            path.file_stem()
                .map(|name| name.to_string_lossy().into_owned()),
        );
    }
    all.sort();
    let unknown = args.targets.iter().find(|target| !all.contains(target));
    ensure!(
        unknown.is_none(),
        "{unknown:?} is no target; there are {}",
        all.join(", ")
    );
    let chosen = if args.targets.is_empty() {
        all
    } else {
        args.targets.clone()
    };
    for target in chosen {
        println!("\n=== {target}, {} s", args.seconds);
        let found = folder.join("corpus").join(&target);
        std::fs::create_dir_all(&found)?;
        // rustup's own cargo, which selects the compiler.
        let mut fuzz = Command::new("cargo");
        fuzz.current_dir(workspace.root())
            .env_remove("RUSTUP_TOOLCHAIN");
        // Link-time optimisation would remove libFuzzer's coverage data.
        fuzz.env("CARGO_PROFILE_RELEASE_LTO", "false");
        fuzz.args(["+nightly", "fuzz", "run", "--features", "libfuzzer"]);
        fuzz.arg("--fuzz-dir").arg(&folder).arg(&target);
        fuzz.arg(found).arg(folder.join("seeds").join(&target));
        fuzz.args([
            "--",
            &format!("-max_total_time={}", args.seconds),
            "-max_len=8192",
        ]);
        process::run(&mut fuzz).with_context(|| {
            format!("{target}: bytes that make it fail are in fuzz/artifacts/{target}, to be kept as a seed; if there are none, install rustup, a nightly toolchain and cargo-fuzz")
        })?;
    }
    Ok(())
}
