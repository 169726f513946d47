//! Keeps the reference in `docs/` in step with the code. `WRITE_DOCS=1 cargo test -p peili docs` writes the generated
//! pages.

mod mentions;
mod metrics;
mod openapi;
mod options;

use std::path::PathBuf;

/// A file of the workspace.
fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares a generated page with the existing one, or writes it.
fn settle(name: &str, wanted: &str) {
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(path(name), wanted).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // The first different line says more than two pages.
    let found = std::fs::read_to_string(path(name)).unwrap_or_default();
    let differs = found.lines().zip(wanted.lines()).find(|(a, b)| a != b);
    assert!(
        found == wanted,
        "{name} is not as the code is: {differs:?}\nWRITE_DOCS=1 cargo test -p peili docs writes it"
    );
}

/// A text in a cell of a table in Markdown.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('\n', " ")
}

/// The pages for users: README, and docs/ without the decisions.
fn pages() -> Vec<(String, String)> {
    let folder = std::fs::read_dir(path("docs")).expect("docs");
    let names = folder.map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    names.push("README.md".to_owned());
    names.sort();
    names
        .into_iter()
        .map(|name| (name.clone(), read(&name)))
        .collect()
}
