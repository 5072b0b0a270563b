//! The type checker: what every name and call stands for, and the type of the whole.

use crate::decls::{self, Overload};
use crate::error::{CompileError, Problem};
use crate::syntax::{self, Expr, FieldInit, Fold, Kind, Literal, Source, Syntax};
use crate::types::{self, Bindings, Type};
use std::collections::HashMap;
use std::sync::Arc;

mod written;

/// Finds types by name.
pub type Types = Arc<dyn Fn(&str) -> Option<Type> + Send + Sync>;

/// The names that an expression may use.
#[derive(Clone, Default)]
pub struct Env {
    variables: HashMap<Arc<str>, Type>,
    types: Option<Types>,
}

impl Env {
    pub fn new() -> Env {
        Env::default()
    }

    pub fn with(mut self, name: &str, of: Type) -> Env {
        self.variables.insert(name.into(), of);
        self
    }

    /// Types that can be made by name (`Object{…}`).
    pub fn with_types(mut self, find: Types) -> Env {
        self.types = Some(find);
        self
    }

    fn constructed(&self, name: &str) -> Option<Type> {
        self.types.as_ref().and_then(|find| find(name))
    }

    fn ident(&self, name: &str) -> Option<Type> {
        if let Some(found) = self.variables.get(name) {
            return Some(found.clone());
        }
        named_type(name).or_else(|| self.constructed(name)).map(|t| Type::Type(Some(Arc::new(t))))
    }
}

/// Types that have a name in expressions.
pub fn named_type(name: &str) -> Option<Type> {
    Some(match name {
        "bool" | "bytes" | "double" | "int" | "string" | "uint" => types::parse(name),
        "null_type" => Type::Null,
        "type" => Type::Type(None),
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "optional_type" => Type::optional(Type::Dyn),
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "net.IP" | "net.CIDR" | "kubernetes.URL" | "kubernetes.Quantity" | "kubernetes.Semver" => {
            Type::opaque(name)
        }
        _ => return None,
    })
}

/// What is known of a checked tree.
pub struct Checked {
    pub root: Expr,
    types: Vec<Type>,
    overloads: HashMap<u32, Vec<Arc<str>>>,
}

impl Checked {
    pub fn type_of(&self, e: &Expr) -> &Type {
        self.types.get(e.id as usize).unwrap_or(&Type::Dyn)
    }

    pub fn overloads(&self, e: &Expr) -> &[Arc<str>] {
        self.overloads.get(&e.id).map_or(&[], Vec::as_slice)
    }
}

/// Checks a tree; it is changed where names with dots turn out to be one name.
pub fn check(syntax: Syntax, env: &Env) -> Result<Checked, CompileError> {
    let Syntax { mut root, nodes, source } = syntax;
    let mut c = Checker {
        env,
        source: &source,
        scopes: Vec::new(),
        bindings: Bindings::default(),
        free: 0,
        types: vec![Type::Error; nodes as usize + 1],
        overloads: HashMap::new(),
        problems: Vec::new(),
    };
    c.check(&mut root);
    if c.problems.is_empty() {
        c.literals(&root);
        c.alike(&root);
    }
    if !c.problems.is_empty() {
        return Err(CompileError::of(c.problems));
    }
    let (bindings, types, overloads) = (c.bindings, c.types, c.overloads);
    let types = types.iter().map(|t| bindings.apply(t, true)).collect();
    Ok(Checked { root, types, overloads })
}

struct Checker<'a> {
    env: &'a Env,
    source: &'a Source,
    scopes: Vec<(Arc<str>, Type)>,
    bindings: Bindings,
    free: u32,
    types: Vec<Type>,
    overloads: HashMap<u32, Vec<Arc<str>>>,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn report(&mut self, id: u32, text: String) {
        if self.problems.len() < 100 {
            self.problems.push(self.source.problem(id, text));
        }
    }

    fn undeclared(&mut self, id: u32, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn mismatch(&mut self, id: u32, wanted: &Type, found: &Type) {
        let (wanted, found) = (self.bindings.apply(wanted, false), self.bindings.apply(found, false));
        self.report(id, format!("expected type '{wanted}' but found '{found}'"));
    }

    fn of(&self, e: &Expr) -> Type {
        self.types[e.id as usize].clone()
    }

    fn fresh(&mut self) -> Type {
        self.free += 1;
        Type::Param(format!("_var{}", self.free - 1).into())
    }

    fn ident(&self, name: &str) -> Option<Type> {
        let local = self.scopes.iter().rev().find(|(n, _)| **n == *name);
        local.map(|(_, t)| t.clone()).or_else(|| self.env.ident(name))
    }

    fn check(&mut self, e: &mut Expr) {
        stacker::maybe_grow(64 * 1024, 1024 * 1024, || self.check_node(e));
    }

    fn check_node(&mut self, e: &mut Expr) {
        let id = e.id;
        if let Kind::Select { test: false, .. } = &e.kind
            && let Some(name) = syntax::qualified(e)
            && let Some(found) = self.ident(&name)
        {
            e.kind = Kind::Ident(name.into());
            self.types[id as usize] = found;
            return;
        }
        let found = match &mut e.kind {
            Kind::Literal(l) => literal_type(l),
            Kind::Ident(name) => match self.ident(name) {
                Some(found) => found,
                None => {
                    let name = name.clone();
                    self.undeclared(id, &name)
                }
            },
            Kind::Select { operand, field, test } => {
                let found = self.field(id, operand, field, false);
                if *test { Type::Bool } else { found }
            }
            Kind::Call { .. } => self.call(e),
            Kind::List(items) => {
                let mut joined = None;
                for item in items {
                    self.check(&mut item.value);
                    let found = self.of(&item.value);
                    let found = self.maybe_optional(item.value.id, found, item.optional);
                    joined = Some(self.join(joined, found));
                }
                let of = joined.unwrap_or_else(|| self.fresh());
                Type::list(of)
            }
            Kind::Map(entries) => {
                let (mut keys, mut values) = (None, None);
                for entry in entries {
                    self.check(&mut entry.key);
                    keys = Some(self.join(keys, self.of(&entry.key)));
                    self.check(&mut entry.value);
                    let found = self.of(&entry.value);
                    let found = self.maybe_optional(entry.value.id, found, entry.optional);
                    values = Some(self.join(values, found));
                }
                let key = keys.unwrap_or_else(|| self.fresh());
                let value = values.unwrap_or_else(|| self.fresh());
                Type::map(key, value)
            }
            Kind::Struct { name, fields } => {
                let name = name.clone();
                self.structure(id, &name, fields)
            }
            Kind::Fold(fold) => self.fold(fold),
        };
        self.types[id as usize] = self.bindings.apply(&found, false);
    }

    fn maybe_optional(&mut self, id: u32, found: Type, optional: bool) -> Type {
        if !optional {
            return found;
        }
        match found.unwrapped() {
            Some(of) => of.clone(),
            None if found.is_dyn_or_error() => found,
            None => {
                self.mismatch(id, &Type::optional(found.clone()), &found);
                found
            }
        }
    }

    fn join(&mut self, before: Option<Type>, now: Type) -> Type {
        let Some(before) = before else { return now };
        // Whether elements must be alike is looked at afterwards: not everywhere.
        match self.bindings.assign(&before, &now) {
            true => types::most_general(&before, &now),
            false => Type::Dyn,
        }
    }

    /// The type of a field of an operand.
    fn field(&mut self, id: u32, operand: &mut Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let whole = self.bindings.apply(&self.of(operand), false);
        let (of, wrapped) = match whole.unwrapped() {
            Some(of) => (of.clone(), true),
            None => (whole, false),
        };
        let found = match &of {
            Type::Map(_, value) => (**value).clone(),
            Type::Struct(s) => match s.field(field) {
                Some(found) => found,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.bindings.assign(&Type::Dyn, &of);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            other => {
                self.report(id, format!("type '{other}' does not support field selection"));
                Type::Error
            }
        };
        if wrapped || optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, e: &mut Expr) -> Type {
        let id = e.id;
        let Kind::Call { name, target, args } = &mut e.kind else { return Type::Error };
        if &**name == "_?._" {
            return self.optional_select(id, args);
        }
        args.iter_mut().for_each(|a| self.check(a));
        let patches = self.env.types.is_some();
        let find = |name: &str| {
            let found = decls::functions().get_key_value(name);
            found.filter(|(name, _)| patches || !name.starts_with("jsonpatch."))
        };
        if let Some(on) = target {
            let whole = syntax::qualified(on).map(|prefix| format!("{prefix}.{name}"));
            match whole.and_then(|n| find(&n)) {
                Some((known, _)) => {
                    *name = known.clone();
                    *target = None;
                }
                None => self.check(on),
            }
        }
        let Some((_, overloads)) = find(name) else {
            let name = name.clone();
            return self.undeclared(id, &name);
        };
        let given: Vec<&Expr> = target.iter().map(|t| &**t).chain(args.iter()).collect();
        let types: Vec<Type> = given.iter().map(|a| self.of(a)).collect();
        if matches!(&**name, "_&&_" | "_||_") {
            let ids: Vec<u32> = given.iter().map(|a| a.id).collect();
            self.overloads.insert(id, vec![overloads[0].id.clone()]);
            return self.logic(&ids, &types);
        }
        let (name, member) = (name.clone(), target.is_some());
        self.resolve(id, &name, overloads, member, &types)
    }

    fn optional_select(&mut self, id: u32, args: &mut [Expr]) -> Type {
        let [operand, field] = args else { return Type::Error };
        let Kind::Literal(Literal::String(name)) = &field.kind else {
            self.report(field.id, "unsupported optional field selection".to_owned());
            return Type::Error;
        };
        let name = name.clone();
        self.types[field.id as usize] = Type::String;
        self.overloads.insert(id, vec!["select_optional_field".into()]);
        self.field(id, operand, &name, true)
    }

    fn logic(&mut self, ids: &[u32], given: &[Type]) -> Type {
        let mut result = Type::Bool;
        for (id, found) in ids.iter().zip(given) {
            if !self.bindings.assign(found, &Type::Bool) {
                self.mismatch(*id, &Type::Bool, found);
                result = Type::Error;
            }
        }
        result
    }

    fn resolve(&mut self, id: u32, name: &str, all: &[Overload], member: bool, given: &[Type]) -> Type {
        let mut result: Option<Type> = None;
        let mut chosen = Vec::new();
        for overload in all.iter().filter(|o| o.member == member && o.args.len() == given.len()) {
            let fresh = self.instantiate(overload);
            let pairs: Vec<(&Type, &Type)> = given.iter().zip(&fresh[1..]).collect();
            if !self.bindings.assign_all(&pairs) {
                continue;
            }
            chosen.push(overload.id.clone());
            let found = self.bindings.apply(&fresh[0], false);
            result = Some(match result {
                None => found,
                Some(before) if before == found => before,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(found) => {
                self.overloads.insert(id, chosen);
                found
            }
            None => {
                let given: Vec<String> =
                    given.iter().map(|t| self.bindings.apply(t, true).to_string()).collect();
                let signature = match given.split_first() {
                    Some((on, rest)) if member => format!("{on}.({})", rest.join(", ")),
                    _ => format!("({})", given.join(", ")),
                };
                self.report(id, format!("found no matching overload for '{name}' applied to '{signature}'"));
                Type::Error
            }
        }
    }

    /// Result and arguments of an overload, with type parameters of their own.
    fn instantiate(&mut self, overload: &Overload) -> Vec<Type> {
        let mut names = HashMap::new();
        let all: Vec<&Type> = std::iter::once(&overload.result).chain(&overload.args).collect();
        all.into_iter().map(|t| self.renamed(t, &mut names)).collect()
    }

    fn renamed(&mut self, t: &Type, names: &mut HashMap<Arc<str>, Type>) -> Type {
        match t {
            Type::Param(name) => match names.get(name) {
                Some(known) => known.clone(),
                None => {
                    let fresh = self.fresh();
                    names.insert(name.clone(), fresh.clone());
                    fresh
                }
            },
            Type::List(of) => Type::list(self.renamed(of, names)),
            Type::Map(k, v) => Type::map(self.renamed(k, names), self.renamed(v, names)),
            Type::Type(Some(of)) => Type::Type(Some(Arc::new(self.renamed(of, names)))),
            Type::Opaque(name, of) => {
                Type::Opaque(name.clone(), of.iter().map(|t| self.renamed(t, names)).collect())
            }
            other => other.clone(),
        }
    }

    fn structure(&mut self, id: u32, name: &str, fields: &mut [FieldInit]) -> Type {
        let Some(made) = self.env.constructed(name) else {
            fields.iter_mut().for_each(|f| self.check(&mut f.value));
            return self.undeclared(id, name);
        };
        for f in fields {
            self.check(&mut f.value);
            let known = match &made {
                Type::Struct(s) => s.field(&f.name),
                _ => None,
            };
            let Some(wanted) = known else {
                let found = self.bindings.apply(&self.of(&f.value), false);
                let text = match name {
                    "JSONPatch" => {
                        format!("expected type of field '{}' is '' but provided type is '{found}'", f.name)
                    }
                    _ => format!("undefined field '{}'", f.name),
                };
                self.report(f.id, text);
                continue;
            };
            let found = self.of(&f.value);
            let found = self.maybe_optional(f.value.id, found, f.optional);
            if !self.bindings.assign(&wanted, &found) {
                let (name, found) = (f.name.clone(), self.bindings.apply(&found, false));
                self.report(
                    f.id,
                    format!("expected type of field '{name}' is '{wanted}' but provided type is '{found}'"),
                );
            }
        }
        made
    }

    fn fold(&mut self, fold: &mut Fold) -> Type {
        self.check(&mut fold.range);
        self.check(&mut fold.init);
        let range = self.bindings.apply(&self.of(&fold.range), false);
        let accu = self.of(&fold.init);
        let depth = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(of) if two => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Error),
            Type::Map(k, v) => ((**k).clone(), (**v).clone()),
            Type::Dyn | Type::Error => (Type::Dyn, Type::Dyn),
            Type::Param(_) => {
                self.bindings.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                self.report(
                    fold.range.id,
                    format!(
                        "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                    ),
                );
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(&mut fold.condition);
        self.expect(&fold.condition, &Type::Bool);
        self.check(&mut fold.step);
        self.expect(&fold.step, &accu);
        self.scopes.truncate(depth + 1);
        self.check(&mut fold.result);
        self.scopes.truncate(depth);
        self.of(&fold.result)
    }

    fn expect(&mut self, e: &Expr, wanted: &Type) {
        let found = self.of(e);
        if !self.bindings.assign(wanted, &found) {
            self.mismatch(e.id, wanted, &found);
        }
    }
}

fn literal_type(l: &Literal) -> Type {
    match l {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
