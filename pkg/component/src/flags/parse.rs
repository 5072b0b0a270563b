//! pflag's grammar over a flag table.

use std::collections::BTreeMap;

use super::{Flag, types};

/// A mistake on the command line, in upstream's words.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FlagError {
    /// No such long flag.
    #[error("unknown flag: --{0}")]
    Unknown(String),
    /// No such shorthand.
    #[error("unknown shorthand flag: {0:?} in -{1}")]
    UnknownShorthand(char, String),
    /// The flag needs a value and the command line ended.
    #[error("flag needs an argument: {0}")]
    Missing(String),
    /// Not a flag at all: `---x`, `--=x`.
    #[error("bad flag syntax: {0}")]
    Syntax(String),
    /// The value does not fit the flag's type.
    #[error("invalid argument {value:?} for {flag:?} flag: {why}")]
    Invalid {
        /// What was given.
        value: String,
        /// The flag, with dashes.
        flag: String,
        /// What is wrong.
        why: String,
    },
    /// Daemons take flags only.
    #[error("{0:?} does not take any arguments, got {1:?}")]
    Positional(String, Vec<String>),
}

type Table = BTreeMap<String, Flag>;
type Values = BTreeMap<String, Vec<String>>;

pub(super) fn parse(
    name: &str,
    table: &Table,
    args: impl Iterator<Item = String>,
) -> Result<Values, FlagError> {
    let mut args = args.peekable();
    let mut set = Values::new();
    let mut rest = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            rest.extend(args.by_ref());
        } else if let Some(long) = arg.strip_prefix("--") {
            parse_long(table, &mut set, &arg, long, &mut args)?;
        } else if arg.len() > 1 && arg.starts_with('-') {
            parse_short(table, &mut set, &arg[1..], &mut args)?;
        } else {
            rest.push(arg);
        }
    }
    rest.retain(|a| !a.is_empty());
    if rest.is_empty() { Ok(set) } else { Err(FlagError::Positional(name.to_owned(), rest)) }
}

fn parse_long(
    table: &Table,
    set: &mut Values,
    arg: &str,
    long: &str,
    args: &mut impl Iterator<Item = String>,
) -> Result<(), FlagError> {
    let (given, value) = match long.split_once('=') {
        Some((n, v)) => (n, Some(v.to_owned())),
        None => (long, None),
    };
    if given.is_empty() || given.starts_with('-') {
        return Err(FlagError::Syntax(arg.to_owned()));
    }
    let flag = find(table, given).ok_or_else(|| FlagError::Unknown(given.to_owned()))?;
    let value = match (value, no_opt_default(flag)) {
        (Some(v), _) => v,
        (None, Some(default)) => default.to_owned(),
        (None, None) => args.next().ok_or_else(|| FlagError::Missing(format!("--{given}")))?,
    };
    store(flag, value, set)
}

fn parse_short(
    table: &Table,
    set: &mut Values,
    group: &str,
    args: &mut impl Iterator<Item = String>,
) -> Result<(), FlagError> {
    let mut left = group;
    while let Some(c) = left.chars().next() {
        let after = &left[c.len_utf8()..];
        let flag = table
            .values()
            .find(|f| f.shorthand.chars().eq([c]))
            .ok_or_else(|| FlagError::UnknownShorthand(c, group.to_owned()))?;
        if let Some(value) = after.strip_prefix('=') {
            return store(flag, value.to_owned(), set);
        }
        if let Some(default) = no_opt_default(flag) {
            store(flag, default.to_owned(), set)?;
            left = after;
            continue;
        }
        if !after.is_empty() {
            return store(flag, after.to_owned(), set);
        }
        let value = args.next().ok_or_else(|| FlagError::Missing(format!("{c:?} in -{group}")))?;
        return store(flag, value, set);
    }
    Ok(())
}

/// Names may be written with `_` for `-`, as upstream's normalization allows.
fn find<'t>(table: &'t Table, given: &str) -> Option<&'t Flag> {
    table.get(given).or_else(|| table.get(&given.replace('_', "-")))
}

fn no_opt_default(flag: &Flag) -> Option<&str> {
    flag.no_opt_default.as_deref().or_else(|| (flag.kind == "bool").then_some("true"))
}

fn store(flag: &Flag, value: String, set: &mut Values) -> Result<(), FlagError> {
    if let Err(why) = types::check(&flag.kind, &value) {
        let dashed = match flag.shorthand.as_str() {
            "" => format!("--{}", flag.flag),
            s => format!("-{s}, --{}", flag.flag),
        };
        return Err(FlagError::Invalid { value, flag: dashed, why });
    }
    set.entry(flag.flag.clone()).or_default().push(value);
    Ok(())
}
