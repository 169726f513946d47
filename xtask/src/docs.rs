//! `cargo xtask docs`: the site of the documentation, built with mdbook from `docs/` and the pages of the root.
//!
//! On GitHub the pages link to each other from two folders. The site has them in one, so they are copied there with
//! changed links; links to other files lead to their source.

mod links;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::dist::SOURCE;
use crate::process;
use crate::workspace::Workspace;

/// The pages of the workspace's root.
const ROOT_PAGES: [&str; 5] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
];
/// The files of the site that are not pages.
const FILES: [&str; 3] = ["book.toml", "openapi.json", "SUMMARY.md"];

/// What to do with the site.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for the site [default: book in the target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

/// Builds the site.
pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    if !process::exists("mdbook") {
        bail!("mdbook is not installed; run: cargo install mdbook --locked");
    }
    let folder = workspace.docs();
    let staged = folder.join("pages");
    stage(workspace.root(), &staged)?;
    let out = args.out.clone().unwrap_or_else(|| folder.join("site"));
    let mut build = Command::new("mdbook");
    build.arg("build").arg(&staged).arg("--dest-dir").arg(&out);
    process::run(&mut build)?;
    println!("the site is in {}", out.display());
    Ok(())
}

/// Copies the pages into one folder, with links that are valid there.
fn stage(root: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let copy = |from: &str, to: &str| -> Result<()> {
        let to = folder.join(to);
        fs::create_dir_all(to.parent().unwrap_or(folder))?;
        let text =
            fs::read_to_string(root.join(from)).with_context(|| format!("cannot read {from}"))?;
        let text = match from.ends_with(".md") {
            true => with_code_anchors(&links::rewrite(&text, |link| on_site(from, link))),
            false => text,
        };
        fs::write(&to, text).with_context(|| format!("cannot write {}", to.display()))
    };
    for page in ROOT_PAGES {
        copy(page, name_on_site(page))?;
    }
    for page in pages(root)? {
        copy(&page, page.trim_start_matches("docs/"))?;
    }
    for file in FILES {
        copy(&format!("docs/{file}"), file)?;
    }
    for entry in fs::read_dir(root.join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".svg") {
            copy(&format!("docs/{name}"), &name)?;
        }
    }
    Ok(())
}

/// All pages below docs/, as paths in the workspace, in order, without SUMMARY.md.
fn pages(root: &Path) -> Result<Vec<String>> {
    let mut pages = Vec::new();
    for folder in ["docs", "docs/decisions"] {
        for entry in fs::read_dir(root.join(folder))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".md") && name != "SUMMARY.md" {
                pages.push(format!("{folder}/{name}"));
            }
        }
    }
    pages.sort();
    Ok(pages)
}

/// The site's name of a page of the root. mdbook makes README.md the index.
fn name_on_site(page: &str) -> &str {
    match page {
        "README.md" => "index.md",
        page => page,
    }
}

/// Adds an anchor to each code of the doctor, as in `doctor.html#PEILI-C001`.
fn with_code_anchors(page: &str) -> String {
    let mut changed = String::new();
    for line in page.split_inclusive('\n') {
        let code = line
            .strip_prefix("### ")
            .and_then(|heading| heading.split(' ').next());
        if let Some(code) = code.filter(|code| code.starts_with("PEILI-")) {
            changed.push_str(&format!("<a id=\"{code}\"></a>\n\n"));
        }
        changed.push_str(line);
    }
    changed
}

/// The site's target of a link in the page `from`, relative to that page there.
fn on_site(from: &str, link: &str) -> String {
    let (path, anchor) = match link.split_once('#') {
        Some((path, anchor)) => (path, format!("#{anchor}")),
        None => (link, String::new()),
    };
    if path.is_empty() || path.contains("://") {
        return link.to_owned();
    }
    let target = links::resolve(from, path);
    let depth = from.trim_start_matches("docs/").matches('/').count();
    let up = "../".repeat(depth);
    match target.strip_prefix("docs/") {
        Some("decisions") => format!("{up}decisions.md"),
        Some(page) => format!("{up}{page}{anchor}"),
        None if ROOT_PAGES.contains(&&*target) => {
            format!("{up}{}{anchor}", name_on_site(&target))
        }
        None => format!("{SOURCE}/blob/main/{target}{anchor}"),
    }
}

#[cfg(test)]
mod tests;
