//! Regular expressions, compiled once.

use regex::Regex;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

const KEPT: usize = 1024;
const SIZE_LIMIT: usize = 1 << 20;

/// A pattern, from memory if it was seen before.
pub fn compiled(pattern: &str) -> Result<Regex, String> {
    static SEEN: OnceLock<Mutex<HashMap<String, Regex>>> = OnceLock::new();
    let seen = SEEN.get_or_init(Mutex::default);
    if let Some(known) = seen.lock().unwrap_or_else(PoisonError::into_inner).get(pattern) {
        return Ok(known.clone());
    }
    let made = regex::RegexBuilder::new(pattern).size_limit(SIZE_LIMIT).nest_limit(100).build();
    let made = made.map_err(|_| format!("error parsing regexp: invalid or too large: `{pattern}`"))?;
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.len() >= KEPT {
        seen.clear();
    }
    seen.insert(pattern.to_owned(), made.clone());
    Ok(made)
}
