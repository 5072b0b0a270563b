//! JSON patch (RFC 6902), as lenient as upstream's: `replace` of a missing key adds it, a missing
//! `value` is null, indices count from the end when negative.

use super::unprocessable;
use api::print::json_type;
use api::status::Status;
use api::{Map, Value, decode};

const MAX_OPERATIONS: usize = 10_000;
/// What `copy` operations of one patch may add up to.
const MAX_COPIED: usize = 3 << 20;

type Object = Map<String, Value>;

/// A patch that cannot be carried out.
struct Failed;

/// The operations of a patch.
#[derive(Clone, Debug, Default)]
pub struct Operations(Vec<Object>);

impl Operations {
    /// Reads a parsed document. The error is the decoder's sentence. Fields that no operation has are
    /// returned as problems for the strict check.
    pub fn read(document: &Value) -> Result<(Operations, Vec<String>), String> {
        let items = match document {
            Value::Null => &[][..],
            Value::Array(items) => items,
            other => return Err(unfit(other, "[]handlers.jsonPatchOp")),
        };
        let (mut operations, mut unknown) = (Vec::with_capacity(items.len()), Vec::new());
        for (i, item) in items.iter().enumerate() {
            match item {
                Value::Null => operations.push(Object::new()),
                Value::Object(map) => {
                    check_fields(i, map, &mut unknown)?;
                    operations.push(map.clone());
                }
                other => return Err(unfit(other, "handlers.jsonPatchOp")),
            }
        }
        Ok((Operations(operations), unknown))
    }

    /// The steps to each place that is looked at, without the last one.
    pub fn ways(&self) -> impl Iterator<Item = Vec<String>> {
        let places =
            self.0.iter().flat_map(|o| ["path", "from"].into_iter().filter_map(|k| o.get(k)?.as_str()));
        places.filter_map(|path| {
            let (way, _) = path.strip_prefix('/')?.rsplit_once('/')?;
            Some(way.split('/').map(|step| step.replace("~1", "/").replace("~0", "~")).collect())
        })
    }

    /// Carries the operations out, all or none.
    pub fn apply(&self, document: &mut Value) -> Result<(), Status> {
        if self.0.len() > MAX_OPERATIONS {
            let count = self.0.len();
            return Err(Status::too_large(format!(
                "Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
            )));
        }
        let mut copied = 0;
        for operation in &self.0 {
            one(document, operation, &mut copied).map_err(|Failed| unprocessable())?;
        }
        Ok(())
    }
}

/// Applies a patch document.
pub fn json_patch(document: &mut Value, patch: &[u8]) -> Result<(), Status> {
    let parsed = decode::parse_json(patch).map_err(|e| Status::bad_request(e.to_string()))?;
    let (operations, _) = Operations::read(&parsed.value).map_err(Status::bad_request)?;
    operations.apply(document)
}

fn unfit(found: &Value, wanted: &str) -> String {
    format!("json: cannot unmarshal {} into Go value of type {wanted}", json_type(found))
}

fn check_fields(i: usize, operation: &Object, unknown: &mut Vec<String>) -> Result<(), String> {
    for (key, value) in operation {
        match key.as_str() {
            "value" => {}
            "op" | "path" | "from" => {
                if !(value.is_string() || value.is_null()) {
                    let found = json_type(value);
                    return Err(format!(
                        "json: cannot unmarshal {found} into Go struct field jsonPatchOp.{key} of type string"
                    ));
                }
            }
            _ => unknown.push(format!("unknown field \"[{i}].{key}\"")),
        }
    }
    Ok(())
}

fn one(document: &mut Value, operation: &Object, copied: &mut usize) -> Result<(), Failed> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str).ok_or(Failed);
    let value = || operation.get("value").cloned().unwrap_or_default();
    match text("op")? {
        "add" => place(document, text("path")?)?.add(value()),
        "remove" => place(document, text("path")?)?.remove().map(drop),
        "replace" => replace(document, text("path")?, value()),
        "move" => {
            let from = text("from")?;
            let moved = place(document, from)?.remove()?;
            place(document, text("path")?)?.add(moved)
        }
        "test" => test(document, text("path")?, &value()),
        "copy" => {
            let source = place(document, text("from")?)?.get()?.cloned().unwrap_or_default();
            let mut target = place(document, text("path")?)?;
            *copied += size(&source);
            if *copied > MAX_COPIED {
                return Err(Failed);
            }
            target.add(source)
        }
        _ => Err(Failed),
    }
}

fn replace(document: &mut Value, path: &str, value: Value) -> Result<(), Failed> {
    if path.is_empty() {
        if !(value.is_object() || value.is_array()) {
            return Err(Failed);
        }
        *document = value;
        return Ok(());
    }
    let mut target = place(document, path)?;
    target.get()?;
    target.set(value)
}

fn test(document: &mut Value, path: &str, value: &Value) -> Result<(), Failed> {
    let found = if path.is_empty() { Some(document.clone()) } else { place(document, path)?.get()?.cloned() };
    if found.unwrap_or_default() == *value { Ok(()) } else { Err(Failed) }
}

/// A key of an object or an index of a list, there or not.
enum Place<'a> {
    Key(&'a mut Object, String),
    Index(&'a mut Vec<Value>, String),
}

/// The place that a path names; all but its last step must exist.
fn place<'a>(document: &'a mut Value, path: &str) -> Result<Place<'a>, Failed> {
    let mut steps = path.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).peekable();
    let mut at = document;
    while let Some(step) = steps.next() {
        let here = match at {
            Value::Object(map) => Place::Key(map, step),
            Value::Array(list) => Place::Index(list, step),
            _ => return Err(Failed),
        };
        if steps.peek().is_none() {
            return Ok(here);
        }
        at = here.into_inner()?;
    }
    Err(Failed)
}

impl<'a> Place<'a> {
    fn into_inner(self) -> Result<&'a mut Value, Failed> {
        match self {
            Place::Key(map, key) => map.get_mut(&key).ok_or(Failed),
            Place::Index(list, text) => {
                let i = index(&text, list.len())?;
                list.get_mut(i).ok_or(Failed)
            }
        }
    }

    /// What is there; `None` if the key is missing.
    fn get(&self) -> Result<Option<&Value>, Failed> {
        match self {
            Place::Key(map, key) => Ok(map.get(key)),
            Place::Index(list, text) => list.get(index(text, list.len())?).map(Some).ok_or(Failed),
        }
    }

    fn set(&mut self, value: Value) -> Result<(), Failed> {
        match self {
            Place::Key(map, key) => {
                map.insert(std::mem::take(key), value);
            }
            Place::Index(list, text) => {
                let i = index(text, list.len())?;
                *list.get_mut(i).ok_or(Failed)? = value;
            }
        }
        Ok(())
    }

    fn add(&mut self, value: Value) -> Result<(), Failed> {
        match self {
            Place::Key(..) => return self.set(value),
            Place::Index(list, text) if text == "-" => list.push(value),
            Place::Index(list, text) => {
                let i = index(text, list.len() + 1)?;
                if i > list.len() {
                    return Err(Failed);
                }
                list.insert(i, value);
            }
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<Value, Failed> {
        match self {
            Place::Key(map, key) => map.remove(key.as_str()).ok_or(Failed),
            Place::Index(list, text) => {
                let i = index(text, list.len())?;
                if i < list.len() { Ok(list.remove(i)) } else { Err(Failed) }
            }
        }
    }
}

/// An index of a list of `len` items; negative ones count from its end.
fn index(text: &str, len: usize) -> Result<usize, Failed> {
    let i: i64 = text.parse().map_err(|_| Failed)?;
    if i >= 0 {
        return usize::try_from(i).map_err(|_| Failed);
    }
    usize::try_from(i.unsigned_abs()).ok().and_then(|back| len.checked_sub(back)).ok_or(Failed)
}

/// About as many bytes as the value's JSON has.
fn size(v: &Value) -> usize {
    match v {
        Value::String(s) => s.len() + 2,
        Value::Array(a) => a.iter().map(|v| size(v) + 1).sum::<usize>() + 2,
        Value::Object(m) => m.iter().map(|(k, v)| k.len() + size(v) + 4).sum::<usize>() + 2,
        _ => 5,
    }
}
