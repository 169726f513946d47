//! Numbers, states and reasons in words.

use crate::PeerState;

/// Bytes with a decimal unit and at most three digits, as disks and registries count.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let (mut value, mut unit) = (bytes as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = if value >= 99.5 || unit == 0 {
        0
    } else if value >= 9.95 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    format!("{text} {}", UNITS[unit])
}

/// A rate in bytes per second.
pub fn rate(rate: u64) -> String {
    format!("{}/s", bytes(rate))
}

/// A span of time by its two largest units.
pub fn seconds(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size);
    let Some(first) = first else {
        return "0 s".to_owned();
    };
    let (size, name) = units[first];
    let rest = units
        .get(first + 1)
        .map(|(next, name)| (seconds % size / next, name));
    match rest {
        Some((rest, rest_name)) if rest > 0 => {
            format!("{} {name} {rest} {rest_name}", seconds / size)
        }
        _ => format!("{} {name}", seconds / size),
    }
}

/// Milliseconds as seconds, or unchanged if there are few.
pub fn milliseconds(milliseconds: u64) -> String {
    match milliseconds {
        0..1_000 => format!("{milliseconds} ms"),
        1_000..60_000 => format!("{:.1} s", milliseconds as f64 / 1000.0),
        _ => seconds(milliseconds / 1000),
    }
}

/// A part in percent, without decimals from 10 on.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0 %".to_owned();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    match percent {
        p if p == 0.0 || p >= 9.95 => format!("{p:.0} %"),
        p if p < 0.1 => "< 0.1 %".to_owned(),
        p => format!("{p:.1} %"),
    }
}

/// A number of things.
pub fn count(number: usize, one: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {one}s"),
    }
}

/// The state of a peer.
pub fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Ok => "ok",
        PeerState::BackOff => "not asked",
        PeerState::Suspected => "suspected",
        PeerState::Legacy => "no flights",
        PeerState::Gone => "gone",
    }
}

/// Why bytes came from upstream, for people. The metric `peili_upstream_bytes_total` has the same reasons.
pub fn reason(reason: &str) -> &str {
    match reason {
        "no_peer" => "no node had it",
        "peers_failed" => "nodes that had it failed",
        "leads" => "this node pulled it for all",
        "alone" => "waiting for others would have taken too long",
        "filtered" => "not mirrored (filter)",
        "private" => "private: the registry decides who gets it",
        "tag_check" => "the tag could not be checked in time",
        "busy" => "this mirror had no memory left for it",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1 kB"),
            (1_234, "1.23 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (999_500, "1 MB"),
            (412_000_000_000, "412 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        for (value, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (6_720, "1 h 52 min"),
            (86_400, "1 d"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(seconds(value), text);
        }
        for (part, whole, text) in [
            (0, 0, "0 %"),
            (0, 5, "0 %"),
            (1, 100_000, "< 0.1 %"),
            (21, 1_000, "2.1 %"),
            (1, 1, "100 %"),
        ] {
            assert_eq!(percent(part, whole), text);
        }
        assert_eq!(milliseconds(999), "999 ms");
        assert_eq!(milliseconds(1_940), "1.9 s");
        assert_eq!(milliseconds(61_000), "1 min 1 s");
    }
}
