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

/// Why options cannot be taken.
#[derive(Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A parameter is not what it should be.
    Form(String),
    /// What they say together makes no sense.
    Sense(String),
}

impl Options {
    pub fn parse(query: &Query) -> Result<Options, Wrong> {
        let number = |name| query.number::<i64>(name).map_err(Wrong::Form);
        let wrong = |why: &str| Wrong::Sense(why.into());
        let seconds = number("sinceSeconds")?;
        let time = query.get("sinceTime").filter(|t| !t.is_empty());
        let since = match (seconds, time) {
            (Some(_), Some(_)) => {
                return Err(wrong("at most one of `sinceTime` or `sinceSeconds` may be specified"));
            }
            (Some(s), None) if s < 1 => return Err(wrong("sinceSeconds: must be greater than 0")),
            (Some(s), None) => Some(now() - i128::from(s) * 1_000_000_000),
            (None, Some(t)) => {
                let (s, nanos) = api::time::parse_rfc3339(t)
                    .ok_or_else(|| Wrong::Form(format!("sinceTime: invalid value {t:?}")))?;
                Some(i128::from(s) * 1_000_000_000 + i128::from(nanos))
            }
            (None, None) => None,
        };
        let limit_bytes = number("limitBytes")?;
        if limit_bytes.is_some_and(|n| n < 1) {
            return Err(wrong("limitBytes: must be greater than 0"));
        }
        // An older name of the same.
        let tail = match query.get("tail") {
            None | Some("") => number("tailLines")?,
            Some("all") => None,
            Some(_) => number("tail")?,
        };
        if tail.is_some_and(|n| n < 0) {
            return Err(wrong("tailLines: must be greater than or equal to 0"));
        }
        let output = match query.get("stream") {
            None | Some("" | "All") => Output::All,
            Some("Stdout") => Output::Stdout,
            Some("Stderr") => Output::Stderr,
            Some(other) => return Err(Wrong::Sense(format!("stream: unsupported value {other:?}"))),
        };
        if output != Output::All && tail.is_some() {
            return Err(wrong("`tailLines` and specific `stream` are mutually exclusive for now"));
        }
        Ok(Options {
            follow: query.truthy("follow"),
            previous: query.truthy("previous"),
            timestamps: query.truthy("timestamps"),
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
            ("tailLines=-1", "tailLines: must be greater than or equal to 0"),
            ("limitBytes=0", "limitBytes: must be greater than 0"),
            (
                "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ),
            ("stream=Stdout&tailLines=1", "`tailLines` and specific `stream` are mutually exclusive for now"),
            ("stream=Both", "stream: unsupported value \"Both\""),
        ] {
            assert_eq!(
                Options::parse(&Query::parse(Some(query))),
                Err(Wrong::Sense(expected.to_owned())),
                "{query}"
            );
        }
        for query in ["tailLines=x", "tailLines=", "tail=x", "limitBytes=x", "sinceTime=x"] {
            let parsed = Options::parse(&Query::parse(Some(query)));
            assert!(matches!(parsed, Err(Wrong::Form(_))), "{query}");
        }
        let good = Options::parse(&Query::parse(Some("follow=true&tailLines=5"))).expect("good");
        assert!(good.follow && good.tail == Some(5));
    }
}
