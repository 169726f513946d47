//! Whether a part of the mirror can do its work, and if not, why, in words for `/readyz`.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// Not now, or not all of it; the text says what is waited for and, where an operator can help, what to do.
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
