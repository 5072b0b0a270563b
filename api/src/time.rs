//! Times and durations in the forms of the API: RFC 3339, microtime, Go durations, ages.

/// Seconds of Go's zero time, 0001-01-01T00:00:00Z; it is `null` in JSON.
pub const ZERO_SECONDS: i64 = -62_135_596_800;

/// A formatted time, without allocation.
pub struct Text {
    buf: [u8; 27],
    len: usize,
}

impl Text {
    /// `2006-01-02T15:04:05Z`
    pub fn seconds(secs: i64) -> Self {
        let mut t = Text { buf: [0; 27], len: 20 };
        t.civil(secs);
        t.buf[19] = b'Z';
        t
    }

    /// `2006-01-02T15:04:05.000000Z`
    pub fn micros(secs: i64, micros: u32) -> Self {
        let mut t = Text { buf: [0; 27], len: 27 };
        t.civil(secs);
        t.buf[19] = b'.';
        t.digits(20, 6, micros);
        t.buf[26] = b'Z';
        t
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.buf[..self.len]).unwrap_or_default()
    }

    fn digits(&mut self, at: usize, width: usize, mut v: u32) {
        for i in (at..at + width).rev() {
            self.buf[i] = b'0' + (v % 10) as u8;
            v /= 10;
        }
    }

    fn civil(&mut self, secs: i64) {
        // Years of more than four digits cannot be written; they are clamped.
        let secs = secs.clamp(ZERO_SECONDS, 253_402_300_799);
        let (days, rest) = (secs.div_euclid(86_400), secs.rem_euclid(86_400) as u32);
        let (y, m, d) = civil_from_days(days);
        self.digits(0, 4, y as u32);
        self.buf[4] = b'-';
        self.digits(5, 2, m);
        self.buf[7] = b'-';
        self.digits(8, 2, d);
        self.buf[10] = b'T';
        self.digits(11, 2, rest / 3600);
        self.buf[13] = b':';
        self.digits(14, 2, rest / 60 % 60);
        self.buf[16] = b':';
        self.digits(17, 2, rest % 60);
    }
}

/// Proleptic Gregorian date of a day number (1970-01-01 is 0), by eras of 400 years from 1 March.
fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    (year, month as u32, (doy - (153 * mp + 2) / 5 + 1) as u32)
}

fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let (era, yoe) = (y.div_euclid(400), y.rem_euclid(400));
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + d - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

/// Seconds since 1970 and nanoseconds of an RFC 3339 time; strict as Go's parser is.
pub fn parse_rfc3339(text: &str) -> Option<(i64, u32)> {
    let b = text.as_bytes();
    let num = |at: usize, len: usize| -> Option<i64> {
        let digits = b.get(at..at + len)?;
        digits
            .iter()
            .all(u8::is_ascii_digit)
            .then(|| digits.iter().fold(0, |n, d| n * 10 + i64::from(d - b'0')))
    };
    let is = |at: usize, c: u8| b.get(at) == Some(&c);
    if !(is(4, b'-') && is(7, b'-') && is(10, b'T') && is(13, b':') && is(16, b':')) {
        return None;
    }
    let (y, mo, d) = (num(0, 4)?, num(5, 2)?, num(8, 2)?);
    let (h, mi, s) = (num(11, 2)?, num(14, 2)?, num(17, 2)?);
    let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let month_days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let last = *month_days.get(usize::try_from(mo - 1).ok()?)?;
    if d < 1 || d > last || h > 23 || mi > 59 || s > 59 {
        return None;
    }
    let mut at = 19;
    let mut nanos = 0u32;
    if is(at, b'.') || is(at, b',') {
        let digits = b[at + 1..].iter().take_while(|c| c.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        for i in 0..9 {
            nanos = nanos * 10 + if i < digits { u32::from(b[at + 1 + i] - b'0') } else { 0 };
        }
        at += 1 + digits;
    }
    let offset = match b.get(at)? {
        b'Z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && is(at + 3, b':') => {
            let (oh, om) = (num(at + 1, 2)?, num(at + 4, 2)?);
            if oh > 24 || om > 60 {
                return None;
            }
            (oh * 3600 + om * 60) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    Some((days_from_civil(y, mo, d) * 86_400 + h * 3600 + mi * 60 + s - offset, nanos))
}

/// What Go says about a text that is no RFC 3339 time; `tail` is the layout after the seconds.
pub fn go_error(text: &str, tail: &str) -> String {
    const STEPS: [(&str, usize); 11] = [
        ("2006", 4),
        ("-", 1),
        ("01", 2),
        ("-", 1),
        ("02", 2),
        ("T", 1),
        ("15", 2),
        (":", 1),
        ("04", 2),
        (":", 1),
        ("05", 2),
    ];
    let layout = format!("2006-01-02T15:04:05{tail}");
    let mut at = 0;
    for (step, len) in STEPS {
        let rest = text.get(at..).unwrap_or_default();
        let part = text.get(at..at + len).unwrap_or_default();
        let ok = if len == 1 {
            part == step
        } else {
            part.len() == len && part.bytes().all(|b| b.is_ascii_digit())
        };
        if !ok {
            return format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {step:?}");
        }
        let number: u32 = part.parse().unwrap_or(0);
        let range = match step {
            "01" if !(1..=12).contains(&number) => "month",
            "02" if !(1..=31).contains(&number) => "day",
            "15" if number > 23 => "hour",
            "04" if number > 59 => "minute",
            "05" if number > 59 => "second",
            _ => "",
        };
        if !range.is_empty() {
            return format!("parsing time {text:?}: {range} out of range");
        }
        at += len;
    }
    let rest = &text[at..];
    if rest == "Z" && tail == "Z07:00" {
        return format!("parsing time {text:?}: day out of range");
    }
    let wanted = if tail.starts_with('.') && !rest.starts_with('.') { ".000000" } else { "Z07:00" };
    format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {wanted:?}")
}

/// A time as `metav1.Time` is written.
pub fn format_rfc3339(secs: i64) -> String {
    Text::seconds(secs).as_str().to_owned()
}

/// A time as `metav1.MicroTime` is written.
pub fn format_micro(secs: i64, nanos: u32) -> String {
    Text::micros(secs, nanos / 1000).as_str().to_owned()
}

/// The present as `metav1.Time`.
pub fn now() -> String {
    format_rfc3339(jiff::Timestamp::now().as_second())
}

/// The present as `metav1.MicroTime`.
pub fn now_micro() -> String {
    let t = jiff::Timestamp::now();
    format_micro(t.as_second(), t.subsec_nanosecond().unsigned_abs())
}

/// Go's text of a duration in nanoseconds: `1h2m3.5s`, `1.5ms`, `0s`.
pub fn format_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let fraction = |whole: u64, rest: u64, width: usize| {
        if rest == 0 {
            return whole.to_string();
        }
        let text = format!("{whole}.{rest:0width$}");
        text.trim_end_matches('0').to_owned()
    };
    let text = match n {
        0 => "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(n / 1_000, n % 1_000, 3)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(n / 1_000_000, n % 1_000_000, 6)),
        _ => {
            let secs = n / 1_000_000_000;
            let tail = fraction(secs % 60, n % 1_000_000_000, 9);
            match (secs / 3600, secs / 60 % 60) {
                (0, 0) => format!("{tail}s"),
                (0, m) => format!("{m}m{tail}s"),
                (h, m) => format!("{h}h{m}m{tail}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// Nanoseconds of a Go duration; the error is Go's text.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(invalid());
        }
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, next) = tail.split_at(unit_end);
        let scale: i128 = match unit {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        let digits = &fraction[..fraction.len().min(18)];
        let part: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| invalid())? };
        total = whole
            .checked_mul(scale)
            .and_then(|w| w.checked_add(part * scale / 10i128.pow(digits.len() as u32)))
            .and_then(|n| n.checked_add(total))
            .ok_or_else(invalid)?;
        rest = next;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| invalid())
}

/// A length of time as the `AGE` columns print it: `5s`, `3m20s`, `4d12h`, `2y30d`.
pub fn human_duration(secs: i64) -> String {
    if secs < -1 {
        return "<invalid>".into();
    }
    let secs = secs.max(0);
    let (minutes, hours) = (secs / 60, secs / 3600);
    let two = |a: i64, au: &str, b: i64, bu: &str| {
        if b == 0 { format!("{a}{au}") } else { format!("{a}{au}{b}{bu}") }
    };
    if secs < 120 {
        format!("{secs}s")
    } else if minutes < 10 {
        two(minutes, "m", secs % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(hours / 24, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        two(hours / 24 / 365, "y", hours / 24 % 365, "d")
    } else {
        format!("{}y", hours / 24 / 365)
    }
}

/// Age of an object now, from its `metadata.creationTimestamp`; `<unknown>` without one.
pub fn age(creation: Option<&str>) -> String {
    match creation.and_then(parse_rfc3339) {
        Some((secs, _)) => human_duration(jiff::Timestamp::now().as_second() - secs),
        None => "<unknown>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip() {
        for text in
            ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
        {
            assert_eq!(format_rfc3339(parse_rfc3339(text).unwrap().0), text);
        }
        assert_eq!(parse_rfc3339("0001-01-01T00:00:00Z"), Some((ZERO_SECONDS, 0)));
        assert_eq!(parse_rfc3339("1970-01-01T02:00:00.5+01:00"), Some((3600, 500_000_000)));
        assert_eq!(format_micro(1, 2_000), "1970-01-01T00:00:01.000002Z");
        for bad in [
            "",
            "2023-02-29T00:00:00Z",
            "2023-01-01 00:00:00Z",
            "2023-01-01T00:00:00",
            "2023-01-01T24:00:00Z",
            "2023-01-01T00:00:00.Z",
            "é",
        ] {
            assert_eq!(parse_rfc3339(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (n, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (1_500_000, "1.5ms"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (-1_050_000_000, "-1.05s"),
        ] {
            assert_eq!(format_duration(n), text);
            assert_eq!(parse_duration(text), Ok(n));
        }
        assert_eq!(parse_duration("1.5h"), Ok(5_400_000_000_000));
        assert_eq!(parse_duration("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(parse_duration("5d").unwrap_err(), "time: unknown unit \"d\" in duration \"5d\"");
        assert_eq!(parse_duration("").unwrap_err(), "time: invalid duration \"\"");
    }

    #[test]
    fn ages_are_kubectls() {
        for (secs, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (135, "2m15s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600 + 60, "9h"),
            (50 * 3600, "2d2h"),
            (9 * 86_400, "9d"),
            (800 * 86_400, "2y70d"),
            (9 * 365 * 86_400, "9y"),
        ] {
            assert_eq!(human_duration(secs), text);
        }
    }
}
