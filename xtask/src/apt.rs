//! Debian's archive, read by apt with its own state, cache and lists, so that packages of another suite can be fetched
//! without changing the machine's apt.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// The keys that sign Debian's suites, from the package debian-archive-keyring. apt trusts only these.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One suite of the archive, with fetched and verified package lists.
pub struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Fetches the package lists of `suite` into `folder`, from the Debian mirror of the machine's own apt.
    pub fn open(suite: &str, folder: &Path) -> Result<Archive> {
        if !Path::new(KEYRING).exists() {
            bail!("{KEYRING} is missing: install the package debian-archive-keyring");
        }
        remake(folder)?;
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let folder = folder.canonicalize()?;
        let uri = debian_mirror(Path::new("/etc/apt"))?;
        write(&folder.join("suite.sources"), &source(&uri, suite))?;
        write(&folder.join("apt.conf"), &configuration(&folder))?;
        // Nothing of this archive is installed, but apt needs the list.
        write(&folder.join("status"), "")?;

        let archive = Archive { folder };
        process::run(archive.apt("apt-get").args(["--quiet", "update"]))?;
        Ok(archive)
    }

    /// The versions of a package in the suite, newest first.
    pub fn versions(&self, package: &str) -> Result<Vec<String>> {
        let table = process::output(self.apt("apt-cache").args(["madison", package]))?;
        Ok(versions_of_madison(&table))
    }

    /// Downloads one package; apt verifies it with the signed lists.
    pub fn download(&self, package: &str, version: &str) -> Result<PathBuf> {
        let folder = self.folder.join("packages");
        remake(&folder)?;
        let mut download = self.apt("apt-get");
        download.args(["--quiet", "download", &format!("{package}={version}")]);
        process::run(download.current_dir(&folder))?;
        let Some(downloaded) = fs::read_dir(&folder)?.next() else {
            bail!("apt-get left no file in {}", folder.display());
        };
        Ok(downloaded?.path())
    }

    /// Removes lists and packages, which are large.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder)
            .with_context(|| format!("{} could not be removed", self.folder.display()))
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .arg("--config-file")
            .arg(self.folder.join("apt.conf"));
        command
    }
}

/// Creates an empty folder, whatever was there before.
fn remake(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)
            .with_context(|| format!("{} could not be emptied", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("{} could not be made", folder.display()))
}

fn write(path: &Path, content: &str) -> Result<()> {
    fs::write(path, content).with_context(|| format!("{} could not be written", path.display()))
}

/// `Targets` excludes everything else that the machine's apt would fetch, such as icons.
fn source(uri: &str, suite: &str) -> String {
    format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nTargets: Packages\n\
         Signed-By: {KEYRING}\n"
    )
}

/// Read after the machine's own configuration: proxies and the like stay in force, but nothing that would allow
/// unsigned packages.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Dir::State \"{folder}\";\n\
         Dir::State::lists \"{folder}/lists\";\n\
         Dir::State::status \"{folder}/status\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Dir::Etc::sourcelist \"{folder}/suite.sources\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Acquire::AllowInsecureRepositories \"false\";\n\
         Acquire::AllowDowngradeToInsecureRepositories \"false\";\n\
         APT::Get::AllowUnauthenticated \"false\";\n\
         APT::Update::Error-Mode \"any\";\n\
         #clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n"
    )
}

/// Parses the versions in the table of `apt-cache madison`: `package | version | source`.
fn versions_of_madison(table: &str) -> Vec<String> {
    table
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(|v| v.trim().to_owned())
        .collect()
}

/// The address of the mirror of Debian's main archive in apt's configuration.
fn debian_mirror(etc: &Path) -> Result<String> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc.join("sources.list.d")) {
        files.extend(parts.filter_map(|part| Some(part.ok()?.path())));
    }
    files.sort();
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let mirror = match file.extension().and_then(|extension| extension.to_str()) {
            Some("sources") => mirror_of_deb822(&text),
            Some("list") => mirror_of_list(&text),
            _ => None,
        };
        if let Some(mirror) = mirror {
            return Ok(mirror);
        }
    }
    bail!(
        "apt is configured with no mirror of Debian: {} names none",
        etc.display()
    );
}

/// The mirror in the one-line style of `sources.list(5)`: `deb [options] uri suite component…`.
fn mirror_of_list(text: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let (uri, suite) = (words.next()?, words.next()?);
        is_main_archive(suite, &mut words).then(|| uri.to_owned())
    })
}

/// The mirror in the deb822 style of `sources.list(5)`: stanzas of fields, separated by empty lines.
fn mirror_of_deb822(text: &str) -> Option<String> {
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty())
        .find_map(|stanza| {
            let words = |name| field(stanza, name);
            let enabled = !words("Enabled")
                .iter()
                .any(|word| word.eq_ignore_ascii_case("no"));
            let wanted = enabled
                && words("Types").contains(&"deb")
                && is_main_archive(
                    words("Suites").first()?,
                    &mut words("Components").into_iter(),
                );
            wanted
                .then(|| words("URIs").first().map(ToString::to_string))
                .flatten()
        })
}

/// The words of a field, including its continuation lines.
fn field<'a>(stanza: &[&'a str], name: &str) -> Vec<&'a str> {
    let mut words = Vec::new();
    let mut inside = false;
    for line in stanza {
        if line.starts_with([' ', '\t']) {
            if inside {
                words.extend(line.split_whitespace());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            inside = key.eq_ignore_ascii_case(name);
            if inside {
                words.extend(value.split_whitespace());
            }
        }
    }
    words
}

/// Debian's main archive has suites by code name or class. Security updates are elsewhere, and other vendors' archives
/// have neither these suites nor the component.
fn is_main_archive<'a>(suite: &str, components: &mut impl Iterator<Item = &'a str>) -> bool {
    const SUITES: [&str; 9] = [
        "bookworm",
        "trixie",
        "forky",
        "sid",
        "stable",
        "oldstable",
        "testing",
        "unstable",
        "duke",
    ];
    SUITES.contains(&suite) && components.any(|component| component == "main")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirror_is_found_in_both_formats() {
        let deb822 = "# a comment\nTypes: deb\nURIs: http://security.example/debian-security\n\
                      Suites: bookworm-security\nComponents: main\n\n\
                      Enabled: no\nTypes: deb\nURIs: http://off.example/debian\n\
                      Suites: bookworm\nComponents: main\n\n\
                      types: deb deb-src\nURIs:\n http://mirror.example/debian\n\
                      Suites: bookworm bookworm-updates\nComponents: main contrib\n";
        assert_eq!(
            mirror_of_deb822(deb822).as_deref(),
            Some("http://mirror.example/debian")
        );

        let list = "# deb http://comment.example/debian bookworm main\n\
                    deb-src http://source.example/debian bookworm main\n\
                    deb http://vendor.example/apt cloud main\n\
                    deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n";
        assert_eq!(
            mirror_of_list(list).as_deref(),
            Some("http://mirror.example/debian")
        );
    }

    #[test]
    fn other_archives_are_no_mirror_of_debian() {
        assert_eq!(
            mirror_of_list("deb http://vendor.example/node nodistro main\n"),
            None
        );
        assert_eq!(
            mirror_of_deb822("Types: deb\nURIs: http://a.example\n"),
            None
        );
        assert_eq!(mirror_of_list("deb\ndeb [\ndeb http://a.example\n"), None);
    }

    #[test]
    fn versions_are_read_from_madison() {
        let table = "containerd | 2.1.9+ds1-5 | http://mirror.example/debian forky/main amd64\n\
                     containerd | 1.7.24~ds1-6 | http://mirror.example/debian trixie/main amd64\n";
        assert_eq!(versions_of_madison(table), ["2.1.9+ds1-5", "1.7.24~ds1-6"]);
    }
}
