//! Cron schedules: whether a text is one.

/// Lowest and highest value of a field, and the names it knows (from the lowest on).
struct Field(u32, u32, &'static [&'static str]);

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] =
    [Field(0, 59, &[]), Field(0, 23, &[]), Field(1, 31, &[]), Field(1, 12, MONTHS), Field(0, 6, DAYS)];

/// What is wrong with a schedule of five fields, or a `@` word.
pub fn check(schedule: &str) -> Result<(), String> {
    if schedule.is_empty() {
        return Err("empty spec string".to_owned());
    }
    let mut rest = schedule;
    for prefix in ["TZ=", "CRON_TZ="] {
        if let Some(zoned) = schedule.strip_prefix(prefix) {
            rest = zoned.split_once(' ').map_or("", |(_, r)| r).trim();
        }
    }
    if rest.starts_with('@') {
        return word(rest);
    }
    let fields: Vec<&str> = rest.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    fields.iter().zip(&FIELDS).try_for_each(|(text, field)| text.split(',').try_for_each(|r| range(r, field)))
}

fn word(text: &str) -> Result<(), String> {
    match text {
        "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => Ok(()),
        _ => match text.strip_prefix("@every ") {
            Some(every) if is_duration(every) => Ok(()),
            Some(every) => Err(format!("failed to parse duration {text}: time: invalid duration {every:?}")),
            None => Err(format!("unrecognized descriptor: {text}")),
        },
    }
}

/// Numbers with units, as Go writes durations.
fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit = &rest[digits..];
        let end = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        if digits == 0 || !matches!(&unit[..end], "ns" | "us" | "µs" | "ms" | "s" | "m" | "h") {
            return false;
        }
        rest = &unit[end..];
    }
    !text.is_empty()
}

fn number(text: &str) -> Result<u32, String> {
    let n: i64 = text.parse().map_err(|_| {
        format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")
    })?;
    u32::try_from(n).map_err(|_| format!("negative number ({n}) not allowed: {text}"))
}

fn value(text: &str, field: &Field) -> Result<u32, String> {
    match field.2.iter().position(|n| *n == text.to_lowercase()) {
        Some(i) => Ok(field.0 + i as u32),
        None => number(text),
    }
}

/// `*`, `n`, `n-m`, any of them with `/step`.
fn range(text: &str, field: &Field) -> Result<(), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let ends: Vec<&str> = parts[0].split('-').collect();
    let (start, mut end) = match ends.as_slice() {
        ["*" | "?"] => (field.0, field.1),
        [one] => (value(one, field)?, value(one, field)?),
        [from, to] => (value(from, field)?, value(to, field)?),
        _ => return Err(format!("too many hyphens: {text}")),
    };
    let step = match parts.as_slice() {
        [_] => 1,
        [_, step] => {
            if ends.len() == 1 {
                end = field.1;
            }
            number(step)?
        }
        _ => return Err(format!("too many slashes: {text}")),
    };
    if start < field.0 {
        return Err(format!("beginning of range ({start}) below minimum ({}): {text}", field.0));
    }
    if end > field.1 {
        return Err(format!("end of range ({end}) above maximum ({}): {text}", field.1));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["* * * * *", "*/5 1-3 ? jan,feb mon-fri", "@hourly", "@every 1h30m", "TZ=UTC 0 0 * * *"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("x", "expected exactly 5 fields, found 1: [x]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("a * * * *", "failed to parse int from a: strconv.Atoi: parsing \"a\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()));
        }
    }
}
