//! Quantities as the kubelet uses them: whole units rounded up, and thousandths.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up; `None` when it is not a quantity.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')));
    let (number, suffix) = match split {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let (factor, exponent) = scale(suffix)?;
    // Keep nine more digits than thousandths need, then round up.
    let fraction: String = fraction.chars().take(12).collect();
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let exponent = exponent + 3 - i32::try_from(fraction.len()).ok()?;
    let value = mantissa.checked_mul(factor)?;
    let value = if exponent >= 0 {
        value.checked_mul(10i128.checked_pow(exponent.unsigned_abs())?)?
    } else {
        let divisor = 10i128.checked_pow(exponent.unsigned_abs())?;
        value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
    };
    Some(if negative { -value } else { value })
}

/// What a suffix multiplies by: a factor, and a power of ten.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    let binary = |power: u32| (1i128 << (10 * power), 0);
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            (1, exponent.parse::<i32>().ok().filter(|e| e.abs() <= 18)?)
        }
    })
}

/// The quantity in whole units, rounded up.
pub fn units(text: &str) -> Option<i64> {
    let milli = milli(text)?;
    i64::try_from(milli.div_euclid(1000) + i128::from(milli.rem_euclid(1000) != 0)).ok()
}

/// A resource of a list in whole units; `None` when it is not there or not a quantity.
pub fn get(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    units(&list?.get(name)?.0)
}

/// A resource of a list in thousandths; `None` when it is not there or not a quantity.
pub fn get_milli(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<i64> {
    i64::try_from(milli(&list?.get(name)?.0)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        for (text, expected) in [
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            (".5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("1e3", Some(1_000_000)),
            ("2E", Some(2_000_000_000_000_000_000_000)),
            ("1n", Some(1)),
            ("-1", Some(-1000)),
            ("", None),
            ("Mi", None),
            ("1x", None),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("64Mi"), Some(64 << 20));
    }
}
