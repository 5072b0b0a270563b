//! The files in which managers keep what they gave out, with upstream's checksum: FNV-1a of the text into which a Go
//! library dumps the value. [`Dump`] writes that text.

use std::fmt::Display;
use std::io::{self, Write};
use std::path::Path;

/// A Go value being dumped.
#[derive(Default)]
pub struct Dump(String);

impl Dump {
    /// A pointer to a struct of this type, at the top.
    pub fn of(type_name: &str, fields: impl FnOnce(&mut Fields<'_>)) -> Self {
        let mut dump = Self(format!("(*{type_name})"));
        dump.fields(fields);
        dump
    }

    /// A struct of this type, at the top.
    pub fn of_value(type_name: &str, fields: impl FnOnce(&mut Fields<'_>)) -> Self {
        let mut dump = Self(format!("({type_name})"));
        dump.fields(fields);
        dump
    }

    /// A struct whose type is not written, within a list or behind a pointer.
    pub fn fields(&mut self, fields: impl FnOnce(&mut Fields<'_>)) {
        self.0.push('{');
        fields(&mut Fields { dump: self, first: true });
        self.0.push('}');
    }

    /// A value as it is.
    pub fn plain(&mut self, value: impl Display) {
        self.0.push_str(&value.to_string());
    }

    /// A pointer within a map.
    pub fn pointer(&mut self) -> &mut Self {
        self.0.push_str("<*>");
        self
    }

    /// A map; its keys come in Go's order of their type.
    pub fn map<K: Display, V>(
        &mut self,
        entries: impl IntoIterator<Item = (K, V)>,
        mut value: impl FnMut(&mut Self, V),
    ) {
        self.0.push_str("map[");
        for (index, (key, v)) in entries.into_iter().enumerate() {
            if index > 0 {
                self.0.push(' ');
            }
            self.plain(key);
            self.0.push(':');
            value(self, v);
        }
        self.0.push(']');
    }

    /// A list.
    pub fn list<V>(&mut self, values: impl IntoIterator<Item = V>, mut value: impl FnMut(&mut Self, V)) {
        self.0.push('[');
        for (index, v) in values.into_iter().enumerate() {
            if index > 0 {
                self.0.push(' ');
            }
            value(self, v);
        }
        self.0.push(']');
    }

    /// The checksum of the text.
    pub fn checksum(&self) -> u64 {
        let fnv = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        u64::from(self.0.bytes().fold(0x811c_9dc5, fnv))
    }
}

/// The fields of a struct that is dumped.
pub struct Fields<'a> {
    dump: &'a mut Dump,
    first: bool,
}

impl Fields<'_> {
    /// A field with its type; `write` writes the value.
    pub fn field(&mut self, name: &str, type_name: &str, write: impl FnOnce(&mut Dump)) {
        if !std::mem::take(&mut self.first) {
            self.dump.0.push(' ');
        }
        self.dump.plain(format_args!("{name}:({type_name})"));
        write(self.dump);
    }
}

/// Replaces a file as a whole, so that a crash leaves the old or the new one.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(".tmp");
    let mut file = std::fs::File::create(&staged)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&staged, path)
}
