//! Decides which requests are recorded (`OTEL_TRACES_SAMPLER`).

use std::str::FromStr;

/// A sampler of the specification of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    /// The ratio of recorded traces among those that begin here, from 0 to 1.
    ratio: f64,
    /// Whether the sender of a request decides for its own traces.
    parent_decides: bool,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            ratio: 1.0,
            parent_decides: true,
        }
    }
}

impl Sampler {
    /// Parses the name of a sampler and its argument.
    ///
    /// # Errors
    /// There is no such sampler, or its ratio is not from 0 to 1.
    pub fn parse(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let (parent_decides, kind) = match name.strip_prefix("parentbased_") {
            Some(kind) => (true, kind),
            None => (false, name),
        };
        let ratio = match kind {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio(argument.unwrap_or("1"))?,
            _ => {
                return Err(format!(
                    "{name:?} is no sampler; write always_on, always_off or traceidratio, with parentbased_ before it or \
                     without"
                ));
            }
        };
        Ok(Self {
            ratio,
            parent_decides,
        })
    }

    pub fn samples(&self, trace: u128, parent: Option<bool>) -> bool {
        match parent {
            Some(is_sampled) if self.parent_decides => is_sampled,
            // The last bits of an id are random (Trace Context, level 2), and all nodes decide in the same way.
            _ => {
                let bits = (trace & u128::from(u64::MAX)) as u64 >> 11;
                (bits as f64) < self.ratio * (1_u64 << 53) as f64
            }
        }
    }
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = f64::from_str(text)
        .ok()
        .filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("{text:?} is not a number from 0 to 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_traces_is_recorded_and_parents_decide_if_they_may() {
        let half = Sampler::parse("traceidratio", Some("0.5")).expect("sound");
        assert!(half.samples(1 << 62, Some(false)) && !half.samples(u128::MAX, Some(true)));
        let by_parent = Sampler::parse("parentbased_traceidratio", Some("0.5")).expect("sound");
        assert!(!by_parent.samples(1, Some(false)) && by_parent.samples(u128::MAX, Some(true)));
        let off = Sampler::parse("parentbased_always_off", None).expect("sound");
        assert!(!off.samples(0, None) && off.samples(0, Some(true)));
        assert!(Sampler::default().samples(u128::MAX, None));
        for (name, argument) in [
            ("often", None),
            ("traceidratio", Some("2")),
            ("traceidratio", Some("x")),
        ] {
            assert!(
                Sampler::parse(name, argument).is_err(),
                "{name} {argument:?}"
            );
        }
    }
}
