//! What is written out in an expression and can be judged without running it: constants, templates, and
//! lists and maps whose elements must be alike.

use super::Checker;
use crate::syntax::{self, Expr, Kind, Literal};
use crate::types::Type;

impl Checker<'_> {
    /// A template that is written out takes what it is given.
    fn template(&mut self, id: u32, template: &str, items: &[syntax::Item]) {
        use crate::library::strings::format::{Piece, accepts, pieces};
        let pieces = match pieces(template) {
            Ok(pieces) => pieces,
            Err(why) => return self.report(id, why.to_string()),
        };
        let verbs = pieces.iter().filter_map(|p| match p {
            Piece::Clause(verb, _) => Some(*verb),
            Piece::Text(_) => None,
        });
        let mut used = 0;
        for (i, verb) in verbs.enumerate() {
            used = i + 1;
            let Some(item) = items.get(i) else {
                return self.report(id, format!("index {i} out of range"));
            };
            let found = self.bindings.apply(&self.of(&item.value), true);
            if let Err(why) = accepts(verb, &found) {
                return self.report(item.value.id, why.to_string());
            }
        }
        if used < items.len() {
            let (had, took) = (items.len(), used);
            self.report(
                id,
                format!("too many arguments supplied to string.format (expected {took}, got {had})"),
            );
        }
    }

    /// Constants that can never be what they are taken for.
    pub(super) fn literals(&mut self, root: &Expr) {
        let mut todo = vec![root];
        while let Some(e) = todo.pop() {
            crate::walk::children(e, &mut |child| todo.push(child));
            let Kind::Call { name, target, args } = &e.kind else { continue };
            if let ("format", Some(template), [list]) = (&**name, target, args.as_slice())
                && let (Kind::Literal(Literal::String(template)), Kind::List(items)) =
                    (&template.kind, &list.kind)
            {
                self.template(e.id, template, items);
            }
            let arg = match (&**name, target, args.as_slice()) {
                ("duration" | "timestamp", None, [arg]) | ("matches", Some(_), [arg]) => arg,
                ("matches", None, [_, arg]) => arg,
                _ => continue,
            };
            let Kind::Literal(Literal::String(text)) = &arg.kind else { continue };
            let good = match &**name {
                "duration" => crate::time::parse_duration(text).is_some(),
                "timestamp" => crate::time::parse_timestamp(text).is_some(),
                _ => crate::patterns::compiled(text).is_ok(),
            };
            if !good {
                let (id, name) = (arg.id, name.clone());
                self.report(id, format!("invalid {name} argument"));
            }
        }
    }

    /// The elements of lists and maps that are written out are of one type, but not in what is formatted.
    pub(super) fn alike(&mut self, root: &Expr) {
        let mut todo = vec![root];
        while let Some(e) = todo.pop() {
            match &e.kind {
                Kind::Call { name, .. } if &**name == "format" => continue,
                Kind::List(items) => {
                    let items = items.iter().map(|i| (&i.value, i.optional));
                    self.of_one_type(items.collect(), true);
                }
                Kind::Map(entries) => {
                    self.of_one_type(entries.iter().map(|e| (&e.key, false)).collect(), false);
                    self.of_one_type(entries.iter().map(|e| (&e.value, e.optional)).collect(), false);
                }
                _ => {}
            }
            crate::walk::children(e, &mut |child| todo.push(child));
        }
    }

    fn of_one_type(&mut self, values: Vec<(&Expr, bool)>, once: bool) {
        let mut first: Option<Type> = None;
        for (value, optional) in values {
            let found = self.bindings.apply(&self.of(value), true);
            let found = match found.unwrapped() {
                Some(of) if optional => of.clone(),
                _ => found,
            };
            match &first {
                None => first = Some(found),
                Some(wanted) if *wanted != found => {
                    let text = format!("expected type '{wanted}' but found '{found}'");
                    self.report(value.id, text);
                    if once {
                        return;
                    }
                }
                Some(_) => {}
            }
        }
    }
}
