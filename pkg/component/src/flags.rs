//! Command-line flags as upstream's daemons take them.
//!
//! The flag table of a daemon is data (name, type, default, section); this module gives it pflag's grammar: `--x v`,
//! `--x=v`, `--bool`, `--bool=false`, `-v4`, `_` for `-` in names, repeated lists, deprecation warnings. No general
//! argument parser has that grammar and those messages, which scripts and static pod manifests rely on, so it is
//! written out here.

mod help;
mod parse;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

pub use parse::FlagError;

/// A row of the flag table.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Flag {
    pub(crate) flag: String,
    #[serde(default)]
    pub(crate) shorthand: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) default: String,
    #[serde(default)]
    pub(crate) deprecated: bool,
    #[serde(default)]
    pub(crate) warns_on_use: bool,
    #[serde(default)]
    pub(crate) hidden: bool,
    #[serde(default)]
    pub(crate) section: Option<String>,
    #[serde(default)]
    pub(crate) no_opt_default: Option<String>,
}

#[derive(Deserialize)]
struct Table {
    flags: Vec<Flag>,
}

/// A daemon's command line: its name, what it is, and its flags.
pub struct Command {
    name: &'static str,
    about: &'static str,
    table: BTreeMap<String, Flag>,
    help: BTreeMap<String, String>,
}

/// The parsed flags; cheap to clone.
#[derive(Clone)]
pub struct Flags {
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    table: BTreeMap<String, Flag>,
    set: BTreeMap<String, Vec<String>>,
    implemented: BTreeSet<String>,
}

impl Command {
    /// A command whose flags are those of `table` (JSON, the daemon's own `flags.json`).
    ///
    /// # Panics
    /// When the table, which is compiled in, is not valid.
    pub fn new(name: &'static str, about: &'static str, table: &str) -> Command {
        let parsed: Table = match serde_json::from_str(table) {
            Ok(t) => t,
            Err(e) => panic!("flag table of {name}: {e}"),
        };
        let table = parsed.flags.into_iter().map(|f| (f.flag.clone(), f)).collect();
        let help =
            [("help", "Print this help."), ("version", "Print the version; --version=raw prints all of it.")]
                .into_iter()
                .chain(SHARED)
                .map(|(n, h)| (n.to_owned(), h.to_owned()))
                .collect();
        Command { name, about, table, help }
    }

    /// Names the flags that have an effect, each with its help. All others are accepted and reported at start.
    #[must_use]
    pub fn implements(mut self, flags: &[(&str, &str)]) -> Command {
        for (name, help) in flags {
            debug_assert!(self.table.contains_key(*name), "{} has no flag --{name}", self.name);
            self.help.insert((*name).to_owned(), (*help).to_owned());
        }
        self
    }

    /// Parses the process's arguments. Answers `--help` and `--version`, and ends the process on a mistake.
    pub fn parse(self) -> Flags {
        let args: Vec<String> =
            std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
        let help = self.help_text();
        let parsed = self.parse_from(args);
        match parsed {
            Err(e) => {
                eprintln!("Error: {e}");
                std::process::exit(1);
            }
            Ok(flags) if flags.wants_help() => {
                print!("{help}");
                std::process::exit(0);
            }
            Ok(flags) => {
                flags.answer_version();
                flags
            }
        }
    }

    /// Parses the given arguments (without the program's name) and nothing else.
    pub fn parse_from<I, S>(self, args: I) -> Result<Flags, FlagError>
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let set = parse::parse(self.name, &self.table, args.into_iter().map(Into::into))?;
        let implemented = self.help.into_keys().collect();
        Ok(Flags { inner: Arc::new(Inner { name: self.name, table: self.table, set, implemented }) })
    }

    /// What `--help` prints.
    pub fn help_text(&self) -> String {
        help::render(self.name, self.about, &self.table, &self.help)
    }
}

/// Flags that this crate itself gives effect to in every daemon.
const SHARED: [(&str, &str); 12] = [
    (
        "http2-max-streams-per-connection",
        "Streams at a time of one HTTP/2 connection; 0 is the default of 250.",
    ),
    ("permit-address-sharing", "Listen although a wildcard of the same port does."),
    ("permit-port-sharing", "Let several processes listen on the port."),
    ("tls-curve-preferences", "Key exchange groups, by their numbers."),
    ("disabled-metrics", "Metrics that are not served."),
    ("vmodule", "Log verbosity of single source files: pattern=N,..."),
    ("v", "Log verbosity: 0-3 operation, 4-5 detail, 6 and up everything."),
    ("logging-format", "Log format: text or json."),
    ("log-flush-frequency", "Longest time until a line is written; every line is written at once."),
    (
        "log-json-split-stream",
        "With json: errors to stderr, everything else to stdout (gate LoggingAlphaOptions).",
    ),
    (
        "log-text-split-stream",
        "With text: errors to stderr, everything else to stdout (gate LoggingAlphaOptions).",
    ),
    ("feature-gates", "Feature gates as Name=true|false pairs; AllAlpha and AllBeta set whole stages."),
];

impl Flags {
    /// The daemon's name.
    pub fn component(&self) -> &'static str {
        self.inner.name
    }

    /// The flag's value as text: the last one given, else the default.
    pub fn str(&self, name: &str) -> &str {
        debug_assert!(self.inner.table.contains_key(name), "{} has no flag --{name}", self.inner.name);
        if let Some(last) = self.inner.set.get(name).and_then(|v| v.last()) {
            return last;
        }
        self.inner.table.get(name).map_or("", |f| f.default.as_str())
    }

    /// The flag's value if it is not empty.
    pub fn opt(&self, name: &str) -> Option<&str> {
        Some(self.str(name)).filter(|s| !s.is_empty())
    }

    /// A boolean flag.
    pub fn bool(&self, name: &str) -> bool {
        types::parse_bool(self.str(name)).unwrap_or(false)
    }

    /// An integer flag.
    pub fn int(&self, name: &str) -> i64 {
        types::parse_int(self.str(name)).unwrap_or(0)
    }

    /// A floating-point flag.
    pub fn float(&self, name: &str) -> f64 {
        self.str(name).parse().unwrap_or(0.0)
    }

    /// A duration flag; negative durations are zero.
    pub fn duration(&self, name: &str) -> Duration {
        crate::duration::parse(self.str(name)).unwrap_or_default()
    }

    /// A list flag: every occurrence, comma-separated ones split (except where the type keeps commas).
    pub fn list(&self, name: &str) -> Vec<String> {
        let kind = self.inner.table.get(name).map_or("", |f| f.kind.as_str());
        match self.inner.set.get(name) {
            Some(values) => values.iter().flat_map(|v| types::split(kind, v)).collect(),
            None => types::split_default(kind, self.str(name)),
        }
    }

    /// A `key=value` flag.
    pub fn map(&self, name: &str) -> BTreeMap<String, String> {
        self.list(name)
            .iter()
            .filter_map(|p| p.split_once('='))
            .map(|(k, v)| (k.trim().into(), v.trim().into()))
            .collect()
    }

    /// Whether the flag was given.
    pub fn is_set(&self, name: &str) -> bool {
        self.inner.set.contains_key(name)
    }

    /// Whether the daemon knows the flag at all.
    pub fn has(&self, name: &str) -> bool {
        self.inner.table.contains_key(name)
    }

    /// Every flag and its value, for `/flagz` and the log; no flag carries a secret itself.
    pub fn all(&self) -> BTreeMap<String, String> {
        let value = |n: &String| match self.inner.set.get(n) {
            Some(v) if v.len() > 1 => v.join(","),
            _ => self.str(n).to_owned(),
        };
        self.inner.table.keys().map(|n| (n.clone(), value(n))).collect()
    }

    /// Deprecation warnings of the flags that were given, in pflag's words.
    pub fn warnings(&self) -> Vec<String> {
        let warns = |n: &&String| self.inner.table.get(*n).is_some_and(|f| f.deprecated && f.warns_on_use);
        let text = |n: &String| {
            format!(
                "Flag --{n} has been deprecated, This parameter should be set via the config file or will be removed."
            )
        };
        self.inner.set.keys().filter(warns).map(text).collect()
    }

    /// Flags that were given and have no effect yet.
    pub fn without_effect(&self) -> Vec<&str> {
        self.inner.set.keys().filter(|n| !self.inner.implemented.contains(*n)).map(String::as_str).collect()
    }

    fn wants_help(&self) -> bool {
        self.has("help") && self.bool("help")
    }

    fn answer_version(&self) {
        let asked = match self.inner.set.get("version").and_then(|v| v.last()).map(String::as_str) {
            Some("raw") => Some(true),
            Some("true") => Some(false),
            _ => None,
        };
        if let Some(raw) = asked {
            println!("{}", crate::version::text(raw));
            std::process::exit(0);
        }
    }
}

#[cfg(test)]
mod tests;
