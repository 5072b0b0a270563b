//! The query syntaxes of selectors, with upstream's error texts.

use super::{FieldTerm, Operator, Requirement};
use crate::field::{Error, Path};
use crate::names;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Identifier,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

const SYMBOLS: &str = "=!(),><";

fn symbol(s: &str) -> Option<Token> {
    Some(match s {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let mut out = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\r', '\n']);
        let Some(first) = rest.chars().next().filter(|c| *c != '\0') else { break };
        let len = if SYMBOLS.contains(first) {
            // Operators are at most two long; the longest that exists is taken.
            let two = rest.get(..2).filter(|s| symbol(s).is_some());
            two.map_or(1, str::len)
        } else {
            rest.find(|c: char| SYMBOLS.contains(c) || " \t\r\n\0".contains(c)).unwrap_or(rest.len())
        };
        let (word, tail) = rest.split_at(len);
        let token = match word {
            "in" => Token::In,
            "notin" => Token::NotIn,
            _ if SYMBOLS.contains(first) => symbol(word).unwrap_or(Token::Error),
            _ => Token::Identifier,
        };
        out.push((token, word.to_owned()));
        rest = tail;
    }
    out.push((Token::End, String::new()));
    out
}

struct Parser {
    items: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    /// The token here. `in` and `notin` are operators only where one is expected.
    fn peek(&self, as_value: bool) -> (Token, &str) {
        // The last item is the end, which is never passed.
        let (token, text) = &self.items[self.at.min(self.items.len() - 1)];
        match token {
            Token::In | Token::NotIn if as_value => (Token::Identifier, text),
            t => (*t, text),
        }
    }

    fn next(&mut self, as_value: bool) -> (Token, String) {
        let (t, s) = self.peek(as_value);
        let out = (t, s.to_owned());
        self.at += 1;
        out
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next(true);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next(true);
        }
        if token != Token::Identifier {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let problems = names::qualified_name(&key);
        if !problems.is_empty() {
            return Err(Error::invalid(&Path::default(), key, problems.join("; ")).to_string());
        }
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(&key, operator, vec![]);
        }
        if negated {
            return Requirement::new(&key, Operator::DoesNotExist, vec![]);
        }
        let operator = self.operator()?;
        let mut values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            _ => vec![self.exact()?],
        };
        values.sort();
        values.dedup();
        Requirement::new(&key, operator, values)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        let (token, text) = self.next(false);
        Ok(match token {
            Token::In => Operator::In,
            Token::NotIn => Operator::NotIn,
            Token::Equals => Operator::Equals,
            Token::DoubleEquals => Operator::DoubleEquals,
            Token::NotEquals => Operator::NotEquals,
            Token::Greater => Operator::GreaterThan,
            Token::Less => Operator::LessThan,
            _ => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn exact(&mut self) -> Result<String, String> {
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next(true) {
            (Token::Identifier, text) => Ok(text),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    /// `(a,b)`; empty places are empty values.
    fn set(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.next(true);
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut values = Vec::new();
        let mut after_value = false;
        loop {
            let (token, text) = self.next(true);
            match token {
                Token::Identifier if !after_value => {
                    values.push(text);
                    after_value = true;
                }
                Token::Comma => {
                    if !after_value {
                        values.push(String::new());
                    }
                    after_value = false;
                    if self.peek(true).0 == Token::Close {
                        values.push(String::new());
                    }
                }
                Token::Close => {
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                _ if after_value => return Err(format!("found '{text}', expected: ',' or ')'")),
                _ if values.is_empty() => {
                    return Err(format!("found '{text}', expected: ',', ')' or identifier"));
                }
                _ => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
    }
}

pub(super) fn labels(text: &str) -> Result<Vec<Requirement>, String> {
    let mut p = Parser { items: scan(text), at: 0 };
    let mut out = Vec::new();
    loop {
        match p.peek(true) {
            (Token::End, _) => return Ok(out),
            (Token::Identifier | Token::Not, _) => {
                let r = p.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?;
                out.push(r);
                match p.next(true) {
                    (Token::End, _) => return Ok(out),
                    (Token::Comma, _) => {
                        let (next, text) = p.peek(true);
                        if !matches!(next, Token::Identifier | Token::Not) {
                            return Err(format!("found '{text}', expected: identifier after ','"));
                        }
                    }
                    (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                }
            }
            (_, text) => {
                return Err(format!("found '{text}', expected: !, identifier, or 'end of string'"));
            }
        }
    }
}

/// Splits at `,` that no backslash stands before.
fn terms(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

pub(super) fn fields(text: &str) -> Result<Vec<FieldTerm>, String> {
    let mut out = Vec::new();
    for term in terms(text).into_iter().filter(|t| !t.is_empty()) {
        let not_understood = || format!("invalid selector: '{text}'; can't understand '{term}'");
        let at = term.find(['=', '!']).ok_or_else(not_understood)?;
        let (field, tail) = term.split_at(at);
        let (equal, value) = match (tail.strip_prefix("!="), tail.strip_prefix("==")) {
            (Some(v), _) => (false, v),
            (_, Some(v)) => (true, v),
            _ => (true, tail.strip_prefix('=').ok_or_else(not_understood)?),
        };
        out.push(FieldTerm { field: field.to_owned(), equal, value: unescape(value)? });
    }
    Ok(out)
}

fn unescape(value: &str) -> Result<String, String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(format!("invalid field selector: invalid escape sequence: \\{c}")),
                None => return Err("invalid field selector: invalid escape sequence: \\".into()),
            },
            ',' | '=' => {
                return Err(format!("invalid field selector: unescaped character in value: {:?}", c as u32));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

pub(super) fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}
