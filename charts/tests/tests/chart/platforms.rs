//! Platforms: the paths and switches that each needs.

use anyhow::Result;
use chart_tests::Render;

use crate::configurations::PLATFORMS;

/// Name; socket, content, configuration file, registry configuration; --retain-for; sidecar or not; SELinux type.
type Platform = (
    &'static str,
    [&'static str; 4],
    &'static str,
    bool,
    &'static str,
);

const USUAL: [&str; 4] = [
    "/run/containerd/containerd.sock",
    "/var/lib/containerd/io.containerd.content.v1.content",
    "/etc/containerd/config.toml",
    "/etc/containerd/certs.d",
];

const EXPECTED: [Platform; 10] = [
    ("kubeadm", USUAL, "0", false, ""),
    ("aks", USUAL, "0", false, ""),
    ("minikube", USUAL, "0", false, ""),
    ("kind", USUAL, "10m", false, ""),
    ("eks", USUAL, "10m", false, ""),
    ("bottlerocket", USUAL, "10m", false, "super_t"),
    (
        "talos",
        [
            USUAL[0],
            USUAL[1],
            "/etc/cri/containerd.toml",
            "/etc/cri/conf.d/hosts",
        ],
        "10m",
        false,
        "",
    ),
    (
        "k0s",
        [
            "/run/k0s/containerd.sock",
            "/var/lib/k0s/containerd/io.containerd.content.v1.content",
            "/etc/k0s/containerd.toml",
            USUAL[3],
        ],
        "0",
        false,
        "",
    ),
    (
        "k3s",
        [
            "/run/k3s/containerd/containerd.sock",
            "/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content",
            "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
        ],
        "0",
        true,
        "spc_t",
    ),
    (
        "rke2",
        [
            "/run/k3s/containerd/containerd.sock",
            "/var/lib/rancher/rke2/agent/containerd/io.containerd.content.v1.content",
            "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
            "/var/lib/rancher/rke2/agent/etc/containerd/certs.d",
        ],
        "0",
        true,
        "spc_t",
    ),
];

pub fn on(platform: &str) -> Render {
    Render::default().values(&format!("platform: {platform}"))
}

#[test]
fn each_platform_gets_its_paths_and_switches() -> Result<()> {
    assert_eq!(EXPECTED.len(), PLATFORMS.len());
    for (name, [socket, content, config, hosts], retain, sidecar, selinux) in EXPECTED {
        let objects = on(name).objects()?;
        let mirror = objects.mirror()?;
        let arguments = mirror.arguments("registry")?;
        for argument in [
            format!("--containerd-sock={socket}"),
            format!("--containerd-content-path={content}"),
            format!("--containerd-config={config}"),
            format!("--containerd-registry-config-path={hosts}"),
            format!("--retain-for={retain}"),
        ] {
            assert!(
                arguments.contains(&argument.as_str()),
                "{name}: {argument} in {arguments:?}"
            );
        }
        if name == "bottlerocket" {
            assert!(mirror.container("configuration").is_err());
        } else {
            let configuration = mirror.container("configuration")?;
            assert_eq!(
                configuration["restartPolicy"] == "Always",
                sidecar,
                "{name}"
            );
            assert_eq!(
                mirror.arguments("configuration")?.contains(&"--watch"),
                sidecar,
                "{name}"
            );
        }
        let context = &mirror.pod()["securityContext"]["seLinuxOptions"]["type"];
        assert_eq!(context.as_str().unwrap_or_default(), selinux, "{name}");
    }
    Ok(())
}

#[test]
fn an_empty_platform_is_kubeadm() -> Result<()> {
    assert_eq!(on("''").objects()?, on("kubeadm").objects()?);
    Ok(())
}

#[test]
fn the_users_path_wins_over_the_platforms_and_notes_say_so() -> Result<()> {
    let render = on("k3s").values(
        "{spegel: {containerdSock: /run/other/containerd.sock, containerdContentPath: ''}}",
    );
    let objects = render.objects()?;
    let arguments = objects.mirror()?.arguments("registry")?;
    assert!(
        arguments.contains(&"--containerd-sock=/run/other/containerd.sock"),
        "{arguments:?}"
    );
    // An empty value is none.
    let content = "--containerd-content-path=/var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content";
    assert!(arguments.contains(&content), "{arguments:?}");
    let notes = render.notes()?;
    assert!(
        notes.contains("containerdSock is usually \"/run/k3s/containerd/containerd.sock\""),
        "{notes}"
    );
    Ok(())
}
