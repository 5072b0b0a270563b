//! Problems in the order in which a reader of the text comes upon them. Trees keep their keys sorted, so the order is
//! found by a second look at the text, which only requests with several problems pay for.

use rustc_hash::FxHashMap;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use std::cell::RefCell;
use std::fmt;

/// Sorts `unknown field "a.b"` and `duplicate field "a.b"` by their places in a JSON text.
pub(super) fn as_written(body: &[u8], problems: &mut [String]) {
    if problems.len() < 2 {
        return;
    }
    let mut places: FxHashMap<String, Place> =
        problems.iter().filter_map(|p| Some((path_of(p)?.to_owned(), Place::default()))).collect();
    let walk = RefCell::new(Walk { places: &mut places, next: 0 });
    let mut de = serde_json::Deserializer::from_slice(body);
    if (Seed { walk: &walk, path: String::new() }).deserialize(&mut de).is_err() {
        return;
    }
    problems.sort_by_key(|p| {
        let place = path_of(p).and_then(|path| places.get(path)).copied().unwrap_or_default();
        let at = if p.starts_with("duplicate") { place.again } else { place.first };
        at.unwrap_or(usize::MAX)
    });
}

fn path_of(problem: &str) -> Option<&str> {
    problem.split_once('"')?.1.strip_suffix('"')
}

/// When a path was met, and when it was met again.
#[derive(Clone, Copy, Default)]
struct Place {
    first: Option<usize>,
    again: Option<usize>,
}

struct Walk<'a> {
    places: &'a mut FxHashMap<String, Place>,
    next: usize,
}

struct Seed<'a, 'b> {
    walk: &'a RefCell<Walk<'b>>,
    path: String,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, de: D) -> Result<(), D::Error> {
        de.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut i = 0;
        while seq.next_element_seed(Seed { walk: self.walk, path: format!("{}[{i}]", self.path) })?.is_some()
        {
            i += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let dot = if self.path.is_empty() { "" } else { "." };
            let path = format!("{}{dot}{key}", self.path);
            let mut walk = self.walk.borrow_mut();
            walk.next += 1;
            let now = walk.next;
            if let Some(place) = walk.places.get_mut(&path) {
                let slot = if place.first.is_none() { &mut place.first } else { &mut place.again };
                slot.get_or_insert(now);
            }
            drop(walk);
            map.next_value_seed(Seed { walk: self.walk, path })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_text_decides() {
        let body = br#"{"z":1,"m":{"b":[{"y":1,"y":2}],"a":1},"c":3}"#;
        let mut problems = [
            "duplicate field \"m.b[0].y\"",
            "unknown field \"c\"",
            "unknown field \"m.a\"",
            "unknown field \"z\"",
        ]
        .map(str::to_owned);
        super::as_written(body, &mut problems);
        assert_eq!(problems.map(|p| p.split('"').nth(1).unwrap().to_owned()), ["z", "m.b[0].y", "m.a", "c"]);
    }
}
