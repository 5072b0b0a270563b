//! The evaluation of a checked tree. Every step has upstream's price, and ends the evaluation when the price of
//! all steps is beyond the limit.

use crate::authz::{self, Authority};
use crate::check;
use crate::error::{Fault, Result};
use crate::library;
use crate::ops;
use crate::syntax::{Expr, Fold, Kind, Literal};
use crate::value::{Key, Object, Text, Val};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// The most that one expression may cost.
pub const PER_CALL_LIMIT: u64 = 1_000_000;

const LIST_COST: u64 = 10;
const MAP_COST: u64 = 30;
const STRUCT_COST: u64 = 40;

/// What the names of an expression stand for in one evaluation.
#[derive(Default)]
pub struct Activation<'a> {
    values: Vec<(&'a str, Val<'a>)>,
    authority: Option<&'a dyn Authority>,
    variables: HashMap<&'a str, &'a Expr>,
    known: RefCell<HashMap<&'a str, Result<Val<'a>>>>,
    /// What the variables have cost.
    spent: Cell<u64>,
}

impl<'a> Activation<'a> {
    pub fn new() -> Self {
        Activation::default()
    }

    pub fn set(&mut self, name: &'a str, value: Val<'a>) {
        self.values.retain(|(n, _)| *n != name);
        self.values.push((name, value));
    }

    pub fn authority(&mut self, authority: &'a dyn Authority) {
        self.authority = Some(authority);
    }

    /// A field of `variables`.
    pub fn variable(&mut self, name: &'a str, expr: &'a Expr) {
        self.variables.insert(name, expr);
    }

    fn get(&self, name: &str) -> Option<Val<'a>> {
        self.values.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone())
    }
}

/// One evaluation: what it has cost, and the names of its loops.
pub struct Run<'a, 'c> {
    activation: &'c Activation<'a>,
    locals: Vec<(&'a str, Val<'a>)>,
    cost: u64,
    limit: u64,
}

/// Evaluates a tree. Also tells what it cost.
pub fn evaluate<'a>(root: &'a Expr, activation: &Activation<'a>, limit: u64) -> (Result<Val<'a>>, u64) {
    activation.spent.set(0);
    let mut run = Run { activation, locals: Vec::new(), cost: 0, limit };
    let result = run.eval(root);
    (result, run.cost.saturating_add(activation.spent.get()))
}

impl<'a> Run<'a, '_> {
    fn charge(&mut self, cost: u64) -> Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(Fault::Budget) } else { Ok(()) }
    }

    fn eval(&mut self, e: &'a Expr) -> Result<Val<'a>> {
        stacker::maybe_grow(96 * 1024, 1024 * 1024, || self.node(e))
    }

    fn node(&mut self, e: &'a Expr) -> Result<Val<'a>> {
        match &e.kind {
            Kind::Literal(l) => Ok(constant(l)),
            Kind::Ident(name) => {
                self.charge(1)?;
                self.ident(name)
            }
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call { name, target, args } => self.call(name, target.as_deref(), args),
            Kind::List(items) => {
                let mut made = Vec::with_capacity(items.len());
                for item in items {
                    match (self.eval(&item.value)?, item.optional) {
                        (Val::Optional(v), true) => made.extend(v.map(|v| (*v).clone())),
                        (v, _) => made.push(v),
                    }
                }
                self.charge(LIST_COST)?;
                Ok(Val::list(made))
            }
            Kind::Map(entries) => {
                let mut made = BTreeMap::new();
                for entry in entries {
                    let key = self.eval(&entry.key)?;
                    let key = Key::of(&key).ok_or_else(|| Fault::error("unsupported key type"))?;
                    let value = match (self.eval(&entry.value)?, entry.optional) {
                        (Val::Optional(None), true) => continue,
                        (Val::Optional(Some(v)), true) => (*v).clone(),
                        (v, _) => v,
                    };
                    if made.insert(key, value).is_some() {
                        return Err(Fault::error("Failed with repeated key"));
                    }
                }
                self.charge(MAP_COST)?;
                Ok(Val::Map(Arc::new(made)))
            }
            Kind::Struct { name, fields } => {
                let mut made = BTreeMap::new();
                for f in fields {
                    let value = match (self.eval(&f.value)?, f.optional) {
                        (Val::Optional(None), true) => continue,
                        (Val::Optional(Some(v)), true) => (*v).clone(),
                        (v, _) => v,
                    };
                    made.insert(f.name.clone(), value);
                }
                self.charge(STRUCT_COST)?;
                Ok(Val::Object(Arc::new(Object { name: name.clone(), fields: made })))
            }
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &str) -> Result<Val<'a>> {
        if let Some((_, found)) = self.locals.iter().rev().find(|(n, _)| *n == name) {
            return Ok(found.clone());
        }
        if let Some(found) = self.activation.get(name) {
            return Ok(found);
        }
        match check::named_type(name) {
            Some(t) => Ok(Val::Type(Box::new(t))),
            None => Err(Fault::error(format!("no such attribute(s): {name}"))),
        }
    }

    fn select(&mut self, operand: &'a Expr, field: &str, test: bool) -> Result<Val<'a>> {
        let on = self.eval(operand)?;
        if test {
            return match on {
                Val::Optional(None) => Ok(Val::Bool(false)),
                Val::Optional(Some(v)) => Ok(Val::Bool(v.field(field).is_some())),
                Val::Variables => Ok(Val::Bool(self.activation.variables.contains_key(field))),
                v if v.is_map() => Ok(Val::Bool(v.field(field).is_some())),
                _ => Err(Fault::no_such_overload()),
            };
        }
        self.charge(1)?;
        match on {
            Val::Variables => self.variable(field),
            Val::Optional(of) => Ok(Val::Optional(of.and_then(|v| v.field(field)).map(Arc::new))),
            v if v.is_list() => Err(Fault::error("unsupported index type 'string' in list")),
            v => v.field(field).ok_or_else(|| Fault::error(format!("no such key: {field}"))),
        }
    }

    /// A variable of a policy is evaluated once, when it is first asked for.
    fn variable(&mut self, name: &str) -> Result<Val<'a>> {
        let Some((name, expr)) = self.activation.variables.get_key_value(name) else {
            return Err(Fault::error(format!("no such key: {name}")));
        };
        if let Some(known) = self.activation.known.borrow().get(name) {
            return known.clone();
        }
        let mut run =
            Run { activation: self.activation, locals: Vec::new(), cost: self.cost, limit: self.limit };
        let result = run.eval(expr);
        self.activation.spent.set(self.activation.spent.get().saturating_add(run.cost));
        let result = match result {
            Err(why @ (Fault::Error(_) | Fault::Budget)) => {
                Err(Fault::error(format!("composited variable {name:?} fails to evaluate: {why}")))
            }
            other => other,
        };
        if !matches!(result, Err(Fault::Undecided(_))) {
            self.activation.known.borrow_mut().insert(name, result.clone());
        }
        result
    }

    fn call(&mut self, name: &'a str, target: Option<&'a Expr>, args: &'a [Expr]) -> Result<Val<'a>> {
        match (name, args) {
            ("_&&_", [a, b]) => self.logic(a, b, false),
            ("_||_", [a, b]) => self.logic(a, b, true),
            ("_?_:_", [when, a, b]) => match self.eval(when)? {
                Val::Bool(true) => self.eval(a),
                Val::Bool(false) => self.eval(b),
                _ => Err(Fault::no_such_overload()),
            },
            ("@not_strictly_false", [a]) => {
                let result = match self.eval(a) {
                    Err(stop @ (Fault::Budget | Fault::Undecided(_))) => Err(stop),
                    Ok(Val::Bool(false)) => Ok(Val::Bool(false)),
                    _ => Ok(Val::Bool(true)),
                };
                self.charge(1)?;
                result
            }
            ("_+_" | "cel.@mapInsert", [first, ..]) => {
                // The accumulator of a loop is moved, so that growing it does not copy it.
                let first = match &first.kind {
                    Kind::Ident(n) if n.starts_with('@') => {
                        self.charge(1)?;
                        self.taken(n)?
                    }
                    _ => self.eval(first)?,
                };
                let mut given = vec![first];
                for arg in &args[1..] {
                    given.push(self.eval(arg)?);
                }
                self.apply(name, false, given)
            }
            ("_?._", [operand, field]) => {
                let on = self.eval(operand)?;
                self.charge(1)?;
                let Kind::Literal(Literal::String(field)) = &field.kind else {
                    return Err(Fault::no_such_overload());
                };
                optional_field(on, field)
            }
            _ => {
                let mut given = Vec::with_capacity(args.len() + 1);
                if let Some(target) = target {
                    given.push(self.eval(target)?);
                }
                for arg in args {
                    given.push(self.eval(arg)?);
                }
                if matches!((name, target.is_some()), ("or" | "orValue", true)) {
                    self.charge(1)?;
                    return library::optional::choose(name, given);
                }
                self.apply(name, target.is_some(), given)
            }
        }
    }

    fn taken(&mut self, name: &str) -> Result<Val<'a>> {
        match self.locals.iter_mut().rev().find(|(n, _)| *n == name) {
            Some((_, found)) => Ok(std::mem::replace(found, Val::Null)),
            None => self.ident(name),
        }
    }

    fn apply(&mut self, name: &str, member: bool, given: Vec<Val<'a>>) -> Result<Val<'a>> {
        // What is known before: a hostile call must not be made and then found too costly.
        let before = ops::price(name, &given);
        self.charge(before)?;
        let result = match (&given[..], member) {
            ([Val::Authz(on), rest @ ..], true) => authz::call(self.activation.authority, name, on, rest)?,
            _ => match ops::operator(name, given) {
                Ok(done) => done?,
                Err(given) => library::call(name, member, given)?,
            },
        };
        if name == "join"
            && let Val::Str(s) = &result
        {
            self.charge(s.len() as u64 / 5)?;
        }
        Ok(result)
    }

    /// `a && b` and `a || b`: one side that decides makes up for an error of the other.
    fn logic(&mut self, a: &'a Expr, b: &'a Expr, decides: bool) -> Result<Val<'a>> {
        let first = match self.eval(a) {
            Ok(Val::Bool(v)) if v == decides => return Ok(Val::Bool(decides)),
            Ok(Val::Bool(_)) => None,
            Ok(_) => Some(Fault::no_such_overload()),
            Err(Fault::Error(why)) => Some(Fault::Error(why)),
            Err(stop) => return Err(stop),
        };
        match (self.eval(b), first) {
            (Ok(Val::Bool(v)), _) if v == decides => Ok(Val::Bool(decides)),
            (Err(stop @ (Fault::Budget | Fault::Undecided(_))), _) => Err(stop),
            (_, Some(why)) => Err(why),
            (Ok(Val::Bool(v)), None) => Ok(Val::Bool(v)),
            (Ok(_), None) => Err(Fault::no_such_overload()),
            (Err(why), None) => Err(why),
        }
    }

    fn fold(&mut self, fold: &'a Fold) -> Result<Val<'a>> {
        let depth = self.locals.len();
        let result = self.fold_in(fold);
        self.locals.truncate(depth);
        result
    }

    fn fold_in(&mut self, fold: &'a Fold) -> Result<Val<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let accu = self.locals.len();
        self.locals.push((&fold.accu, init));
        if !fold.is_bind() {
            for (first, second) in steps(&range, fold.var2.is_some())? {
                self.locals.truncate(accu + 1);
                self.locals.push((&fold.var, first));
                if let Some(var2) = &fold.var2 {
                    self.locals.push((var2, second));
                }
                match self.eval(&fold.condition)? {
                    Val::Bool(true) => {}
                    _ => break,
                }
                let next = self.eval_step(fold, accu)?;
                self.locals[accu].1 = next;
            }
        }
        self.locals.truncate(accu + 1);
        if let Val::Type(poison) = &self.locals[accu].1
            && let crate::types::Type::Param(why) = &**poison
        {
            // An error that no later element made up for.
            return Err(Fault::error(&**why));
        }
        self.eval(&fold.result)
    }

    /// One step. An error of `all` and `exists` stays until an element decides.
    fn eval_step(&mut self, fold: &'a Fold, accu: usize) -> Result<Val<'a>> {
        let Kind::Call { name, args, .. } = &fold.step.kind else { return self.eval(&fold.step) };
        let decides = match &**name {
            "_||_" => true,
            "_&&_" => false,
            _ => return self.eval(&fold.step),
        };
        let kept = match &self.locals[accu].1 {
            Val::Type(poison) => Some(Val::Type(poison.clone())),
            _ => None,
        };
        self.charge(1)?;
        let [_, body] = args.as_slice() else { return self.eval(&fold.step) };
        match self.eval(body) {
            Ok(Val::Bool(v)) if v == decides => Ok(Val::Bool(decides)),
            Ok(Val::Bool(v)) => Ok(kept.unwrap_or(Val::Bool(v))),
            Ok(_) => Ok(kept.unwrap_or_else(|| poison("no such overload"))),
            Err(Fault::Error(why)) => Ok(kept.unwrap_or_else(|| poison(&why))),
            Err(stop) => Err(stop),
        }
    }
}

/// An error as the accumulator of a loop.
fn poison<'a>(why: &str) -> Val<'a> {
    Val::Type(Box::new(crate::types::Type::Param(why.into())))
}

fn constant<'a>(l: &'a Literal) -> Val<'a> {
    match l {
        Literal::Null => Val::Null,
        Literal::Bool(b) => Val::Bool(*b),
        Literal::Int(i) => Val::Int(*i),
        Literal::Uint(u) => Val::Uint(*u),
        Literal::Double(d) => Val::Double(*d),
        Literal::String(s) => Val::Str(Text::Of(s)),
        Literal::Bytes(b) => Val::Bytes(b.clone()),
    }
}

fn optional_field<'a>(on: Val<'a>, field: &str) -> Result<Val<'a>> {
    match on {
        Val::Optional(of) => Ok(Val::Optional(of.and_then(|v| v.field(field)).map(Arc::new))),
        v if v.is_map() => Ok(Val::Optional(v.field(field).map(Arc::new))),
        _ => Err(Fault::no_such_overload()),
    }
}

/// What the variables of a loop stand for, one after the other.
fn steps<'a>(range: &Val<'a>, two: bool) -> Result<Vec<(Val<'a>, Val<'a>)>> {
    if let Some(items) = range.items() {
        return Ok(match two {
            true => items.into_iter().enumerate().map(|(i, v)| (Val::Int(i as i64), v)).collect(),
            false => items.into_iter().map(|v| (v, Val::Null)).collect(),
        });
    }
    range.entries().ok_or_else(|| {
        let name = range.type_name();
        let mut letters = name.chars();
        let name: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
        Fault::error(format!("got 'types.{name}', expected iterable type"))
    })
}
