//! Resource quantities: `100m`, `1.5Gi`, `2e3`, exactly.
//!
//! A quantity is a whole number of nano-units in an `i128`, which holds every value that upstream
//! can hold at its finest precision; finer digits are rounded away from zero, as upstream does.

use crate::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// The suffix family a quantity was written in, which its canonical text keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    DecimalSI,
    BinarySI,
    DecimalExponent,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse quantity's suffix")]
    Suffix,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

const NANO: i128 = 1_000_000_000;
const MAX_BINARY: i128 = i64::MAX as i128 * NANO;

/// Division that rounds away from zero.
fn div_up(n: i128, by: i128) -> i128 {
    let q = n / by;
    if n % by == 0 { q } else { q + n.signum() }
}

#[expect(
    clippy::should_implement_trait,
    reason = "the format of a sum depends on which side is zero: no operator"
)]
impl Quantity {
    pub const ZERO: Quantity = Quantity { nanos: 0, format: Format::DecimalSI };

    pub fn new(value: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(value) * NANO, format }
    }

    pub fn from_milli(value: i64, format: Format) -> Self {
        Quantity { nanos: i128::from(value) * 1_000_000, format }
    }

    pub fn parse(text: &str) -> Result<Self, Error> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(Error::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let whole_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, tail) = rest.split_at(whole_end);
        let (fraction, suffix) = match tail.strip_prefix('.') {
            None => ("", tail),
            Some(t) => t.split_at(t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len())),
        };
        check_suffix(suffix)?;
        let (scale, format) = interpret(suffix).ok_or(Error::Suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(Error::Numeric);
        }
        let mut nanos = magnitude(whole, fraction, scale);
        if format == Format::BinarySI {
            nanos = nanos.min(MAX_BINARY);
        }
        // Fractions of a byte can only be written in decimal.
        let format =
            if format == Format::BinarySI && nanos > 0 && nanos < NANO { Format::DecimalSI } else { format };
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// From the JSON form: a string, or a bare number.
    pub fn from_value(v: &Value) -> Result<Self, Error> {
        match v {
            Value::Null => Ok(Self::ZERO),
            Value::String(s) => Self::parse(s.trim()),
            Value::Number(n) => Self::parse(&n.to_string()),
            _ => Err(Error::Format),
        }
    }

    /// As [`Quantity::from_value`]; absent or malformed is zero. For values that passed validation.
    pub fn of(v: Option<&Value>) -> Self {
        v.and_then(|v| Self::from_value(v).ok()).unwrap_or(Self::ZERO)
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded up; saturated.
    pub fn value(&self) -> i64 {
        saturate(div_up(self.nanos, NANO))
    }

    /// Thousandths, rounded up; saturated.
    pub fn milli_value(&self) -> i64 {
        saturate(div_up(self.nanos, 1_000_000))
    }

    /// Billionths.
    pub fn nano_value(&self) -> i128 {
        self.nanos
    }

    pub fn as_f64(&self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// Whether it is a whole number of units.
    pub fn is_integer(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// The sum; a zero takes over the other's format, as upstream's does.
    pub fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    pub fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), format }
    }

    pub fn mul(self, by: i64) -> Self {
        Quantity { nanos: self.nanos.saturating_mul(i128::from(by)), format: self.format }
    }

    pub fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl std::ops::Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Quantity { nanos: self.nanos.saturating_neg(), format: self.format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

fn saturate(n: i128) -> i64 {
    n.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// The letters, then an optional sign, then digits.
fn check_suffix(suffix: &str) -> Result<(), Error> {
    let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let digits = letters.strip_prefix(['-', '+']).unwrap_or(letters);
    if digits.bytes().all(|b| b.is_ascii_digit()) { Ok(()) } else { Err(Error::Format) }
}

#[derive(Clone, Copy)]
enum Scale {
    Ten(i64),
    Two(u32),
}

fn interpret(suffix: &str) -> Option<(Scale, Format)> {
    let decimal = |e| Some((Scale::Ten(e), Format::DecimalSI));
    let binary = |e| Some((Scale::Two(e), Format::BinarySI));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i64 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            Some((Scale::Ten(exponent), Format::DecimalExponent))
        }
    }
}

/// `whole.fraction * scale` in nano-units, rounded up, saturated.
fn magnitude(whole: &str, fraction: &str, scale: Scale) -> i128 {
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    // More digits than an i128 can tell apart only decide which way to round.
    let kept = fraction.len().min(30usize.saturating_sub(whole.len().min(30)));
    let (kept, lost) = fraction.split_at(kept);
    let Ok(digits) = format!("0{whole}{kept}").parse::<i128>() else { return i128::MAX };
    let sticky = i128::from(!lost.is_empty());
    let down = kept.len() as i64;
    match scale {
        Scale::Ten(e) => {
            let shift = e.saturating_add(9).saturating_sub(down);
            if digits == 0 && sticky == 0 {
                0
            } else if shift >= 0 {
                let by = u32::try_from(shift).ok().and_then(|s| 10i128.checked_pow(s));
                by.and_then(|by| digits.checked_mul(by)).unwrap_or(i128::MAX)
            } else {
                match u32::try_from(-shift).ok().and_then(|s| 10i128.checked_pow(s)) {
                    Some(by) => div_up(digits, by).max(sticky),
                    None => 1,
                }
            }
        }
        Scale::Two(bits) => {
            let Some(by) = 10i128.checked_pow(down as u32) else { return i128::MAX };
            let (units, rest) = (digits / by, digits % by);
            let scale = NANO << bits;
            let high = units.checked_mul(scale).unwrap_or(i128::MAX);
            // The fraction below one unit: at most 2^60 * 1e9 nano-units, divided in two steps to fit.
            let low = mul_div_up(rest, scale, by).max(sticky);
            high.saturating_add(low)
        }
    }
}

/// `a * b / c` rounded up, for `a < c`; falls back to fewer digits of `a` and `c` when it does not fit.
fn mul_div_up(mut a: i128, b: i128, mut c: i128) -> i128 {
    loop {
        if let Some(product) = a.checked_mul(b) {
            return div_up(product, c);
        }
        a = div_up(a, 10);
        c /= 10;
    }
}

impl fmt::Display for Quantity {
    /// The canonical text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.nanos;
        let small = n.unsigned_abs() < (1024 * NANO).unsigned_abs();
        if self.format == Format::BinarySI && !small && n % NANO == 0 {
            let (mut units, mut power) = (n / NANO, 0);
            while units % 1024 == 0 && power < 6 {
                units /= 1024;
                power += 1;
            }
            return write!(f, "{units}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        if n == 0 {
            return f.write_str("0");
        }
        let (mut mantissa, mut exponent) = (n, -9);
        let top = if self.format == Format::DecimalExponent { 27 } else { 18 };
        while mantissa % 1000 == 0 && exponent < top {
            mantissa /= 1000;
            exponent += 3;
        }
        match (self.format, exponent) {
            (_, 0) => write!(f, "{mantissa}"),
            (Format::DecimalExponent, e) => write!(f, "{mantissa}e{e}"),
            (_, e) => {
                let suffix = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][((e + 9) / 3) as usize];
                write!(f, "{mantissa}{suffix}")
            }
        }
    }
}

/// The canonical text of a JSON value, borrowed when it is canonical already in the plainest way.
pub fn canonical(v: &Value) -> Result<Cow<'_, str>, Error> {
    if let Value::String(s) = v {
        let b = s.as_bytes();
        if !b.is_empty() && b.len() < 4 && b[0] != b'0' && b.iter().all(u8::is_ascii_digit) {
            return Ok(Cow::Borrowed(s));
        }
        let text = Quantity::parse(s.trim())?.to_string();
        return Ok(if text == *s { Cow::Borrowed(s) } else { Cow::Owned(text) });
    }
    Quantity::from_value(v).map(|q| Cow::Owned(q.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_can_be_written() {
        let least = Quantity::parse("-9e30").unwrap().mul(i64::MAX);
        assert!(least.to_string().starts_with('-'));
        assert!(least.sub(Quantity::parse("1Ei").unwrap()).to_string().starts_with('-'));
    }

    #[test]
    fn canonical_texts() {
        for (input, want) in [
            ("0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("512", "512"),
            ("1000Mi", "1000Mi"),
            ("1e3", "1e3"),
            ("12e4", "120e3"),
            ("1E", "1E"),
            ("10000", "10k"),
            ("1234567", "1234567"),
            ("-5m", "-5m"),
            ("+2", "2"),
            ("0.1Ki", "102400m"),
            ("0.0000000001", "1n"),
            ("1Ki", "1Ki"),
            ("1023Ki", "1023Ki"),
            (".5", "500m"),
            ("5.", "5"),
            ("100E", "100E"),
            ("16Ei", "9223372036854775807"),
            ("0Gi", "0"),
        ] {
            assert_eq!(Quantity::parse(input).unwrap().to_string(), want, "{input}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        for (input, want) in [
            ("", Error::Format),
            ("abc", Error::Format),
            ("1x", Error::Format),
            ("1KiKi", Error::Suffix),
            ("1K", Error::Suffix),
            ("Ki", Error::Numeric),
            ("1 Gi", Error::Format),
            ("1e3x", Error::Format),
        ] {
            assert_eq!(Quantity::parse(input).unwrap_err(), want, "{input}");
        }
    }

    #[test]
    fn arithmetic_is_exact() {
        let q = |s| Quantity::parse(s).unwrap();
        assert_eq!(q("1Gi").add(q("1Mi")).to_string(), "1025Mi");
        assert_eq!(q("1").sub(q("100m")).to_string(), "900m");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1.5").value(), 2);
        assert_eq!(q("1500u").milli_value(), 2);
        assert_eq!(q("999999999999999999999999E").value(), i64::MAX);
        assert_eq!(Quantity::ZERO.add(q("1Gi")).to_string(), "1Gi");
    }
}
