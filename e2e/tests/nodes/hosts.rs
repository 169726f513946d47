//! The folder of hosts.toml files: original, configured, and restored.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e::{
    Containerd, Daemon, Generation, Host, Lab, Mirror, Settings, Store, configure, output, peili,
    until,
};

use crate::LAYERS;

/// A possible configuration of a user: comments and unusual spacing, a certificate, a registry that is not mirrored.
const USERS: [(&str, &str); 3] = [
    (
        "docker.io/hosts.toml",
        "# ours\nserver = \"https://docker.io\"\n\n[host.\"https://a.example\"]\n",
    ),
    ("docker.io/ca.crt", "-----BEGIN CERTIFICATE-----\n"),
    ("quay.io/hosts.toml", "server='https://quay.io'"),
];

/// The port at which `cleanup` reports that it is done.
const PROBE_PORT: u16 = 8080;

/// `configuration`, run twice, and `cleanup` leave the folder as it was.
pub async fn cleanup_restores_the_folder(lab: Lab) -> Result<()> {
    let folder = lab.folder("certs.d")?;
    write(&folder, &USERS)?;
    let found = snapshot(&folder)?;
    configure_and_clean_up(&lab, &folder, &found).await
}

/// The folder is left as it was before Spegel configured it: Spegel's files are not the user's.
pub async fn cleanup_restores_what_spegel_found(lab: Lab) -> Result<()> {
    let folder = lab.folder("certs.d")?;
    write(&folder, &USERS)?;
    let found = snapshot(&folder)?;

    // What Spegel does: everything is moved to `_backup`, and its own files, without a newline at their end, replace
    // it.
    fs::create_dir(folder.join("_backup"))?;
    for registry in ["docker.io", "quay.io"] {
        fs::rename(folder.join(registry), folder.join("_backup").join(registry))?;
    }
    for (name, server) in [
        ("docker.io", "https://registry-1.docker.io"),
        ("10.77.0.2:5000", "http://10.77.0.2:5000"),
    ] {
        let text = format!(
            "server = '{server}'\n\n[host.'http://10.77.0.21:5000']\n\
             capabilities = ['pull', 'resolve']\ndial_timeout = '200ms'"
        );
        write(&folder, &[(&format!("{name}/hosts.toml"), &text)])?;
    }
    configure_and_clean_up(&lab, &folder, &found).await
}

/// `config_path` is a list, and the user's only entry is in its second folder: containerd asks the mirror, and still
/// finds the entry, which a `_default` in the first folder would hide.
pub async fn list_hides_nothing(lab: Lab, generation: Generation) -> Result<()> {
    let host = lab.add_host("node", 21)?;
    let folder = lab.folder("node")?;
    let settings = Settings {
        // So that all generations read the list.
        discards_layers: true,
        lists_config_paths: true,
        ..Settings::default()
    };
    let log = lab.log("containerd");
    let containerd = Containerd::start(generation, &settings, &host, &folder, log).await?;
    let (first, second) = (containerd.hosts(), folder.join("docker/certs.d"));
    // Without this entry, containerd would ask over https.
    let url = lab.upstream.url();
    let users = format!("server = \"{url}\"\n[host.\"{url}\"]\n");
    write(
        &second,
        &[(&format!("{}/hosts.toml", lab.upstream.name()), &users)],
    )?;
    let found = snapshot(&second)?;

    let mut configuration = Command::new(peili()?);
    let list = format!("{}:{}", first.display(), second.display());
    configuration.args(["configuration", "--containerd-registry-config-path", &list]);
    let target = format!("http://{}:5000", host.address);
    output(configuration.args(["--mirror-targets", &target]))?;
    let store = Store::Containerd(&containerd);
    let (data, log) = (lab.folder("data")?, lab.log("peili"));
    let mut mirror = Mirror::start(&host, &store, &[url], &data, host.address, &[], &log)?;
    mirror.ready(&host).await?;

    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    containerd.cri.pull(&image.by_tag()).await?;
    let asked = mirror.metric(&host, "peili_own_client_last_request_timestamp_seconds")?;
    ensure!(asked > 0.0, "containerd has not asked the mirror");
    mirror.stop().await?;
    clean_up(&lab, &host, &list).await?;
    let left = snapshot(&second)?;
    ensure!(left == found, "found {found:#?}, left {left:#?}");
    let left = snapshot(&first)?;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

async fn configure_and_clean_up(lab: &Lab, folder: &Path, found: &Snapshot) -> Result<()> {
    let host = lab.add_host("node", 21)?;
    let registries = ["https://docker.io".to_owned(), lab.upstream.url()];
    for _ in 0..2 {
        configure(folder, &registries, host.address, &[])?;
        for registry in ["docker.io", &lab.upstream.name()] {
            let file = folder.join(registry).join("hosts.toml");
            let text = fs::read_to_string(&file).context(file.display().to_string())?;
            ensure!(
                text.contains(&format!("'http://{}:5000'", host.address)),
                "{text}"
            );
        }
    }

    clean_up(lab, &host, &folder.display().to_string()).await?;
    let left = snapshot(folder)?;
    ensure!(left == *found, "found {found:#?}, left {left:#?}");
    Ok(())
}

async fn clean_up(lab: &Lab, host: &Host, path: &str) -> Result<()> {
    let probe = (host.address, PROBE_PORT).into();
    let mut cleanup = host.command(peili()?);
    cleanup
        .arg("cleanup")
        .arg("--containerd-registry-config-path")
        .arg(path);
    cleanup.arg("--addr").arg(format!("{probe}"));
    let cleanup = Daemon::spawn("peili cleanup", &mut cleanup, &lab.log("cleanup"))?;
    until("cleanup to be done", async || {
        Ok(host.request("GET", probe, "/readyz")? == 200)
    })
    .await?;
    cleanup.stop().await
}

/// Everything below a folder, by relative path: files with their content, folders without.
type Snapshot = BTreeMap<PathBuf, Option<String>>;

fn snapshot(root: &Path) -> Result<Snapshot> {
    let mut entries = Snapshot::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.to_owned();
            if path.is_dir() {
                entries.insert(name, None);
                folders.push(path);
            } else {
                entries.insert(name, Some(fs::read_to_string(&path)?));
            }
        }
    }
    Ok(entries)
}

fn write(root: &Path, files: &[(&str, &str)]) -> Result<()> {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().context("a file in a folder")?)?;
        fs::write(&path, text)?;
    }
    Ok(())
}
