//! The faults of a valid TOML file that keep containerd from using it as hosts.toml (containerd,
//! `core/remotes/docker/config/hosts.go`: `parseHostsFile`, `parseHostConfig`, `ConfigureHosts`; tried with 1.6, 1.7
//! and 2.1).

use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item, TableLike, Value};

/// containerd's capabilities, in any case.
const CAPABILITIES: [&str; 4] = ["pull", "resolve", "push", "referrers"];
/// The first line of a certificate in a PEM file.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// The units of a duration as Go writes it.
const UNITS: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];

/// The effect of a fault in a file on pulls from its registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileState {
    /// containerd logs an error, continues as if the file did not exist, and asks no mirror.
    Ignored,
    Fails,
}

impl FileState {
    /// The effect, as the end of a text.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Ignored => "containerd ignores the file and asks no mirror",
            Self::Fails => "every pull from that registry fails",
        }
    }
}

/// Why containerd cannot use a file. `None`: it can, as far as can be determined here. `folder`: that of the file;
/// `root`: that of containerd's configuration.
pub(crate) fn fault(
    document: &Document<&str>,
    folder: &Path,
    root: &Path,
) -> Option<(String, FileState)> {
    let (table, place) = (document.as_table(), HostTable { folder, root });
    let ignored = |fault| Some((fault, FileState::Ignored));
    let hosts = match table.get("host").map(|item| (item, item.as_table_like())) {
        // containerd 1 ignores a file without hosts, whatever it contains.
        None => return setting(table).and_then(ignored),
        Some((_, Some(hosts))) => hosts,
        Some((item, None)) => {
            return ignored(format!("host is {}, not a table", item.type_name()));
        }
    };
    let mut tables = vec![(String::new(), table as &dyn TableLike)];
    for (name, item) in hosts.iter() {
        match item.as_table_like() {
            Some(table) => tables.push((format!("host {name:?}: "), table)),
            None => {
                let what = item.type_name();
                return ignored(format!("host {name:?} is {what}, not a table"));
            }
        }
    }
    let mut settings = tables.iter();
    let setting = settings.find_map(|(of, table)| Some(format!("{of}{}", setting(*table)?)));
    let mut files = tables.iter();
    let mut file = || files.find_map(|(of, table)| Some(format!("{of}{}", place.fault(*table)?)));
    match setting {
        Some(fault) => ignored(fault),
        None => file().map(|fault| (fault, FileState::Fails)),
    }
}

/// What is wrong with the settings of a host, or of the registry itself.
fn setting(table: &dyn TableLike) -> Option<String> {
    let is = |key: &str, type_name: &str, is_right: fn(&Item) -> bool| {
        let item = table.get(key).filter(|item| !is_right(item))?;
        Some(format!("{key} is {}, not {type_name}", item.type_name()))
    };
    is("server", "a text", Item::is_str)
        .or_else(|| is("skip_verify", "true or false", Item::is_bool))
        .or_else(|| is("override_path", "true or false", Item::is_bool))
        .or_else(|| {
            is("capabilities", "a list of texts", |item| {
                texts(item).is_some()
            })
        })
        .or_else(|| is("header", "a table", Item::is_table_like))
        .or_else(|| {
            is("ca", "a text or a list of texts", |item| {
                authorities(item).is_some()
            })
        })
        .or_else(|| {
            is("client", "a text or a list of pairs", |item| {
                identities(item).is_some()
            })
        })
        .or_else(|| unknown_capability(table))
        .or_else(|| headers(table))
        .or_else(|| timeout(table))
}

/// The place of a table's files.
struct HostTable<'a> {
    folder: &'a Path,
    root: &'a Path,
}

impl HostTable<'_> {
    /// The fault of the files that a table names.
    fn fault(&self, table: &dyn TableLike) -> Option<String> {
        let authorities = table.get("ca").and_then(authorities).unwrap_or_default();
        let mut faults = authorities
            .into_iter()
            .map(|name| self.file("ca", name, CERTIFICATE));
        let of_client = || {
            let names = table.get("client").and_then(identities).unwrap_or_default();
            // A pair may lack a key.
            let names = names.into_iter().filter(|name| !name.is_empty());
            let mut faults = names.map(|name| self.file("client", name, "-----BEGIN "));
            faults.find_map(|fault| fault)
        };
        faults.find_map(|fault| fault).or_else(of_client)
    }

    /// The fault of a named file. A file outside of the configuration may exist for containerd, but not in this
    /// container.
    fn file(&self, key: &str, name: &str, begins: &str) -> Option<String> {
        let path: PathBuf = self.folder.join(name);
        if !path.starts_with(self.root) {
            return None;
        }
        match fs::read(&path) {
            Err(error) => Some(format!("{key} names {}: {error}", path.display())),
            Ok(bytes) if contains(&bytes, begins.as_bytes()) => None,
            Ok(_) => Some(format!("{key} names {}, which is not PEM", path.display())),
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The elements of a list of texts.
fn texts(item: &Item) -> Option<Vec<&str>> {
    item.as_array()?.iter().map(Value::as_str).collect()
}

/// The files in `ca`.
fn authorities(item: &Item) -> Option<Vec<&str>> {
    item.as_str().map(|name| vec![name]).or_else(|| texts(item))
}

/// The files in `client`: certificates, or pairs of a certificate and its key.
fn identities(item: &Item) -> Option<Vec<&str>> {
    if let Some(name) = item.as_str() {
        return Some(vec![name]);
    }
    let mut names = Vec::new();
    for value in item.as_array()? {
        match (value.as_str(), value.as_array()) {
            (Some(name), _) => names.push(name),
            (None, Some(pair)) if pair.len() == 2 => {
                let pair: Option<Vec<_>> = pair.iter().map(Value::as_str).collect();
                names.extend(pair?);
            }
            _ => return None,
        }
    }
    Some(names)
}

fn unknown_capability(table: &dyn TableLike) -> Option<String> {
    let capabilities = texts(table.get("capabilities")?)?;
    let is_known = |given: &str| CAPABILITIES.iter().any(|c| c.eq_ignore_ascii_case(given));
    let unknown = capabilities.into_iter().find(|given| !is_known(given))?;
    Some(format!("{unknown:?} is no capability of a host"))
}

fn headers(table: &dyn TableLike) -> Option<String> {
    let headers = table.get("header")?.as_table_like()?;
    let mut headers = headers.iter();
    let (name, _) = headers.find(|(_, item)| !item.is_str() && texts(item).is_none())?;
    Some(format!(
        "header {name:?} is neither a text nor a list of texts"
    ))
}

/// The fault of the timeout. containerd before 2.0 does not read it.
fn timeout(table: &dyn TableLike) -> Option<String> {
    let item = table.get("dial_timeout")?;
    let text = item.as_str().filter(|text| is_duration(text));
    match text {
        Some(_) => None,
        None => Some("dial_timeout is no duration, as in '200ms'".to_owned()),
    }
}

/// Whether Go accepts the text as a duration: `1h2m3.5s`.
fn is_duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(is_number);
        let number = &rest[..rest.len() - unit.len()];
        if number.parse::<f64>().is_err() {
            return false;
        }
        // `ms` before `m`.
        let known = UNITS.iter().filter_map(|known| unit.strip_prefix(known));
        match known.min_by_key(|rest| rest.len()) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    !text.is_empty() && text != "-" && text != "+"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a certificate and a key, and a file that is neither.
    fn fault_of(text: &str) -> Option<(String, FileState)> {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("a.io");
        fs::create_dir(&folder).expect("made");
        let pem = "x\n-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";
        for (name, text) in [("a.crt", pem), ("a.key", pem), ("none.crt", "text")] {
            fs::write(folder.join(name), text).expect("written");
        }
        let text = text.replace("ROOT", &root.path().display().to_string());
        let document = Document::parse(text.as_str()).expect("TOML");
        fault(&document, &folder, root.path())
    }

    #[test]
    fn what_containerd_takes_is_taken() {
        for text in [
            "",
            "server = 'https://a.io'\n[host]\n",
            "[host.'http://b']\ncapabilities = ['PULL', 'resolve', 'referrers']\ndial_timeout = '1m0.5s'\n",
            "ca = 'a.crt'\nclient = 'a.crt'\n[host]\n",
            "ca = 'gone.crt'\n",
            "ca = ['a.crt', '/outside/of/it.crt']\nclient = [['a.crt', 'a.key'], ['a.crt', '']]\n[host]\n",
            "ca = 'ROOT/a.io/a.crt'\nunknown = 7\n[host]\n",
            "[host.'b']\nskip_verify = true\noverride_path = false\n[host.'b'.header]\na = 'b'\nc = ['d', 'e']\n",
        ] {
            assert_eq!(fault_of(text), None, "{text}");
        }
    }

    #[test]
    fn what_containerd_ignores_or_fails_at_is_named() {
        for (text, word) in [
            ("host = 5", "host is integer"),
            ("[host]\n'http://b' = 1", "\"http://b\" is integer"),
            ("server = 5", "server is integer"),
            (
                "[host.'http://b']\nskip_verify = 'true'",
                "host \"http://b\": skip_verify",
            ),
            ("override_path = 1", "override_path"),
            ("[host.b]\ncapabilities = 'pull'", "capabilities is string"),
            ("[host.b]\ncapabilities = ['pull', 3]", "capabilities"),
            (
                "[host.b]\ncapabilities = ['pul']",
                "\"pul\" is no capability",
            ),
            ("header = ['a']", "header is array"),
            ("[host.b.header]\na = true", "header \"a\""),
            ("[host.b]\ndial_timeout = '200'", "dial_timeout"),
            ("[host.b]\ndial_timeout = 200", "dial_timeout"),
            ("[host.b]\ndial_timeout = '2 s'", "dial_timeout"),
            ("ca = 5", "ca is integer"),
            ("[host.b]\nca = 'gone.crt'", "gone.crt"),
            (
                "ca = ['a.crt', 'none.crt']\n[host]",
                "none.crt, which is not PEM",
            ),
            ("ca = 'ROOT/a.io/gone.crt'\n[host]", "gone.crt"),
            ("client = [['a.crt']]", "client is array"),
            ("client = [['a.crt', 'gone.key']]\n[host]", "gone.key"),
            ("client = true", "client is boolean"),
        ] {
            let (fault, outcome) = fault_of(text).expect(text);
            assert!(fault.contains(word), "{text}: {fault}");
            let is_of_file = word.contains("gone") || word.contains("PEM");
            assert_eq!(outcome == FileState::Fails, is_of_file, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for text in ["0", "200ms", "1h2m3s", "1.5h", "-1us", ".5s"] {
            assert!(is_duration(text), "{text}");
        }
        for text in ["", "-", "5", "ms", "1d", "1s2", "1 s", "1.2.3s"] {
            assert!(!is_duration(text), "{text}");
        }
    }
}
