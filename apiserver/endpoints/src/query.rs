//! Query strings and the option objects that they carry.
//!
//! Unknown parameters are ignored; a parameter that cannot be read is a 400, as upstream has it.

use api::Value;
use api::status::{Result, Status};
use std::borrow::Cow;
use std::time::Duration;

/// The decoded pairs of a query string, in order.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pairs: Vec<(Box<str>, Box<str>)>,
}

impl Query {
    pub fn parse(raw: &str) -> Self {
        if raw.is_empty() {
            return Self::default();
        }
        let own = |c: Cow<'_, str>| c.into_owned().into_boxed_str();
        // A semicolon parts nothing and is no part of anything: upstream passes over what it stands in.
        let clean = raw.split('&').filter(|part| !part.contains(';'));
        let pairs = clean.flat_map(|part| url::form_urlencoded::parse(part.as_bytes()));
        Query { pairs: pairs.map(|(k, v)| (own(k), own(v))).collect() }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.pairs.iter().filter(move |(k, _)| &**k == key).map(|(_, v)| &**v)
    }

    /// Every pair in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Booleans as upstream's parameter codec reads them: present means true unless `false` or `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    fn optional_flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(|_| self.flag(key))
    }

    fn int(&self, key: &str) -> Result<Option<i64>> {
        match self.get(key) {
            None => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Status::bad_request(no_number("ParseInt", text)))
            }
        }
    }
}

/// Why a text is none of the numbers that upstream's parser of that name reads.
pub fn no_number(parser: &str, text: &str) -> String {
    let digits = text.strip_prefix(['-', '+']).filter(|_| parser == "ParseInt").unwrap_or(text);
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let why = if number { "value out of range" } else { "invalid syntax" };
    format!("strconv.{parser}: parsing {text:?}: {why}")
}

/// `ListOptions`, as they stand in the query.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub watch: bool,
    pub bookmarks: bool,
    pub resource_version: String,
    pub resource_version_match: String,
    pub timeout: Option<Duration>,
    pub limit: i64,
    pub continue_token: String,
    pub send_initial_events: Option<bool>,
}

impl ListOptions {
    pub fn from_query(q: &Query) -> Result<Self> {
        let text = |k: &str| q.get(k).unwrap_or_default().to_owned();
        Ok(ListOptions {
            label_selector: text("labelSelector"),
            field_selector: text("fieldSelector"),
            watch: q.flag("watch"),
            bookmarks: q.flag("allowWatchBookmarks"),
            resource_version: text("resourceVersion"),
            resource_version_match: text("resourceVersionMatch"),
            timeout: q
                .int("timeoutSeconds")?
                .filter(|s| *s > 0)
                .map(|s| Duration::from_secs(s.unsigned_abs())),
            limit: q.int("limit")?.unwrap_or(0),
            continue_token: text("continue"),
            send_initial_events: q.optional_flag("sendInitialEvents"),
        })
    }
}

/// How unknown and duplicate fields of a body are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// What create, update and patch have in common.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    pub validation: FieldValidation,
    /// Only apply patches may say so.
    pub force: Option<bool>,
}

impl WriteOptions {
    /// `kind` (e.g. `CreateOptions`) names the object in errors.
    pub fn from_query(q: &Query, kind: &str) -> Result<Self> {
        Self::checked(q, kind, Vec::new())
    }

    /// `PatchOptions`: only appliers may use force, and they must say who they are.
    pub fn of_patch(q: &Query, apply: bool) -> Result<Self> {
        let mut errors = Vec::new();
        let path = api::field::Path::new;
        if apply && q.get("fieldManager").unwrap_or_default().is_empty() {
            errors.push(api::field::Error::required(&path("fieldManager"), "is required for apply patch"));
        }
        if !apply && q.get("force").is_some() {
            let text = "may not be specified for non-apply patch";
            errors.push(api::field::Error::forbidden(&path("force"), text));
        }
        Self::checked(q, "PatchOptions", errors)
    }

    fn checked(q: &Query, kind: &str, mut errors: Vec<api::field::Error>) -> Result<Self> {
        let validation = match q.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(api::field::Error::not_supported(
                    &api::field::Path::new("fieldValidation"),
                    other,
                    &["", "Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        let field_manager = q.get("fieldManager").unwrap_or_default().to_owned();
        manager_errors(&field_manager, &mut errors);
        let dry_run = dry_run(q.all("dryRun"), &mut errors);
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
        }
        Ok(WriteOptions { dry_run, field_manager, validation, force: q.optional_flag("force") })
    }
}

fn manager_errors(manager: &str, errors: &mut Vec<api::field::Error>) {
    let path = api::field::Path::new("fieldManager");
    if manager.len() > 128 {
        errors.push(api::field::Error::too_long(&path, 128));
    }
    errors
        .extend(api::names::unprintable(manager).map(|why| api::field::Error::invalid(&path, manager, why)));
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, errors: &mut Vec<api::field::Error>) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|v| *v != "All") {
        errors.push(api::field::Error::not_supported(
            &api::field::Path::new("dryRun"),
            values.clone(),
            &["All"],
        ));
    }
    values.contains(&"All")
}

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_period: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<String>,
    pub dry_run: bool,
    /// Deletes what can no longer be read; asked for by name only.
    pub ignore_store_read_error: bool,
}

impl DeleteOptions {
    pub fn from_query(q: &Query) -> Result<Self> {
        let mut errors = Vec::new();
        let out = DeleteOptions {
            grace_period: q.int("gracePeriodSeconds")?,
            uid: None,
            resource_version: None,
            orphan_dependents: q.optional_flag("orphanDependents"),
            propagation: q.get("propagationPolicy").filter(|s| !s.is_empty()).map(str::to_owned),
            dry_run: dry_run(q.all("dryRun"), &mut errors),
            ignore_store_read_error: q.flag("ignoreStoreReadErrorWithClusterBreakingPotential"),
        };
        out.checked(errors)
    }

    pub fn from_value(v: &Value) -> Result<Self> {
        let mut errors = Vec::new();
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let dry: Vec<&str> =
            v["dryRun"].as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        let out = DeleteOptions {
            grace_period: v["gracePeriodSeconds"].as_i64(),
            uid: text(&v["preconditions"]["uid"]),
            resource_version: text(&v["preconditions"]["resourceVersion"]),
            orphan_dependents: v["orphanDependents"].as_bool(),
            propagation: text(&v["propagationPolicy"]),
            dry_run: dry_run(dry.into_iter(), &mut errors),
            ignore_store_read_error: v["ignoreStoreReadErrorWithClusterBreakingPotential"]
                == Value::Bool(true),
        };
        out.checked(errors)
    }

    fn checked(self, mut errors: Vec<api::field::Error>) -> Result<Self> {
        let path = api::field::Path::new("propagationPolicy");
        if let Some(p) = &self.propagation {
            if !matches!(p.as_str(), "Foreground" | "Background" | "Orphan") {
                // In this order, which is no alphabet's.
                errors.push(api::field::Error {
                    detail: "supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"".into(),
                    ..api::field::Error::not_supported(&path, p.as_str(), &[])
                });
            }
            if self.orphan_dependents.is_some() {
                errors.push(api::field::Error::invalid(
                    &path,
                    p.as_str(),
                    "orphanDependents and deletionPropagation cannot be both set",
                ));
            }
        }
        if errors.is_empty() {
            Ok(self)
        } else {
            Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let of = |text: &str| Query::parse(&format!("n={text}")).int("n").map_err(|e| e.message);
        assert_eq!(Query::parse("a=1;b=2&c=3").get("a"), None);
        assert_eq!(Query::parse("a=1;b=2&c=3").get("c"), Some("3"));
        assert_eq!((of("-5"), Query::parse("").int("n").ok()), (Ok(Some(-5)), Some(None)));
        for (text, why) in [
            ("", "parsing \"\": invalid syntax"),
            ("1.5", "parsing \"1.5\": invalid syntax"),
            ("99999999999999999999", "parsing \"99999999999999999999\": value out of range"),
        ] {
            assert_eq!(of(text), Err(format!("strconv.ParseInt: {why}")));
        }
    }
}
