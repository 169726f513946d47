//! The site has every page, and every link is valid, in the repository and on the site.

use std::cell::RefCell;
use std::path::Path;

use super::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(root: &Path, page: &str) -> String {
    fs::read_to_string(root.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}

fn links(page: &str) -> Vec<String> {
    let found = RefCell::new(Vec::new());
    links::rewrite(page, |link| {
        found.borrow_mut().push(link.to_owned());
        link.to_owned()
    });
    found.into_inner()
}

/// Fails unless each link within the folder leads to a file, and to an existing heading if it has one.
fn check(root: &Path, page: &str) {
    for link in links(&read(root, page)) {
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        if path.contains("://") {
            continue;
        }
        let target = match path {
            "" => page.to_owned(),
            path => links::resolve(page, path),
        };
        assert!(root.join(&target).exists(), "{page}: {link} leads nowhere");
        if !anchor.is_empty() {
            let anchors = links::anchors(&read(root, &target));
            assert!(
                anchors.iter().any(|known| known == anchor),
                "{page}: {target} has no heading #{anchor}"
            );
        }
    }
}

#[test]
fn the_summary_names_every_page() {
    let summary = read(&root(), "docs/SUMMARY.md");
    let named: Vec<_> = links(&summary)
        .iter()
        .map(|link| links::resolve("docs/SUMMARY.md", link))
        .collect();
    let root_pages = ROOT_PAGES.iter().map(|page| (*page).to_owned());
    for page in pages(&root()).expect("pages").into_iter().chain(root_pages) {
        let count = named.iter().filter(|named| **named == page).count();
        assert_eq!(count, 1, "{page} is in docs/SUMMARY.md {count} times");
    }
}

#[test]
fn every_link_resolves_in_the_repository() {
    let root = root();
    for page in pages(&root).expect("pages") {
        check(&root, &page);
    }
    for page in ROOT_PAGES.iter().chain(&["docs/SUMMARY.md"]) {
        check(&root, page);
    }
}

#[test]
fn every_link_resolves_on_the_site() {
    let folder = tempfile::tempdir().expect("a folder");
    let site = folder.path().join("pages");
    stage(&root(), &site).expect("staged");
    for page in pages(&root()).expect("pages") {
        check(&site, page.trim_start_matches("docs/"));
    }
    for page in ROOT_PAGES.iter().chain(&["SUMMARY.md"]) {
        check(&site, name_on_site(page));
    }
    let doctor = read(&site, "doctor.md");
    let codes = doctor.matches("### PEILI-").count();
    assert!(codes > 0 && doctor.matches("<a id=\"PEILI-").count() == codes);
}

#[test]
fn pictures_ask_nobody_for_anything() {
    let folder = root().join("docs");
    for entry in fs::read_dir(&folder).expect("docs") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "svg") {
            let picture = fs::read_to_string(&path).expect("text");
            let picture = picture.replace("http://www.w3.org/2000/svg", "");
            for outside in ["http", "href", "<script", "@import"] {
                assert!(!picture.contains(outside), "{}: {outside}", path.display());
            }
        }
    }
}

/// The paths of all files in a folder, with `/` as the separator.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(format!("/{}", path.display())),
        }
    }
    found
}

/// Pages name modules by the end of their path, in backquotes.
#[test]
fn every_module_that_a_page_names_exists() {
    let root = root();
    let folders = ["charts", "crates", "e2e", "fuzz", "sim", "xtask"];
    let files: Vec<_> = folders
        .iter()
        .flat_map(|folder| files(&root.join(folder)))
        .collect();
    let mut named = 0;
    for page in pages(&root)
        .expect("pages")
        .into_iter()
        .chain(ROOT_PAGES.map(str::to_owned))
    {
        let text = read(&root, &page);
        let modules = text.split('`').skip(1).step_by(2);
        let is_module = |name: &&str| {
            let is_path = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte);
            name.ends_with(".rs") && name.bytes().all(is_path)
        };
        for module in modules.filter(is_module) {
            named += 1;
            let end = format!("/{}", module.trim_start_matches("../"));
            let exists = files.iter().any(|file| file.ends_with(&end));
            assert!(exists, "{page}: there is no {module}");
        }
    }
    assert!(named > 100, "only {named} modules are named");
}
