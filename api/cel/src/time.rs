//! Timestamps and durations, in the texts that protobuf and Go give them.

use crate::error::{Fault, Result};
use jiff::tz::{Offset, TimeZone};

const SECOND: f64 = 1e9;

/// A point in time, in UTC. (The year 9999 is used to its end.)
pub type Time = jiff::civil::DateTime;

/// An RFC 3339 timestamp.
pub fn parse_timestamp(text: &str) -> Option<Time> {
    if text.len() < 20 || text.as_bytes().get(10) != Some(&b'T') || !text.is_ascii() {
        return None;
    }
    let zone = text[19..].find(['Z', '+', '-'])? + 19;
    let (local, zone) = text.split_at(zone);
    let local: Time = local.parse().ok()?;
    if zone == "Z" {
        return Some(local);
    }
    let (hours, minutes) = zone[1..].split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 {
        return None;
    }
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ahead = jiff::SignedDuration::from_secs((hours * 60 + minutes) * 60);
    if zone.starts_with('-') { local.checked_add(ahead).ok() } else { local.checked_sub(ahead).ok() }
}

/// A point in time as RFC 3339 writes it.
pub fn text(t: Time) -> String {
    format!("{t}Z")
}

fn epoch() -> Time {
    Time::constant(1970, 1, 1, 0, 0, 0, 0)
}

/// Seconds since 1970.
pub fn seconds(t: Time) -> i64 {
    t.duration_since(epoch()).as_secs()
}

/// From seconds since 1970.
pub fn from_seconds(n: i64) -> Option<Time> {
    epoch().checked_add(jiff::SignedDuration::from_secs(n)).ok()
}

/// Nanoseconds from one point in time to another.
pub fn between(from: Time, to: Time) -> i128 {
    to.duration_since(from).as_nanos()
}

/// A duration as Go writes them: `1h30m`, `-1.5s`, `100ms`.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let nanos = match unit {
            "ns" => 1i128,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && part.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part = if part.is_empty() { 0.0 } else { format!("0.{part}").parse::<f64>().ok()? };
        total = total.checked_add(whole.checked_mul(nanos)?)?.checked_add((part * nanos as f64) as i128)?;
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// Seconds with as many digits as needed, and an `s`.
pub fn duration_text(nanos: i64) -> String {
    if nanos % 1_000_000_000 == 0 {
        return format!("{}s", nanos / 1_000_000_000);
    }
    format!("{}s", nanos as f64 / SECOND)
}

/// A part of a timestamp in a time zone: `getHours` and its like.
pub fn part(t: Time, name: &str, zone: Option<&str>) -> Result<i64> {
    let at = match zone {
        None => t,
        Some(zone) => {
            let zone = zone_of(zone)?;
            let zoned = TimeZone::UTC.to_timestamp(t).map(|t| t.to_zoned(zone).datetime());
            zoned.map_err(|_| Fault::error("timestamp overflow"))?
        }
    };
    Ok(match name {
        "getFullYear" => at.year().into(),
        "getMonth" => i64::from(at.month()) - 1,
        "getDayOfYear" => i64::from(at.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDate" => at.day().into(),
        "getDayOfWeek" => at.weekday().to_sunday_zero_offset().into(),
        "getHours" => at.hour().into(),
        "getMinutes" => at.minute().into(),
        "getSeconds" => at.second().into(),
        "getMilliseconds" => i64::from(at.subsec_nanosecond()) / 1_000_000,
        _ => return Err(Fault::no_such_overload()),
    })
}

fn zone_of(name: &str) -> Result<TimeZone> {
    let unknown = || Fault::error(format!("unknown time zone {name}"));
    if name == "UTC" || name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    let Some((hours, minutes)) = name.split_once(':') else {
        return TimeZone::get(name).map_err(|_| unknown());
    };
    let negative = hours.starts_with('-');
    let hours: i32 = hours.trim_start_matches(['+', '-']).parse().map_err(|_| unknown())?;
    let minutes: i32 = minutes.parse().map_err(|_| unknown())?;
    if hours > 24 || !(0..60).contains(&minutes) {
        return Err(unknown());
    }
    let seconds = hours * 3600 + minutes * 60;
    let offset = Offset::from_seconds(if negative { -seconds } else { seconds }).map_err(|_| unknown())?;
    Ok(offset.to_time_zone())
}

/// A timestamp some nanoseconds later.
pub fn add(t: Time, nanos: i64) -> Result<Time> {
    let span = jiff::SignedDuration::from_nanos(nanos);
    t.checked_add(span).map_err(|_| Fault::error("timestamp overflow"))
}
