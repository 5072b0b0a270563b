//! `--token-auth-file`: lines of `token,user,uid,"group1,group2"`.

use super::{Authenticated, Error, Outcome, TokenAuthenticator};
use crate::user::UserInfo;
use anyhow::{Context, bail};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Static tokens. Only digests are kept, and all of them are compared, so that timing tells nothing.
pub struct TokenFile {
    entries: Vec<([u8; 32], Arc<UserInfo>)>,
}

impl TokenFile {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    pub fn single(token: &str, user: UserInfo) -> Self {
        TokenFile { entries: vec![(Sha256::digest(token).into(), Arc::new(user))] }
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut entries: Vec<([u8; 32], Arc<UserInfo>)> = Vec::new();
        for (i, line) in text.lines().enumerate() {
            let number = i + 1;
            if line.trim().is_empty() {
                continue;
            }
            let fields = split_csv(line).with_context(|| format!("line {number}"))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                bail!(
                    "line {number}: token file must have at least 3 columns (token, user name, user uid), found {}",
                    fields.len()
                );
            };
            if token.is_empty() {
                tracing::warn!(line = number, "empty token in the token file, skipped");
                continue;
            }
            let groups = rest.first().map(|g| g.split(',').map(str::to_owned).collect()).unwrap_or_default();
            let user = UserInfo { name: name.clone(), uid: uid.clone(), groups, extra: Default::default() };
            let digest: [u8; 32] = Sha256::digest(token).into();
            if let Some(slot) = entries.iter_mut().find(|(d, _)| *d == digest) {
                tracing::warn!(line = number, "duplicate token in the token file, the later line counts");
                slot.1 = Arc::new(user);
            } else {
                entries.push((digest, Arc::new(user)));
            }
        }
        Ok(TokenFile { entries })
    }
}

/// One CSV record: fields may be quoted, `""` stands for a quote.
fn split_csv(line: &str) -> anyhow::Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut chars = line.trim_end_matches('\r').chars().peekable();
    loop {
        let mut field = String::new();
        if chars.peek() == Some(&'"') {
            chars.next();
            loop {
                match chars.next() {
                    Some('"') if chars.peek() == Some(&'"') => {
                        chars.next();
                        field.push('"');
                    }
                    Some('"') => break,
                    Some(c) => field.push(c),
                    None => bail!("extraneous or missing \" in quoted-field"),
                }
            }
            if !matches!(chars.peek(), None | Some(',')) {
                bail!("extraneous or missing \" in quoted-field");
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',') {
                if c == '"' {
                    bail!("bare \" in non-quoted-field");
                }
                field.push(c);
            }
        }
        fields.push(field);
        if chars.next().is_none() {
            return Ok(fields);
        }
    }
}

#[async_trait::async_trait]
impl TokenAuthenticator for TokenFile {
    async fn verify(&self, token: &str, _audiences: &[String]) -> Outcome {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found: Option<&Arc<UserInfo>> = None;
        for (known, user) in &self.entries {
            if bool::from(known.ct_eq(&digest)) {
                found = Some(user);
            }
        }
        Ok(found.map(|u| Authenticated { user: u.clone(), audiences: Vec::new(), audit: Vec::new() }))
    }
}

impl From<anyhow::Error> for Error {
    fn from(e: anyhow::Error) -> Self {
        Error(e.to_string())
    }
}
