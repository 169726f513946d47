//! The agent of a Peili node in libp2p's identify: `peili/0.1.0 (node-3)`.

/// The prefix of a Peili node's agent; its version follows.
const PREFIX: &str = "peili/";
/// The most characters of a version or a name; longer ones are cut.
const MAX_VERSION: usize = 32;
const MAX_NAME: usize = 253;

/// The version and the node name that a peer reports. Other programs report neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) version: Option<String>,
    pub(crate) name: Option<String>,
}

impl Agent {
    /// Parses the agent of a peer. Anything that is not a version or a node name is left out: the result is shown to
    /// people.
    pub(crate) fn parse(text: &str) -> Self {
        let Some(text) = text.strip_prefix(PREFIX) else {
            return Self::default();
        };
        let (version, rest) = text.split_once(' ').unwrap_or((text, ""));
        let name = rest
            .strip_prefix('(')
            .and_then(|rest| rest.strip_suffix(')'));
        Self {
            version: Some(plain(version, MAX_VERSION)),
            name: name
                .map(|name| plain(name, MAX_NAME))
                .filter(|name| !name.is_empty()),
        }
    }

    /// The agent of this node.
    pub(crate) fn own(node_name: &str) -> String {
        let version = env!("CARGO_PKG_VERSION");
        match plain(node_name, MAX_NAME) {
            name if name.is_empty() => format!("{PREFIX}{version}"),
            name => format!("{PREFIX}{version} ({name})"),
        }
    }
}

/// Keeps only the characters of versions and host names.
fn plain(text: &str, most: usize) -> String {
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+');
    text.chars().filter(is_plain).take(most).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_tells_is_read_back_and_what_is_hostile_is_harmless() {
        let own = Agent::parse(&Agent::own("node-3.example"));
        assert_eq!(own.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(own.name.as_deref(), Some("node-3.example"));
        assert_eq!(Agent::parse(&Agent::own("")).name, None);
        let before_names = Agent::parse("peili/0.1.0");
        assert_eq!(
            (before_names.version.as_deref(), before_names.name),
            (Some("0.1.0"), None)
        );
        for other in ["", "spegel", "go-libp2p/1 (n)", "peili"] {
            assert_eq!(Agent::parse(other), Agent::default(), "{other}");
        }
        let hostile = format!(
            "peili/\x1b[2J{} (<b>\n{})",
            "9".repeat(500),
            "n".repeat(900)
        );
        let read = Agent::parse(&hostile);
        assert!(
            read.version
                .is_some_and(|version| version.len() == MAX_VERSION)
        );
        let name = read.name.expect("a name");
        assert!(name.len() == MAX_NAME && name.starts_with("bn"), "{name}");
    }
}
