//! Which functions there are: the table `functions.txt`, and the families that are written shorter in code.

use crate::types::{self, Type};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

/// One way to call a function.
pub struct Overload {
    pub id: Arc<str>,
    /// Called on a value, which is the first of `args`.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

pub type Functions = HashMap<Arc<str>, Vec<Overload>>;

/// All functions by name.
pub fn functions() -> &'static Functions {
    static TABLE: OnceLock<Functions> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Functions::new();
        include_str!("functions.txt").lines().for_each(|line| add_line(&mut table, line));
        families().iter().for_each(|line| add_line(&mut table, line));
        table
    })
}

fn add_line(table: &mut Functions, line: &str) {
    if line.is_empty() || line.starts_with('#') {
        return;
    }
    let Some((id, rest)) = line.split_once(": ") else { return };
    let Some((call, result)) = rest.rsplit_once(" -> ") else { return };
    let Some(open) = opening(call) else { return };
    let (head, args) = (&call[..open], &call[open + 1..call.len() - 1]);
    let mut args: Vec<Type> = types::split_args(args).into_iter().map(types::parse).collect();
    let (receiver, name) = split_receiver(head);
    if let Some(receiver) = receiver {
        args.insert(0, types::parse(receiver));
    }
    let overload = Overload { id: id.into(), member: receiver.is_some(), args, result: types::parse(result) };
    table.entry(name.into()).or_default().push(overload);
}

/// Where the arguments of the call begin: the parenthesis that the last one closes.
fn opening(call: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in call.char_indices().rev() {
        match c {
            ')' => depth += 1,
            '(' => {
                depth -= 1;
                if depth == 0 {
                    return Some(i);
                }
            }
            _ => {}
        }
    }
    None
}

/// Functions whose own name has a dot.
const PREFIXES: [&str; 10] =
    ["sets", "lists", "strings", "optional", "ip", "format", "jsonpatch", "cel", "math", "quantity"];

fn split_receiver(head: &str) -> (Option<&str>, &str) {
    if head.starts_with(['_', '@', '!', '-']) {
        return (None, head);
    }
    match head.rsplit_once('.') {
        Some((prefix, _)) if PREFIXES.contains(&prefix) => (None, head),
        Some((receiver, name)) => (Some(receiver), name),
        None => (None, head),
    }
}

/// Comparisons of every ordered type, parts of times, and what lists of comparable things can do.
fn families() -> Vec<String> {
    let mut lines = Vec::new();
    let ordered = ["bool", "int", "uint", "double", "string", "bytes", "timestamp", "duration"];
    for (op, word) in [("<", "less"), ("<=", "less_equals"), (">", "greater"), (">=", "greater_equals")] {
        for t in ordered {
            lines.push(format!("{word}_{t}: _{op}_({t}, {t}) -> bool"));
        }
        for (a, b) in [("int", "double"), ("int", "uint"), ("uint", "double")] {
            lines.push(format!("{word}_{a}_{b}: _{op}_({a}, {b}) -> bool"));
            lines.push(format!("{word}_{b}_{a}: _{op}_({b}, {a}) -> bool"));
        }
    }
    for part in ["FullYear", "Month", "DayOfYear", "DayOfMonth", "Date", "DayOfWeek"] {
        lines.push(format!("timestamp_to_{part}: timestamp.get{part}() -> int"));
        lines.push(format!("timestamp_to_{part}_with_tz: timestamp.get{part}(string) -> int"));
    }
    for part in ["Hours", "Minutes", "Seconds", "Milliseconds"] {
        lines.push(format!("timestamp_to_{part}: timestamp.get{part}() -> int"));
        lines.push(format!("timestamp_to_{part}_tz: timestamp.get{part}(string) -> int"));
        lines.push(format!("duration_to_{part}: duration.get{part}() -> int"));
    }
    for t in ["int", "uint", "double", "duration"] {
        lines.push(format!("list_{t}_sum_{t}: list({t}).sum() -> {t}"));
    }
    for t in ordered {
        lines.push(format!("list_{t}_is_sorted_bool: list({t}).isSorted() -> bool"));
        lines.push(format!("list_{t}_min_{t}: list({t}).min() -> {t}"));
        lines.push(format!("list_{t}_max_{t}: list({t}).max() -> {t}"));
        lines.push(format!("list_{t}_sort: list({t}).sort() -> list({t})"));
    }
    lines
}
