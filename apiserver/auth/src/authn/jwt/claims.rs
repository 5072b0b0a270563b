//! From the claims of a token to a user.

use crate::user::UserInfo;
use api::{Value, json};
use expressions::{Activation, Env, Program, Type, Val};
use std::collections::BTreeMap;

/// What an expression may cost.
const BUDGET: u64 = 1_000_000;

/// Where a text comes from.
pub enum Source {
    /// A claim, with what is put in front of it.
    Claim {
        name: String,
        prefix: String,
    },
    Expression(Program),
}

/// What must be true.
pub enum Rule {
    Required { claim: String, value: String },
    Expression { program: Program, text: String, message: String },
}

/// What of a token makes the user.
pub struct Mappings {
    pub username: Source,
    pub groups: Option<Source>,
    pub uid: Option<Source>,
    pub extra: Vec<(String, Program)>,
    /// Of the claims.
    pub claims: Vec<Rule>,
    /// Of the user that was made of them.
    pub user: Vec<Rule>,
}

/// Compiles an expression over `claims` or `user`, which are not typed.
pub fn compile(text: &str, about: &str) -> Result<Program, String> {
    Program::compile(text, &Env::new().with(about, Type::Dyn)).map_err(|e| format!("{text:?}: {e}"))
}

fn evaluate(program: &Program, about: &'static str, value: &Value) -> Result<Value, String> {
    let mut activation = Activation::new();
    activation.set(about, Val::json(value));
    let (result, _) = program.evaluate(&activation, BUDGET);
    result
        .map_err(|e| format!("{e}"))?
        .to_json()
        .ok_or_else(|| "gives nothing that can be written".to_owned())
}

/// A string, or the strings of a list; nothing for null.
fn texts(v: &Value) -> Option<Vec<String>> {
    match v {
        Value::Null => Some(Vec::new()),
        Value::String(s) => Some(vec![s.clone()]),
        Value::Array(all) => all.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

impl Source {
    fn texts(&self, what: &str, claims: &Value) -> Result<Vec<String>, String> {
        match self {
            Source::Claim { name, prefix } => {
                let found = texts(&claims[name.as_str()]);
                let found = found.ok_or_else(|| format!("oidc: parse {what} claim {name:?}: not a text"))?;
                Ok(found.into_iter().filter(|t| !t.is_empty()).map(|t| format!("{prefix}{t}")).collect())
            }
            Source::Expression(program) => {
                let value = evaluate(program, "claims", claims)
                    .map_err(|e| format!("oidc: error evaluating {what} claim expression: {e}"))?;
                let found = texts(&value)
                    .ok_or_else(|| format!("oidc: the {what} claim expression gives no text"))?;
                Ok(found.into_iter().filter(|t| !t.is_empty()).collect())
            }
        }
    }

    fn is_claim(&self, wanted: &str) -> bool {
        matches!(self, Source::Claim { name, .. } if name == wanted)
    }
}

impl Rule {
    fn check(&self, about: &'static str, value: &Value) -> Result<(), String> {
        match self {
            Rule::Required { claim, value: wanted } => match value[claim.as_str()].as_str() {
                Some(found) if found == wanted => Ok(()),
                Some(_) => Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {}, want = {wanted}",
                    value[claim.as_str()]
                )),
                None => Err(format!("oidc: required claim {claim} not present in ID token")),
            },
            Rule::Expression { program, text, message } => match evaluate(program, about, value) {
                Ok(Value::Bool(true)) => Ok(()),
                Ok(_) if !message.is_empty() => Err(format!("oidc: {message}")),
                Ok(_) => Err(format!("oidc: validation expression '{text}' failed")),
                Err(e) => Err(format!("oidc: error evaluating '{text}': {e}")),
            },
        }
    }
}

impl Mappings {
    /// The user of believed claims.
    pub fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let name = self.username.texts("username", claims)?.into_iter().next();
        let name = name.filter(|n| !n.is_empty()).ok_or("oidc: the token has no username claim")?;
        // An address that its owner has not confirmed may be anybody's.
        if self.username.is_claim("email") && claims.get("email_verified").is_some_and(|v| v != true) {
            return Err("oidc: email not verified".to_owned());
        }
        for rule in &self.claims {
            rule.check("claims", claims)?;
        }
        let groups = self.groups.as_ref().map(|s| s.texts("groups", claims)).transpose()?.unwrap_or_default();
        let uid = self.uid.as_ref().map(|s| s.texts("uid", claims)).transpose()?;
        let mut extra = BTreeMap::new();
        for (key, program) in &self.extra {
            let value = evaluate(program, "claims", claims)
                .map_err(|e| format!("oidc: error evaluating extra claim expression: {e}"))?;
            let found = texts(&value).ok_or("oidc: an extra claim expression gives no text")?;
            let found: Vec<String> = found.into_iter().filter(|t| !t.is_empty()).collect();
            if !found.is_empty() {
                extra.insert(key.clone(), found);
            }
        }
        if let Some(id) = claims["jti"].as_str() {
            extra.insert("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("JTI={id}")]);
        }
        let uid = uid.and_then(|u| u.into_iter().next()).unwrap_or_default();
        let user = UserInfo { name, uid, groups, extra };
        let shown = json!({
            "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
        });
        for rule in &self.user {
            rule.check("user", &shown)?;
        }
        Ok(user)
    }
}
