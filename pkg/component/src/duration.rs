//! Go's duration syntax (`1h2m3.5s`), which flags and configuration files use.
//!
//! The module works as a serde adapter: `#[serde(with = "component::duration")]` on a [`Duration`] field, and
//! `component::duration::option` on an `Option<Duration>`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

const UNITS: [(&str, f64); 8] =
    [("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// Nanoseconds of a Go duration, negative ones included.
pub fn parse_nanos(text: &str) -> Option<i64> {
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(r) => (-1.0, r),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, factor) = UNITS.iter().find(|(u, _)| *u == &rest[..unit_len])?;
        total += number * factor;
        rest = &rest[unit_len..];
    }
    let nanos = (sign * total).round();
    (nanos.abs() < 9.2e18).then_some(nanos as i64)
}

/// A Go duration; negative ones are zero.
pub fn parse(text: &str) -> Option<Duration> {
    parse_nanos(text).map(|n| Duration::from_nanos(u64::try_from(n).unwrap_or(0)))
}

/// The duration as Go prints it.
pub fn format(d: Duration) -> String {
    let nanos = d.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    if nanos < 1_000_000_000 {
        let (unit, size) = match nanos {
            0..1_000 => ("ns", 1.0),
            1_000..1_000_000 => ("µs", 1e3),
            _ => ("ms", 1e6),
        };
        return format!("{}{unit}", nanos as f64 / size);
    }
    let (hours, minutes) = (d.as_secs() / 3600, d.as_secs() / 60 % 60);
    let seconds = (nanos % 60_000_000_000) as f64 / 1e9;
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, m) => format!("{m}m{seconds}s"),
        (h, m) => format!("{h}h{m}m{seconds}s"),
    }
}

/// Serde adapter: writes Go's form.
pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&format(*d))
}

/// Serde adapter: reads Go's form; `null` is zero.
pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    Ok(option::deserialize(d)?.unwrap_or_default())
}

/// Serde adapter for optional durations.
pub mod option {
    use super::*;

    /// Writes Go's form or null.
    pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::serialize(d, s),
            None => s.serialize_none(),
        }
    }

    /// Reads Go's form or null.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else { return Ok(None) };
        let bad = || serde::de::Error::custom(format!("time: invalid duration {text:?}"));
        super::parse(&text).map(Some).ok_or_else(bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_syntax_both_ways() {
        for (text, millis) in
            [("10s", 10_000), ("2m0s", 120_000), ("1h2m3.5s", 3_723_500), ("100ms", 100), ("0s", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
            assert_eq!(format(Duration::from_millis(millis)), text);
        }
        assert_eq!(parse("-5s"), Some(Duration::ZERO));
        assert_eq!(parse_nanos("-5s"), Some(-5_000_000_000));
        for bad in ["", "5", "s", "5x", "-"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
