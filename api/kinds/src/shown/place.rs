//! The field that the path of an error leads to.

use api::schema::{Field, Label, Message};

/// The field, and whether the path goes on to one of its elements.
pub fn find(kind: &'static Message, path: &str) -> Option<(&'static Field, bool)> {
    let (mut message, mut rest) = (Some(kind), path);
    loop {
        let (f, inside, after) = step(message?, rest)?;
        match after {
            "" => return Some((f, inside)),
            after => rest = after.strip_prefix('.')?,
        }
        if f.label != Label::One && !inside {
            return None;
        }
        message = f.message();
    }
}

/// The field that the path begins with, whether one of its elements is meant, and what follows.
fn step<'a>(m: &'static Message, path: &'a str) -> Option<(&'static Field, bool, &'a str)> {
    let end = path.find(['.', '[']).unwrap_or(path.len());
    let (name, rest) = path.split_at(end);
    let f = m.field(name)?;
    match rest.strip_prefix('[') {
        None => Some((f, false, rest)),
        Some(key) => Some((f, true, &key[key.find(']')? + 1..])),
    }
}
