//! Debian's Chromium, controlled by its DevTools protocol over a pipe
//! (<https://chromedevtools.github.io/devtools-protocol/>).

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::network::Host;

/// The limit for an answer, and for loading a page.
const LIMIT: Duration = Duration::from_secs(60);
/// The most unread messages of the browser.
const QUEUE: usize = 4096;
/// The last byte of a message (Chromium's `--remote-debugging-pipe`).
const END: u8 = 0;

/// The browser reads commands from descriptor 3 and writes answers to 4.
const SCRIPT: &str = "exec chromium \"$@\" 3<&0 4>&1 </dev/null >&2";
/// Options for a browser without any network traffic of its own.
const OPTIONS: [&str; 9] = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
];

/// The screen that a page is shown on, in CSS pixels.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub is_phone: bool,
    pub is_dark: bool,
}

/// A browser with one page. It is killed, by its id, when this is dropped.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    messages: mpsc::Receiver<Value>,
    last_id: u64,
    session: Option<String>,
    seen: Seen,
}

/// The browser's reports on a page while it is loaded and shown.
#[derive(Debug, Default)]
struct Seen {
    is_loaded: bool,
    /// The bytes received over the network.
    received: u64,
    /// The URLs that the page requested.
    asked: Vec<String>,
    /// The errors and warnings of the page.
    complaints: Vec<String>,
}

impl Browser {
    /// Starts the browser in the network namespace of a host. `folder`: for its profile and its log.
    pub async fn start(host: &Host, folder: &Path) -> Result<Self> {
        let log = fs::File::create(folder.join("chromium.log"))?;
        let mut command = host.command("sh");
        command.args(["-c", SCRIPT, "chromium"]).args(OPTIONS);
        command.arg(format!(
            "--user-data-dir={}",
            folder.join("profile").display()
        ));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = command.spawn().context("chromium does not start")?;
        let commands = child.stdin.take().context("a pipe to it")?;
        let answers = child.stdout.take().context("a pipe from it")?;
        let (sender, messages) = mpsc::channel(QUEUE);
        std::thread::spawn(move || read(answers, &sender));
        let mut browser = Self {
            child,
            commands,
            messages,
            last_id: 0,
            session: None,
            seen: Seen::default(),
        };
        let target = browser
            .call("Target.createTarget", json!({"url": "about:blank"}))
            .await?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await?;
        browser.session = attached["sessionId"].as_str().map(ToOwned::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({})).await?;
        }
        Ok(browser)
    }

    /// Loads a page.
    pub async fn open(&mut self, url: &str, screen: Screen) -> Result<()> {
        let size = json!({
            "width": screen.width, "height": screen.height, "deviceScaleFactor": 1, "mobile": screen.is_phone,
        });
        self.call("Emulation.setDeviceMetricsOverride", size)
            .await?;
        let scheme = if screen.is_dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await?;
        self.call("Network.setCacheDisabled", json!({"cacheDisabled": true}))
            .await?;
        self.seen = Seen::default();
        let opened = self.call("Page.navigate", json!({"url": url})).await?;
        ensure!(
            opened["errorText"].is_null(),
            "{url}: {}",
            opened["errorText"]
        );
        let deadline = Instant::now() + LIMIT;
        while !self.seen.is_loaded {
            self.next(deadline)
                .await
                .with_context(|| format!("{url} does not load"))?;
        }
        Ok(())
    }

    /// The value of an expression on the page.
    pub async fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let call = json!({"expression": expression, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", call).await?;
        ensure!(
            answer["exceptionDetails"].is_null(),
            "{expression}: {answer}"
        );
        Ok(answer["result"]["value"].clone())
    }

    /// Saves a screenshot of the whole page.
    pub async fn photograph(&mut self, file: &Path) -> Result<()> {
        let call = json!({"captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", call).await?;
        let picture = STANDARD.decode(picture["data"].as_str().context("a picture")?)?;
        fs::write(file, picture).with_context(|| format!("{} not written", file.display()))
    }

    /// The bytes received over the network for the page.
    pub fn received(&self) -> u64 {
        self.seen.received
    }

    /// Fails if the page logged an error or a warning, or requested anything but from its origin.
    pub fn ensure_nothing_wrong(&self, origin: &str) -> Result<()> {
        let Seen {
            asked, complaints, ..
        } = &self.seen;
        ensure!(complaints.is_empty(), "the page logs {complaints:?}");
        let is_own = |url: &&String| url.starts_with(origin) || url.starts_with("data:");
        ensure!(
            asked.iter().any(|url| is_own(&url)),
            "the page was not asked for"
        );
        let outside: Vec<_> = asked.iter().filter(|url| !is_own(url)).collect();
        ensure!(outside.is_empty(), "requests to others: {outside:?}");
        Ok(())
    }

    async fn call(&mut self, method: &str, parameters: Value) -> Result<Value> {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message)?;
        bytes.push(END);
        self.commands
            .write_all(&bytes)
            .context("chromium has ended")?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let answer = self
                .next(deadline)
                .await
                .with_context(|| format!("no answer to {method}"))?;
            if answer["id"] == self.last_id {
                ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return Ok(answer["result"].clone());
            }
        }
    }

    /// The next message. Its reports on the page are kept.
    async fn next(&mut self, deadline: Instant) -> Result<Value> {
        let message = timeout_at(deadline, self.messages.recv()).await;
        let Some(message) = message.context("it took too long")? else {
            bail!("chromium has ended");
        };
        self.seen.hear(&message);
        Ok(message)
    }
}

impl Seen {
    fn hear(&mut self, message: &Value) {
        let told = &message["params"];
        match message["method"].as_str().unwrap_or_default() {
            "Page.loadEventFired" => self.is_loaded = true,
            "Network.requestWillBeSent" => {
                let url = told["request"]["url"].as_str().unwrap_or_default();
                self.asked.push(url.to_owned());
            }
            "Network.loadingFinished" => {
                self.received += told["encodedDataLength"].as_f64().unwrap_or_default() as u64;
            }
            "Runtime.consoleAPICalled" => self.complaints.push(told["args"].to_string()),
            "Runtime.exceptionThrown" => self.complaints.push(told["exceptionDetails"].to_string()),
            "Log.entryAdded" => self.complaints.push(told["entry"].to_string()),
            _ => {}
        }
    }
}

/// Passes messages on until the browser ends or the receiver is gone.
fn read(answers: ChildStdout, messages: &mpsc::Sender<Value>) {
    let mut answers = BufReader::new(answers);
    let mut message = Vec::new();
    while answers
        .read_until(END, &mut message)
        .is_ok_and(|read| read > 0)
    {
        let value = serde_json::from_slice(message.strip_suffix(&[END]).unwrap_or(&message));
        message.clear();
        if let Ok(value) = value
            && messages.blocking_send(value).is_err()
        {
            return;
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Both fail if it has ended already, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
