//! Roles and bindings.

use crate::Context;
use crate::checks::{self, texts};
use crate::metadata::{Checks, Names};
use crate::metadata::{SelectorOptions, label_selector};
use crate::names;
use crate::table::{age, name};
use crate::value::same;
use crate::value::{Get, Put};
use crate::{Kind, PLAIN};
use api::Value;
use api::field::{Error, ErrorList, Path};

const GROUP: &str = "rbac.authorization.k8s.io";

pub static ROLE: Kind = Kind {
    names: Names::PathSegment,
    validate: |_, new, _, e| rules(new, true, e),
    create_on_update: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};
pub static CLUSTER_ROLE: Kind = Kind {
    names: Names::PathSegment,
    validate: cluster_role,
    create_on_update: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};
pub static BINDING: Kind = Kind {
    names: Names::PathSegment,
    defaults,
    validate: |_, new, old, e| binding(new, old, true, e),
    row: Some(row),
    create_on_update: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};
pub static CLUSTER_BINDING: Kind = Kind {
    names: Names::PathSegment,
    defaults,
    validate: |_, new, old, e| binding(new, old, false, e),
    row: Some(row),
    create_on_update: true,
    metadata_checks: Checks::BOTH,
    ..PLAIN
};

fn defaults(o: &mut Value) {
    if let Some(role) = o.sub("roleRef") {
        role.fill_zero("apiGroup", GROUP);
    }
    for subject in o.items("subjects") {
        if matches!(subject.text("kind"), "User" | "Group") {
            subject.fill_zero("apiGroup", GROUP);
        }
    }
}

fn row(o: &Value) -> Vec<Value> {
    let role = o.at("roleRef");
    let of = |kind: &str| -> Value {
        let named: Vec<String> = o
            .list("subjects")
            .iter()
            .filter(|s| s.text("kind") == kind)
            .map(|s| match (kind, s.text("namespace")) {
                ("ServiceAccount", ns) if !ns.is_empty() => format!("{ns}/{}", s.text("name")),
                _ => s.text("name").to_owned(),
            })
            .collect();
        named.join(", ").into()
    };
    vec![
        name(o),
        format!("{}/{}", role.text("kind"), role.text("name")).into(),
        age(o),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

fn rules(role: &Value, namespaced: bool, e: &mut ErrorList) {
    for (i, rule) in role.list("rules").iter().enumerate() {
        let at = Path::new("rules").index(i);
        if rule.len("verbs") == 0 {
            e.push(Error::required(&at.child("verbs"), "verbs must contain at least one value"));
        }
        let urls = rule.at("nonResourceURLs");
        if rule.len("nonResourceURLs") > 0 {
            let mut bad =
                |text: &str| e.push(Error::invalid(&at.child("nonResourceURLs"), urls.clone(), text));
            if namespaced {
                bad("namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| rule.len(f) > 0) {
                bad("rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if rule.len("apiGroups") == 0 {
            let text = "resource rules must supply at least one api group";
            e.push(Error::required(&at.child("apiGroups"), text));
        }
        if rule.len("resources") == 0 {
            let text = "resource rules must supply at least one resource";
            e.push(Error::required(&at.child("resources"), text));
        }
    }
}

fn cluster_role(_: &Context<'_>, new: &Value, _: Option<&Value>, e: &mut ErrorList) {
    rules(new, false, e);
    let aggregation = new.at("aggregationRule");
    if aggregation.is_null() {
        return;
    }
    let at = Path::new("aggregationRule").child("clusterRoleSelectors");
    if aggregation.len("clusterRoleSelectors") == 0 {
        let text = "at least one clusterRoleSelector required if aggregationRule is non-nil";
        e.push(Error::required(&at, text));
    }
    for (i, selector) in aggregation.list("clusterRoleSelectors").iter().enumerate() {
        let before = e.len();
        label_selector(selector, SelectorOptions::default(), &at.index(i), e);
        if e.len() > before {
            e.push(Error::invalid(&at.index(i), Value::Null, "invalid label selector."));
        }
    }
}

fn binding(new: &Value, old: Option<&Value>, namespaced: bool, e: &mut ErrorList) {
    let (role, at) = (new.at("roleRef"), Path::new("roleRef"));
    checks::one_of(role.text("apiGroup"), &[GROUP], &at.child("apiGroup"), e);
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    checks::listed(role.text("kind"), kinds, &at.child("kind"), e);
    if checks::required(role, "name", &at, e) {
        let name = role.text("name");
        texts(name, names::path_segment(name, false), &at.child("name"), e);
    }
    for (i, s) in new.list("subjects").iter().enumerate() {
        subject(s, namespaced, &Path::new("subjects").index(i), e);
    }
    if old.is_some_and(|o| !same(o.at("roleRef"), role)) {
        e.push(Error::invalid(&at, role.clone(), "cannot change roleRef"));
    }
}

fn subject(s: &Value, namespaced: bool, at: &Path, e: &mut ErrorList) {
    let named = checks::required(s, "name", at, e);
    match s.text("kind") {
        "ServiceAccount" => {
            if named {
                checks::subdomain(s.text("name"), &at.child("name"), e);
            }
            checks::one_of(s.text("apiGroup"), &[""], &at.child("apiGroup"), e);
            if !namespaced {
                checks::required(s, "namespace", at, e);
            }
        }
        "User" | "Group" => checks::one_of(s.text("apiGroup"), &[GROUP], &at.child("apiGroup"), e),
        other => {
            let known = ["ServiceAccount", "User", "Group"];
            e.push(Error::not_listed(&at.child("kind"), other, &known));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Room;
    use api::json;

    #[test]
    fn checked() {
        let first = |room: &Kind, new: Value, old: Option<&Value>| {
            let mut new = new;
            room.defaults(&mut new);
            let got = room.validate(&Context::default(), &new, old);
            got.first().map(ToString::to_string).unwrap_or_default()
        };
        let rule = |rule: Value| json!({ "rules": [rule] });
        let ok = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
        assert_eq!(first(&ROLE, ok, None), "");
        assert_eq!(
            first(&ROLE, rule(json!({"verbs": ["get"]})), None),
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group"
        );
        let urls = rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}));
        assert!(first(&ROLE, urls.clone(), None).contains("namespaced rules cannot apply"));
        assert_eq!(first(&CLUSTER_ROLE, urls, None), "");
        let ok =
            json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]});
        assert_eq!(first(&BINDING, ok.clone(), None), "");
        let mut old = ok.clone();
        BINDING.defaults(&mut old);
        let other = json!({"roleRef": {"kind": "Role", "name": "s"}});
        assert!(first(&BINDING, other, Some(&old)).ends_with("cannot change roleRef"));
        assert!(first(&CLUSTER_BINDING, ok, None).starts_with("roleRef.kind: Unsupported value: \"Role\""));
    }
}
