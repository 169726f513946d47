//! What has to hold of a node's containerd for a mirror to be of use, and what to change where it does not.

mod settings;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::client::{Client, content_path};
use crate::listing::blocking;
use crate::{Config, Error, Retain, blobs};
use settings::{Setting, Settings};

/// What the checks compare with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// containerd's configuration as this process sees it, usually `/etc/containerd/config.toml`. Read for what
    /// containerd from 2.0 on does not tell.
    pub config_file: PathBuf,
    /// The folders in which hosts.toml files are written, as containerd sees them and in its order.
    pub registry_config_paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    Warning,
    /// It could not be found out.
    Unknown,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub what: &'static str,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, with the very lines to write for this version of containerd.
    pub remedy: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.found)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl Finding {
    fn ok(what: &'static str, found: String) -> Self {
        Self {
            what,
            state: State::Ok,
            found,
            remedy: None,
        }
    }

    fn warning(what: &'static str, found: String, remedy: String) -> Self {
        Self {
            what,
            state: State::Warning,
            found,
            remedy: Some(remedy),
        }
    }

    fn unknown(what: &'static str, found: String, remedy: Option<String>) -> Self {
        Self {
            what,
            state: State::Unknown,
            found,
            remedy,
        }
    }
}

/// Looks once, over a connection of its own, for 35 s at the most. Where containerd does not answer there are no
/// findings: the store tells that, and goes on trying.
pub async fn check(config: &Config, setup: &Setup) -> Vec<Finding> {
    look(config, setup).await.unwrap_or_default()
}

async fn look(config: &Config, setup: &Setup) -> Result<Vec<Finding>, Error> {
    let client = Client::connect(config).await?;
    let text = client.version().await?;
    let generation = Generation::of(&text);
    let settings = Settings::find(&client, generation, &setup.config_file).await;
    let path = content_path(config, &client).await?;
    let content = blocking(move || content(&path)).await?;
    Ok(vec![
        version(&text, generation),
        registry_config(&settings, generation, &setup.registry_config_paths),
        layers(&settings, generation, config.retain.as_ref()),
        content,
    ])
}

/// The first two numbers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u32, u32);

impl Generation {
    /// From here on a node's downloads share one queue.
    pub(crate) const SHARES_SLOTS: Self = Self(2, 1);
    /// From here on pulls go through the transfer service, which takes a list in `config_path` for one folder (tried
    /// with 2.1.9, 2.3.7 and 2.4.2). `discard_unpacked_layers = true` keeps the older way, which splits the list.
    const READS_NO_LIST: Self = Self(2, 1);

    /// Of `1.6.20~ds1`, `v2.1.9`, `2.1.9+unknown`; 0.0 of what is no version.
    pub(crate) fn of(text: &str) -> Self {
        let mut numbers = text
            .trim_start_matches('v')
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self(next(), next())
    }

    /// The table of the configuration that tells CRI how to pull.
    fn images_table(self) -> &'static str {
        if self >= Self(2, 0) {
            r#"plugins."io.containerd.cri.v1.images""#
        } else {
            r#"plugins."io.containerd.grpc.v1.cri""#
        }
    }

    /// The table that says what becomes of layers after unpacking.
    fn layers_table(self) -> String {
        let images = self.images_table();
        if self >= Self(2, 0) {
            images.to_owned()
        } else {
            format!("{images}.containerd")
        }
    }
}

fn version(text: &str, generation: Generation) -> Finding {
    const WHAT: &str = "version";
    match generation {
        Generation(0, _) => {
            let found = format!("containerd calls itself {text:?}");
            Finding::unknown(WHAT, found, None)
        }
        old if old < Generation(1, 6) => Finding::warning(
            WHAT,
            format!("containerd {text} is older than any this was tried with"),
            "update containerd to 1.6 or later".into(),
        ),
        _ => Finding::ok(WHAT, format!("containerd {text}")),
    }
}

/// What `config_path` is from containerd 2.2 on where it is not set.
const DEFAULT_CONFIG_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

fn registry_config(settings: &Settings, generation: Generation, expected: &[PathBuf]) -> Finding {
    const WHAT: &str = "registry config_path";
    let list: Vec<_> = expected.iter().map(|p| p.display().to_string()).collect();
    let remedy = format!(
        "write to containerd's configuration and restart it:\n[{}.registry]\n  config_path = {:?}",
        generation.images_table(),
        list.first()
            .map_or("/etc/containerd/certs.d", String::as_str)
    );
    let paths = match &settings.config_path {
        Setting::Is(paths) if !paths.is_empty() => paths.as_str(),
        Setting::Is(_) if generation >= Generation(2, 2) => DEFAULT_CONFIG_PATH,
        Setting::Is(_) => {
            let found = "not set: containerd asks no mirror".to_owned();
            return Finding::warning(WHAT, found, remedy);
        }
        Setting::Unknown(why) => {
            let remedy = format!(
                "name the file that containerd runs with by --containerd-config, mounted here, or make sure that \
                 config_path is set; if not, {remedy}"
            );
            return Finding::unknown(WHAT, why.clone(), Some(remedy));
        }
    };
    let read: Vec<_> = paths.split(':').map(Path::new).collect();
    if !expected.iter().all(|path| read.contains(&path.as_path())) {
        return Finding::warning(
            WHAT,
            format!(
                "containerd looks for hosts.toml in {paths}, not in {}",
                list.join(":")
            ),
            format!(
                "give --containerd-registry-config-path the path that containerd uses, or {remedy}"
            ),
        );
    }
    let is_list = paths.contains(':') && generation >= Generation::READS_NO_LIST;
    let ignored = format!(
        "containerd reads {paths} as the name of one folder, and so ignores hosts.toml, where it pulls with its \
         transfer service"
    );
    match &settings.discard_unpacked_layers {
        _ if !is_list => Finding::ok(WHAT, paths.to_owned()),
        Setting::Is(true) => Finding::ok(
            WHAT,
            format!(
                "{paths}; keep discard_unpacked_layers = true, which has containerd pull in the mode that reads each \
                 folder of the list"
            ),
        ),
        Setting::Is(false) => Finding::warning(WHAT, ignored, remedy),
        Setting::Unknown(_) => Finding::unknown(WHAT, ignored, Some(remedy)),
    }
}

fn layers(settings: &Settings, generation: Generation, retaining: Option<&Retain>) -> Finding {
    const WHAT: &str = "discard_unpacked_layers";
    let is_list = match &settings.config_path {
        Setting::Is(paths) => paths.is_empty() || paths.contains(':'),
        Setting::Unknown(_) => true,
    };
    let retain = "to share them, run with --retain-for 10m";
    let remedy = if is_list && generation >= Generation::READS_NO_LIST {
        // With false, containerd would ignore hosts.toml.
        retain.to_owned()
    } else {
        format!(
            "{retain}, or write to containerd's configuration and restart it:\n[{}]\n  discard_unpacked_layers = false",
            generation.layers_table()
        )
    };
    match &settings.discard_unpacked_layers {
        Setting::Is(false) => Finding::ok(WHAT, "false: layers stay and can be shared".into()),
        Setting::Is(true) if let Some(retain) = retaining => Finding::ok(
            WHAT,
            format!(
                "true: layers are retained for {:?} to be shared",
                retain.time
            ),
        ),
        Setting::Is(true) => Finding::warning(
            WHAT,
            "true: layers are deleted when they are unpacked, and this node has none to share"
                .into(),
            remedy,
        ),
        Setting::Unknown(why) => Finding::unknown(WHAT, why.clone(), None),
    }
}

/// Lists the whole folder, which takes long on a busy disk.
fn content(path: &Path) -> Finding {
    const WHAT: &str = "content";
    match blobs::list(path) {
        Ok(found) => Finding::ok(WHAT, format!("{} blobs in {}", found.len(), path.display())),
        Err(error) => Finding::warning(
            WHAT,
            format!("{} cannot be read: {error}", path.display()),
            format!(
                "mount the host's {0} at {0}, read-only will do, or name the path that it has here with \
                 --containerd-content-path",
                path.display()
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings(config_path: Setting<String>, discard: Setting<bool>) -> Settings {
        Settings {
            config_path,
            discard_unpacked_layers: discard,
        }
    }

    #[test]
    fn generations() {
        for (text, generation) in [
            ("1.6.20~ds1", Generation(1, 6)),
            ("v2.1.9", Generation(2, 1)),
            ("2.1.9+unknown", Generation(2, 1)),
            ("2", Generation(2, 0)),
            ("devel", Generation(0, 0)),
            ("", Generation(0, 0)),
            ("99999999999999.1", Generation(0, 1)),
        ] {
            assert_eq!(Generation::of(text), generation, "{text}");
            let shares = generation == Generation(2, 1);
            assert_eq!(generation >= Generation::SHARES_SLOTS, shares, "{text}");
        }
        assert_eq!(
            version("devel", Generation::of("devel")).state,
            State::Unknown
        );
        assert_eq!(version("1.5.9", Generation(1, 5)).state, State::Warning);
    }

    #[test]
    fn a_registry_without_config_path_gets_the_lines_for_its_version() {
        let unset = settings(Setting::Is(String::new()), Setting::Is(false));
        let expected = [PathBuf::from("/etc/containerd/certs.d")];
        for (generation, table) in [
            (
                Generation(1, 7),
                r#"[plugins."io.containerd.grpc.v1.cri".registry]"#,
            ),
            (
                Generation(2, 1),
                r#"[plugins."io.containerd.cri.v1.images".registry]"#,
            ),
        ] {
            let finding = registry_config(&unset, generation, &expected);
            assert_eq!(finding.state, State::Warning);
            let remedy = finding.remedy.expect("lines to write");
            let lines = format!("{table}\n  config_path = \"/etc/containerd/certs.d\"");
            assert!(remedy.contains(&lines), "{remedy}");
        }
    }

    #[test]
    fn what_is_not_known_is_no_warning_and_has_a_way_to_know() {
        let unknown = settings(
            Setting::Unknown("config.toml: cannot be read here".into()),
            Setting::Unknown(String::new()),
        );
        let expected = [PathBuf::from("/etc/containerd/certs.d")];
        let finding = registry_config(&unknown, Generation(2, 1), &expected);
        assert_eq!(finding.state, State::Unknown);
        let text = finding.to_string();
        for part in [
            "cannot be read here",
            "--containerd-config",
            "config_path = ",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn a_list_of_paths_is_right_if_ours_is_in_it() {
        let list = "/etc/docker/certs.d:/etc/containerd/certs.d";
        let list = settings(Setting::Is(list.into()), Setting::Is(false));
        let state = |expected: &[&str]| {
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            registry_config(&list, Generation(1, 7), &expected).state
        };
        assert_eq!(state(&["/etc/containerd/certs.d"]), State::Ok);
        let both = ["/etc/docker/certs.d", "/etc/containerd/certs.d"];
        assert_eq!(state(&both), State::Ok);
        assert_eq!(state(&["/etc/containerd"]), State::Warning);
        assert_eq!(state(&["/etc/docker/certs.d", "/other"]), State::Warning);
    }

    #[test]
    fn from_2_1_on_a_list_is_read_only_where_layers_are_discarded() {
        let list = "/etc/containerd/certs.d:/etc/docker/certs.d";
        let find = |path: &str, discard: Setting<bool>, generation| {
            let settings = settings(Setting::Is(path.into()), discard);
            let ours = [PathBuf::from("/etc/containerd/certs.d")];
            let finding = registry_config(&settings, generation, &ours);
            let layers = layers(&settings, generation, None).remedy;
            (finding.state, layers.unwrap_or_default())
        };
        let unknown = || Setting::Unknown(String::new());
        for (path, discard, generation, state) in [
            (list, Setting::Is(false), Generation(2, 0), State::Ok),
            (list, Setting::Is(false), Generation(2, 1), State::Warning),
            (list, Setting::Is(true), Generation(2, 1), State::Ok),
            (list, unknown(), Generation(2, 4), State::Unknown),
            ("", Setting::Is(true), Generation(2, 3), State::Ok),
            ("", Setting::Is(false), Generation(2, 3), State::Warning),
            ("", Setting::Is(true), Generation(2, 1), State::Warning),
        ] {
            assert_eq!(
                find(path, discard, generation).0,
                state,
                "{path} {generation:?}"
            );
        }
        let remedy = find(list, Setting::Is(true), Generation(2, 3)).1;
        assert!(
            remedy.contains("--retain-for") && !remedy.contains("= false"),
            "{remedy}"
        );
        let remedy = find(
            "/etc/containerd/certs.d",
            Setting::Is(true),
            Generation(2, 3),
        )
        .1;
        assert!(
            remedy.contains("discard_unpacked_layers = false"),
            "{remedy}"
        );
    }

    #[test]
    fn discarded_layers_are_a_warning() {
        let discards = settings(Setting::Is(String::new()), Setting::Is(true));
        let finding = layers(&discards, Generation(1, 6), None);
        assert_eq!(finding.state, State::Warning);
        let remedy = finding.remedy.expect("lines to write");
        assert!(remedy.contains(r#"[plugins."io.containerd.grpc.v1.cri".containerd]"#));
        let retain = Retain {
            time: Duration::from_secs(600),
            bytes: 1,
            disk_percent: 80,
            filter: oci::Filter::default(),
        };
        let finding = layers(&discards, Generation(1, 6), Some(&retain));
        assert_eq!(finding.state, State::Ok);
    }

    #[test]
    fn content_that_is_not_mounted_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(content(folder.path()).state, State::Ok);
        let finding = content(&folder.path().join("not/mounted"));
        assert_eq!(finding.state, State::Warning);
        assert!(finding.to_string().contains("not/mounted"));
    }
}
