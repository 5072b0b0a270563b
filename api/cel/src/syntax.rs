//! From text to a tree. The grammar is the `cel` crate's; its tree becomes ours here, with the macros expanded
//! that it does not know (see [`crate::macros`]), and everything of a bounded depth.

use crate::error::{CompileError, Problem};
use crate::macros;
use cel::common::ast::{EntryExpr, Expr as Parsed, IdedExpr, LiteralValue};
use std::collections::HashMap;
use std::sync::Arc;

/// As upstream limits the text of an expression.
const MAX_CODE_POINTS: usize = 100_000;
/// How many signs that can nest may be in a text: what the parser gets is never deeper.
const MAX_NESTING_SIGNS: usize = 8_000;
/// How deep the tree may be.
const MAX_DEPTH: usize = 2_000;
const MAX_RECURSION: u16 = 250;

#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    Bytes(Arc<[u8]>),
}

#[derive(Clone, Debug)]
pub struct Expr {
    pub id: u32,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Literal(Literal),
    Ident(Arc<str>),
    Select { operand: Box<Expr>, field: Arc<str>, test: bool },
    Call { name: Arc<str>, target: Option<Box<Expr>>, args: Vec<Expr> },
    List(Vec<Item>),
    Map(Vec<Entry>),
    Struct { name: Arc<str>, fields: Vec<FieldInit> },
    Fold(Box<Fold>),
}

#[derive(Clone, Debug)]
pub struct Item {
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Expr,
    pub value: Expr,
    pub optional: bool,
}

#[derive(Clone, Debug)]
pub struct FieldInit {
    pub id: u32,
    pub name: Arc<str>,
    pub value: Expr,
    pub optional: bool,
}

/// A loop over a range with an accumulator, which is what macros become.
#[derive(Clone, Debug)]
pub struct Fold {
    pub range: Expr,
    pub var: Arc<str>,
    pub var2: Option<Arc<str>>,
    pub accu: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

impl Fold {
    /// A fold over nothing only gives its accumulator a name.
    pub fn is_bind(&self) -> bool {
        let nothing = matches!(&self.range.kind, Kind::List(items) if items.is_empty());
        nothing && matches!(self.condition.kind, Kind::Literal(Literal::Bool(false))) && &*self.accu != ACCU
    }
}

pub const ACCU: &str = "@result";

/// A text as a tree, and where in the text each node stands.
pub struct Syntax {
    pub root: Expr,
    pub nodes: u32,
    pub source: Source,
}

/// The text of an expression, for what is said about it.
pub struct Source {
    text: String,
    /// Where nodes begin, in bytes.
    starts: HashMap<u32, usize>,
}

impl Source {
    /// Line (from one) and column (from zero) of a node.
    pub fn position(&self, id: u32) -> (usize, usize) {
        let at = self.starts.get(&id).copied().unwrap_or_default().min(self.text.len());
        let before = &self.text.as_bytes()[..at];
        let line = before.iter().filter(|b| **b == b'\n').count();
        let from = before.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        (line + 1, String::from_utf8_lossy(&before[from..]).chars().count())
    }

    pub fn line(&self, line: usize) -> &str {
        self.text.split('\n').nth(line.saturating_sub(1)).unwrap_or_default()
    }

    pub fn problem(&self, id: u32, text: String) -> Problem {
        let (line, column) = self.position(id);
        Problem { line, column, text, snippet: self.line(line).to_owned() }
    }
}

/// Reads a text.
pub fn parse(text: &str) -> Result<Syntax, CompileError> {
    let size = text.chars().count();
    if size > MAX_CODE_POINTS {
        let said = format!("expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}");
        return Err(CompileError::whole(said));
    }
    let signs = text.bytes().filter(|b| b"([{.?-!+*/%<>=&|".contains(b)).count();
    if signs > MAX_NESTING_SIGNS {
        return Err(CompileError::whole(format!("expression recursion limit exceeded: {MAX_RECURSION}")));
    }
    let nested = nesting(text).min(usize::from(MAX_RECURSION) + 50);
    let stack = 8 * 1024 * 1024 + nested * 256 * 1024 + signs * 32 * 1024;
    stacker::grow(stack, || read(text))
}

/// How deep brackets and conditions can nest at most: a level of them costs the parser the most stack.
fn nesting(text: &str) -> usize {
    let (mut open, mut most, mut conditions) = (0usize, 0usize, 0usize);
    for b in text.bytes() {
        match b {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            b'?' => conditions += 1,
            _ => {}
        }
        most = most.max(open);
    }
    most + conditions
}

fn read(text: &str) -> Result<Syntax, CompileError> {
    let parser = cel::parser::Parser::new().enable_optional_syntax(true).max_recursion_depth(MAX_RECURSION);
    let (tree, info) = parser.parse_with_source_info(text).map_err(|e| {
        let problem = |e: &cel::ParseError| {
            let line = usize::try_from(e.pos.0).unwrap_or_default();
            // The parser points to the dot before a quoted name.
            let quoted = usize::from(e.msg.starts_with("unsupported syntax: '`'"));
            let column = usize::try_from(e.pos.1).unwrap_or_default().saturating_sub(1) + quoted;
            let snippet = text.split('\n').nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
            Problem { line, column, text: expected(&e.msg), snippet }
        };
        let broken = e.errors.iter().any(|e| e.msg.starts_with("Syntax error: "));
        // What is missing in a broken text need not be said once more.
        let errors = e.errors.iter().filter(|e| !broken || !e.msg.starts_with("Incomplete `"));
        match (text, e.errors.first()) {
            ("", Some(first)) => CompileError::whole(format!(
                "compilation failed: ERROR: <input>:1:0: {}",
                expected(&first.msg)
            )),
            _ => CompileError::of(errors.map(problem).collect()),
        }
    })?;
    let mut reader = Reader {
        source: Source { text: text.to_owned(), starts: HashMap::new() },
        offsets: &|id| info.offset_for(id).map(|(start, _)| start as usize),
        next: 0,
        problems: Vec::new(),
    };
    let root = reader.expr(tree, 0);
    if !reader.problems.is_empty() {
        return Err(CompileError::of(reader.problems));
    }
    Ok(Syntax { root, nodes: reader.next, source: reader.source })
}

/// A complaint about a token with what stands there at the end of a rule, not all that could go on with it.
fn expected(text: &str) -> String {
    match text.split_once(" expecting {") {
        Some((found, set)) if found.starts_with("Syntax error: mismatched input") => {
            let has = |token: &str| set.trim_end_matches('}').split(", ").any(|t| t == token);
            if has("<EOF>") {
                format!("{found} expecting <EOF>")
            } else if has("':'") && has("'=='") {
                format!("{found} expecting ':'")
            } else {
                text.to_owned()
            }
        }
        _ => text.to_owned(),
    }
}

/// Turns the parser's tree into ours.
pub(crate) struct Reader<'a> {
    source: Source,
    offsets: &'a dyn Fn(u64) -> Option<usize>,
    next: u32,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    /// A new node where another one stands.
    pub fn node(&mut self, at: u32, kind: Kind) -> Expr {
        let start = self.source.starts.get(&at).copied().unwrap_or_default();
        self.put(start, kind)
    }

    fn put(&mut self, start: usize, kind: Kind) -> Expr {
        self.next += 1;
        self.source.starts.insert(self.next, start);
        Expr { id: self.next, kind }
    }

    pub fn complain(&mut self, at: u32, text: &str) {
        let problem = self.source.problem(at, text.to_owned());
        self.problems.push(problem);
    }

    fn expr(&mut self, e: IdedExpr, depth: usize) -> Expr {
        let start = (self.offsets)(e.id).unwrap_or_default();
        if depth > MAX_DEPTH {
            if self.problems.is_empty() {
                let text = format!("expression recursion limit exceeded: {MAX_RECURSION}");
                let problem = Problem { line: 1, column: 0, text, snippet: String::new() };
                self.problems.push(problem);
            }
            discard(e);
            return self.put(start, Kind::Literal(Literal::Null));
        }
        let deeper = depth + 1;
        let kind = match e.expr {
            Parsed::Unspecified => Kind::Literal(Literal::Null),
            Parsed::Literal(l) => Kind::Literal(literal(l)),
            Parsed::Ident(name) => Kind::Ident(name.strip_prefix('.').unwrap_or(&name).into()),
            Parsed::Select(s) => Kind::Select {
                operand: Box::new(self.expr(*s.operand, deeper)),
                field: s.field.into(),
                test: s.test,
            },
            Parsed::List(l) => {
                let optional = l.optional_indices;
                let items = l.elements.into_iter().enumerate();
                let item = |(i, e)| Item { value: self.expr(e, deeper), optional: optional.contains(&i) };
                Kind::List(items.map(item).collect())
            }
            Parsed::Map(m) => Kind::Map(
                m.entries
                    .into_iter()
                    .filter_map(|e| match e.expr {
                        EntryExpr::MapEntry(e) => Some(Entry {
                            key: self.expr(e.key, deeper),
                            value: self.expr(e.value, deeper),
                            optional: e.optional,
                        }),
                        EntryExpr::StructField(_) => None,
                    })
                    .collect(),
            ),
            Parsed::Struct(s) => self.structure(s, deeper),
            Parsed::Comprehension(c) => {
                let c = *c;
                Kind::Fold(Box::new(Fold {
                    range: self.expr(c.iter_range, deeper),
                    var: c.iter_var.into(),
                    var2: c.iter_var2.map(Into::into),
                    accu: c.accu_var.into(),
                    init: self.expr(c.accu_init, deeper),
                    condition: self.expr(c.loop_cond, deeper),
                    step: self.expr(c.loop_step, deeper),
                    result: self.expr(c.result, deeper),
                }))
            }
            Parsed::Call(c) => {
                let target = c.target.map(|t| Box::new(self.expr(*t, deeper)));
                let args = c.args.into_iter().map(|a| self.expr(a, deeper)).collect();
                let name = c.func_name;
                let name: Arc<str> = name.strip_prefix('.').unwrap_or(&name).into();
                let call = self.put(start, Kind::Literal(Literal::Null)).id;
                macros::expand(self, call, name, target, args)
            }
        };
        self.put(start, kind)
    }

    fn structure(&mut self, s: cel::common::ast::StructExpr, depth: usize) -> Kind {
        let mut fields = Vec::new();
        for entry in s.entries {
            let start = (self.offsets)(entry.id).unwrap_or_default();
            let id = self.put(start, Kind::Literal(Literal::Null)).id;
            if let EntryExpr::StructField(f) = entry.expr {
                let value = self.expr(f.value, depth);
                fields.push(FieldInit { id, name: f.field.into(), value, optional: f.optional });
            }
        }
        let name = s.type_name.strip_prefix('.').unwrap_or(&s.type_name).into();
        Kind::Struct { name, fields }
    }
}

/// Drops a deep tree without recursion.
fn discard(e: IdedExpr) {
    let mut todo = vec![e];
    while let Some(e) = todo.pop() {
        match e.expr {
            Parsed::Select(s) => todo.push(*s.operand),
            Parsed::Call(c) => {
                todo.extend(c.target.map(|t| *t));
                todo.extend(c.args);
            }
            Parsed::List(l) => todo.extend(l.elements),
            _ => {}
        }
    }
}

fn literal(l: LiteralValue) -> Literal {
    match l {
        LiteralValue::Null => Literal::Null,
        LiteralValue::Boolean(b) => Literal::Bool(*b.inner()),
        LiteralValue::Int(i) => Literal::Int(*i.inner()),
        LiteralValue::UInt(u) => Literal::Uint(*u.inner()),
        LiteralValue::Double(d) => Literal::Double(*d.inner()),
        LiteralValue::String(s) => Literal::String(s.inner().into()),
        LiteralValue::Bytes(b) => Literal::Bytes(b.inner().into()),
    }
}

/// `a.b.c` as one name, if an expression is nothing else.
pub fn qualified(e: &Expr) -> Option<String> {
    match &e.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select { operand, field, test: false } => Some(format!("{}.{field}", qualified(operand)?)),
        _ => None,
    }
}
