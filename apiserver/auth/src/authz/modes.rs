//! `--authorization-mode` and its companions.

use super::abac::Abac;
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use super::webhook::{self, Webhook};
use super::{AlwaysAllow, AlwaysDeny, Authorizer, PrivilegedGroup, Union};
use anyhow::{Context, bail};
use api::registry::Reader;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The authorization flags.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--authorization-mode`; empty is `AlwaysAllow`
    pub modes: Vec<String>,
    /// `--authorization-policy-file`
    pub policy_file: Option<PathBuf>,
    /// `--authorization-config`, in place of the modes
    pub config_file: Option<PathBuf>,
    /// `--authorization-webhook-*`
    pub webhook: Option<webhook::Options>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    r#type: String,
    name: String,
    #[serde(default)]
    webhook: Option<Asked>,
}

/// How a configured webhook is asked.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Asked {
    #[serde(rename = "authorizedTTL", default)]
    authorized_ttl: String,
    #[serde(rename = "unauthorizedTTL", default)]
    unauthorized_ttl: String,
    #[serde(default)]
    cache_authorized_requests: Option<bool>,
    #[serde(default)]
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: Connection,
    #[serde(default)]
    match_conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    expression: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Connection {
    r#type: String,
    #[serde(default)]
    kube_config_file: Option<PathBuf>,
}

impl Asked {
    fn options(&self) -> anyhow::Result<webhook::Options> {
        let duration = |text: &str, default: &str| {
            let text = if text.is_empty() { default } else { text };
            let parsed: jiff::SignedDuration =
                text.parse().with_context(|| format!("{text:?} is no duration"))?;
            Duration::try_from(parsed).with_context(|| format!("{text:?}: must be greater than zero"))
        };
        let kept = |on: Option<bool>, ttl: Duration| if on == Some(false) { Duration::ZERO } else { ttl };
        let version = self.match_condition_subject_access_review_version.as_str();
        if !(version == "v1" || version.is_empty() && self.match_conditions.is_empty()) {
            bail!(
                "matchConditionSubjectAccessReviewVersion: Unsupported value: {version:?}: supported values: \"v1\""
            );
        }
        let file = match (self.connection_info.r#type.as_str(), &self.connection_info.kube_config_file) {
            ("KubeConfigFile", Some(file)) if file.is_absolute() => file.clone(),
            ("KubeConfigFile", _) => bail!("connectionInfo.kubeConfigFile: must be an absolute path"),
            (other, _) => bail!("connectionInfo.type: {other:?} is not supported by this server"),
        };
        Ok(webhook::Options {
            config_file: file,
            version: self.subject_access_review_version.clone(),
            authorized_ttl: kept(self.cache_authorized_requests, duration(&self.authorized_ttl, "5m")?),
            unauthorized_ttl: kept(
                self.cache_unauthorized_requests,
                duration(&self.unauthorized_ttl, "30s")?,
            ),
            timeout: duration(&self.timeout, "3s")?,
            fail_closed: match self.failure_policy.as_str() {
                "NoOpinion" => false,
                "Deny" => true,
                other => bail!(
                    "failurePolicy: Unsupported value: {other:?}: supported values: \"Deny\", \"NoOpinion\""
                ),
            },
            conditions: self.match_conditions.iter().map(|c| c.expression.clone()).collect(),
        })
    }
}

/// One authorizer of a chain.
#[derive(Debug)]
struct Mode {
    name: String,
    webhook: Option<webhook::Options>,
}

/// The modes that an AuthorizationConfiguration names.
fn configured(path: &Path) -> anyhow::Result<Vec<Mode>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let config: Configuration =
        serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    let versions = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1"];
    if config.kind != "AuthorizationConfiguration" || !versions.contains(&config.api_version.as_str()) {
        bail!("no kind {:?} is registered for version {:?}", config.kind, config.api_version);
    }
    if config.authorizers.is_empty() {
        bail!("authorizers: Required value: at least one authorization mode must be defined");
    }
    for (i, entry) in config.authorizers.iter().enumerate() {
        if entry.name.is_empty() {
            bail!("authorizers[{i}].name: Required value");
        }
        if entry.webhook.is_some() && entry.r#type != "Webhook" {
            bail!("authorizers[{i}].webhook: Invalid value: webhook may only be specified when type=Webhook");
        }
    }
    let mode = |(i, e): (usize, Entry)| {
        let options = e.webhook.as_ref().map(Asked::options).transpose();
        let webhook = options.with_context(|| format!("authorizers[{i}].webhook"))?;
        if e.r#type == "Webhook" && webhook.is_none() {
            bail!("authorizers[{i}].webhook: Required value: required when type=Webhook");
        }
        Ok(Mode { name: e.r#type, webhook })
    };
    config.authorizers.into_iter().enumerate().map(mode).collect()
}

/// The authorizer of a server, and its RBAC part for the escalation checks on role writes.
pub struct Built {
    pub authorizer: Arc<dyn Authorizer>,
    pub rbac: Option<Arc<Rbac>>,
}

const MODES: [&str; 6] = ["AlwaysAllow", "AlwaysDeny", "ABAC", "Webhook", "RBAC", "Node"];

impl Options {
    fn check(&self) -> anyhow::Result<()> {
        let mut seen: Vec<&str> = Vec::new();
        for mode in &self.modes {
            if !MODES.contains(&mode.as_str()) {
                bail!("authorization-mode {mode:?} is not a valid mode");
            }
            if seen.contains(&mode.as_str()) && (mode != "Webhook" || self.config_file.is_none()) {
                bail!("authorization-mode {:?} has mode specified more than once", self.modes);
            }
            seen.push(mode);
        }
        if self.webhook.is_some() && !seen.contains(&"Webhook") {
            bail!("cannot specify --authorization-webhook-config-file without mode Webhook");
        }
        let abac = seen.contains(&"ABAC");
        if abac && self.policy_file.is_none() {
            bail!("authorization-mode ABAC's authorization policy file not passed");
        }
        if !abac && self.policy_file.is_some() {
            bail!("cannot specify --authorization-policy-file without mode ABAC");
        }
        Ok(())
    }
}

/// The chain of these modes.
pub fn build(
    options: &Options,
    reader: Arc<dyn Reader>,
    gate: &dyn Fn(&str) -> bool,
) -> anyhow::Result<Built> {
    let mut options = options.clone();
    let flagged = |name: &String| Mode { name: name.clone(), webhook: options.webhook.clone() };
    let mut modes: Vec<Mode> = options.modes.iter().map(flagged).collect();
    if let Some(path) = &options.config_file {
        if !options.modes.is_empty() || options.policy_file.is_some() {
            bail!(
                "--authorization-config can not be specified when --authorization-mode or --authorization-policy-file is"
            );
        }
        modes = configured(path)?;
        options.modes = modes.iter().map(|m| m.name.clone()).collect();
    }
    options.check()?;
    let mut links: Vec<Arc<dyn Authorizer>> = vec![Arc::new(PrivilegedGroup)];
    let mut rbac = None;
    if options.modes.is_empty() {
        links.push(Arc::new(AlwaysAllow));
    }
    for mode in &modes {
        links.push(match (mode.name.as_str(), &options.policy_file) {
            ("AlwaysAllow", _) => Arc::new(AlwaysAllow),
            ("AlwaysDeny", _) => Arc::new(AlwaysDeny),
            ("Node", _) => Arc::new(NodeAuthorizer::new(reader.clone(), gate)),
            ("ABAC", Some(path)) => Arc::new(Abac::open(path)?),
            ("RBAC", _) => {
                let made = Arc::new(Rbac::new(reader.clone()));
                rbac = Some(made.clone());
                made
            }
            ("Webhook", _) => match &mode.webhook {
                Some(webhook) => Arc::new(Webhook::open(webhook)?),
                None => bail!("authorization-mode Webhook's authorization config file not passed"),
            },
            (other, _) => bail!("authorization-mode {other:?} is not a valid mode"),
        });
    }
    Ok(Built { authorizer: Arc::new(Union::new(links)), rbac })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_modes_are_named() {
        let check = |modes: &[&str]| {
            let modes = modes.iter().map(|m| (*m).to_owned()).collect();
            Options { modes, ..Default::default() }.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(&["Node", "RBAC"]), Ok(()));
        assert_eq!(check(&["Nope"]).unwrap_err(), r#"authorization-mode "Nope" is not a valid mode"#);
        assert_eq!(
            check(&["RBAC", "RBAC"]).unwrap_err(),
            r#"authorization-mode ["RBAC", "RBAC"] has mode specified more than once"#
        );
        assert!(check(&["ABAC"]).unwrap_err().contains("policy file not passed"));
    }

    #[test]
    fn a_configuration_file_names_the_modes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |authorizers: &str| {
            let head =
                "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:";
            std::fs::write(file.path(), format!("{head}{authorizers}")).unwrap();
            let modes = configured(file.path()).map_err(|e| format!("{e:#}"))?;
            Ok::<_, String>(modes.into_iter().map(|m| m.name).collect::<Vec<_>>())
        };
        let two = "\n- type: Node\n  name: node\n- type: RBAC\n  name: rbac\n";
        assert_eq!(write(two).unwrap(), ["Node", "RBAC"]);
        assert!(write(" []").unwrap_err().contains("at least one authorization mode"));
        assert!(
            write("\n- type: RBAC\n  name: \"\"\n")
                .unwrap_err()
                .contains("authorizers[0].name: Required value")
        );
        let webhook = "\n- type: Webhook\n  name: w\n  webhook: {timeout: 3s, subjectAccessReviewVersion: v1, \
                       failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /x}}\n";
        assert_eq!(write(&format!("{webhook}{webhook}")).unwrap(), ["Webhook", "Webhook"]);
        assert!(write("\n- type: Webhook\n  name: w\n").unwrap_err().contains("required when type=Webhook"));
        assert!(
            write(&webhook.replace("Deny", "Maybe"))
                .unwrap_err()
                .contains("authorizers[0].webhook: failurePolicy")
        );
        let options = Options {
            config_file: Some(file.path().into()),
            modes: vec!["RBAC".into()],
            ..Default::default()
        };
        assert!(build(&options, crate::testing::FakeRegistry::new(), &|_| false).is_err());
    }
}
