//! A node of the cluster: a machine with a containerd, a kubelet and a kube-proxy.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::control::{PKI, SERVICES, server};
use super::machine::{Machine, Plan};
use super::pki::{Authority, kubeconfig};
use crate::cri::Cri;
use crate::network::Host;
use crate::process;

/// The folder of containerd's hosts.toml files.
pub const CERTS: &str = "/etc/containerd/certs.d";

/// The addresses of pods; each node has a /24 of them.
const PODS: &str = "10.89.0.0/16";

const SOCKET: &str = "/run/containerd/containerd.sock";

/// The number of a node, from 1.
#[derive(Clone, Copy)]
pub struct Number(pub u8);

impl Number {
    /// The name in Kubernetes.
    pub fn name(self) -> String {
        format!("n{}", self.0)
    }

    /// The last part of its address.
    pub fn last(self) -> u8 {
        10 + self.0
    }

    fn pods(self) -> String {
        format!("10.89.{}.0/24", self.0)
    }
}

/// A node.
pub struct Node {
    pub name: String,
    /// The version of its containerd.
    pub version: String,
    pub machine: Machine,
    pub cri: Cri,
}

impl Node {
    /// Boots the node. `runtime`: the folder of its containerd's programs; `control`: the address of the control
    /// plane's machine.
    pub async fn start(
        plan: Plan,
        number: Number,
        lab: &str,
        programs: &Path,
        runtime: &Path,
        authority: &Authority,
        control: &Host,
    ) -> Result<Node> {
        let name = number.name();
        let version = process::output(Command::new(runtime.join("containerd")).arg("--version"))?;
        let version = version.split_whitespace().nth(2).unwrap_or_default();
        let version = version.trim_start_matches('v').to_owned();
        let address = plan.host.address.to_string();
        let user = format!("system:node:{name}");
        authority.sign(&name, &user, "system:nodes", &[&name, &address])?;

        for file in ["ca.crt", "proxy.crt", "proxy.key"] {
            plan.etc(
                &format!("kubernetes/pki/{file}"),
                fs::read(authority.path(file))?,
            )?;
        }
        for kind in ["crt", "key"] {
            let own = fs::read(authority.path(&format!("{name}.{kind}")))?;
            plan.etc(&format!("kubernetes/pki/kubelet.{kind}"), own)?;
        }
        let server = server(control.address);
        for user in ["kubelet", "proxy"] {
            let config = kubeconfig(&server, Path::new(PKI), user).to_string();
            plan.etc(&format!("kubernetes/{user}.conf"), config)?;
        }
        plan.etc("kubernetes/resolv.conf", "")?;
        plan.etc("kubernetes/kubelet.json", kubelet(&[]).to_string())?;
        plan.etc("kubernetes/proxy.json", proxy(&name).to_string())?;
        plan.etc(
            "containerd/config.toml",
            containerd(version.starts_with('1'), CERTS),
        )?;
        plan.etc("cni/net.d/10-e2e.conflist", cni(number).to_string())?;
        route(&plan.host, SERVICES, &format!("dev eth0 src {address}"))?;
        let services = format!(
            "run containerd containerd --config /etc/containerd/config.toml\n\
             run kubelet kubelet --config /etc/kubernetes/kubelet.json \
             --kubeconfig /etc/kubernetes/kubelet.conf --hostname-override {name} \
             --node-ip {address} --v 2\n\
             run proxy kube-proxy --config /etc/kubernetes/proxy.json\n"
        );
        let machine = plan.boot(lab, programs, Some(runtime), &services).await?;
        Ok(Node {
            cri: Cri::new(&machine.path(SOCKET))?,
            name,
            version,
            machine,
        })
    }

    /// Writes the taints with which the kubelet registers the node at its next start; there are no others.
    pub fn register_with_taints(&self, taints: &[Value]) -> Result<()> {
        let file = self.machine.path("/etc/kubernetes/kubelet.json");
        Ok(fs::write(file, kubelet(taints).to_string())?)
    }

    /// Makes containerd read hosts.toml files below another folder from its next start on.
    pub fn read_hosts_in(&self, folder: &str) -> Result<()> {
        let file = self.machine.path("/etc/containerd/config.toml");
        Ok(fs::write(
            file,
            containerd(self.version.starts_with('1'), folder),
        )?)
    }

    /// All files below containerd's folder of hosts.toml files, with their content.
    pub fn hosts(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut files = Vec::new();
        read_below(&self.machine.path(CERTS), "", &mut files)?;
        files.sort();
        Ok(files)
    }
}

/// Routes the addresses of a node's pods to that node.
pub fn route_to_pods(from: &Host, of: Number) -> Result<()> {
    route(from, &of.pods(), &format!("via 10.77.0.{}", of.last()))
}

fn route(from: &Host, to: &str, how: &str) -> Result<()> {
    let mut ip = from.command("ip");
    process::output(ip.args(["route", "add", to]).args(how.split(' '))).map(drop)
}

fn read_below(folder: &Path, path: &str, files: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    // A missing folder has no files.
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read_below(&entry.path(), &path, files)?;
        } else {
            let content = fs::read(entry.path()).with_context(|| path.clone())?;
            files.push((path, content));
        }
    }
    Ok(())
}

fn kubelet(taints: &[Value]) -> Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": format!("{PKI}/ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": format!("{PKI}/kubelet.crt"),
        "tlsPrivateKeyFile": format!("{PKI}/kubelet.key"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "clusterDNS": ["10.96.0.10"],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "resolvConf": "/etc/kubernetes/resolv.conf",
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
    });
    if !taints.is_empty() {
        config["registerWithTaints"] = json!(taints);
    }
    config
}

/// Limits of connection tracking belong to the kernel, and are not changed.
fn proxy(name: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": PODS,
        "hostnameOverride": name,
        "clientConnection": { "kubeconfig": "/etc/kubernetes/proxy.conf" },
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
        },
    })
}

fn cni(number: Number) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "e2e",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": { "type": "host-local", "ranges": [[{ "subnet": number.pods() }]] },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    })
}

/// containerd may lack the permission to decrease OOM scores, so it is restricted.
fn containerd(is_1: bool, hosts: &str) -> String {
    let (version, images, runtime, bin, pause) = if is_1 {
        let cri = "io.containerd.grpc.v1.cri";
        let pause = "[plugins.'io.containerd.grpc.v1.cri']\nsandbox_image";
        (2, cri, cri, "bin_dir = '/usr/lib/cni'", pause)
    } else {
        let pause = "[plugins.'io.containerd.cri.v1.images'.pinned_images]\nsandbox";
        let runtime = "io.containerd.cri.v1.runtime";
        let bin = "bin_dirs = ['/usr/lib/cni']";
        (3, "io.containerd.cri.v1.images", runtime, bin, pause)
    };
    let table = if is_1 {
        String::new()
    } else {
        format!("[plugins.'{runtime}']\n")
    };
    format!(
        "version = {version}
{pause} = 'registry.lab/pause:1'
{table}restrict_oom_score_adj = true
[plugins.'{images}'.registry]
config_path = '{hosts}'
[plugins.'{runtime}'.cni]
{bin}
conf_dir = '/etc/cni/net.d'
[plugins.'{runtime}'.containerd.runtimes.runc]
runtime_type = 'io.containerd.runc.v2'
[plugins.'{runtime}'.containerd.runtimes.runc.options]
SystemdCgroup = false
"
    )
}
