//! Pods: what they can see of the node, what they may do, and what they share.

use anyhow::{Context as _, Result};
use chart_tests::{Object, Render};
use serde_json::{Value, json};

use crate::configurations::PLATFORMS;
use crate::platforms::on;

fn named<'a>(list: &'a Value, name: &str) -> Result<&'a Value> {
    let mut items = list.as_array().into_iter().flatten();
    items
        .find(|item| item["name"] == name)
        .with_context(|| format!("{name} is not in {list}"))
}

/// The folder of each volume of the node, and how the mirror's container has it.
fn mounts(mirror: &Object) -> Result<Vec<(String, String, bool, String)>> {
    let mounts = mirror.container("registry")?["volumeMounts"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    mounts
        .into_iter()
        .flatten()
        .map(|mount| {
            let volume = named(&mirror.pod()["volumes"], &text(&mount["name"]))?;
            Ok((
                text(&volume["hostPath"]["path"]),
                text(&volume["hostPath"]["type"]),
                mount["readOnly"] == true,
                text(&mount["mountPropagation"]),
            ))
        })
        .collect()
}

/// containerd's socket comes by its folder and follows the host; only the mirror's own data can be written.
#[test]
fn the_node_is_mounted_by_folders_and_read_only() -> Result<()> {
    for name in PLATFORMS {
        let objects = on(name).objects()?;
        let mirror = objects.mirror()?;
        let mounts = mounts(mirror)?;
        for (path, kind, read_only, propagation) in &mounts {
            let socket = mirror
                .arguments("registry")?
                .contains(&format!("--containerd-sock={path}/containerd.sock").as_str());
            assert_eq!(
                kind,
                if socket {
                    "Directory"
                } else {
                    "DirectoryOrCreate"
                },
                "{name}: {path}"
            );
            assert_eq!(*read_only, path != "/var/lib/peili", "{name}: {path}");
            let follows = socket || path.ends_with("content.v1.content");
            assert_eq!(propagation == "HostToContainer", follows, "{name}: {path}");
        }
        let hosts = if name == "talos" { "/etc/cri" } else { "/etc" };
        assert!(
            mounts
                .iter()
                .any(|(path, ..)| path.starts_with(hosts) || path.contains("/etc/")),
            "{mounts:?}"
        );
        // Nothing of the node is mounted twice below itself.
        for (path, ..) in &mounts {
            let inner = format!("{path}/");
            assert!(
                !mounts.iter().any(|(other, ..)| other.starts_with(&inner)),
                "{name}: {mounts:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn only_the_configuration_container_writes_the_registry_configuration() -> Result<()> {
    let objects = on("k0s").objects()?;
    let mirror = objects.mirror()?;
    let of = |container: &str| -> Result<Value> {
        Ok(named(
            &mirror.container(container)?["volumeMounts"],
            "containerd-hosts",
        )?
        .clone())
    };
    let mount = json!({"name": "containerd-hosts", "mountPath": "/etc/containerd/certs.d"});
    assert_eq!(of("configuration")?, mount);
    assert_eq!(of("registry")?["readOnly"], true);
    Ok(())
}

#[test]
fn containers_are_locked_down() -> Result<()> {
    let objects = Render::default().objects()?;
    let pods = [
        (objects.mirror()?, ["configuration", "registry"].as_slice()),
        (objects.get("DaemonSet", "-cleanup")?, &["cleanup"]),
        (objects.get("Pod", "-cleanup-wait")?, &["cleanup-wait"]),
        (objects.get("Pod", "-test")?, &["pull-test"]),
    ];
    for (object, containers) in pods {
        let pod = object.pod();
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
        for name in containers {
            let container = object.container(name)?;
            let context = json!({
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
            });
            assert_eq!(container["securityContext"], context, "{name}");
            assert_eq!(container["resources"]["limits"]["memory"], "64Mi", "{name}");
        }
    }
    Ok(())
}

/// The chart makes no key of its own, and a Secret that is not there keeps no mirror from starting.
#[test]
fn the_network_key_is_mounted_from_the_secret_that_is_named() -> Result<()> {
    let objects = Render::default()
        .values("{peili: {networkKeySecret: peili-key}}")
        .objects()?;
    let mirror = objects.mirror()?;
    let option = "--network-key-file=/etc/secrets/network-key/network-key";
    assert!(mirror.arguments("registry")?.contains(&option));
    let mount = named(
        &mirror.container("registry")?["volumeMounts"],
        "network-key",
    )?;
    assert_eq!(mount["mountPath"], "/etc/secrets/network-key");
    assert_eq!(mount["readOnly"], true);
    let volume = named(&mirror.pod()["volumes"], "network-key")?;
    let secret = json!({"secretName": "peili-key", "optional": true});
    assert_eq!(volume["secret"], secret);
    let without = Render::default().objects()?;
    assert!(!without.mirror()?.0.to_string().contains("network-key"));
    Ok(())
}

/// The folder is mounted whole: a mounted file would not follow the Secret.
#[test]
fn certificates_are_mounted_from_the_secret_that_is_named() -> Result<()> {
    let objects = Render::default()
        .values("{peili: {peerTlsSecret: peili-tls}}")
        .objects()?;
    let mirror = objects.mirror()?;
    let option = "--peer-tls-dir=/etc/secrets/peer-tls";
    assert!(mirror.arguments("registry")?.contains(&option));
    let mount = named(&mirror.container("registry")?["volumeMounts"], "peer-tls")?;
    let expected =
        json!({"name": "peer-tls", "mountPath": "/etc/secrets/peer-tls", "readOnly": true});
    assert_eq!(mount, &expected);
    let volume = named(&mirror.pod()["volumes"], "peer-tls")?;
    let secret = json!({"secretName": "peili-tls", "optional": true});
    assert_eq!(volume["secret"], secret);
    let without = Render::default().objects()?;
    assert!(!without.mirror()?.0.to_string().contains("peer-tls"));
    Ok(())
}

/// Both containers have the file in a folder that outlives neither of them alone.
#[test]
fn init_and_main_container_share_the_node_secret() -> Result<()> {
    for persistent in [true, false] {
        let values = format!("{{peili: {{persistence: {{enabled: {persistent}}}}}}}");
        let objects = Render::default().values(&values).objects()?;
        let mirror = objects.mirror()?;
        for container in ["configuration", "registry"] {
            let secret = "--node-secret-file=/var/lib/peili/node-secret";
            assert!(
                mirror.arguments(container)?.contains(&secret),
                "{container}"
            );
            named(&mirror.container(container)?["volumeMounts"], "data")?;
        }
        let volume = named(&mirror.pod()["volumes"], "data")?;
        assert_eq!(volume["hostPath"].is_object(), persistent, "{volume}");
    }
    let objects = Render::default()
        .values("{peili: {nodeSecret: {enabled: false}}}")
        .objects()?;
    assert!(!objects.mirror()?.0.to_string().contains("node-secret"));
    Ok(())
}

#[test]
fn service_meshes_are_kept_out_of_every_pod() -> Result<()> {
    let objects = Render::default().objects()?;
    let mut pods = 0;
    for object in &objects.0 {
        let metadata = match object.kind() {
            "DaemonSet" => object.at("/spec/template/metadata"),
            "Pod" => object.at("/metadata"),
            _ => continue,
        };
        assert_eq!(
            metadata["labels"]["sidecar.istio.io/inject"],
            "false",
            "{}",
            object.name()
        );
        assert_eq!(
            metadata["labels"]["istio.io/dataplane-mode"],
            "none",
            "{}",
            object.name()
        );
        assert_eq!(
            metadata["annotations"]["linkerd.io/inject"],
            "disabled",
            "{}",
            object.name()
        );
        pods += 1;
    }
    assert_eq!(pods, 4);
    Ok(())
}
