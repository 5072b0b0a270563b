//! The macros that the parser does not know: those of optional values, of two variables, and sorting by a key.

use crate::syntax::{ACCU, Entry, Expr, Fold, Item, Kind, Literal, Reader};
use std::sync::Arc;

/// A call, or what a macro makes of it. `at` is where the call stands.
pub(crate) fn expand(
    r: &mut Reader<'_>,
    at: u32,
    name: Arc<str>,
    target: Option<Box<Expr>>,
    args: Vec<Expr>,
) -> Kind {
    let Some(target) = target else { return Kind::Call { name, target: None, args } };
    let arity = args.len();
    let wanted = match &*name {
        "optMap" | "optFlatMap" | "sortBy" => arity == 2,
        "all" | "exists" | "existsOne" | "exists_one" => arity == 3,
        "transformList" | "transformMap" | "transformMapEntry" => arity == 3 || arity == 4,
        _ => false,
    };
    if !wanted {
        return Kind::Call { name, target: Some(target), args };
    }
    let vars = if arity == 2 { 1 } else { 2 };
    let mut names = Vec::new();
    for arg in &args[..vars] {
        match &arg.kind {
            Kind::Ident(n) if !n.contains('.') => names.push(n.clone()),
            _ => {
                r.complain(arg.id, "argument must be a simple name");
                return Kind::Literal(Literal::Null);
            }
        }
    }
    let mut build = Build { r, at };
    let rest: Vec<Expr> = args.into_iter().skip(vars).collect();
    build.named(&name, *target, names, rest)
}

struct Build<'a, 'r> {
    r: &'a mut Reader<'r>,
    at: u32,
}

impl Build<'_, '_> {
    fn node(&mut self, kind: Kind) -> Expr {
        self.r.node(self.at, kind)
    }

    fn ident(&mut self, name: &str) -> Expr {
        self.node(Kind::Ident(name.into()))
    }

    fn literal(&mut self, l: Literal) -> Expr {
        self.node(Kind::Literal(l))
    }

    fn call(&mut self, name: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { name: name.into(), target: None, args })
    }

    fn member(&mut self, target: Expr, name: &str, args: Vec<Expr>) -> Expr {
        self.node(Kind::Call { name: name.into(), target: Some(Box::new(target)), args })
    }

    fn bind(&mut self, var: &str, value: Expr, result: Expr) -> Expr {
        let kind = Kind::Fold(Box::new(Fold {
            range: self.node(Kind::List(Vec::new())),
            var: "#unused".into(),
            var2: None,
            accu: var.into(),
            init: value,
            condition: self.literal(Literal::Bool(false)),
            step: self.ident(var),
            result,
        }));
        self.node(kind)
    }

    fn named(&mut self, name: &str, target: Expr, vars: Vec<Arc<str>>, mut rest: Vec<Expr>) -> Kind {
        match name {
            "optMap" | "optFlatMap" => self.optional(name == "optMap", target, &vars[0], rest.remove(0)),
            "sortBy" => self.sort_by(target, &vars[0], rest.remove(0)),
            _ => self.two_variables(name, target, vars, rest),
        }
    }

    fn optional(&mut self, wrap: bool, target: Expr, var: &str, body: Expr) -> Kind {
        let has = self.member(target.clone(), "hasValue", Vec::new());
        let value = self.member(target, "value", Vec::new());
        let bound = self.bind(var, value, body);
        let then = if wrap { self.call("optional.of", vec![bound]) } else { bound };
        let none = self.call("optional.none", Vec::new());
        Kind::Call { name: "_?_:_".into(), target: None, args: vec![has, then, none] }
    }

    fn sort_by(&mut self, target: Expr, var: &str, key: Expr) -> Kind {
        const INPUT: &str = "@__sortBy_input__";
        let keys = {
            let accu = self.ident(ACCU);
            let item = self.node(Kind::List(vec![Item { value: key, optional: false }]));
            let fold = Fold {
                range: self.ident(INPUT),
                var: var.into(),
                var2: None,
                accu: ACCU.into(),
                init: self.node(Kind::List(Vec::new())),
                condition: self.literal(Literal::Bool(true)),
                step: self.call("_+_", vec![accu, item]),
                result: self.ident(ACCU),
            };
            self.node(Kind::Fold(Box::new(fold)))
        };
        let input = self.ident(INPUT);
        let sorted = self.member(input, "@sortByAssociatedKeys", vec![keys]);
        self.bind(INPUT, target, sorted).kind
    }

    fn two_variables(&mut self, name: &str, range: Expr, vars: Vec<Arc<str>>, mut rest: Vec<Expr>) -> Kind {
        let body = rest.pop();
        let filter = rest.pop();
        let Some(body) = body else { return Kind::Literal(Literal::Null) };
        let accu = self.ident(ACCU);
        let result = self.ident(ACCU);
        let truth = |b: &mut Self, v| b.literal(Literal::Bool(v));
        let (init, condition, step, result) = match name {
            "all" => {
                let seen = self.ident(ACCU);
                let condition = self.call("@not_strictly_false", vec![seen]);
                (truth(self, true), condition, self.call("_&&_", vec![accu, body]), result)
            }
            "exists" => {
                let seen = self.ident(ACCU);
                let not = self.call("!_", vec![seen]);
                let condition = self.call("@not_strictly_false", vec![not]);
                (truth(self, false), condition, self.call("_||_", vec![accu, body]), result)
            }
            "existsOne" | "exists_one" => {
                let (one, same) = (self.literal(Literal::Int(1)), self.ident(ACCU));
                let more = self.call("_+_", vec![accu, one]);
                let step = self.call("_?_:_", vec![body, more, same]);
                let (zero, one) = (self.literal(Literal::Int(0)), self.literal(Literal::Int(1)));
                (zero, truth(self, true), step, self.call("_==_", vec![result, one]))
            }
            "transformList" => {
                let item = self.node(Kind::List(vec![Item { value: body, optional: false }]));
                let step = self.call("_+_", vec![accu, item]);
                let step = self.filtered(filter, step);
                (self.node(Kind::List(Vec::new())), truth(self, true), step, result)
            }
            "transformMap" => {
                let key = self.ident(&vars[0]);
                let step = self.call("cel.@mapInsert", vec![accu, key, body]);
                let step = self.filtered(filter, step);
                (self.node(Kind::Map(Vec::<Entry>::new())), truth(self, true), step, result)
            }
            _ => {
                let step = self.call("cel.@mapInsert", vec![accu, body]);
                let step = self.filtered(filter, step);
                (self.node(Kind::Map(Vec::<Entry>::new())), truth(self, true), step, result)
            }
        };
        let (var, var2) = (vars[0].clone(), vars.get(1).cloned());
        Kind::Fold(Box::new(Fold { range, var, var2, accu: ACCU.into(), init, condition, step, result }))
    }

    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        match filter {
            None => step,
            Some(filter) => {
                let same = self.ident(ACCU);
                self.call("_?_:_", vec![filter, step, same])
            }
        }
    }
}
