//! What an expression can cost at worst, reckoned from the sizes that a schema allows. A definition with rules
//! that can cost too much is refused before anything runs.

use crate::check::Checked;
use crate::shape::Shape;
use crate::syntax::{Expr, Fold, Kind, Literal};
use crate::types::Type;
use std::collections::HashMap;
use std::sync::Arc;

mod functions;

/// From the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

type Size = Range;
type Cost = Range;

const ZERO: Range = Range { min: 0, max: 0 };
const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

fn by_factor(n: u64, factor: f64) -> u64 {
    // Casts saturate: what is beyond all numbers stays the largest.
    (n as f64 * factor).ceil() as u64
}

impl Range {
    pub fn fixed(n: u64) -> Range {
        Range { min: n, max: n }
    }

    fn add(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    fn factor(self, f: f64) -> Range {
        Range { min: by_factor(self.min, f), max: by_factor(self.max, f) }
    }

    fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// The sizes of the entries of a list or map that the expression makes.
#[derive(Clone, Copy)]
struct Entries {
    list: bool,
    key: Size,
    value: Size,
}

/// The worst case of a checked expression, with the schemas of its variables.
pub fn estimate(checked: &Checked, schemas: &[(&str, &Shape)]) -> Range {
    let mut e = Estimate {
        checked,
        schemas,
        paths: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
        locals: Vec::new(),
    };
    e.cost(&checked.root)
}

type Way = Vec<Arc<str>>;

struct Local {
    name: Arc<str>,
    path: Way,
    size: Option<Size>,
    entries: Option<Entries>,
}

struct Estimate<'a> {
    checked: &'a Checked,
    schemas: &'a [(&'a str, &'a Shape)],
    paths: HashMap<u32, Way>,
    sizes: HashMap<u32, Size>,
    entries: HashMap<u32, Entries>,
    locals: Vec<Local>,
}

impl Estimate<'_> {
    fn cost(&mut self, e: &Expr) -> Cost {
        stacker::maybe_grow(64 * 1024, 1024 * 1024, || self.node(e))
    }

    fn node(&mut self, e: &Expr) -> Cost {
        match &e.kind {
            Kind::Literal(_) => ZERO,
            Kind::Ident(name) => {
                let path = match self.local(name) {
                    Some(local) => local.path.clone(),
                    None => vec![name.clone()],
                };
                self.paths.insert(e.id, path);
                Range::fixed(1)
            }
            Kind::Select { operand, field, test } => {
                let sum = self.cost(operand);
                if *test {
                    return sum;
                }
                let mut path = self.path(operand);
                path.push(field.clone());
                self.paths.insert(e.id, path);
                match self.checked.type_of(operand) {
                    Type::Map(..) | Type::Struct(_) | Type::Param(_) => sum.add(Range::fixed(1)),
                    _ => sum,
                }
            }
            Kind::Call { name, target, args } => self.call(e, name, target.as_deref(), args),
            Kind::List(items) => {
                let (mut sum, mut of) = (Range::fixed(10), None);
                for item in items {
                    sum = sum.add(self.cost(&item.value));
                    let size = self.size_or_unknown(&item.value);
                    of = Some(of.map_or(size, |o: Size| o.union(size)));
                }
                let value = of.unwrap_or(ZERO);
                self.entries.insert(e.id, Entries { list: true, key: Range::fixed(1), value });
                sum
            }
            Kind::Map(entries) => {
                let (mut sum, mut keys, mut values) = (Range::fixed(30), None, None);
                for entry in entries {
                    sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
                    let (k, v) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
                    keys = Some(keys.map_or(k, |o: Size| o.union(k)));
                    values = Some(values.map_or(v, |o: Size| o.union(v)));
                }
                let (key, value) = (keys.unwrap_or(ZERO), values.unwrap_or(ZERO));
                self.entries.insert(e.id, Entries { list: false, key, value });
                sum
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(Range::fixed(40), |sum, f| sum.add(self.cost(&f.value)))
            }
            Kind::Fold(fold) if fold.is_bind() => self.bind(e, fold),
            Kind::Fold(fold) => self.fold(e, fold),
        }
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|l| *l.name == *name)
    }

    fn path(&self, e: &Expr) -> Way {
        if let Kind::Ident(name) = &e.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&e.id).cloned().unwrap_or_default()
    }

    /// The schema at a path.
    fn shape(&self, path: &[Arc<str>]) -> Option<&Shape> {
        let (first, rest) = path.split_first()?;
        // Names without a schema of their own are taken to be as the first one's, as upstream does.
        let named = self.schemas.iter().find(|(name, _)| **name == **first);
        let (_, root) = named.or_else(|| self.schemas.first())?;
        rest.iter().try_fold(*root, |shape, step| shape.step(step))
    }

    fn sized(&self, path: &[Arc<str>], of: &Type) -> Option<Size> {
        let max = match self.shape(path) {
            Some(shape) => shape.max,
            None if path.last().is_some_and(|p| &**p == "@keys") => 0,
            None => return default_size(of),
        };
        Some(Range { min: 0, max })
    }

    fn size(&self, e: &Expr) -> Option<Size> {
        if let Some(known) = self.sizes.get(&e.id) {
            return Some(*known);
        }
        match &e.kind {
            Kind::Literal(Literal::String(s)) => return Some(Range::fixed(s.chars().count() as u64)),
            Kind::Literal(Literal::Bytes(b)) => return Some(Range::fixed(b.len() as u64)),
            Kind::Literal(_) => return Some(Range::fixed(1)),
            Kind::List(items) => return Some(Range::fixed(items.len() as u64)),
            Kind::Map(entries) => return Some(Range::fixed(entries.len() as u64)),
            _ => {}
        }
        let (path, of) = (self.path(e), self.checked.type_of(e));
        let accumulated = path.first().is_some_and(|p| p.starts_with('@'));
        if !path.is_empty()
            && !accumulated
            && let Some(size) = self.sized(&path, of)
        {
            return Some(size);
        }
        if of.is_scalar() {
            return Some(Range::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn size_or_unknown(&self, e: &Expr) -> Size {
        self.size(e).unwrap_or(UNKNOWN)
    }

    fn entries_of(&self, e: &Expr) -> Option<Entries> {
        if let Some(known) = self.entries.get(&e.id) {
            return Some(*known);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }

    fn bind(&mut self, e: &Expr, fold: &Fold) -> Cost {
        let sum = self.cost(&fold.range).add(self.cost(&fold.init));
        self.push_value(&fold.accu, &fold.init);
        let sum = sum.add(self.cost(&fold.result));
        if let Some(size) = self.size(&fold.result) {
            self.sizes.insert(e.id, size);
        }
        if let Some(entries) = self.entries_of(&fold.result) {
            self.entries.insert(e.id, entries);
        }
        self.locals.pop();
        sum
    }

    fn push_value(&mut self, name: &Arc<str>, value: &Expr) {
        let local = Local {
            name: name.clone(),
            path: self.path(value),
            size: self.size(value),
            entries: self.entries_of(value),
        };
        self.locals.push(local);
    }

    /// A name for the keys or values of a range.
    fn push_entry(&mut self, name: &Arc<str>, range: &Expr, keys: bool) {
        let entries = self.entries_of(range);
        let list = match entries {
            Some(e) => e.list,
            None => matches!(self.checked.type_of(range), Type::List(_)),
        };
        let step = match (list, keys) {
            (true, true) => "@indices",
            (true, false) => "@items",
            (false, true) => "@keys",
            (false, false) => "@values",
        };
        let mut path = self.path(range);
        path.push(step.into());
        let size = entries.map(|e| if keys { e.key } else { e.value });
        self.locals.push(Local { name: name.clone(), path, size, entries: None });
    }

    fn fold(&mut self, e: &Expr, fold: &Fold) -> Cost {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.init));
        let depth = self.locals.len();
        self.push_value(&fold.accu, &fold.init);
        match &fold.var2 {
            Some(var2) => {
                self.push_entry(&fold.var, &fold.range, true);
                self.push_entry(var2, &fold.range, false);
            }
            None => {
                let list = match self.entries_of(&fold.range) {
                    Some(e) => e.list,
                    None => matches!(self.checked.type_of(&fold.range), Type::List(_)),
                };
                self.push_entry(&fold.var, &fold.range, !list);
            }
        }
        let each = self.cost(&fold.condition).add(self.cost(&fold.step));
        self.locals.truncate(depth + 1);
        sum = sum.add(self.cost(&fold.result));
        self.locals.truncate(depth);
        let count = self.size_or_unknown(&fold.range);
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.sizes.insert(e.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(e.id, count);
                if let Some(entries) = self.entries_of(&fold.step) {
                    self.entries.insert(e.id, entries);
                }
            }
            _ => {}
        }
        sum.add(count.times(each))
    }

    fn call(&mut self, e: &Expr, name: &str, target: Option<&Expr>, args: &[Expr]) -> Cost {
        if let ("dyn", [arg]) = (name, args) {
            let cost = self.cost(arg).add(Range::fixed(1));
            if let Some(size) = self.size(arg) {
                self.sizes.insert(e.id, size);
            }
            if let Some(entries) = self.entries_of(arg) {
                self.entries.insert(e.id, entries);
            }
            return cost;
        }
        if let ("_?._", [on, Expr { kind: Kind::Literal(Literal::String(field)), .. }]) = (name, args) {
            let cost = self.cost(on).add(Range::fixed(1));
            let mut path = self.path(on);
            path.push(field.clone());
            self.paths.insert(e.id, path);
            return cost;
        }
        let costs: Vec<Cost> = args.iter().map(|a| self.cost(a)).collect();
        let sum = target.map_or(ZERO, |t| self.cost(t));
        let (cost, size) = match (name, costs.as_slice()) {
            ("_&&_" | "_||_", [a, b]) => (Range { min: a.min, max: a.add(*b).max }, None),
            ("_?_:_", [when, a, b]) => {
                let size = self.size_or_unknown(&args[1]).union(self.size_or_unknown(&args[2]));
                if let (Some(x), Some(y)) = (self.entries_of(&args[1]), self.entries_of(&args[2])) {
                    let entries =
                        Entries { list: x.list, key: x.key.union(y.key), value: x.value.union(y.value) };
                    self.entries.insert(e.id, entries);
                }
                (when.add(a.union(*b)), Some(size))
            }
            _ => {
                let (own, size) = self.function(e, name, target, args);
                (costs.iter().fold(own, |sum, c| sum.add(*c)), size)
            }
        };
        let size = match (name, args) {
            ("_[_]" | "_[?_]", [of, _]) => self.element(e, of),
            _ => size,
        };
        if let Some(size) = size.or_else(|| self.size(e)) {
            self.sizes.insert(e.id, size);
        }
        sum.add(cost)
    }

    fn element(&mut self, e: &Expr, of: &Expr) -> Option<Size> {
        let size = self.entries_of(of).map(|e| e.value);
        let list = matches!(self.checked.type_of(of), Type::List(_));
        let mut path = self.path(of);
        path.push(if list { "@items" } else { "@values" }.into());
        self.paths.insert(e.id, path);
        size
    }

    /// The size of the elements of a list.
    fn item_size(&self, list: &Expr) -> (Type, Size) {
        let of = match self.checked.type_of(list) {
            Type::List(of) => (**of).clone(),
            _ => Type::Dyn,
        };
        if let Some(entries) = self.entries_of(list) {
            return (of, entries.value);
        }
        let mut path = self.path(list);
        if path.is_empty() {
            return (of.clone(), default_size(&of).unwrap_or(UNKNOWN));
        }
        path.push("@items".into());
        let size = self.sized(&path, &of).unwrap_or(UNKNOWN);
        (of, size)
    }
}

/// How large something of a type can be when nothing else is known.
fn default_size(of: &Type) -> Option<Size> {
    match of {
        Type::Null
        | Type::Bool
        | Type::Int
        | Type::Uint
        | Type::Double
        | Type::Timestamp
        | Type::Duration => Some(Range::fixed(1)),
        _ => None,
    }
}
