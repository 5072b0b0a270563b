//! Requests without any credential, where the flags or the AuthenticationConfiguration let them in.

use super::{Authenticated, Options};
use crate::user::UserInfo;
use anyhow::{Context, bail};
use serde::Deserialize;

/// Everyone, or only for some exact paths.
pub struct Anonymous {
    paths: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    jwt: Vec<serde_json::Value>,
    anonymous: Option<AnonymousConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnonymousConfig {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    path: String,
}

impl Anonymous {
    pub fn from_options(options: &Options) -> anyhow::Result<Option<Self>> {
        let configured = match &options.authentication_config {
            None => None,
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
                parse(&text).with_context(|| format!("in {}", path.display()))?
            }
        };
        if configured.is_some() && options.anonymous_auth.is_some() {
            bail!(
                "--anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
            );
        }
        Ok(match configured {
            Some(config) => config.enabled.then(|| Anonymous {
                paths: (!config.conditions.is_empty())
                    .then(|| config.conditions.into_iter().map(|c| c.path).collect()),
            }),
            None => options.anonymous_auth.unwrap_or(true).then_some(Anonymous { paths: None }),
        })
    }

    pub fn authenticate(&self, path: &str) -> Option<Authenticated> {
        let open = self.paths.as_ref().is_none_or(|paths| paths.iter().any(|p| p == path));
        open.then(|| Authenticated::new(UserInfo::anonymous()))
    }
}

/// The `jwt` entries of the file, read by [`super::jwt`].
pub fn jwt(options: &Options) -> anyhow::Result<Vec<serde_json::Value>> {
    let Some(path) = &options.authentication_config else { return Ok(Vec::new()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let config: Configuration =
        serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    Ok(config.jwt)
}

fn parse(text: &str) -> anyhow::Result<Option<AnonymousConfig>> {
    let config: Configuration = serde_saphyr::from_str(text)?;
    if config.kind != "AuthenticationConfiguration" {
        bail!("kind is {:?}, want \"AuthenticationConfiguration\"", config.kind);
    }
    match config.api_version.as_str() {
        "apiserver.config.k8s.io/v1"
        | "apiserver.config.k8s.io/v1beta1"
        | "apiserver.config.k8s.io/v1alpha1" => {}
        other => bail!("no kind \"AuthenticationConfiguration\" is registered for version {other:?}"),
    }
    if let Some(a) = &config.anonymous
        && !a.enabled
        && !a.conditions.is_empty()
    {
        bail!(
            "anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined"
        );
    }
    Ok(config.anonymous)
}
