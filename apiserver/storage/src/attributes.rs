//! What selectors look at: an object's labels and selectable fields, packed into one allocation.
//!
//! Ten thousand pods with five labels and ten fields each would be 300,000 small strings if every
//! one were allocated; packed they are 10,000 blocks of a few hundred bytes.

use std::cell::RefCell;
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// Labels and selectable fields of one object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Length-prefixed strings: `labels` pairs of label key and value, then for each field the place
    /// of its name among [`NAMES`] and its value.
    packed: Box<[u8]>,
    labels: u16,
    wire: Wire,
}

/// How long the object's message is on the wire, so that a list of many can say its length before
/// any of them has been unpacked.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Length of the metadata without its resource version.
    pub meta: u32,
    /// Length of what follows the metadata. Zero means unknown, as no message is that short.
    pub rest: u32,
}

/// The names of all selectable fields, each stored once in the process. There are a few dozen in
/// the built-in API; what custom resources add beyond the room here is written out.
static NAMES: [OnceLock<Box<str>>; WRITTEN_OUT as usize] = [const { OnceLock::new() }; WRITTEN_OUT as usize];
static ADDING: Mutex<()> = Mutex::new(());
/// In the place of a place: the name itself follows.
const WRITTEN_OUT: u8 = 250;

thread_local! {
    static PLACES: RefCell<FxHashMap<Box<str>, u8>> = RefCell::default();
}

fn name_at(place: u8) -> &'static str {
    NAMES.get(usize::from(place)).and_then(OnceLock::get).map_or("", |n| n)
}

/// The place of a name, taken now if it has none.
fn place_of(name: &str) -> u8 {
    if let Some(place) = PLACES.with(|p| p.borrow().get(name).copied()) {
        return place;
    }
    let _adding = ADDING.lock();
    let free = NAMES.iter().position(|n| n.get().is_none_or(|n| **n == *name));
    let Some(at) = free.and_then(|at| u8::try_from(at).ok()) else { return WRITTEN_OUT };
    NAMES[usize::from(at)].get_or_init(|| name.into());
    PLACES.with(|p| p.borrow_mut().insert(name.into(), at));
    at
}

impl Attributes {
    /// Packs labels and fields. Fields with an empty value are left out: [`Attributes::field`]
    /// answers `""` for them just the same.
    pub fn new<LK, LV, FK, FV>(
        labels: impl IntoIterator<Item = (LK, LV)>,
        fields: impl IntoIterator<Item = (FK, FV)>,
    ) -> Attributes
    where
        LK: AsRef<str>,
        LV: AsRef<str>,
        FK: AsRef<str>,
        FV: AsRef<str>,
    {
        let mut packed = Vec::with_capacity(256);
        let mut count = 0u16;
        for (k, v) in labels {
            if count == u16::MAX {
                break;
            }
            push(&mut packed, k.as_ref());
            push(&mut packed, v.as_ref());
            count += 1;
        }
        for (k, v) in fields {
            if v.as_ref().is_empty() {
                continue;
            }
            let place = place_of(k.as_ref());
            packed.push(place);
            if place == WRITTEN_OUT {
                push(&mut packed, k.as_ref());
            }
            push(&mut packed, v.as_ref());
        }
        Attributes { packed: packed.into_boxed_slice(), labels: count, wire: Wire::default() }
    }

    /// Says how long the object is on the wire.
    pub fn with_wire(mut self, wire: Wire) -> Attributes {
        self.wire = wire;
        self
    }

    /// How long the object is on the wire, if that is known.
    pub fn wire(&self) -> Option<Wire> {
        Some(self.wire).filter(|w| w.rest > 0)
    }

    /// The label's value, if the object carries it.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All labels in the order they were given.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.rest();
        (0..self.labels).map_while(move |_| Some((rest.text()?, rest.text()?)))
    }

    /// The selectable field's value, `""` if unset.
    pub fn field(&self, name: &str) -> &str {
        self.fields().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }

    /// All fields with a value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = self.rest();
        for _ in 0..self.labels {
            let _ = (rest.text(), rest.text());
        }
        std::iter::from_fn(move || {
            let name = match rest.byte()? {
                WRITTEN_OUT => rest.text()?,
                place => name_at(place),
            };
            Some((name, rest.text()?))
        })
    }

    /// Bytes held on the heap.
    pub fn size(&self) -> usize {
        self.packed.len()
    }

    fn rest(&self) -> Rest<'_> {
        Rest { rest: &self.packed }
    }
}

impl std::fmt::Debug for Attributes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attributes")
            .field("labels", &self.labels().collect::<Vec<_>>())
            .field("fields", &self.fields().collect::<Vec<_>>())
            .finish()
    }
}

fn push(packed: &mut Vec<u8>, text: &str) {
    let mut n = text.len();
    while n >= 0x80 {
        packed.push((n as u8 & 0x7f) | 0x80);
        n >>= 7;
    }
    packed.push(n as u8);
    packed.extend_from_slice(text.as_bytes());
}

struct Rest<'a> {
    rest: &'a [u8],
}

impl<'a> Rest<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&b, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(b)
    }

    fn text(&mut self) -> Option<&'a str> {
        let (mut n, mut shift) = (0usize, 0u32);
        loop {
            let (&b, rest) = self.rest.split_first()?;
            self.rest = rest;
            n |= usize::from(b & 0x7f) << shift;
            if b < 0x80 {
                break;
            }
            shift += 7;
        }
        let (text, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_and_finds() {
        let long = "x".repeat(300);
        let a = Attributes::new(
            [("app", "web"), ("empty", ""), ("long", &long)],
            [("metadata.name", "p"), ("spec.nodeName", ""), ("app", "field")],
        );
        assert_eq!(a.label("app"), Some("web"));
        assert_eq!(a.label("empty"), Some(""));
        assert_eq!(a.label("long"), Some(long.as_str()));
        assert_eq!(a.label("metadata.name"), None);
        assert_eq!(a.field("metadata.name"), "p");
        assert_eq!(a.field("app"), "field");
        assert_eq!(a.field("spec.nodeName"), "");
        assert_eq!(a.labels().count(), 3);
        assert_eq!(Attributes::default().labels().count(), 0);
        assert_eq!(a.fields().count(), 2);
    }

    #[test]
    fn more_names_than_there_is_room_for_are_written_out() {
        let fields: Vec<_> = (0..400).map(|i| (format!("spec.field{i}"), format!("value{i}"))).collect();
        let a = Attributes::new([("l", "v")], fields.iter().map(|(k, v)| (k, v)));
        assert_eq!(a.fields().count(), 400);
        for (k, v) in &fields {
            assert_eq!(a.field(k), v);
        }
        assert_eq!(a.label("l"), Some("v"));
    }
}
