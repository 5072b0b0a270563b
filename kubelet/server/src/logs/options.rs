//! The options of a log request.

use crate::query::Query;

/// Which of the two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    All,
    Stdout,
    Stderr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub follow: bool,
    pub previous: bool,
    pub timestamps: bool,
    /// Only lines from this moment on, in nanoseconds after 1970.
    pub since: Option<i128>,
    pub tail: Option<u64>,
    pub limit_bytes: Option<u64>,
    pub output: Output,
}

impl Options {
    pub fn parse(query: &Query) -> Result<Options, String> {
        let seconds = query.number::<i64>("sinceSeconds")?;
        let time = query.get("sinceTime").filter(|t| !t.is_empty());
        let since = match (seconds, time) {
            (Some(_), Some(_)) => {
                return Err("at most one of `sinceTime` or `sinceSeconds` may be specified".into());
            }
            (Some(s), None) if s < 1 => return Err("sinceSeconds: must be greater than 0".into()),
            (Some(s), None) => Some(now() - i128::from(s) * 1_000_000_000),
            (None, Some(t)) => {
                let (s, nanos) =
                    api::time::parse_rfc3339(t).ok_or_else(|| format!("sinceTime: invalid value {t:?}"))?;
                Some(i128::from(s) * 1_000_000_000 + i128::from(nanos))
            }
            (None, None) => None,
        };
        let limit_bytes = query.number::<i64>("limitBytes")?;
        if limit_bytes.is_some_and(|n| n < 1) {
            return Err("limitBytes: must be greater than 0".into());
        }
        let tail = query.number::<i64>("tailLines")?;
        if tail.is_some_and(|n| n < 0) {
            return Err("tailLines: must be greater than or equal to 0".into());
        }
        let output = match query.get("stream") {
            None | Some("" | "All") => Output::All,
            Some("Stdout") => Output::Stdout,
            Some("Stderr") => Output::Stderr,
            Some(other) => return Err(format!("stream: unsupported value {other:?}")),
        };
        Ok(Options {
            follow: query.flag("follow"),
            previous: query.flag("previous"),
            timestamps: query.flag("timestamps"),
            since,
            tail: tail.and_then(|n| u64::try_from(n).ok()),
            limit_bytes: limit_bytes.and_then(|n| u64::try_from(n).ok()),
            output,
        })
    }
}

fn now() -> i128 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |d| i128::try_from(d.as_nanos()).unwrap_or(i128::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_options_are_named() {
        for (query, expected) in [
            ("tailLines=x", "Unable to decode query: tailLines: invalid value \"x\""),
            ("tailLines=-1", "tailLines: must be greater than or equal to 0"),
            ("limitBytes=0", "limitBytes: must be greater than 0"),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            ("stream=Both", "stream: unsupported value \"Both\""),
        ] {
            assert_eq!(Options::parse(&Query::parse(Some(query))), Err(expected.to_owned()), "{query}");
        }
        let good = Options::parse(&Query::parse(Some("follow=true&tailLines=5"))).expect("good");
        assert!(good.follow && good.tail == Some(5));
    }
}
