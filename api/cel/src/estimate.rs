//! What an expression can cost at worst, reckoned from the sizes that a schema allows. A definition with rules
//! that can cost too much is refused before anything runs.

use crate::check::Checked;
use crate::shape::Shape;
use crate::syntax::{Expr, Fold, Kind, Literal};
use crate::types::Type;
use std::collections::HashMap;
use std::sync::Arc;

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
const TRAVERSAL: f64 = 0.1;
const REGEX: f64 = 0.25;

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

    /// What a function itself costs, and the size of its result.
    fn function(
        &mut self,
        e: &Expr,
        name: &str,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> (Cost, Option<Size>) {
        let one = (Range::fixed(1), None);
        let of = |e: Option<&Expr>| e.map_or(UNKNOWN, |e| self.size_or_unknown(e));
        let (on, first, second) = (of(target), of(args.first()), of(args.get(1)));
        let pass = |size: Size, times: f64| size.factor(times * TRAVERSAL);
        let typed = |i: usize| args.get(i).map(|a| self.checked.type_of(a).clone()).unwrap_or(Type::Dyn);
        let flat = |t: &Type| matches!(t, Type::String | Type::Bytes);
        match name {
            "check" => (Range::fixed(350_000), None),
            "fieldSelector" | "labelSelector" => {
                (Range::fixed(10).add(pass(first, 1.0)).add(first.factor(0.5).factor(50.0)), None)
            }
            "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
                let Some(t) = target else { return one };
                if !matches!(self.checked.type_of(t), Type::List(_)) {
                    return (pass(on, 1.0), None);
                }
                let (item, size) = self.item_size(t);
                let each = if flat(&item) { Range::fixed(1).add(pass(size, 1.0)) } else { Range::fixed(1) };
                (on.times(each), None)
            }
            "url" | "jsonpatch.escapeKey" => (pass(first, 1.0), Some(first)),
            "lowerAscii" | "upperAscii" | "substring" | "trim" => (pass(on, 1.0), Some(on)),
            "replace" => (pass(on, 2.0), Some(replaced(on, first, second))),
            "split" => {
                let most = match args.get(1).map(|a| &a.kind) {
                    Some(Kind::Literal(Literal::Int(n))) => u64::try_from(*n).unwrap_or(on.max),
                    _ => on.max,
                };
                (pass(on, 2.0), Some(Range { min: 0, max: most }))
            }
            "join" => {
                let Some(t) = target else { return one };
                let mut size = on.times(self.item_size(t).1);
                if !args.is_empty() {
                    let gaps = Range { min: on.min.saturating_sub(1), max: on.max.saturating_sub(1) };
                    size = size.add(first.times(gaps));
                }
                (pass(size, 1.0), Some(size))
            }
            "find" | "findAll" => {
                let cost = pass(on.add(Range::fixed(1)), 1.0).times(first.factor(REGEX));
                (cost, Some(Range { min: 0, max: on.max }))
            }
            "matches" => {
                let (text, pattern) = if target.is_some() { (on, first) } else { (first, second) };
                (pass(text.add(Range::fixed(1)), 1.0).times(pattern.factor(REGEX)), None)
            }
            "contains" => (pass(on, 1.0).times(pass(first, 1.0)), None),
            "cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
                (pass(first, 1.0), None)
            }
            "ip" if target.is_none() => (pass(first, 1.0), None),
            "ip.isCanonical" => (pass(first, 2.0), None),
            "containsIP" | "containsCIDR" => {
                let address = Range { min: 4, max: 16 };
                let mut cost = pass(address.add(address), 1.0);
                if name == "containsCIDR" {
                    cost = cost.add(pass(address, 1.0)).add(Range::fixed(1));
                }
                if matches!(typed(0), Type::String) {
                    cost = cost.add(pass(first, 1.0));
                }
                (cost, None)
            }
            "validate" => (pass(first, 1.0).factor(128.0 * REGEX), None),
            "startsWith" | "endsWith" => (pass(first, 1.0), None),
            "strings.quote" => (pass(first, 1.0), Some(first.add(first).add(Range::fixed(2)))),
            "format" if target.is_some() => (pass(on, 1.0), None),
            "bytes" if flat(&typed(0)) => {
                (pass(first, 1.0), Some(Range { min: first.min, max: first.max.saturating_mul(4) }))
            }
            "string" if matches!(typed(0), Type::Bytes) => (pass(first, 1.0), None),
            "@in" if matches!(typed(1), Type::List(_)) => (second, None),
            "@in" if typed(1).is_dyn() => (Range { min: 1, max: second.max }, None),
            "_+_" => {
                let size = first.add(second);
                if let (Some(x), Some(y)) = (
                    args.first().and_then(|a| self.entries_of(a)),
                    args.get(1).and_then(|a| self.entries_of(a)),
                ) {
                    let entries =
                        Entries { list: x.list, key: x.key.union(y.key), value: x.value.union(y.value) };
                    self.entries.insert(e.id, entries);
                }
                match typed(0) {
                    t if flat(&t) => (pass(size, 1.0), Some(size)),
                    Type::List(_) => (Range::fixed(1), Some(size)),
                    Type::Dyn if typed(1).is_dyn() => {
                        (Range { min: 1, max: pass(size, 1.0).max }, Some(size))
                    }
                    Type::Dyn if flat(&typed(1)) => (pass(size, 1.0), Some(size)),
                    _ => one,
                }
            }
            "_==_" | "_!=_" if matches!(typed(0), Type::Opaque(..)) => one,
            "_==_" | "_!=_" => compared(first, second),
            "_<_" | "_<=_" | "_>_" | "_>=_" if flat(&typed(0)) => compared(first, second),
            "sets.contains" | "sets.intersects" => (first.times(second).add(Range::fixed(1)), None),
            "sets.equivalent" => (first.times(second).factor(2.0).add(Range::fixed(1)), None),
            "lists.range" => made(1.0, literal_int(args.first()).map_or(UNKNOWN, Range::fixed)),
            "slice" => {
                let ends = (literal_int(args.first()), literal_int(args.get(1)));
                match ends {
                    (Some(a), Some(b)) => made(1.0, Range::fixed(b.saturating_sub(a))),
                    _ => made(1.0, on),
                }
            }
            "reverse" => made(1.0, on),
            "flatten" => match args.first() {
                None => made(1.0, on),
                Some(_) => made(literal_int(args.first()).unwrap_or(u64::MAX) as f64, on),
            },
            "distinct" => made(2.0, on.times(on)),
            "sort" | "@sortByAssociatedKeys" => {
                let (list, size) = if name == "sort" { (target, on) } else { (args.first(), first) };
                let item = list.map(|l| self.item_size(l).0);
                made(if item.as_ref().is_some_and(flat) { 2.1 } else { 2.0 }, size.times(size))
            }
            _ => one,
        }
    }
}

/// A function that makes a list of a size.
fn made(factor: f64, size: Size) -> (Cost, Option<Size>) {
    (size.factor(factor).add(Range::fixed(11)), Some(size))
}

fn literal_int(e: Option<&Expr>) -> Option<u64> {
    match &e?.kind {
        Kind::Literal(Literal::Int(n)) => Some(u64::try_from(*n).unwrap_or_default()),
        _ => None,
    }
}

fn compared(a: Size, b: Size) -> (Cost, Option<Size>) {
    let most = a.max.min(b.max);
    (Range { min: u64::from(most > 0), max: most }.factor(TRAVERSAL), None)
}

fn replaced(on: Size, from: Size, to: Size) -> Size {
    let ceil = |a: u64, b: u64| a.div_ceil(b.max(1));
    let (most, kept) = if from.min == 0 {
        (on.max.saturating_add(1), on.max)
    } else if to.max <= from.min {
        (0, on.max)
    } else {
        (ceil(on.max, from.min), 0)
    };
    let (least, least_kept) = if from.max == 0 {
        (on.min.saturating_add(1), on.min)
    } else if from.max <= to.min {
        (0, on.min)
    } else {
        (ceil(on.min, from.max), 0)
    };
    Range { min: least, max: most }.times(to).add(Range { min: least_kept, max: kept })
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
