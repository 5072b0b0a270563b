//! JSON and YAML text to trees. Duplicate keys are noted, the last one wins.

use super::Error;
use crate::{Map, Value};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use std::cell::RefCell;
use std::fmt;

/// More problems than this are not listed.
pub(super) const MAX_PROBLEMS: usize = 100;

/// A tree and the duplicate keys of its text, as `duplicate field "a.b"`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parsed {
    pub value: Value,
    pub duplicates: Vec<String>,
}

/// How upstream's decoder begins when it looks for the kind in text that is no JSON.
pub(super) const KIND_UNKNOWN: &str = "couldn't get version/kind; json parse error: ";

/// Parses JSON that is no object of a kind, e.g. a patch. The error is the JSON decoder's own.
pub fn parse_plain(body: &[u8]) -> Result<Parsed, String> {
    parse_json(body).map_err(|e| {
        let text = e.to_string();
        text.strip_prefix(KIND_UNKNOWN).map(str::to_owned).unwrap_or(text)
    })
}

/// Parses JSON; nesting is limited.
pub fn parse_json(body: &[u8]) -> Result<Parsed, Error> {
    let notes = RefCell::new(Notes::default());
    let mut de = serde_json::Deserializer::from_slice(body);
    let failed = |e: serde_json::Error| Error::Syntax(format!("{KIND_UNKNOWN}{}", go_syntax(body, &e)));
    let value = Seed(&notes).deserialize(&mut de).map_err(failed)?;
    de.end().map_err(failed)?;
    Ok(Parsed { value, duplicates: notes.into_inner().into_problems() })
}

/// The error as Go's decoder words it.
fn go_syntax(body: &[u8], e: &serde_json::Error) -> String {
    let text = e.to_string();
    if e.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let line_start = match e.line() {
        0 | 1 => 0,
        n => memchr::memchr_iter(b'\n', body).nth(n - 2).map_or(0, |i| i + 1),
    };
    let at = line_start + e.column().saturating_sub(1);
    let context = match text.split(" at line ").next().unwrap_or_default() {
        "expected ident" => return literal_error(body, at),
        "expected value" => "looking for beginning of value",
        "key must be a string" => "looking for beginning of object key string",
        "expected `,` or `}`" => "after object key:value pair",
        "expected `,` or `]`" => "after array element",
        "expected `:`" => "after object key",
        "trailing characters" => "after top-level value",
        "recursion limit exceeded" => "exceeded max depth",
        "trailing comma" => "looking for beginning of value",
        "control character (\\u0000-\\u001F) found while parsing a string" => "in string literal",
        "invalid escape" => "in string escape code",
        "invalid number" => match at.checked_sub(1).and_then(|i| body.get(i)) {
            Some(b'.') => "after decimal point in numeric literal",
            Some(b'e' | b'E' | b'+') => "in exponent of numeric literal",
            _ => "in numeric literal",
        },
        _ => return text,
    };
    let found = String::from_utf8_lossy(body.get(at..body.len().min(at + 4)).unwrap_or_default());
    match found.chars().next() {
        Some('\'') => format!("invalid character '\\'' {context}"),
        Some(c @ ('\n' | '\r' | '\t')) => format!("invalid character {c:?} {context}"),
        Some(c) => format!("invalid character '{c}' {context}"),
        None => text,
    }
}

/// `true`, `false` and `null` are read letter by letter.
fn literal_error(body: &[u8], at: usize) -> String {
    for word in ["true", "false", "null"] {
        for known in (1..word.len()).rev() {
            let start = at.checked_sub(known);
            if let Some(found) =
                start.and_then(|s| body.get(s..)).filter(|b| b.starts_with(&word.as_bytes()[..known]))
                && let Some(bad) = String::from_utf8_lossy(&found[known..]).chars().next()
            {
                let wanted = char::from(word.as_bytes()[known]);
                return format!("invalid character '{bad}' in literal {word} (expecting '{wanted}')");
            }
        }
    }
    "invalid character in literal".into()
}

/// Parses one YAML document the way YAML 1.1 readers do (`yes` is true, `0644` is octal), with
/// budgets on size, nesting and aliases. JSON is YAML too, and is parsed as JSON.
pub fn parse_yaml(body: &[u8]) -> Result<Parsed, Error> {
    let first = body.iter().find(|b| !b.is_ascii_whitespace());
    if first == Some(&b'{')
        && let Ok(parsed) = parse_json(body)
    {
        return Ok(parsed);
    }
    let text =
        std::str::from_utf8(body).map_err(|_| Error::Syntax("yaml: invalid leading UTF-8 octet".into()))?;
    let text = first_document(text);
    // The reader takes kilobytes of stack a level, more than a server's thread has to spare.
    let read = |policy| stacker::grow(YAML_STACK, || read_yaml(text, policy));
    let (value, notes) = read(serde_saphyr::DuplicateKeyPolicy::LastWins).map_err(|e| {
        let text = e.to_string();
        // The first line goes unnamed.
        let line = e.location().map_or(0, |l| l.line());
        let place = if line > 1 { format!("line {line}: ") } else { String::new() };
        Error::Syntax(format!("yaml: {place}{}", text.split(" at line ").next().unwrap_or_default()))
    })?;
    if notes.0.is_empty() {
        return Ok(Parsed { value, duplicates: vec![] });
    }
    let lines = duplicate_lines(text, notes.0.len());
    Ok(Parsed { value, duplicates: vec![format!("yaml: unmarshal errors:{lines}")] })
}

/// The lines of so many duplicate keys. A reader tells only where the first one is, so each is renamed when found.
fn duplicate_lines(text: &str, count: usize) -> String {
    let (mut text, mut out) = (text.to_owned(), String::new());
    for i in 0..count.min(MOST_DUPLICATES) {
        let read = || read_yaml(&text, serde_saphyr::DuplicateKeyPolicy::Error);
        let Some(place) = stacker::grow(YAML_STACK, read).err().and_then(|e| e.location()) else { break };
        let (line, column) = (place.line(), place.column());
        let start: usize =
            text.split_inclusive('\n').take((line as usize).saturating_sub(1)).map(str::len).sum();
        let rest = &text[start..];
        let skipped = rest.char_indices().nth((column as usize).saturating_sub(1)).map_or(0, |(i, _)| i);
        let at = start + skipped;
        let quote = text[at..].starts_with(['"', '\'']);
        let bare = &text[at + usize::from(quote)..];
        let key = bare[..bare.find(['"', '\'', ':', '\n', ',', '}']).unwrap_or(bare.len())].trim().to_owned();
        out.push_str(&format!("\n  line {line}: key {key:?} already set in map"));
        text.insert_str(at + usize::from(quote), &format!("duplicate-{i}-"));
    }
    out
}

/// How many duplicate keys of a YAML text are named.
const MOST_DUPLICATES: usize = 32;

/// Levels of nesting in YAML; JSON has as many.
const YAML_DEPTH: usize = 128;
const YAML_STACK: usize = 8 << 20;

fn read_yaml(
    text: &str,
    duplicate_keys: serde_saphyr::DuplicateKeyPolicy,
) -> Result<(Value, Notes), serde_saphyr::Error> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: YAML_DEPTH, max_aliases: 1_000, max_anchors: 1_000 },
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    let notes = RefCell::new(Notes::default());
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |de| {
        Seed(&notes).deserialize(de)
    })?;
    Ok((value, notes.into_inner()))
}

/// Of several documents the first one counts.
fn first_document(text: &str) -> &str {
    let mut seen = false;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        if bare == "---" || bare.starts_with("--- ") {
            if seen {
                return &text[..at];
            }
        } else if bare == "..." && seen {
            return &text[..at];
        } else if !bare.is_empty() && !bare.starts_with(['#', '%']) {
            seen = true;
        }
        at += line.len();
    }
    text
}

/// Paths of duplicate keys. They are put together on the way out of the recursion, so that text
/// without duplicates, which is nearly all, costs nothing.
#[derive(Default)]
struct Notes(Vec<String>);

impl Notes {
    fn into_problems(self) -> Vec<String> {
        self.0.into_iter().map(|path| format!("duplicate field {path:?}")).collect()
    }

    /// Puts a step before the paths that were noted since there were `known`.
    fn prefix(&mut self, known: usize, step: &str) {
        for path in &mut self.0[known..] {
            let dot = if path.starts_with('[') { "" } else { "." };
            *path = format!("{step}{dot}{path}");
        }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a>(&'a RefCell<Notes>);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number is not finite"))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, de: D) -> Result<Value, D::Error> {
        de.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        let mut known = self.0.borrow().0.len();
        while let Some(item) = seq.next_element_seed(self)? {
            let noted = self.0.borrow().0.len();
            if noted > known {
                self.0.borrow_mut().prefix(known, &format!("[{}]", out.len()));
                known = noted;
            }
            out.push(item);
        }
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        let mut known = self.0.borrow().0.len();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(self)?;
            let noted = self.0.borrow().0.len();
            if noted > known {
                self.0.borrow_mut().prefix(known, &key);
                known = noted;
            }
            match out.entry(key) {
                Entry::Vacant(slot) => {
                    slot.insert(value);
                }
                Entry::Occupied(mut slot) => {
                    if known < MAX_PROBLEMS {
                        self.0.borrow_mut().0.push(slot.key().clone());
                        known += 1;
                    }
                    slot.insert(value);
                }
            }
        }
        Ok(out.into())
    }
}
