//! PodSecurity: the Pod Security Standards, as the labels of a namespace ask for them. Pods are
//! refused; workloads that make pods are warned of; a namespace that becomes stricter hears which of
//! its pods would no longer be let in.

mod checks;
mod policy;

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::live::fetch;
use crate::objects::{at, items, labels, name, strings, text};
use api::Value;
use api::field::{self, ErrorList};
use api::registry::Registry;
use api::status::{Result, Status};
use checks::{Pod, Violation, evaluate};
use policy::{Level, LevelVersion, PREFIX, Policy};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

/// Pods of a namespace that are looked at when its level changes.
const PODS_TO_CHECK: usize = 3000;
const IGNORED_SUBRESOURCES: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

#[derive(Default)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

pub struct PodSecurity {
    registry: Arc<dyn Registry>,
    defaults: Policy,
    exempt: Exemptions,
}

impl PodSecurity {
    /// `config` is a PodSecurityConfiguration.
    pub fn new(deps: &Deps, config: Option<&Value>) -> anyhow::Result<Self> {
        let config = config.unwrap_or(&Value::Null);
        let defaults = Policy::from_defaults(at(config, &["defaults"])).map_err(anyhow::Error::msg)?;
        let list = |key: &str| strings(config, &["exemptions", key]);
        let exempt = Exemptions {
            usernames: list("usernames"),
            namespaces: list("namespaces"),
            runtime_classes: list("runtimeClasses"),
        };
        Ok(PodSecurity { registry: deps.registry.clone(), defaults, exempt })
    }

    fn policy_of(&self, namespace: &Value) -> (Policy, ErrorList) {
        Policy::of_labels(&labels(namespace), &self.defaults)
    }

    fn exemption(&self, a: &Attributes) -> Option<&'static str> {
        if self.exempt.namespaces.contains(&a.namespace) {
            Some("namespace")
        } else if self.exempt.usernames.contains(&a.user.name) {
            Some("user")
        } else {
            None
        }
    }

    fn check_namespace(&self, a: &mut Attributes) -> Result<()> {
        let Some(new) = a.object.clone().filter(|_| a.subresource.is_empty()) else { return Ok(()) };
        let (policy, errors) = self.policy_of(&new);
        let exempt = self.exempt.namespaces.iter().any(|n| n == name(&new));
        match (a.operation, a.old_object.clone()) {
            (Operation::Create, _) => {
                if !errors.is_empty() {
                    return Err(a.invalid(&errors));
                }
                if exempt {
                    self.warn_exempt(a, &new, &policy);
                }
            }
            (Operation::Update, Some(old)) => {
                let (before, old_errors) = self.policy_of(&old);
                if !errors.is_empty() && errors != old_errors {
                    return Err(a.invalid(&errors));
                }
                let (enforce, before) = (policy.enforce, before.enforce);
                let not_stricter = enforce.version == before.version && enforce.level <= before.level;
                if enforce == before || enforce.level == Level::Privileged || not_stricter {
                    return Ok(());
                }
                if exempt {
                    self.warn_exempt(a, &new, &policy);
                } else {
                    a.warnings.extend(self.existing_violations(name(&new), enforce));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn warn_exempt(&self, a: &mut Attributes, namespace: &Value, policy: &Policy) {
        if policy.is_privileged() || policy.equivalent(&self.defaults) {
            return;
        }
        let labels = labels(namespace);
        let set = |mode: &str| {
            labels.contains_key(&format!("{PREFIX}{mode}"))
                || labels.contains_key(&format!("{PREFIX}{mode}-version"))
        };
        let shown: Vec<String> =
            [("enforce", policy.enforce), ("audit", policy.audit), ("warn", policy.warn)]
                .iter()
                .filter(|(mode, p)| p.level != Level::Privileged && set(mode))
                .map(|(mode, p)| format!("{mode}={p}"))
                .collect();
        a.warn(format!(
            "namespace {:?} is exempt from Pod Security, and the policy ({}) will be ignored",
            name(namespace),
            shown.join(", ")
        ));
    }

    /// One of each controller's pods first, then the others.
    fn pods_by_importance(&self, namespace: &str) -> Vec<Arc<Value>> {
        let mut controllers = HashSet::new();
        let (mut first, mut rest) = (Vec::new(), Vec::new());
        for pod in self.registry.list(("", "pods"), Some(namespace)) {
            if self.has_exempt_class(&pod["spec"]) {
                continue;
            }
            let owners = items(&pod, &["metadata", "ownerReferences"]);
            let controller = owners.iter().find(|o| at(o, &["controller"]) == &Value::Bool(true));
            let repeated = controller.is_some_and(|c| !controllers.insert(text(c, &["uid"]).to_owned()));
            if repeated { &mut rest } else { &mut first }.push(pod);
        }
        first.extend(rest);
        first
    }

    fn existing_violations(&self, namespace: &str, enforce: LevelVersion) -> Vec<String> {
        let pods = self.pods_by_importance(namespace);
        let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for pod in pods.iter().take(PODS_TO_CHECK) {
            let violations = evaluate(enforce, &Pod { metadata: &pod["metadata"], spec: &pod["spec"] });
            if violations.is_empty() {
                continue;
            }
            let reasons: Vec<&str> = violations.iter().map(|v| v.reason.as_str()).collect();
            let entry = found.entry(reasons.join(", ")).or_insert_with(|| (name(pod).to_owned(), 0));
            if name(pod) < entry.0.as_str() {
                entry.0 = name(pod).to_owned();
            }
            entry.1 += 1;
        }
        let mut out = Vec::new();
        if pods.len() > PODS_TO_CHECK {
            out.push(format!(
                "new PodSecurity enforce level only checked against the first {PODS_TO_CHECK} of {} existing pods",
                pods.len()
            ));
        }
        if !found.is_empty() {
            out.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut lines: Vec<String> = found
            .into_iter()
            .map(|(reason, (pod, count))| match count {
                1 => format!("{pod}: {reason}"),
                2 => format!("{pod} (and 1 other pod): {reason}"),
                n => format!("{pod} (and {} other pods): {reason}", n - 1),
            })
            .collect();
        lines.sort();
        out.extend(lines);
        out
    }

    fn has_exempt_class(&self, spec: &Value) -> bool {
        let class = text(spec, &["runtimeClassName"]);
        !class.is_empty() && self.exempt.runtime_classes.iter().any(|c| c == class)
    }

    async fn check_workload(&self, a: &mut Attributes, path: &[&str], enforce: bool) -> Result<()> {
        if let Some(reason) = self.exemption(a) {
            a.annotate(format!("{PREFIX}exempt"), reason);
            return Ok(());
        }
        let namespace = match fetch(&*self.registry, ("", "namespaces"), "", &a.namespace).await {
            Ok(found) => found,
            Err(_) if enforce => {
                return Err(Status::internal(format!("failed to lookup namespace {:?}", a.namespace)));
            }
            Err(e) => {
                a.annotate(
                    format!("{PREFIX}error"),
                    format!("failed to lookup namespace {:?}: {e}", a.namespace),
                );
                return Ok(());
            }
        };
        let (policy, errors) = self.policy_of(&namespace);
        if errors.is_empty() && policy.is_privileged() {
            if enforce {
                a.annotate(format!("{PREFIX}enforce-policy"), LevelVersion::PRIVILEGED.to_string());
            }
            return Ok(());
        }
        let Some(object) = a.object.take() else { return Ok(()) };
        let template = at(&object, path);
        let significant = !(enforce && a.operation == Operation::Update)
            || a.old_object.as_deref().is_none_or(|old| is_significant(&object, old));
        let outcome = if template.is_object() && significant {
            let pod = Pod { metadata: &template["metadata"], spec: &template["spec"] };
            self.judge(a, &pod, &policy, &errors, enforce)
        } else {
            Ok(())
        };
        a.object = Some(object);
        outcome.map_err(|why| a.forbidden(why))
    }

    fn judge(
        &self,
        a: &mut Attributes,
        pod: &Pod<'_>,
        policy: &Policy,
        errors: &ErrorList,
        enforce: bool,
    ) -> std::result::Result<(), String> {
        if self.has_exempt_class(pod.spec) {
            a.annotate(format!("{PREFIX}exempt"), "runtimeClass");
            return Ok(());
        }
        if !errors.is_empty() {
            let texts: Vec<String> = errors.iter().map(field::Error::to_string).collect();
            let why = crate::objects::aggregate(texts).unwrap_or_default();
            a.annotate(format!("{PREFIX}error"), format!("Failed to parse policy: {why}"));
        }
        let sentence = |verb: &str, mode: LevelVersion| {
            let violations = evaluate(mode, pod);
            (!violations.is_empty())
                .then(|| format!("{verb} PodSecurity \"{mode}\": {}", detail(&violations)))
        };
        let mut refusal = None;
        if enforce {
            a.annotate(format!("{PREFIX}enforce-policy"), policy.enforce.to_string());
            refusal = sentence("violates", policy.enforce);
        }
        if let Some(text) = sentence("would violate", policy.audit) {
            a.annotate(format!("{PREFIX}audit-violations"), text);
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        a.warnings.extend(sentence("would violate", policy.warn));
        Ok(())
    }
}

/// `reason (detail), reason (detail)`
fn detail(violations: &[Violation]) -> String {
    let one = |v: &Violation| {
        if v.detail.is_empty() { v.reason.clone() } else { format!("{} ({})", v.reason, v.detail) }
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Of a pod only images can change, and ephemeral containers come in.
fn is_significant(new: &Value, old: &Value) -> bool {
    let image = |c: &Value| text(c, &["image"]).to_owned();
    let changed = |list: &str| {
        let (new, old) = (items(new, &["spec", list]), items(old, &["spec", list]));
        new.len() != old.len() || new.iter().zip(old).any(|(n, o)| image(n) != image(o))
    };
    let before = items(old, &["spec", "ephemeralContainers"]);
    changed("containers")
        || changed("initContainers")
        || items(new, &["spec", "ephemeralContainers"])
            .iter()
            .any(|c| !before.iter().any(|o| text(o, &["name"]) == text(c, &["name"]) && image(o) == image(c)))
}

/// Where a workload resource has its pod template.
fn template_path(group: &str, resource: &str) -> Option<&'static [&'static str]> {
    match (group, resource) {
        ("", "podtemplates") => Some(&["template"]),
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => Some(&["spec", "template"]),
        ("batch", "cronjobs") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

#[async_trait::async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if a.is("", "namespaces") {
            return self.check_namespace(a);
        }
        if a.is("", "pods") {
            if IGNORED_SUBRESOURCES.contains(&a.subresource.as_str()) {
                return Ok(());
            }
            return self.check_workload(a, &[], true).await;
        }
        match template_path(&a.resource.group, &a.resource.resource) {
            Some(path) if a.subresource.is_empty() => self.check_workload(a, path, false).await,
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
