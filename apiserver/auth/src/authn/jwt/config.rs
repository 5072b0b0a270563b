//! The flags and the file that name issuers.

use super::claims::{Mappings, Rule, Source, compile};
use super::{Issuer, Keys};
use crate::webhook::Web;
use anyhow::{Context, bail};
use api::Value;
use jsonwebtoken::Algorithm;
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `--oidc-*`
#[derive(Clone, Debug, Default)]
pub struct OidcOptions {
    pub issuer_url: String,
    pub client_id: String,
    pub ca_file: Option<PathBuf>,
    pub username_claim: String,
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub required_claims: BTreeMap<String, String>,
    pub signing_algorithms: Vec<String>,
}

/// All that upstream believes where it is not told otherwise.
const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// The issuer that the flags name.
pub fn of_flags(o: &OidcOptions) -> anyhow::Result<Issuer> {
    if o.client_id.is_empty() {
        bail!("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set");
    }
    let authorities = match &o.ca_file {
        Some(path) => std::fs::read(path).with_context(|| format!("reading {}", path.display()))?,
        None => Vec::new(),
    };
    let named = |name: &String| {
        let found = ALGORITHMS.into_iter().find(|a| format!("{a:?}") == *name);
        found.with_context(|| format!("oidc: unsupported signing alg: {name:?}"))
    };
    // Names of different issuers must not be one user, unless it is an address or somebody says so.
    let prefix = match (o.username_prefix.as_str(), o.username_claim.as_str()) {
        ("-", _) | ("", "email") => String::new(),
        ("", _) => format!("{}#", o.issuer_url),
        (prefix, _) => prefix.to_owned(),
    };
    let claim = |name: &str, prefix: &str| Source::Claim { name: name.to_owned(), prefix: prefix.to_owned() };
    let required =
        |(claim, value): (&String, &String)| Rule::Required { claim: claim.clone(), value: value.clone() };
    Ok(Issuer {
        url: checked(&o.issuer_url)?,
        discovery: None,
        audiences: vec![o.client_id.clone()],
        algorithms: o.signing_algorithms.iter().map(named).collect::<anyhow::Result<_>>()?,
        mappings: Mappings {
            username: claim(&o.username_claim, &prefix),
            groups: (!o.groups_claim.is_empty()).then(|| claim(&o.groups_claim, &o.groups_prefix)),
            uid: None,
            extra: Vec::new(),
            claims: o.required_claims.iter().map(required).collect(),
            user: Vec::new(),
        },
        web: Web::new(&authorities)?,
        keys: Mutex::new(Keys::default()),
        asking: Default::default(),
    })
}

fn checked(url: &str) -> anyhow::Result<String> {
    if !url.starts_with("https://") {
        bail!("oidc: issuer URL {url:?} has invalid scheme, require 'https'");
    }
    Ok(url.to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    issuer: Named,
    #[serde(default)]
    claim_validation_rules: Vec<Validation>,
    claim_mappings: Mapped,
    #[serde(default)]
    user_validation_rules: Vec<Validation>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Named {
    url: String,
    #[serde(rename = "discoveryURL", default)]
    discovery_url: String,
    #[serde(default)]
    certificate_authority: String,
    audiences: Vec<String>,
    #[serde(default)]
    audience_match_policy: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Validation {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    required_value: String,
    #[serde(default)]
    expression: String,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapped {
    username: Text,
    #[serde(default)]
    groups: Option<Text>,
    #[serde(default)]
    uid: Option<Text>,
    #[serde(default)]
    extra: Vec<Extra>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    claim: String,
    #[serde(default)]
    prefix: Option<String>,
    #[serde(default)]
    expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Extra {
    key: String,
    value_expression: String,
}

impl Text {
    fn source(&self, prefixed: bool) -> anyhow::Result<Option<Source>> {
        match (self.claim.as_str(), self.expression.as_str()) {
            ("", "") => Ok(None),
            ("", text) => Ok(Some(Source::Expression(compile(text, "claims").map_err(anyhow::Error::msg)?))),
            (claim, "") => match (&self.prefix, prefixed) {
                (None, true) => bail!("prefix: Required value: prefix is required when claim is set"),
                (prefix, _) => {
                    let prefix = prefix.clone().unwrap_or_default();
                    Ok(Some(Source::Claim { name: claim.to_owned(), prefix }))
                }
            },
            _ => bail!("claim and expression can't both be set"),
        }
    }
}

impl Validation {
    fn rule(&self, about: &str) -> anyhow::Result<Rule> {
        match (self.claim.as_str(), self.expression.as_str()) {
            ("", "") => bail!("claim or expression is required"),
            ("", text) => Ok(Rule::Expression {
                program: compile(text, about).map_err(anyhow::Error::msg)?,
                text: text.to_owned(),
                message: self.message.clone(),
            }),
            (claim, "") if about == "claims" => {
                Ok(Rule::Required { claim: claim.to_owned(), value: self.required_value.clone() })
            }
            _ => bail!("claim and expression can't both be set"),
        }
    }
}

impl Entry {
    fn issuer(&self) -> anyhow::Result<Issuer> {
        let named = &self.issuer;
        match (named.audiences.len(), named.audience_match_policy.as_str()) {
            (0, _) => bail!("issuer.audiences: Required value: at least one issuer.audiences is required"),
            (1, "" | "MatchAny") | (_, "MatchAny") => {}
            _ => bail!("issuer.audienceMatchPolicy: must be MatchAny for multiple audiences"),
        }
        let mapped = &self.claim_mappings;
        let username = mapped.username.source(true).context("claimMappings.username")?;
        let source =
            |text: &Option<Text>, prefixed: bool, of: &'static str| -> anyhow::Result<Option<Source>> {
                Ok(text.as_ref().map(|t| t.source(prefixed)).transpose().context(of)?.flatten())
            };
        let extra = mapped.extra.iter().map(|e| {
            if !e.key.contains('/') || e.key.to_ascii_lowercase() != e.key {
                bail!("claimMappings.extra[{:?}].key: must be a domain-prefix path of lower case", e.key);
            }
            Ok((e.key.clone(), compile(&e.value_expression, "claims").map_err(anyhow::Error::msg)?))
        });
        let rules = |all: &[Validation], about: &'static str| {
            all.iter().map(|v| v.rule(about)).collect::<anyhow::Result<Vec<_>>>()
        };
        let discovery =
            Some(&named.discovery_url).filter(|d| !d.is_empty()).map(|d| checked(d)).transpose()?;
        Ok(Issuer {
            url: checked(&named.url)?,
            discovery,
            audiences: named.audiences.clone(),
            algorithms: ALGORITHMS.to_vec(),
            mappings: Mappings {
                username: username.context("claimMappings.username: claim or expression is required")?,
                groups: source(&mapped.groups, true, "claimMappings.groups")?,
                uid: source(&mapped.uid, false, "claimMappings.uid")?,
                extra: extra.collect::<anyhow::Result<_>>()?,
                claims: rules(&self.claim_validation_rules, "claims").context("claimValidationRules")?,
                user: rules(&self.user_validation_rules, "user").context("userValidationRules")?,
            },
            web: Web::new(named.certificate_authority.as_bytes()).context("issuer.certificateAuthority")?,
            keys: Mutex::new(Keys::default()),
            asking: Default::default(),
        })
    }
}

/// The issuers of the `jwt` list of an AuthenticationConfiguration.
pub fn configured(entries: Vec<Value>) -> anyhow::Result<Vec<Issuer>> {
    let mut all: Vec<Issuer> = Vec::new();
    for (i, entry) in entries.into_iter().enumerate() {
        let made = serde_json::from_value::<Entry>(entry).map_err(Into::into).and_then(|e| e.issuer());
        let issuer = made.with_context(|| format!("jwt[{i}]"))?;
        if all.iter().any(|other| other.url == issuer.url) {
            bail!("jwt[{i}].issuer.url: Duplicate value: {:?}", issuer.url);
        }
        all.push(issuer);
    }
    Ok(all)
}
