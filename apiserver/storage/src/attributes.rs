//! What selectors look at: an object's labels and selectable fields, packed into one allocation.
//!
//! Ten thousand pods with five labels and ten fields each would be 300,000 small strings if every
//! one were allocated; packed they are 10,000 blocks of a few hundred bytes.

/// Labels and selectable fields of one object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Length-prefixed strings: `labels` pairs of label key and value, then field name and value.
    packed: Box<[u8]>,
    labels: u16,
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
            if !v.as_ref().is_empty() {
                push(&mut packed, k.as_ref());
                push(&mut packed, v.as_ref());
            }
        }
        Attributes { packed: packed.into_boxed_slice(), labels: count }
    }

    /// The label's value, if the object carries it.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels().find(|(k, _)| *k == key).map(|(_, v)| v)
    }

    /// All labels in the order they were given.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().take(usize::from(self.labels))
    }

    /// The selectable field's value, `""` if unset.
    pub fn field(&self, name: &str) -> &str {
        self.fields().find(|(k, _)| *k == name).map_or("", |(_, v)| v)
    }

    /// All fields with a value.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().skip(usize::from(self.labels))
    }

    /// Bytes held on the heap.
    pub fn size(&self) -> usize {
        self.packed.len()
    }

    fn pairs(&self) -> Pairs<'_> {
        Pairs { rest: &self.packed }
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

struct Pairs<'a> {
    rest: &'a [u8],
}

impl<'a> Pairs<'a> {
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

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        Some((self.text()?, self.text()?))
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
    }
}
