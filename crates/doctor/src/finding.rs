//! The finding of a check.

use serde::{Deserialize, Serialize};

/// The subject of a finding. Findings are shown in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    Containerd,
    /// containerd's hosts.toml files.
    Hosts,
    Mirror,
    Peers,
    Upstream,
    Trial,
}

impl Category {
    pub const ALL: [Self; 6] = [
        Self::Containerd,
        Self::Hosts,
        Self::Mirror,
        Self::Peers,
        Self::Upstream,
        Self::Trial,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Hosts => "hosts.toml",
            Self::Mirror => "mirror",
            Self::Peers => "peers",
            Self::Upstream => "upstream",
            Self::Trial => "trial",
        }
    }
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Ok,
    /// The result could not be determined.
    Unknown,
    /// It works, but not as well as it could.
    Warning,
    /// It does not work.
    Fault,
}

/// Identifies a check permanently: documentation, scripts and reports refer to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(with = "String")
)]
#[serde(into = "String", try_from = "String")]
pub struct Code {
    pub category: Category,
    /// The number within the category; never reused.
    pub number: u8,
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match self.category {
            Category::Containerd => 'C',
            Category::Hosts => 'H',
            Category::Mirror => 'M',
            Category::Peers => 'P',
            Category::Upstream => 'U',
            Category::Trial => 'T',
        };
        write!(f, "PEILI-{letter}{:03}", self.number)
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.to_string()
    }
}

impl TryFrom<String> for Code {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = crate::checks::ALL.iter().map(|check| check.code);
        let mut matching = known.filter(|code| code.to_string() == text);
        matching
            .next()
            .ok_or_else(|| format!("no check has the code {text:?}"))
    }
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    pub code: Code,
    /// The subject of the check, in a few words. Empty: a node of an older version found it.
    #[serde(default)]
    pub title: String,
    pub severity: Severity,
    /// What was found, in one sentence.
    pub text: String,
    /// What to do, with the exact lines to write or commands to run. Only if something must be done.
    pub remedy: Option<String>,
}

/// A check, as documented.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    pub code: Code,
    /// The subject of the check, in a few words.
    pub title: &'static str,
    /// Seconds that a fault or warning must last before the page shows it.
    pub shown_after_s: u64,
    /// Checks that can explain this one's finding. If one of them has found something at least as severe, this finding
    /// is hidden.
    pub causes: &'static [Code],
}

impl Check {
    pub fn ok(&self, text: impl Into<String>) -> Finding {
        self.finding(Severity::Ok, text, None)
    }

    pub fn unknown(&self, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Severity::Unknown, text, Some(remedy.into()))
    }

    pub fn warning(&self, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Severity::Warning, text, Some(remedy.into()))
    }

    pub fn fault(&self, text: impl Into<String>, remedy: impl Into<String>) -> Finding {
        self.finding(Severity::Fault, text, Some(remedy.into()))
    }

    pub(crate) fn finding(
        &self,
        severity: Severity,
        text: impl Into<String>,
        remedy: Option<String>,
    ) -> Finding {
        Finding {
            code: self.code,
            title: self.title.to_owned(),
            severity,
            text: text.into(),
            remedy: remedy.filter(|remedy| !remedy.is_empty()),
        }
    }
}
