//! Faults that are prepared on a real node: the doctor reports each, with its remedy, and nothing else.

mod command;

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use e2e::{Generation, Lab, Settings, until};

use crate::LAYERS;
pub use command::Doctor;

pub const SETTINGS: Settings = Settings {
    containerd: "",
    discards_layers: false,
    lists_config_paths: false,
    runs_containers: false,
    mirror: &["--tag-max-age", "0s"],
    names: true,
    secret: true,
    network_keys: None,
    peer_tls: None,
    checks: true,
    descriptors: None,
    plain: false,
};

/// The hosts.toml of the upstream, and its folder.
struct HostsToml<'a> {
    folder: &'a Path,
    file: PathBuf,
    text: String,
}

/// A change of the registry configuration, with the doctor's code and severity.
type Change = (&'static str, &'static str, fn(&HostsToml<'_>) -> Result<()>);

/// The same for containerd's configuration file: one text is replaced by another.
type Replacement = (&'static str, &'static str, &'static str, &'static str);

const CHANGES: [Change; 15] = [
    ("PEILI-H001", "fault", |hosts| {
        Ok(fs::remove_file(&hosts.file)?)
    }),
    ("PEILI-H002", "fault", |hosts| hosts.write("server = ")),
    ("PEILI-H003", "fault", |hosts| {
        hosts.write("[host.'https://mirror.example']\n")
    }),
    ("PEILI-H003", "fault", |hosts| {
        hosts.replace("'pull', 'resolve'", "'push'")
    }),
    ("PEILI-H003", "fault", |hosts| {
        hosts.replace("[host.'http://10.77.0.11", "[host.'https://10.77.0.11")
    }),
    ("PEILI-H003", "fault", |hosts| {
        hosts.replace("dial_timeout", "override_path = true\ndial_timeout")
    }),
    // The registry of the lab answers.
    ("PEILI-H004", "warning", |hosts| {
        hosts.begin_with("http://10.77.0.2:5000")
    }),
    ("PEILI-H004", "warning", |hosts| {
        hosts.begin_with("https://other.example")
    }),
    ("PEILI-H004", "fault", |hosts| {
        hosts.begin_with("http://10.77.0.11:5999")
    }),
    ("PEILI-H005", "warning", |hosts| {
        let underscored = hosts.folder.join("10.77.0.2_5000_");
        let folder = hosts.file.parent().context("a folder")?;
        if *folder == underscored {
            return Ok(fs::create_dir(hosts.folder.join("10.77.0.2:5000"))?);
        }
        Ok(symlink(folder, underscored)?)
    }),
    ("PEILI-H005", "warning", |hosts| {
        Ok(fs::write(hosts.folder.join("docker.io.toml"), &hosts.text)?)
    }),
    ("PEILI-H005", "warning", |hosts| {
        let folder = hosts.folder.join("registry-1.docker.io");
        fs::create_dir(&folder)?;
        Ok(fs::write(folder.join("hosts.toml"), &hosts.text)?)
    }),
    ("PEILI-H006", "fault", |hosts| {
        hosts.replace("10.77.0.11:5000", "10.77.0.12:5000")
    }),
    ("PEILI-H006", "fault", |hosts| {
        hosts.replace("10.77.0.11:5000", "10.77.0.11:5999")
    }),
    ("PEILI-H008", "warning", |hosts| {
        hosts.replace("X-Peili-Node-Secret", "X-Another")
    }),
];

const TABLE: &str = "[plugins.'io.containerd.cri.v1.images'.registry]";
const REPLACEMENTS: [Replacement; 5] = [
    ("PEILI-C003", "fault", "config_path", "# config_path"),
    (
        "PEILI-C003",
        "fault",
        "certs.d'",
        "certs.d:/etc/docker/certs.d'",
    ),
    (
        "PEILI-C003",
        "fault",
        TABLE,
        "[plugins.'io.containerd.grpc.v1.cri'.registry]",
    ),
    ("PEILI-C003", "fault", "certs.d'", "elsewhere'"),
    (
        "PEILI-C004",
        "warning",
        TABLE,
        "[plugins.'io.containerd.cri.v1.images']\ndiscard_unpacked_layers = true\n\
         [plugins.'io.containerd.cri.v1.images'.registry]",
    ),
];

/// On a sound node there are no findings. Then each prepared fault is reported with its remedy, and nothing else.
pub async fn each_prepared_fault_is_named(mut lab: Lab, containerd: Generation) -> Result<()> {
    let mut nodes: [_; 2] = lab.start_nodes_with(containerd, SETTINGS).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    for node in &nodes {
        node.pull(&image).await?;
    }
    let doctor = Doctor::of(&nodes[0])?;
    doctor.finds_nothing().await?;
    let began = Instant::now();
    doctor.finds(&[])?;
    println!("a sound node is examined in {:?}", began.elapsed());

    options(&doctor, &lab)?;
    files(&doctor, &lab)?;
    changes(&doctor, &lab)?;
    ensure!(doctor.finds(&[])?.is_empty(), "the node is sound again");
    lab.upstream.stop().await?;
    until("the registry that is gone to be named", async || {
        // Its image is the last target of the tag.
        nodes[0].containerd.cri.pull(&image.by_tag()).await?;
        Ok(doctor.finds(&[])? == ["PEILI-U001 warning"])
    })
    .await?;
    nodes[1].take_mirror()?.stop().await?;
    nodes[0].take_mirror()?.stop().await?;
    doctor.expect("PEILI-M001", "fault", &[])
}

/// Paths that do not exist, or lead to another containerd.
fn options(doctor: &Doctor, lab: &Lab) -> Result<()> {
    let empty = lab.folder("empty")?.display().to_string();
    doctor.expect(
        "PEILI-C001",
        "fault",
        &["--containerd-sock", "/nowhere.sock"],
    )?;
    doctor.expect(
        "PEILI-C005",
        "fault",
        &["--containerd-content-path", "/nowhere/content"],
    )?;
    doctor.expect(
        "PEILI-C005",
        "fault",
        &["--containerd-content-path", &empty],
    )
}

/// Wrong configuration files.
fn files(doctor: &Doctor, lab: &Lab) -> Result<()> {
    let text = fs::read_to_string(&doctor.config)?;
    let file = lab.folder("configuration")?.join("config.toml");
    let path = file.display().to_string();
    let options = ["--containerd-config", path.as_str()];
    for (code, severity, from, to) in REPLACEMENTS {
        ensure!(text.contains(from), "{from} is not in {text}");
        fs::write(&file, text.replacen(from, to, 1))?;
        File::options()
            .write(true)
            .open(&file)?
            .set_modified(SystemTime::UNIX_EPOCH)?;
        doctor.expect(code, severity, &options)?;
    }
    // Unchanged, but written after containerd has started.
    fs::write(&file, &text)?;
    doctor.expect("PEILI-C007", "warning", &options)
}

/// Wrong registry configurations.
fn changes(doctor: &Doctor, lab: &Lab) -> Result<()> {
    let kept = lab.folder("kept")?;
    let file = only_file(&doctor.hosts)?;
    let text = fs::read_to_string(&file)?;
    for (n, (code, severity, change)) in CHANGES.into_iter().enumerate() {
        let kept = kept.join(n.to_string());
        copy(&doctor.hosts, &kept)?;
        let hosts = HostsToml {
            folder: &doctor.hosts,
            file: file.clone(),
            text: text.clone(),
        };
        change(&hosts)?;
        doctor
            .expect(code, severity, &[])
            .with_context(|| format!("change {n}"))?;
        empty(&doctor.hosts)?;
        copy(&kept, &doctor.hosts)?;
    }
    Ok(())
}

impl HostsToml<'_> {
    fn write(&self, text: &str) -> Result<()> {
        Ok(fs::write(&self.file, text)?)
    }

    fn replace(&self, from: &str, to: &str) -> Result<()> {
        ensure!(self.text.contains(from), "{from} is not in {}", self.text);
        self.write(&self.text.replace(from, to))
    }

    /// Puts another host before the mirror.
    fn begin_with(&self, url: &str) -> Result<()> {
        let first = self.text.find("[host.").context("a host")?;
        let (before, after) = self.text.split_at(first);
        self.write(&format!("{before}[host.'{url}']\n{after}"))
    }
}

/// The only hosts.toml of a folder.
fn only_file(folder: &Path) -> Result<PathBuf> {
    let folders = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let files = folders
        .iter()
        .map(|folder| folder.path().join("hosts.toml"));
    let mut files = files.filter(|file| file.exists());
    files.next().context("hosts.toml")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => fs::copy(entry.path(), target).map(drop)?,
        }
    }
    Ok(())
}

fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}
