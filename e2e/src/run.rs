//! Runs one test, and shows the logs of its programs if it fails.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::lab::Lab;
use crate::site::Site;

/// The number of lines of each log that are shown when a test has failed.
const TAIL: usize = 15;

/// Runs a test, by its name, in a separate lab. Logs are kept in `target/e2e/logs/<name>`.
///
/// # Panics
///
/// If the test fails: with its error, after the ends of the logs have been printed.
pub fn run(name: &str, test: impl AsyncFnOnce(Lab) -> Result<()>) {
    let name = name.replace("::", "/");
    let logs = Site::get().and_then(|site| site.logs(&name));
    let logs = logs.unwrap_or_else(|error| panic!("no place for the lab: {error:#}"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let result = runtime.block_on(async { test(Lab::new(logs.clone()).await?).await });
    if let Err(error) = result {
        print_tails(&logs);
        panic!("{error:#}\nall logs: {}", logs.display());
    }
}

/// An empty folder for the logs of a run of this name.
pub fn logs(name: &str) -> Result<PathBuf> {
    Site::get()?.logs(name)
}

fn print_tails(logs: &Path) {
    let Ok(files) = fs::read_dir(logs) else {
        return;
    };
    let mut files: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    files.sort();
    for file in files {
        let text = fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        println!("--- {}", file.display());
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            println!("{line}");
        }
    }
}
