//! The requirements on a node's containerd for a mirror to work, and what to change if they are not met.

mod files;
mod settings;

use oci::Digest;
use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::client::{Client, Cri, Image, content_path};
use crate::listing::blocking;
use crate::trial::CRI_NAMESPACE;
use crate::{Config, Error, blobs};
use settings::{Setting, Settings};

/// What the checks compare with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// containerd's configuration as this process sees it, usually `/etc/containerd/config.toml`. Read for the settings
    /// that containerd from 2.0 on does not report.
    pub config_file: PathBuf,
    /// The folders in which hosts.toml files are written, as containerd sees them and in its order.
    pub registry_config_paths: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Ok,
    Warning,
    /// The result could not be determined.
    Unknown,
}

/// The subject of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    Version,
    RegistryConfig,
    /// Whether containerd was restarted since its configuration was written.
    InForce,
    /// The part of containerd that pulls for the kubelet.
    Cri,
    PullMode,
    Layers,
    Content,
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "version",
            Self::RegistryConfig => "registry config_path",
            Self::InForce => "configuration in force",
            Self::Cri => "CRI",
            Self::PullMode => "pull mode",
            Self::Layers => "discard_unpacked_layers",
            Self::Content => "content",
        })
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: Topic,
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do, with the exact lines for this version of containerd.
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
    fn ok(what: Topic, found: String) -> Self {
        Self {
            what,
            state: State::Ok,
            found,
            remedy: None,
        }
    }

    fn warning(what: Topic, found: String, remedy: String) -> Self {
        Self {
            what,
            state: State::Warning,
            found,
            remedy: Some(remedy),
        }
    }

    fn unknown(what: Topic, found: String, remedy: Option<String>) -> Self {
        Self {
            what,
            state: State::Unknown,
            found,
            remedy,
        }
    }
}

/// Runs all checks once, over a connection of its own, for 35 s at most. `retained_for`: how long the mirror keeps layers
/// that containerd discards, if it does.
///
/// # Errors
/// containerd does not answer.
pub async fn check(
    config: &Config,
    setup: &Setup,
    retained_for: Option<Duration>,
) -> Result<Vec<Finding>, Error> {
    let client = Client::connect(config).await?;
    let text = client.version().await?;
    let generation = Generation::of(&text);
    let settings = Settings::find(&client, generation, &setup.config_file).await;
    let path = content_path(config, &client).await?;
    // What containerd says where the options name another folder.
    let reported = client.content_root().await.ok();
    let reported = reported.filter(|reported| !are_one_folder(reported, &path));
    // Without the list of images there is nothing to compare the folder with.
    let images = match CRI_NAMESPACE.parse() {
        Ok(namespace) => client.images(&namespace).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let content = blocking(move || content(&path, reported.as_deref(), &images)).await?;
    let findings = [
        Some(version(&text, generation)),
        Some(registry_config(&settings, generation, setup)),
        in_force(&settings, &config.socket),
        // An unknown state is not a finding.
        client.cri().await.ok().map(cri),
        pull_mode(&settings, generation),
        Some(layers(
            &settings,
            generation,
            &setup.config_file,
            retained_for,
        )),
        Some(content),
    ];
    Ok(findings.into_iter().flatten().collect())
}

/// The first two numbers of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Generation(u32, u32);

impl Generation {
    /// The first version in which a node's downloads share one queue.
    pub(crate) const SHARES_SLOTS: Self = Self(2, 1);
    /// The first version that pulls through the transfer service, which treats a list in `config_path` as one folder
    /// (tried with 2.1.9, 2.3.7 and 2.4.2). `discard_unpacked_layers = true` keeps the older way, which splits the
    /// list.
    const READS_NO_LIST: Self = Self(2, 1);

    /// Parses a version such as `1.6.20~ds1`, `v2.1.9` or `2.1.9+unknown`. 0.0 if it is invalid.
    pub(crate) fn of(text: &str) -> Self {
        let mut numbers = text
            .trim_start_matches('v')
            .split(|c: char| !c.is_ascii_digit())
            .map(|n| n.parse().unwrap_or(0));
        let mut next = || numbers.next().unwrap_or(0);
        Self(next(), next())
    }

    /// The table of the configuration with CRI's pull settings.
    fn images_table(self) -> &'static str {
        if self >= Self(2, 0) {
            r#"plugins."io.containerd.cri.v1.images""#
        } else {
            r#"plugins."io.containerd.grpc.v1.cri""#
        }
    }

    /// The table of the configuration that determines whether layers are kept after unpacking.
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
    const WHAT: Topic = Topic::Version;
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

/// The default of `config_path` from containerd 2.2 on.
const DEFAULT_CONFIG_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

fn registry_config(settings: &Settings, generation: Generation, setup: &Setup) -> Finding {
    const WHAT: Topic = Topic::RegistryConfig;
    let expected = &setup.registry_config_paths;
    let list: Vec<_> = expected.iter().map(|p| p.display().to_string()).collect();
    let remedy = format!(
        "{}:\n[{}.registry]\n  config_path = {:?}\nThen {RESTART}",
        set_in(&setup.config_file),
        generation.images_table(),
        list.first()
            .map_or("/etc/containerd/certs.d", String::as_str)
    );
    let paths = match &settings.config_path {
        Setting::Is(paths) if !paths.is_empty() => paths.as_str(),
        Setting::Is(_) if generation >= Generation(2, 2) => DEFAULT_CONFIG_PATH,
        Setting::Is(_) => {
            let found = match &settings.in_vain {
                Some(where_it_is) => format!("not set where containerd looks: {where_it_is}"),
                None => "not set: containerd asks no mirror".to_owned(),
            };
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
    let is_read = |path: &PathBuf| read.iter().any(|read| are_one_folder(read, path));
    if !expected.iter().all(is_read) {
        let missing = match read.iter().any(|path| path.exists()) {
            true => "",
            false => " (which is missing here)",
        };
        return Finding::warning(
            WHAT,
            format!(
                "containerd looks for hosts.toml in {paths}{missing}, not in {}, where the mirror's are",
                list.join(":")
            ),
            format!(
                "{remedy}\nIf other programs need {paths}, leave that as it is, and give the mirror and peili configuration the \
                 option --containerd-registry-config-path {paths} instead"
            ),
        );
    }
    if !paths.contains(':') || generation < Generation::READS_NO_LIST {
        return Finding::ok(WHAT, paths.to_owned());
    }
    let ignored = format!(
        "containerd reads {paths} as the name of one folder, and so ignores hosts.toml, where it pulls with its \
         transfer service"
    );
    match &settings.local_mode {
        Setting::Is(Some(reason)) => Finding::ok(
            WHAT,
            format!(
                "{paths}; keep {reason}, which has containerd pull in the mode that reads each folder of the list"
            ),
        ),
        Setting::Is(None) => Finding::warning(WHAT, ignored, remedy),
        Setting::Unknown(_) => Finding::unknown(WHAT, ignored, Some(remedy)),
    }
}

/// How to have containerd read its configuration.
const RESTART: &str = "restart containerd: systemctl restart containerd (k3s and RKE2: restart their service). Containers go on \
                       running";

/// How to set something in containerd's configuration: TOML allows each table and key once.
fn set_in(file: &Path) -> String {
    format!(
        "set this in containerd's configuration ({}): change the line if it is there, add it to the table if that is there",
        file.display()
    )
}

/// Whether two paths lead to one folder. Paths that do not exist here are compared by their names.
fn are_one_folder(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    one == other || real(one).is_some_and(|one| real(other) == Some(one))
}

/// Whether containerd has read the present configuration, and could read it again. Its socket is as old as its start.
/// `None`: that is unknown.
fn in_force(settings: &Settings, socket: &Path) -> Option<Finding> {
    if let Some(fault) = &settings.broken {
        return Some(Finding::warning(
            Topic::InForce,
            format!("{fault}: containerd runs with what it read before, and cannot start again with this"),
            "correct the file. containerd --config FILE config dump says whether containerd can read it".to_owned(),
        ));
    }
    let started = socket.metadata().ok()?.modified().ok()?;
    Some(match settings.changed? > started {
        false => Finding::ok(Topic::InForce, "yes".to_owned()),
        true => Finding::warning(
            Topic::InForce,
            "containerd's configuration was written after containerd had started, and it reads it only at its start"
                .to_owned(),
            RESTART.to_owned(),
        ),
    })
}

/// Whether CRI runs.
fn cri(cri: Cri) -> Finding {
    match cri {
        Cri::Runs => Finding::ok(Topic::Cri, "runs".to_owned()),
        // With ctr and nerdctl it is not needed.
        Cri::Disabled => Finding::unknown(
            Topic::Cri,
            "is disabled, so no kubelet and no crictl can pull".to_owned(),
            Some(
                "for a kubelet or crictl, take cri out of disabled_plugins in containerd's configuration, where Docker's packages \
                 write it, and restart containerd. ctr and nerdctl pull without it, and find the mirror by --hosts-dir"
                    .to_owned(),
            ),
        ),
        Cri::Failed(error) => Finding::warning(
            Topic::Cri,
            format!("did not start, so no kubelet and no crictl can pull: {error}"),
            "correct containerd's configuration and restart it. Where registry.mirrors, registry.configs or registry.auths \
             are set beside config_path, move what they say to hosts.toml and remove them"
                .to_owned(),
        ),
    }
}

/// Which part of containerd pulls, and why. `None`: that is unknown.
fn pull_mode(settings: &Settings, generation: Generation) -> Option<Finding> {
    let found = match &settings.local_mode {
        _ if generation < Generation::READS_NO_LIST => {
            "local, as always before containerd 2.1".to_owned()
        }
        Setting::Is(None) => "transfer service".to_owned(),
        Setting::Is(Some(reason)) => format!("local, because of {reason}"),
        Setting::Unknown(_) => return None,
    };
    Some(Finding::ok(Topic::PullMode, found))
}

fn layers(
    settings: &Settings,
    generation: Generation,
    config_file: &Path,
    retained_for: Option<Duration>,
) -> Finding {
    const WHAT: Topic = Topic::Layers;
    let is_list = match &settings.config_path {
        Setting::Is(paths) => paths.is_empty() || paths.contains(':'),
        Setting::Unknown(_) => true,
    };
    let retain = "to share them, restart the mirror with --retain-for 10m";
    let remedy = if is_list && generation >= Generation::READS_NO_LIST {
        // With false, containerd would ignore hosts.toml.
        retain.to_owned()
    } else {
        format!(
            "{retain}, which costs disk for that time alone. Or {}:\n[{}]\n  discard_unpacked_layers = false\nThen {RESTART}",
            set_in(config_file),
            generation.layers_table()
        )
    };
    match &settings.discard_unpacked_layers {
        Setting::Is(false) => Finding::ok(WHAT, "yes, and can be shared (discard_unpacked_layers = false)".into()),
        Setting::Is(true) if let Some(time) = retained_for => Finding::ok(
            WHAT,
            format!("for {time:?}, by --retain-for (discard_unpacked_layers = true)"),
        ),
        Setting::Is(true) => Finding::warning(
            WHAT,
            "no: they are deleted when they are unpacked (discard_unpacked_layers = true), so other nodes get none that this node pulls"
                .into(),
            remedy,
        ),
        Setting::Unknown(why) => Finding::unknown(WHAT, why.clone(), None),
    }
}

/// Lists the whole folder, which takes long on a busy disk. `reported`: another folder that containerd names as its own.
/// `images`: those of containerd.
fn content(path: &Path, reported: Option<&Path>, images: &[Image]) -> Finding {
    const WHAT: Topic = Topic::Content;
    match blobs::list(path) {
        Ok(found) if is_another(&found, images) => Finding::warning(
            WHAT,
            format!(
                "{} is not where this containerd has its content: it has {} images, and the folder has the manifest of none",
                path.display(),
                images.len()
            ),
            match reported {
                Some(reported) => format!(
                    "containerd's folder is {0}. On the host, restart the mirror without --containerd-content-path; in a container, mount \
                     {0} and name it with that option",
                    reported.display()
                ),
                None => "a disk may have been mounted there since the mirror started: restart the mirror".to_owned(),
            },
        ),
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

/// Whether a folder with these blobs belongs to another containerd than the one with these images. A few may be
/// missing: an image is not removed with its manifest.
fn is_another<T>(found: &HashMap<Digest, T>, images: &[Image]) -> bool {
    !images.is_empty() && !images.iter().any(|image| found.contains_key(&image.target))
}

#[cfg(test)]
mod tests;
