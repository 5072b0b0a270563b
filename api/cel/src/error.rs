//! What is wrong with an expression, in the form that users of CEL know.

use std::fmt;

/// One complaint.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub line: usize,
    /// From zero.
    pub column: usize,
    pub text: String,
    pub snippet: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERROR: <input>:{}:{}: {}", self.line, self.column + 1, self.text)?;
        if self.line == 0 || self.snippet.is_empty() {
            return Ok(());
        }
        let snippet = self.snippet.replace('\t', " ");
        write!(f, "\n | {snippet}\n | {}^", ".".repeat(self.column))
    }
}

/// Why an expression cannot be used.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileError {
    pub problems: Vec<Problem>,
    whole: Option<String>,
}

impl CompileError {
    pub(crate) fn of(mut problems: Vec<Problem>) -> CompileError {
        problems.sort_by_key(|p| (p.line, p.column));
        problems.truncate(100);
        CompileError { problems, whole: None }
    }

    /// About the expression as a whole.
    pub fn whole(text: impl Into<String>) -> CompileError {
        CompileError { problems: Vec::new(), whole: Some(text.into()) }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(whole) = &self.whole {
            return f.write_str(whole);
        }
        f.write_str("compilation failed: ")?;
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileError {}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// The expression's own failure; `||` and `&&` may make up for it.
    Error(String),
    /// It was stopped: too costly.
    Budget,
    /// An authorizer has to be asked first; then evaluate again.
    Undecided(Box<crate::authz::Check>),
}

impl Fault {
    pub fn error(text: impl Into<String>) -> Fault {
        Fault::Error(text.into())
    }

    pub(crate) fn no_such_overload() -> Fault {
        Fault::error("no such overload")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Error(text) => f.write_str(text),
            Fault::Budget => f.write_str("operation cancelled: actual cost limit exceeded"),
            Fault::Undecided(_) => f.write_str("an authorization decision is missing"),
        }
    }
}

pub type Result<T> = std::result::Result<T, Fault>;
