//! The control plane, and its clients kubectl and helm.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::machine::{Machine, Plan};
use super::pki::{Authority, kubeconfig};
use crate::process;
use crate::wait;

/// The addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";

/// The folder of certificates on a machine.
pub const PKI: &str = "/etc/kubernetes/pki";

/// The machine of API server, etcd, controller manager and scheduler.
pub struct Control {
    pub machine: Machine,
    programs: PathBuf,
    /// The folder of clients' configuration.
    folder: PathBuf,
}

impl Control {
    /// Boots the machine and waits until the API server is ready. `folder`: for clients' files.
    pub async fn start(
        plan: Plan,
        lab: &str,
        programs: &Path,
        authority: &Authority,
        folder: PathBuf,
    ) -> Result<Control> {
        let address = plan.host.address;
        let server = server(address);
        sign(authority, address)?;
        let files = [
            "ca.crt",
            "sa.key",
            "sa.pub",
            "apiserver.crt",
            "apiserver.key",
            "kubelet-client.crt",
            "kubelet-client.key",
            "controller-manager.crt",
            "controller-manager.key",
            "scheduler.crt",
            "scheduler.key",
        ];
        for file in files {
            plan.etc(
                &format!("kubernetes/pki/{file}"),
                std::fs::read(authority.path(file))?,
            )?;
        }
        for user in ["controller-manager", "scheduler"] {
            let config = kubeconfig(&server, Path::new(PKI), user).to_string();
            plan.etc(&format!("kubernetes/{user}.conf"), config)?;
        }
        std::fs::create_dir_all(&folder)?;
        let admin = kubeconfig(&server, &authority.path(""), "admin").to_string();
        std::fs::write(folder.join("kubeconfig"), admin)?;
        let control = Control {
            machine: plan.boot(lab, programs, None, &services(address)).await?,
            programs: programs.to_owned(),
            folder,
        };
        wait::until("the API server to be ready", async || {
            Ok(control.kubectl("get --raw /readyz")? == "ok")
        })
        .await?;
        Ok(control)
    }

    /// Runs kubectl with arguments separated by spaces, and returns its output.
    pub fn kubectl(&self, arguments: &str) -> Result<String> {
        process::output(self.client("kubectl").args(arguments.split_whitespace()))
    }

    /// Asks kubectl for JSON.
    pub fn get(&self, arguments: &str) -> Result<Value> {
        let text = self.kubectl(&format!("get {arguments} -o json"))?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {arguments}: no JSON"))
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        let file = self.folder.join("manifests.yaml");
        std::fs::write(&file, manifests)?;
        let mut apply = self.client("kubectl");
        process::output(apply.args(["apply", "-f"]).arg(&file)).map(drop)
    }

    /// Runs helm.
    pub fn helm<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        process::output(self.client("helm").args(arguments))
    }

    /// How a developer runs kubectl.
    pub fn how_to_ask(&self) -> String {
        let address = self.machine.host.address;
        let config = self.folder.join("kubeconfig");
        let kubectl = self.programs.join("kubectl");
        let enter = self.machine.host.command(kubectl);
        let words = enter.get_args().map(|word| word.to_string_lossy());
        let words = words.collect::<Vec<_>>().join(" ");
        format!("{address}: ip {words} --kubeconfig {}", config.display())
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.machine.host.command(self.programs.join(program));
        command.env("KUBECONFIG", self.folder.join("kubeconfig"));
        for home in [
            "HOME",
            "HELM_CACHE_HOME",
            "HELM_CONFIG_HOME",
            "HELM_DATA_HOME",
        ] {
            command.env(home, &self.folder);
        }
        for proxy in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            command.env_remove(proxy);
        }
        command
    }
}

/// The URL of the API server.
pub fn server(address: Ipv4Addr) -> String {
    format!("https://{address}:6443")
}

fn sign(authority: &Authority, address: Ipv4Addr) -> Result<()> {
    let names = [
        &address.to_string(),
        "10.96.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    authority.sign("apiserver", "kube-apiserver", "", &names)?;
    for (file, user, group) in [
        ("admin", "admin", "system:masters"),
        ("kubelet-client", "kubelet-client", "system:masters"),
        ("controller-manager", "system:kube-controller-manager", ""),
        ("scheduler", "system:kube-scheduler", ""),
        ("proxy", "system:kube-proxy", ""),
    ] {
        authority.sign(file, user, group, &[])?;
    }
    Ok(())
}

fn services(address: Ipv4Addr) -> String {
    let client = |user: &str| {
        let config = format!("/etc/kubernetes/{user}.conf");
        format!(
            "--kubeconfig {config} --authentication-kubeconfig {config} \
             --authorization-kubeconfig {config} --leader-elect=false --cert-dir /var/lib/{user}"
        )
    };
    format!(
        "run etcd etcd --data-dir /var/lib/etcd --unsafe-no-fsync --log-level warn\n\
         run apiserver kube-apiserver --advertise-address {address} --secure-port 6443 \
         --etcd-servers http://127.0.0.1:2379 --service-cluster-ip-range {SERVICES} \
         --service-account-issuer https://kubernetes.default.svc.cluster.local \
         --service-account-key-file {PKI}/sa.pub --service-account-signing-key-file {PKI}/sa.key \
         --client-ca-file {PKI}/ca.crt --tls-cert-file {PKI}/apiserver.crt \
         --tls-private-key-file {PKI}/apiserver.key \
         --kubelet-client-certificate {PKI}/kubelet-client.crt \
         --kubelet-client-key {PKI}/kubelet-client.key \
         --kubelet-certificate-authority {PKI}/ca.crt \
         --kubelet-preferred-address-types InternalIP --authorization-mode Node,RBAC \
         --enable-admission-plugins NodeRestriction --allow-privileged \
         --cert-dir /var/lib/apiserver\n\
         run controller-manager kube-controller-manager --root-ca-file {PKI}/ca.crt \
         --service-account-private-key-file {PKI}/sa.key --use-service-account-credentials {}\n\
         run scheduler kube-scheduler {}\n",
        client("controller-manager"),
        client("scheduler"),
    )
}
