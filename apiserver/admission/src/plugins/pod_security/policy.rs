//! Levels and versions of the Pod Security Standards, and how a namespace's labels choose them.

use api::Value;
use api::field::{Error, ErrorList, Path};
use std::fmt;

pub const PREFIX: &str = "pod-security.kubernetes.io/";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "privileged" => Ok(Level::Privileged),
            "baseline" => Ok(Level::Baseline),
            "restricted" => Ok(Level::Restricted),
            _ => Err("must be one of privileged, baseline, restricted"),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })
    }
}

/// A minor version of the standards, or whatever is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Minor(u32),
    Latest,
}

impl Version {
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const BAD: &str = "must be \"latest\" or \"v1.x\"";
        if text == "latest" {
            return Ok(Version::Latest);
        }
        let minor = text.strip_prefix("v1.").ok_or(BAD)?;
        let plain = minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        if !plain {
            return Err(BAD);
        }
        minor.parse().map(Version::Minor).map_err(|_| BAD)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Minor(minor) => write!(f, "v1.{minor}"),
            Version::Latest => f.write_str("latest"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl LevelVersion {
    pub const PRIVILEGED: Self = LevelVersion { level: Level::Privileged, version: Version::Latest };

    fn equivalent(&self, other: &Self) -> bool {
        self == other || self.level == Level::Privileged && other.level == Level::Privileged
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.level, self.version)
    }
}

/// What is refused, recorded and warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Policy {
    pub const PRIVILEGED: Self = Policy {
        enforce: LevelVersion::PRIVILEGED,
        audit: LevelVersion::PRIVILEGED,
        warn: LevelVersion::PRIVILEGED,
    };

    /// `defaults` of a PodSecurityConfiguration.
    pub fn from_defaults(defaults: &Value) -> Result<Self, String> {
        let mut policy = Self::PRIVILEGED;
        for (mode, name) in policy.modes() {
            let text = |key: &str| defaults.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
            let wrong = |key: &str, why| format!("defaults.{key}: Invalid value: {why}");
            if let Some(level) = text(name) {
                mode.level = Level::parse(level).map_err(|why| wrong(name, why))?;
            }
            let key = format!("{name}-version");
            if let Some(version) = text(&key) {
                mode.version = Version::parse(version).map_err(|why| wrong(&key, why))?;
            }
        }
        Ok(policy)
    }

    fn modes(&mut self) -> [(&mut LevelVersion, &'static str); 3] {
        [(&mut self.enforce, "enforce"), (&mut self.audit, "audit"), (&mut self.warn, "warn")]
    }

    pub fn is_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|m| m.level == Level::Privileged)
    }

    pub fn equivalent(&self, other: &Self) -> bool {
        self.enforce.equivalent(&other.enforce)
            && self.audit.equivalent(&other.audit)
            && self.warn.equivalent(&other.warn)
    }

    /// The policy of a namespace with these labels. A bad `enforce` label means `restricted`, bad
    /// `audit` and `warn` labels mean nothing, and each is an error.
    pub fn of_labels(labels: &api::Map<String, Value>, defaults: &Policy) -> (Policy, ErrorList) {
        let mut policy = *defaults;
        let mut errors = ErrorList::new();
        let mut enforce_set = false;
        let text = |key: &str| labels.get(&format!("{PREFIX}{key}")).and_then(Value::as_str);
        let wrong = |key: &str, value: &str, why: &str| {
            let path = Path::new("metadata").child("labels").key(&format!("{PREFIX}{key}"));
            Error::invalid(&path, value, why)
        };
        for (mode, name) in policy.modes() {
            if let Some(value) = text(name) {
                match Level::parse(value) {
                    Ok(level) => {
                        mode.level = level;
                        enforce_set |= name == "enforce";
                    }
                    Err(why) => {
                        mode.level = if name == "enforce" { Level::Restricted } else { Level::Privileged };
                        errors.push(wrong(name, value, why));
                    }
                }
            }
            let key = format!("{name}-version");
            if let Some(value) = text(&key) {
                mode.version = Version::parse(value).unwrap_or_else(|why| {
                    errors.push(wrong(&key, value, why));
                    Version::Latest
                });
            }
        }
        if text("warn").is_none() && enforce_set && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if text("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }
}
