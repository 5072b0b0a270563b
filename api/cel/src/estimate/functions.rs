//! What each function costs, and how large its result can be.

use super::{Cost, Entries, Estimate, Range, Size, UNKNOWN};
use crate::syntax::{Expr, Kind, Literal};
use crate::types::Type;

/// What passing over one element costs.
const TRAVERSAL: f64 = 0.1;
const REGEX: f64 = 0.25;

impl Estimate<'_> {
    /// What a function itself costs, and the size of its result.
    pub(super) fn function(
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
