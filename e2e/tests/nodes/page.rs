//! The status page in Debian's Chromium, while nodes pull.

use anyhow::{Context as _, Result, ensure};
use e2e::{Browser, Generation, Lab, Node, Screen, Settings, until};

use crate::flights::{LONG_LAYER, UPLINK, pull_together, start};

/// The bandwidth of the upstream during the views and after them, in Mbit/s; and layers that take half a minute at the
/// first rate.
const WHILE_LOOKING: u32 = UPLINK / 2;
const AFTERWARDS: u32 = UPLINK * 20;
const LAYERS: [usize; 3] = [5 * LONG_LAYER, 2 * LONG_LAYER, 300];

/// The most bytes that a page loads.
const MAX_SIZE: u64 = 150_000;

const DESKTOP: Screen = Screen {
    width: 1280,
    height: 1000,
    is_phone: false,
    is_dark: false,
};
const PHONE: Screen = Screen {
    width: 390,
    height: 844,
    is_phone: true,
    is_dark: false,
};
const SMALL_PHONE: Screen = Screen {
    width: 360,
    height: 640,
    is_phone: true,
    is_dark: true,
};
const DARK_DESKTOP: Screen = Screen {
    is_dark: true,
    ..DESKTOP
};

/// The elements that extend beyond the right edge of the screen, but are not in a scrolling box.
const OUTSIDE: &str = "
    [...document.querySelectorAll('body *')].filter(element => {
        const box = element.getBoundingClientRect();
        if (box.right <= document.documentElement.clientWidth + 1) return false;
        for (let above = element.parentElement; above; above = above.parentElement)
            if (getComputedStyle(above).overflowX !== 'visible') return false;
        return true;
    }).map(element => element.outerHTML.slice(0, 100)).join(', ')";
/// How far a table must be scrolled sideways on a narrow screen.
const SIDEWAYS: &str = "
    Math.max(0, ...[...document.querySelectorAll('.scroll')].map(box => box.scrollWidth - box.clientWidth))";
const FIRST_PAINT: &str = "performance.getEntriesByName('first-paint')[0]?.startTime";
const WHOLE: &str = "document.documentElement.outerHTML";

/// A viewer of a node's pages.
struct Looker {
    browser: Browser,
    origin: String,
}

/// While nodes pull a new image, the page of each shows the source of every node, on every screen, without an error or
/// a request to another origin.
pub async fn cold_pull_is_seen_as_a_tree(lab: Lab, containerd: Generation) -> Result<()> {
    let settings = Settings {
        mirror: &["--page-access", "anywhere"],
        names: true,
        ..Settings::default()
    };
    let nodes: [_; 6] = start(&lab, containerd, settings).await?;
    let image = lab.upstream.push("lab/app", "v1", &LAYERS)?;
    lab.upstream.host().limit_sending(WHILE_LOOKING)?;
    let mut looker = Looker::at(&nodes[1], &lab).await?;
    let looks = async {
        let tree = ["from the registry", "this node", "from node-", "lab/app"];
        looker.shows("/", &tree).await?;
        let nodes = ["6 nodes, 6 answered", "from the registry", "lab/app"];
        looker.shows("/cluster", &nodes).await?;
        looker.looks_at("/", "node", &lab).await?;
        looker.looks_at("/cluster", "cluster", &lab).await?;
        lab.upstream.host().limit_sending(AFTERWARDS)
    };
    tokio::try_join!(pull_together(&nodes, &image), looks)?;
    looker
        .shows("/content?q=lab", &["lab/app:v1", "everybody"])
        .await?;
    looker.looks_at("/content?q=lab", "content", &lab).await
}

impl Looker {
    async fn at(node: &Node, lab: &Lab) -> Result<Self> {
        Ok(Self {
            browser: Browser::start(&node.host, &lab.folder("browser")?).await?,
            origin: format!("http://{}:9090", node.host.address),
        })
    }

    /// Opens a page and waits until it contains these texts, without a reload.
    async fn shows(&mut self, path: &str, texts: &[&str]) -> Result<()> {
        self.browser
            .open(&format!("{}{path}", self.origin), DESKTOP)
            .await?;
        let browser = &mut self.browser;
        until(&format!("{path} to show {texts:?}"), async || {
            let shown = browser.evaluate(WHOLE).await?;
            let shown = shown.as_str().context("a page")?;
            Ok(texts.iter().all(|text| shown.contains(text)))
        })
        .await?;
        self.browser.ensure_nothing_wrong(&self.origin)
    }

    /// Views a page on each screen, and saves screenshots.
    async fn looks_at(&mut self, path: &str, name: &str, lab: &Lab) -> Result<()> {
        let browser = &mut self.browser;
        for (on, screen) in [
            ("desktop-light", DESKTOP),
            ("desktop-dark", DARK_DESKTOP),
            ("phone-light", PHONE),
            ("phone-dark", SMALL_PHONE),
        ] {
            browser
                .open(&format!("{}{path}", self.origin), screen)
                .await?;
            let size = browser.received();
            ensure!(size > 0 && size <= MAX_SIZE, "{path} has {size} bytes");
            let outside = browser.evaluate(OUTSIDE).await?;
            ensure!(outside == "", "{path} on {on} is too wide: {outside}");
            if screen.is_phone {
                let sideways = browser.evaluate(SIDEWAYS).await?;
                ensure!(
                    sideways == 0,
                    "a table of {path} on {on} is {sideways} pixels too wide"
                );
            }
            let picture = lab.log(&format!("{name}-{on}")).with_extension("png");
            browser.photograph(&picture).await?;
            let paint = browser.evaluate(FIRST_PAINT).await?;
            println!("{path} on {on}: {size} bytes, first paint after {paint} ms");
            browser.ensure_nothing_wrong(&self.origin)?;
        }
        Ok(())
    }
}
