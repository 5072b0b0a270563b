//! `--authorization-mode` and its companions.

use super::abac::Abac;
use super::node::NodeAuthorizer;
use super::rbac::Rbac;
use super::{AlwaysAllow, AlwaysDeny, Authorizer, PrivilegedGroup, Union};
use anyhow::bail;
use api::registry::Reader;
use std::path::PathBuf;
use std::sync::Arc;

/// The authorization flags.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// `--authorization-mode`; empty is `AlwaysAllow`
    pub modes: Vec<String>,
    /// `--authorization-policy-file`
    pub policy_file: Option<PathBuf>,
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
            Options { modes, policy_file: None }.check().map_err(|e| e.to_string())
        };
        assert_eq!(check(&["Node", "RBAC"]), Ok(()));
        assert_eq!(check(&["Nope"]).unwrap_err(), r#"authorization-mode "Nope" is not a valid mode"#);
        assert_eq!(
            check(&["RBAC", "RBAC"]).unwrap_err(),
            r#"authorization-mode ["RBAC", "RBAC"] has mode specified more than once"#
        );
        assert!(check(&["ABAC"]).unwrap_err().contains("policy file not passed"));
    }
}
