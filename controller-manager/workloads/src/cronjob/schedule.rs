//! Cron schedules: five fields, names, steps and the usual abbreviations, in a time zone. Pure functions.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// When something is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    Fields(Box<Fields>),
    Every(SignedDuration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Day of month or day of week was given as `*`: then both have to match, else either.
    any_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let text = text.trim();
        if let Some(every) = text.strip_prefix("@every ") {
            let every: SignedDuration =
                every.parse().map_err(|_| format!("failed to parse duration {text}"))?;
            if every < SignedDuration::from_secs(1) {
                return Ok(Schedule::Every(SignedDuration::from_secs(1)));
            }
            return Ok(Schedule::Every(every));
        }
        let expanded = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(format!("unrecognized descriptor: {other}")),
            other => other,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = fields.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: {fields:?}", fields.len()));
        };
        let star = |f: &str| f.starts_with('*') || f.starts_with('?');
        Ok(Schedule::Fields(Box::new(Fields {
            minutes: field(minutes, 0, 59, &[])?,
            hours: field(hours, 0, 23, &[])?,
            days: field(days, 1, 31, &[])?,
            months: field(months, 1, 12, &MONTHS)?,
            weekdays: weekday_field(weekdays)?,
            any_day: star(days) || star(weekdays),
        })))
    }

    /// The first time after `after`; `None` where there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(every) => {
                let next = after.checked_add(*every).ok()?;
                Timestamp::from_second(next.as_second()).ok()
            }
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time in `(from, now]`, and whether more than a hundred were passed over.
    pub fn latest(&self, from: Timestamp, now: Timestamp, zone: &TimeZone) -> (Option<Timestamp>, bool) {
        let Some(first) = self.next(from, zone).filter(|t| *t <= now) else { return (None, false) };
        // Look back in growing steps instead of walking through what may be years.
        let mut start = from;
        for hours in [1, 24, 24 * 32, 24 * 366] {
            let near = now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(from);
            if near > from && self.next(near, zone).is_some_and(|t| t <= now) {
                start = near;
                break;
            }
        }
        let (mut last, mut count) = (first, 0u32);
        let mut at = start;
        while let Some(next) = self.next(at, zone).filter(|t| *t <= now) {
            (last, at) = (next, next);
            count += 1;
            if count > 200_000 {
                break;
            }
        }
        let many = count > 100 || (start > from && self.missed(from, now, zone));
        (Some(last), many)
    }

    fn missed(&self, from: Timestamp, now: Timestamp, zone: &TimeZone) -> bool {
        let mut at = from;
        for _ in 0..=100 {
            match self.next(at, zone).filter(|t| *t <= now) {
                Some(next) => at = next,
                None => return false,
            }
        }
        true
    }
}

impl Fields {
    fn day_matches(&self, date: Date) -> bool {
        let day = self.days & (1 << date.day()) != 0;
        let weekday = self.weekdays & (1 << date.weekday().to_sunday_zero_offset()) != 0;
        if self.any_day { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut date = start.date();
        let mut earliest = Some((start.hour(), start.minute()));
        for _ in 0..(366 * 5 + 2) {
            if self.months & (1 << date.month()) == 0 {
                date = date.first_of_month().checked_add(1.month()).ok()?;
                earliest = None;
                continue;
            }
            if self.day_matches(date)
                && let Some(found) = self.within(date, earliest, after, zone)
            {
                return Some(found);
            }
            date = date.tomorrow().ok()?;
            earliest = None;
        }
        None
    }

    fn within(
        &self,
        date: Date,
        earliest: Option<(i8, i8)>,
        after: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        let (hour, _) = earliest.unwrap_or((0, 0));
        for h in (hour..24).filter(|h| self.hours & (1 << h) != 0) {
            for m in (0..60).filter(|m| self.minutes & (1 << m) != 0) {
                let at = DateTime::from_parts(date, Time::constant(h, m, 0, 0));
                let due = zone.to_timestamp(at).ok()?;
                if due > after {
                    return Some(due);
                }
            }
        }
        None
    }
}

fn weekday_field(text: &str) -> Result<u64, String> {
    // Sunday is 0 and, as an older habit has it, 7.
    let bits = field(text, 0, 7, &WEEKDAYS)?;
    Ok(if bits & (1 << 7) != 0 { (bits | 1) & !(1 << 7) } else { bits })
}

fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let mut bits = 0;
    for part in text.split(',') {
        bits |= range(part, min, max, names)?;
    }
    Ok(bits)
}

fn range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<u64, String> {
    let (span, step) = text.split_once('/').map_or((text, None), |(span, step)| (span, Some(step)));
    let number = |t: &str| value(t, min, names);
    let (first, last) = match span.split_once('-') {
        _ if span == "*" || span == "?" => (min, if max == 7 { 6 } else { max }),
        Some((first, last)) => (number(first)?, number(last)?),
        None => {
            let first = number(span)?;
            (first, if step.is_some() { max } else { first })
        }
    };
    let step: u32 = match step {
        None => 1,
        Some(step) => step.parse().map_err(|_| format!("failed to parse int from {step}"))?,
    };
    if first < min || last > max {
        return Err(format!("{text} is outside of {min} to {max}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok((first..=last).step_by(step as usize).fold(0, |bits, n| bits | 1 << n))
}

fn value(text: &str, min: u32, names: &[&str]) -> Result<u32, String> {
    let lower = text.to_ascii_lowercase();
    if let Some(at) = names.iter().position(|n| *n == lower) {
        return Ok(min + u32::try_from(at).unwrap_or(0));
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn next_times() {
        let utc = TimeZone::UTC;
        for (schedule, after, want) in [
            ("*/5 * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:05:00Z"),
            ("*/5 * * * *", "2026-01-01T00:04:59Z", "2026-01-01T00:05:00Z"),
            ("0 9 * * mon-fri", "2026-01-02T10:00:00Z", "2026-01-05T09:00:00Z"),
            ("0 0 31 * *", "2026-01-31T00:00:00Z", "2026-03-31T00:00:00Z"),
            ("0 0 13 * 5", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"),
            ("0 0 * * 7", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("10-20/5,40 3 * JAN *", "2026-01-01T03:15:00Z", "2026-01-01T03:20:00Z"),
            ("@every 90s", "2026-01-01T00:00:00Z", "2026-01-01T00:01:30Z"),
        ] {
            let parsed = Schedule::parse(schedule).unwrap();
            assert_eq!(parsed.next(at(after), &utc), Some(at(want)), "{schedule}");
        }
        assert_eq!(Schedule::parse("0 0 30 2 *").unwrap().next(at("2026-01-01T00:00:00Z"), &utc), None);
        for bad in
            ["", "* * * *", "60 * * * *", "* * * * 8", "*/0 * * * *", "5-1 * * * *", "@often", "x * * * *"]
        {
            assert!(Schedule::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_latest_missed_time() {
        let utc = TimeZone::UTC;
        let s = Schedule::parse("* * * * *").unwrap();
        let now = at("2026-01-01T00:10:30Z");
        assert_eq!(
            s.latest(at("2026-01-01T00:08:00Z"), now, &utc),
            (Some(at("2026-01-01T00:10:00Z")), false)
        );
        assert_eq!(s.latest(at("2026-01-01T00:10:00Z"), now, &utc), (None, false));
        assert_eq!(s.latest(at("2025-01-01T00:00:00Z"), now, &utc), (Some(at("2026-01-01T00:10:00Z")), true));
    }
}
