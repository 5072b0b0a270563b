//! `IntOrString`: a number, or a percentage or port name.

use crate::Value;

/// A parsed `IntOrString`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntOrStr<'a> {
    Int(i32),
    Str(&'a str),
}

impl<'a> IntOrStr<'a> {
    /// `None` for anything that is neither.
    pub fn of(v: &'a Value) -> Option<Self> {
        match v {
            Value::String(s) => Some(IntOrStr::Str(s)),
            Value::Number(n) => Some(IntOrStr::Int(i32::try_from(n.as_i64()?).ok()?)),
            _ => None,
        }
    }

    /// The percentage of a string like `25%`.
    pub fn percent(self) -> Option<i64> {
        match self {
            IntOrStr::Str(s) => s.strip_suffix('%')?.parse().ok(),
            IntOrStr::Int(_) => None,
        }
    }

    /// The number itself, or that share of `total`.
    pub fn scaled(self, total: i64, round_up: bool) -> Option<i64> {
        match self {
            IntOrStr::Int(n) => Some(i64::from(n)),
            IntOrStr::Str(_) => {
                let share = self.percent()?.checked_mul(total)?;
                Some(if round_up { -(-share).div_euclid(100) } else { share.div_euclid(100) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_both_ways() {
        let p = IntOrStr::Str("25%");
        assert_eq!((p.scaled(10, true), p.scaled(10, false)), (Some(3), Some(2)));
        assert_eq!(IntOrStr::Int(4).scaled(10, true), Some(4));
        assert_eq!(IntOrStr::Str("http").scaled(10, true), None);
        assert_eq!(IntOrStr::of(&crate::json!(5_000_000_000i64)), None);
    }
}
