//! The walk's end that builds a tree. Fields whose value is null are left out.

use super::read::Sink;
use crate::{Map, Value};
use base64::Engine;

/// Builds one [`Value`] from the outside in.
#[derive(Default)]
pub struct Tree {
    stack: Vec<Frame>,
    done: Value,
}

enum Frame {
    /// The keys so far, the key that waits for its value, and whether that is a key of a map.
    Object(Map<String, Value>, String, bool),
    Array(Vec<Value>),
}

impl Tree {
    pub fn finish(self) -> Value {
        self.done
    }

    fn put(&mut self, v: Value) {
        match self.stack.last_mut() {
            None => self.done = v,
            Some(Frame::Array(items)) => items.push(v),
            Some(Frame::Object(map, key, _)) => {
                map.insert(std::mem::take(key), v);
            }
        }
    }

    fn close(&mut self) {
        match self.stack.pop() {
            Some(Frame::Object(map, ..)) => self.put(Value::Object(map)),
            Some(Frame::Array(items)) => self.put(Value::Array(items)),
            None => {}
        }
    }
}

/// Whole numbers are kept as integers, since Go prints `1` for 1.0.
pub fn number(v: f64) -> Value {
    if v.fract() == 0.0 && v.abs() < 1e15 { Value::from(v as i64) } else { Value::from(v) }
}

impl Sink for Tree {
    fn begin_object(&mut self) {
        self.stack.push(Frame::Object(Map::new(), String::new(), false));
    }
    fn end_object(&mut self) {
        self.close();
    }
    fn begin_array(&mut self) {
        self.stack.push(Frame::Array(Vec::new()));
    }
    fn end_array(&mut self) {
        self.close();
    }
    fn key(&mut self, name: &'static str, _quoted: &'static str) {
        if let Some(Frame::Object(_, slot, is_map)) = self.stack.last_mut() {
            (*slot, *is_map) = (name.to_owned(), false);
        }
    }
    fn map_key(&mut self, key: &[u8]) {
        if let Some(Frame::Object(_, slot, is_map)) = self.stack.last_mut() {
            (*slot, *is_map) = (String::from_utf8_lossy(key).into_owned(), true);
        }
    }
    fn element(&mut self) {}
    fn null(&mut self) {
        // A field without a value is no field: readers need not tell null from absent.
        if !matches!(self.stack.last(), Some(Frame::Object(_, _, false))) {
            self.put(Value::Null);
        }
    }
    fn bool(&mut self, v: bool) {
        self.put(v.into());
    }
    fn int(&mut self, v: i64) {
        self.put(v.into());
    }
    fn double(&mut self, v: f64) {
        self.put(number(v));
    }
    fn string(&mut self, v: &[u8]) {
        self.put(String::from_utf8_lossy(v).into_owned().into());
    }
    fn plain(&mut self, v: &str) {
        self.put(v.into());
    }
    fn base64(&mut self, v: &[u8]) {
        self.put(base64::engine::general_purpose::STANDARD.encode(v).into());
    }
    fn raw(&mut self, v: &[u8]) -> Result<(), String> {
        let value = serde_json::from_slice(v).map_err(|e| e.to_string())?;
        self.put(value);
        Ok(())
    }
}
