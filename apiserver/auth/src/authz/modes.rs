//! `--authorization-mode` and its companions.

use super::abac::Abac;
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use super::{AlwaysAllow, AlwaysDeny, Authorizer, PrivilegedGroup, Union};
use anyhow::{Context, bail};
use api::registry::Reader;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The authorization flags.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--authorization-mode`; empty is `AlwaysAllow`
    pub modes: Vec<String>,
    /// `--authorization-policy-file`
    pub policy_file: Option<PathBuf>,
    /// `--authorization-config`, in place of the modes
    pub config_file: Option<PathBuf>,
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
    webhook: Option<serde_json::Value>,
}

/// The modes that an AuthorizationConfiguration names.
fn configured(path: &Path) -> anyhow::Result<Vec<String>> {
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
    Ok(config.authorizers.into_iter().map(|e| e.r#type).collect())
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
            if seen.contains(&mode.as_str()) {
                bail!("authorization-mode {:?} has mode specified more than once", self.modes);
            }
            seen.push(mode);
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
    if let Some(path) = &options.config_file {
        if !options.modes.is_empty() || options.policy_file.is_some() {
            bail!(
                "--authorization-config can not be specified when --authorization-mode or --authorization-policy-file is"
            );
        }
        options.modes = configured(path)?;
    }
    options.check()?;
    let mut links: Vec<Arc<dyn Authorizer>> = vec![Arc::new(PrivilegedGroup)];
    let mut rbac = None;
    if options.modes.is_empty() {
        links.push(Arc::new(AlwaysAllow));
    }
    for mode in &options.modes {
        links.push(match (mode.as_str(), &options.policy_file) {
            ("AlwaysAllow", _) => Arc::new(AlwaysAllow),
            ("AlwaysDeny", _) => Arc::new(AlwaysDeny),
            ("Node", _) => Arc::new(NodeAuthorizer::new(reader.clone(), gate)),
            ("ABAC", Some(path)) => Arc::new(Abac::open(path)?),
            ("RBAC", _) => {
                let made = Arc::new(Rbac::new(reader.clone()));
                rbac = Some(made.clone());
                made
            }
            (other, _) => bail!("authorization mode {other} is not supported by this server"),
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
            configured(file.path()).map_err(|e| format!("{e:#}"))
        };
        let two = "\n- type: Node\n  name: node\n- type: RBAC\n  name: rbac\n";
        assert_eq!(write(two).unwrap(), ["Node", "RBAC"]);
        assert!(write(" []").unwrap_err().contains("at least one authorization mode"));
        assert!(
            write("\n- type: RBAC\n  name: \"\"\n")
                .unwrap_err()
                .contains("authorizers[0].name: Required value")
        );
        let options = Options {
            config_file: Some(file.path().into()),
            modes: vec!["RBAC".into()],
            ..Default::default()
        };
        assert!(build(&options, crate::testing::FakeRegistry::new(), &|_| false).is_err());
    }
}
