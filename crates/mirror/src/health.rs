//! Says whether a part of the mirror can do its work, and the reason for `/readyz` if it cannot.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// It cannot do its work, or not all of it. The text says what it waits for and what an operator can do.
    Waiting(String),
}

impl Health {
    pub fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::Waiting(why) => f.write_str(why),
        }
    }
}
