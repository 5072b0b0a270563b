//! Runtime classes.

use crate::pod::resource_list;
use crate::table::{age, name};
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};

pub static RUNTIME_CLASS: Kind = Kind {
    defaults: |o| {
        if let Some(fixed) = o.sub("overhead").and_then(|o| o.sub("podFixed")) {
            resource_list(fixed);
        }
    },
    row: Some(|o| vec![name(o), o.text("handler").into(), age(o)]),
    create_on_update: true,
    unconditional_update: false,
    ..PLAIN
};
