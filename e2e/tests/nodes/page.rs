//! The status page in Debian's Chromium, while nodes pull.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use e2e::{Generation, Host, Lab, Node, Settings, until};
use tokio::task::spawn_blocking;

use crate::flights::{LONG_LAYER, UPLINK, pull_together, start};

/// What the upstream may send while somebody looks, in Mbit/s, and afterwards; and layers that take half a minute at the
/// first rate.
const WHILE_LOOKING: u32 = UPLINK / 2;
const AFTERWARDS: u32 = UPLINK * 20;
const LAYERS: [usize; 3] = [5 * LONG_LAYER, 2 * LONG_LAYER, 300];

/// In milliseconds; a page that has not come by then is given up.
const LOAD_LIMIT: &str = "--timeout=20000";

/// How a browser is started: once, without anything of its own in the network.
const BROWSER: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    LOAD_LIMIT,
];

/// Somebody who looks at a page.
#[derive(Clone)]
struct Look {
    namespace: String,
    folder: PathBuf,
    page: String,
}

/// While nodes pull an image that nobody has, the page of each shows who pulls from whom, in every form, with no
/// error and no request to anybody else.
pub async fn cold_pull_is_seen_as_a_tree(lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        mirror: &["--page-access", "anywhere"],
        names: true,
        ..Settings::default()
    };
    let nodes: [_; 6] = start(&lab, containerd, settings).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    lab.upstream.host().limit_sending(WHILE_LOOKING)?;
    let looks = async {
        let folder = lab.folder("browser")?;
        let look = |page: &str| Look::at(&nodes[1], page, &folder);
        look("/")
            .shows(&["from the registry", "this node", "from node-", "lab/app"])
            .await?;
        look("/cluster")
            .shows(&["6 nodes, 6 answered", "from the registry", "lab/app"])
            .await?;
        for (name, window, options) in [
            ("desktop-light", "1280,1000", &[][..]),
            (
                "desktop-dark",
                "1280,1000",
                &["--blink-settings=preferredColorScheme=0"][..],
            ),
            ("phone-light", "500,1000", &[][..]),
            (
                "phone-dark",
                "500,1000",
                &["--blink-settings=preferredColorScheme=0"][..],
            ),
        ] {
            let file = lab.log(name).with_extension("png");
            look("/").photograph(&file, window, options).await?;
        }
        let file = lab.log("cluster").with_extension("png");
        look("/cluster").photograph(&file, "1280,1400", &[]).await?;
        lab.upstream.host().limit_sending(AFTERWARDS)
    };
    tokio::try_join!(pull_together(&nodes, &image), looks)?;
    Look::at(&nodes[1], "/content?q=lab", &lab.folder("browser")?)
        .shows(&["lab/app:v1", "everybody"])
        .await
}

impl Look {
    fn at(node: &Node, path: &str, folder: &Path) -> Self {
        Self {
            namespace: node.host.namespace().to_owned(),
            folder: folder.to_owned(),
            page: format!("http://{}:9090{path}", node.host.address),
        }
    }

    /// Loads the page until the browser has these texts on it, with nothing wrong.
    async fn shows(&self, texts: &'static [&'static str]) -> Result<()> {
        let what = format!("{} to show {texts:?}", self.page);
        let mut looked = Ok(false);
        until(&what, async || {
            let look = self.clone();
            let dom = spawn_blocking(move || look.browse(&["--dump-dom"])).await?;
            // What is wrong with a page does not get better.
            looked = dom.map(|dom| texts.iter().all(|text| dom.contains(text)));
            Ok(looked.as_ref().copied().unwrap_or(true))
        })
        .await?;
        looked.map(drop)
    }

    /// Keeps what the page looks like.
    async fn photograph(
        &self,
        file: &Path,
        window: &'static str,
        options: &'static [&'static str],
    ) -> Result<()> {
        let (look, picture) = (self.clone(), format!("--screenshot={}", file.display()));
        let window = format!("--window-size={window}");
        let browse = move || {
            let mut all = vec![picture.as_str(), window.as_str()];
            all.extend(options);
            look.browse(&all)
        };
        spawn_blocking(browse).await??;
        let size = fs::metadata(file).with_context(|| format!("no {}", file.display()))?;
        ensure!(size.len() > 10_000, "{} is empty", file.display());
        Ok(())
    }

    /// Runs the browser, and fails if the page logged an error or asked anybody else.
    fn browse(&self, options: &[&str]) -> Result<String> {
        let network = self.folder.join("network.json");
        let mut browser = Host::command_in(&self.namespace, "chromium");
        browser.args(BROWSER).args(options);
        browser.arg(format!(
            "--user-data-dir={}",
            self.folder.join("profile").display()
        ));
        browser.arg(format!("--log-net-log={}", network.display()));
        browser
            .args(["--enable-logging=stderr", "--v=0"])
            .arg(&self.page);
        let done = browser.output().context("chromium does not start")?;
        let log = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "chromium failed: {log}");
        let said = log.lines().find(|line| line.contains("CONSOLE"));
        ensure!(said.is_none(), "the page logs {said:?}");
        let requests = fs::read_to_string(&network)?;
        let asked = self.asked_by_page(&requests);
        ensure!(
            !asked.is_empty(),
            "the page loads nothing, not even its style"
        );
        let outside: Vec<_> = asked
            .iter()
            .filter(|url| !url.starts_with(self.origin()))
            .collect();
        ensure!(outside.is_empty(), "requests to others: {outside:?}");
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn origin(&self) -> &str {
        let path = self.page.find("9090").map_or(0, |port| port + "9090".len());
        &self.page[..path]
    }

    /// What the page asked for, by the browser's log of the network. The browser has requests of its own, which have no
    /// page for an initiator.
    fn asked_by_page<'a>(&self, log: &'a str) -> Vec<&'a str> {
        let by_page = format!("\"initiator\":\"{}\"", self.origin());
        let requests = log.split(by_page.as_str()).skip(1);
        let urls = requests.filter_map(|rest| rest.split("\"url\":\"").nth(1)?.split('"').next());
        urls.collect()
    }
}
