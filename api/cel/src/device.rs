//! Selectors of devices: expressions over `device` in claims and device classes.

use crate::admission::Declared;
use crate::{Env, Program, Type};
use std::sync::OnceLock;

/// The most a selector may cost when it runs.
pub const COST_LIMIT: u64 = 1_000_000;

fn device() -> Type {
    static TYPE: OnceLock<Type> = OnceLock::new();
    let nested = |of: Type| Type::map(Type::String, Type::map(Type::String, of));
    let make = || {
        let fields = [
            ("driver", Type::String),
            ("allowMultipleAllocations", Type::Bool),
            ("attributes", nested(Type::Dyn)),
            ("capacity", nested(Type::opaque("kubernetes.Quantity"))),
        ];
        Declared::of("kubernetes.DRADevice", fields.map(|(name, of)| (name.to_owned(), of)))
    };
    TYPE.get_or_init(make).clone()
}

/// Compiles a selector.
pub fn compile(text: &str) -> Result<Program, String> {
    let program = Program::compile(text, &Env::new().with("device", device())).map_err(|e| e.to_string())?;
    match program.result() {
        Type::Bool | Type::Dyn => Ok(program),
        other => Err(format!("must evaluate to bool or the unknown type, not {other}")),
    }
}
