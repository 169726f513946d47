//! The configuration of node readiness.

use std::time::Duration;

/// How the cluster learns that a node's mirror works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A startup taint is removed from the node.
    Taint,
    /// The node condition `peili.dev/MirrorReady` is set.
    Condition,
}

/// An invalid value of `--node-readiness`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is none of taint, condition and off")]
pub struct ModeError(String);

impl Mode {
    /// Parses the value of `--node-readiness`. `None`: off.
    ///
    /// # Errors
    /// There is no such mode.
    pub fn parse(text: &str) -> Result<Option<Self>, ModeError> {
        match text {
            "taint" => Ok(Some(Self::Taint)),
            "condition" => Ok(Some(Self::Condition)),
            "off" => Ok(None),
            other => Err(ModeError(other.to_owned())),
        }
    }
}

/// The settings of a node's readiness.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this node's object (`spec.nodeName` of the pod).
    pub node: String,
    pub mode: Mode,
    /// The key of the startup taint. Taints with this key are removed, whatever their value and effect.
    pub taint: String,
    /// How long a node may stay tainted if its mirror does not get ready.
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read() {
        assert_eq!(Mode::parse("taint"), Ok(Some(Mode::Taint)));
        assert_eq!(Mode::parse("condition"), Ok(Some(Mode::Condition)));
        assert_eq!(Mode::parse("off"), Ok(None));
        assert!(Mode::parse("").is_err());
    }
}
