//! Networks of namespaces: a bridge in a separate namespace, and hosts connected to it.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::output;

/// The limit for establishing a connection within the lab.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The bridge, in a namespace with nothing else.
pub struct Network {
    namespace: String,
}

/// A namespace on the network, with one interface and one address.
pub struct Host {
    namespace: String,
    /// The namespace of the network, with the other end of the host's link.
    hub: String,
    port: String,
    pub address: Ipv4Addr,
}

impl Network {
    /// An empty network. All its namespaces are named `<name>-…`.
    pub fn new(name: &str) -> Result<Network> {
        let network = Network {
            namespace: format!("{name}-hub"),
        };
        let hub = &network.namespace;
        ip(&format!("netns add {hub}"))?;
        ip(&format!("-n {hub} link add bridge type bridge"))?;
        ip(&format!("-n {hub} link set bridge up"))?;
        Ok(network)
    }

    /// Adds a host, whose name is at most 15 bytes, with an address of 10.77.0.0/24.
    pub fn host(&self, name: &str, last: u8) -> Result<Host> {
        let hub = &self.namespace;
        let host = Host {
            namespace: format!("{}-{name}", hub.trim_end_matches("-hub")),
            hub: hub.clone(),
            port: name.to_owned(),
            address: Ipv4Addr::new(10, 77, 0, last),
        };
        let (inside, address) = (&host.namespace, host.address);
        ip(&format!("netns add {inside}"))?;
        ip(&format!(
            "-n {hub} link add {name} type veth peer eth0 netns {inside}"
        ))?;
        ip(&format!("-n {hub} link set {name} master bridge up"))?;
        ip(&format!("-n {inside} address add {address}/24 dev eth0"))?;
        ip(&format!("-n {inside} link set lo up"))?;
        ip(&format!("-n {inside} link set eth0 up"))?;
        Ok(host)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Remainders are removed by the next run.
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

impl Host {
    /// A command that runs on this host.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(&self.namespace, program)
    }

    /// The name of its namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A command that runs in the namespace of a host.
    pub fn command_in(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        within(namespace, program)
    }

    /// A command that runs on this host and starts containers: with separate mounts and the machine's control groups,
    /// which other commands do not see.
    pub fn runtime(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.args(["unshare", "--mount", "--"]).arg(program);
        command
    }

    /// Limits the rate at which the host sends, in Mbit/s.
    pub fn limit_sending(&self, megabits: u32) -> Result<()> {
        limit(&self.namespace, "eth0", megabits)
    }

    /// Limits the rate at which the host receives, in Mbit/s.
    pub fn limit_receiving(&self, megabits: u32) -> Result<()> {
        limit(&self.hub, &self.port, megabits)
    }

    /// Cuts the host's link: packets are lost in both directions without notice.
    pub fn cut(&self) -> Result<()> {
        ip(&format!("-n {} link set {} down", self.hub, self.port)).map(drop)
    }

    /// The bytes that the host has sent over its interface so far.
    pub fn sent(&self) -> Result<u64> {
        let devices = self.inside(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        // `eth0: <8 columns of receiving> <bytes sent> …`
        let columns = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix("eth0:"));
        let sent = columns.and_then(|columns| columns.split_whitespace().nth(8)?.parse().ok());
        sent.with_context(|| format!("no count of bytes sent in {devices}"))
    }

    /// Opens a connection from this host.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        self.inside(|| Ok(TcpStream::connect_timeout(&to, CONNECT_LIMIT)?))
    }

    /// Listens on a port of this host.
    pub fn listen(&self, port: u16) -> Result<TcpListener> {
        self.inside(|| Ok(TcpListener::bind((self.address, port))?))
    }

    /// Sets whether packets to the host are dropped.
    pub fn set_inbound_dropped(&self, is_dropped: bool) -> Result<()> {
        swallow(&self.hub, &self.port, is_dropped)
    }

    /// Sets whether packets of the host are dropped.
    pub fn set_outbound_dropped(&self, is_dropped: bool) -> Result<()> {
        swallow(&self.namespace, "eth0", is_dropped)
    }

    /// Removes the limits of sending and receiving.
    pub fn unlimit(&self) -> Result<()> {
        swallow(&self.namespace, "eth0", false)?;
        swallow(&self.hub, &self.port, false)
    }

    /// Drops packets from or to a port of this host, as a firewall does.
    pub fn close(&self, port: u16) -> Result<()> {
        self.change_rules("add", &["sport", "dport"], port)
    }

    /// Opens the port again.
    pub fn open(&self, port: u16) -> Result<()> {
        self.change_rules("del", &["sport", "dport"], port)
    }

    /// Drops what this host answers from a port: nobody can connect to it there, and it can connect to others.
    pub fn close_inbound(&self, port: u16) -> Result<()> {
        self.change_rules("add", &["sport"], port)
    }

    /// Opens the port again.
    pub fn open_inbound(&self, port: u16) -> Result<()> {
        self.change_rules("del", &["sport"], port)
    }

    fn change_rules(&self, change: &str, ends: &[&str], port: u16) -> Result<()> {
        for end in ends {
            let rule = format!("ipproto tcp {end} {port} blackhole");
            ip(&format!("-n {} rule {change} {rule}", self.namespace))?;
        }
        Ok(())
    }

    /// Restores the host's link.
    pub fn reconnect(&self) -> Result<()> {
        ip(&format!("-n {} link set {} up", self.hub, self.port)).map(drop)
    }

    /// Starts a thread in the host's namespace, which the threads that it starts inherit.
    pub fn spawn_inside(
        &self,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<std::thread::JoinHandle<()>> {
        let namespace = File::open(format!("/run/netns/{}", self.namespace))?;
        let (moved, result) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            let result = move_into_link_name_space(namespace.as_fd(), kind);
            let is_inside = result.is_ok();
            // The receiver is gone only if the other side has panicked.
            let _ = moved.send(result);
            if is_inside {
                work();
            }
        });
        result.recv().context("the thread ended at once")??;
        Ok(thread)
    }

    /// Runs work on a thread in the host's namespace. A socket keeps the namespace in which it was created.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = File::open(format!("/run/netns/{}", self.namespace))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), kind)?;
                work()
            });
            thread
                .join()
                .map_err(|_| anyhow!("the thread in {} panicked", self.namespace))?
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Remainders are removed by the next run.
        let _ = ip(&format!("netns del {}", self.namespace));
    }
}

/// A command that runs in a namespace.
fn within(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]);
    command.arg(program);
    command
}

/// Limits the rate of a device in a namespace, in Mbit/s.
fn limit(namespace: &str, device: &str, megabits: u32) -> Result<()> {
    let rule = format!("tbf rate {megabits}mbit burst 64kb latency 100ms");
    let mut tc = within(namespace, "tc");
    tc.args(["qdisc", "replace", "dev", device, "root"]);
    output(tc.args(rule.split(' '))).map(drop)
}

/// Makes a device in a namespace drop all packets, or send them again.
fn swallow(namespace: &str, device: &str, all: bool) -> Result<()> {
    let queue = if all { "blackhole" } else { "pfifo" };
    let mut tc = within(namespace, "tc");
    tc.args(["qdisc", "replace", "dev", device, "root", queue]);
    output(&mut tc).map(drop)
}

/// Runs `ip` with arguments separated by spaces, and returns its output.
pub fn ip(arguments: &str) -> Result<String> {
    output(Command::new("ip").args(arguments.split(' ')))
}
