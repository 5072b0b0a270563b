//! Walking over trees.

use crate::syntax::{Expr, Kind};

/// Calls `f` with every direct child.
pub fn children<'a>(e: &'a Expr, f: &mut dyn FnMut(&'a Expr)) {
    match &e.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => f(operand),
        Kind::Call { target, args, .. } => {
            if let Some(target) = target {
                f(target);
            }
            args.iter().for_each(f);
        }
        Kind::List(items) => items.iter().for_each(|i| f(&i.value)),
        Kind::Map(entries) => entries.iter().for_each(|e| {
            f(&e.key);
            f(&e.value);
        }),
        Kind::Struct { fields, .. } => fields.iter().for_each(|x| f(&x.value)),
        Kind::Fold(fold) => {
            [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result].into_iter().for_each(f);
        }
    }
}

/// Whether an expression uses a variable by this name.
pub fn mentions(root: &Expr, name: &str) -> bool {
    let mut todo = vec![root];
    while let Some(e) = todo.pop() {
        if let Kind::Ident(found) = &e.kind
            && (**found == *name || found.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
        {
            return true;
        }
        children(e, &mut |child| todo.push(child));
    }
    false
}
