//! The faults of a command line, all at once.

use std::error::Error;
use std::fmt;

/// One fault: the flag, what is wrong with its value, and what would be correct.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub flag: &'static str,
    pub what: String,
}

/// Faults, collected while a configuration is validated.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub fn add(&mut self, flag: &'static str, what: impl fmt::Display) {
        self.0.push(Fault {
            flag,
            what: what.to_string(),
        });
    }

    /// The value, or `None` after recording its fault with all causes.
    pub fn take<T, E: Into<Box<dyn Error>>>(
        &mut self,
        flag: &'static str,
        result: Result<T, E>,
    ) -> Option<T> {
        let note = |error: E| {
            let error = error.into();
            let mut what = error.to_string();
            let mut cause = error.source();
            while let Some(error) = cause {
                what.push_str(&format!(": {error}"));
                cause = error.source();
            }
            self.add(flag, what);
        };
        result.map_err(note).ok()
    }

    /// The valid values of a list; the faults of others are recorded.
    pub fn list<T, E: Into<Box<dyn Error>>>(
        &mut self,
        flag: &'static str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        values
            .iter()
            .filter_map(|value| self.take(flag, parse(value)))
            .collect()
    }

    /// # Errors
    /// There are faults.
    pub fn settle<T>(self, value: Option<T>) -> Result<T, Self> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("peili: the configuration cannot work; nothing was started")?;
        for Fault { flag, what } in &self.0 {
            write!(f, "\n  {flag}: {what}")?;
        }
        Ok(())
    }
}

impl Error for Faults {}
