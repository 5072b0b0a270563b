//! Names of definitions and operations.

use api::resources::{Origin, Resource};
use api::schema::{self, Message};

/// `k8s.io.api.core.v1.Pod` is published as `io.k8s.api.core.v1.Pod`.
pub fn definition(m: &Message) -> String {
    let rest = m.name.strip_prefix("k8s.io.").unwrap_or(m.name);
    format!("io.k8s.{}", rest.replace('_', "-"))
}

/// The message that was published under a name.
pub fn message(definition: &str) -> Option<&'static Message> {
    let rest = definition.strip_prefix("io.k8s.")?;
    schema::message(&format!("k8s.io.{}", rest.replace('-', "_")))
}

/// `com.example.v1.Widget`
pub fn custom(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// The definition of a kind of a resource's own group version or of a built-in one.
pub fn of_kind(r: &Resource, group: &str, version: &str, kind: &str) -> String {
    match schema::for_kind_parts(group, version, kind) {
        Some(m) => definition(m),
        None if r.origin == Origin::Builtin => format!("io.k8s.{kind}"),
        None => custom(group, version, kind),
    }
}

fn capital(s: &str) -> String {
    let mut chars = s.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

/// `rbac.authorization.k8s.io` is `rbacAuthorization`, the core group `core`.
pub fn group_word(group: &str) -> String {
    let short = group.strip_suffix(".k8s.io").unwrap_or(group);
    let mut parts = if short.is_empty() { "core" } else { short }.split('.');
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(capital).collect::<String>()
}

/// `RbacAuthorizationV1`, as it stands in operation ids.
pub fn group_version_words(group: &str, version: &str) -> String {
    format!("{}{}", capital(&group_word(group)), capital(version))
}

pub fn title(s: &str) -> String {
    capital(s)
}
