//! The page of the demo, and the browser that shows it.

use std::env;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::demo::{Page, ShownNode};
use async_trait::async_trait;
use mirror::serve::ConnectionLimits;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use rustix::process::geteuid;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::descriptors;
use crate::observe::{self, About, LastTrial, Metrics, PageAccess, Pages, Views};

/// The limit for a browser to start and to request the page. The demo continues without one.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
/// The interval between checks for that.
const POLL: Duration = Duration::from_millis(50);
/// How long the page stays after the pulls, for a viewer at a terminal.
const LINGER_LIMIT: Duration = Duration::from_secs(10 * 60);

/// Serves the page of a node on loopback until it is dropped.
pub struct DemoPage {
    /// The program that opens it for the user, if it should be opened.
    pub opener: Option<&'static str>,
    /// Whether it stays for viewers after all pulls.
    pub lingers: bool,
    views: OnceLock<Arc<Views>>,
    tasks: Mutex<JoinSet<()>>,
}

impl DemoPage {
    pub fn new(opener: Option<&'static str>, lingers: bool) -> Self {
        Self {
            opener,
            lingers,
            views: OnceLock::new(),
            tasks: Mutex::default(),
        }
    }
}

#[async_trait]
impl ::demo::Pages for DemoPage {
    async fn serve(&self, node: ShownNode) -> io::Result<Page> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let open_files = descriptors::raise();
        let about = About {
            node: node.name,
            peer_id: node.id.to_string(),
            open_files: open_files as u64,
            looks_for_peers: true,
            registry: (Ipv4Addr::LOCALHOST, node.registry_port).into(),
            mirrored_registries: Vec::new(),
            retained_for: None,
            node_secret: None,
            network_keys: None,
            containerd: None,
            address: address.to_string(),
            trial: LastTrial::default(),
        };
        let views = Arc::new(Views::new(node.mirror.clone(), about));
        let pages = Pages {
            views: views.clone(),
            access: PageAccess::Loopback,
            own_names: Vec::new(),
        };
        let metrics = Metrics {
            registry: node.metrics,
            ready: Gauge::default(),
        };
        let limits = ConnectionLimits::within(open_files).http;
        let until_dropped = CancellationToken::new();
        self.tasks.lock().spawn(observe::serve(
            limits,
            listener,
            metrics,
            node.mirror,
            pages,
            until_dropped,
        ));
        let views = self.views.get_or_init(|| views);
        let url = format!("http://{address}/");
        let is_open = match self.opener {
            Some(opener) => open(opener, &url, views).await,
            None => false,
        };
        Ok(Page { url, is_open })
    }

    fn lingers(&self) -> Option<Duration> {
        let is_seen = self.views.get().is_some_and(|views| views.were_seen());
        (self.lingers && is_seen).then_some(LINGER_LIMIT)
    }
}

/// The program that opens a page in the user's browser, if there is a display. A browser refuses to run as root.
pub fn opener() -> Option<&'static str> {
    let has_display = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
    match () {
        () if geteuid().is_root() => None,
        () if cfg!(target_os = "macos") => Some("open"),
        () if has_display("DISPLAY") || has_display("WAYLAND_DISPLAY") => Some("xdg-open"),
        () => None,
    }
}

/// Opens a page, and waits until it is requested.
async fn open(opener: &str, url: &str, views: &Views) -> bool {
    let mut command = Command::new(opener);
    let quiet = command.arg(url).stdin(Stdio::null());
    let Ok(mut child) = quiet.stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        return false;
    };
    // It may run as long as the browser, and the demo does not wait for it.
    std::thread::spawn(move || child.wait());
    let seen = async {
        while !views.were_seen() {
            sleep(POLL).await;
        }
    };
    timeout(OPEN_LIMIT, seen).await.is_ok()
}
