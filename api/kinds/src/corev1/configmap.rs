//! Config maps.

use crate::table::{age, name};
use crate::value::Get;
use crate::{Kind, PLAIN};
use api::Value;

pub static ROOM: Kind = Kind { row: Some(row), ..PLAIN };

fn row(o: &Value) -> Vec<Value> {
    vec![name(o), (o.len("data") + o.len("binaryData")).into(), age(o)]
}
