//! What containers and whole pods ask for.

use crate::checks::{
    self, is_extended_resource, is_hugepages, is_native_resource, is_overcommit_allowed, resource_name,
    resource_quantity,
};
use crate::pods;
use crate::table::quantity;
use crate::value::{Get, amount, amount_value};
use api::Value;
use api::field::{Error, ErrorList, Path};

/// Whether the requirements are a container's or a whole pod's.
#[derive(Clone, Copy, PartialEq)]
enum Of {
    Container,
    Pod,
}

/// Requests and limits of a container; `claims` are the names the pod has, none where claims make no sense.
pub fn requirements(r: &Value, claims: Option<&[&str]>, at: &Path, e: &mut ErrorList) {
    check(r, Of::Container, claims.unwrap_or_default(), at, e);
}

fn check(r: &Value, of: Of, claims: &[&str], at: &Path, e: &mut ErrorList) {
    let (mut compute, mut huge) = (false, false);
    let mut each = |list: &str, name: &str, v: &Value, e: &mut ErrorList| {
        let at = at.child(list).key(name);
        match of {
            Of::Container => container_resource_name(name, &at, e),
            Of::Pod => pod_resource_name(name, &at, e),
        }
        resource_quantity(name, v, &at, e);
        compute |= matches!(name, "cpu" | "memory");
        if is_hugepages(name) {
            huge = true;
            let size = amount(&name["hugepages-".len()..]).unwrap_or(0);
            if size <= 0 || amount_value(v).is_some_and(|n| n % size != 0) {
                let text = format!("{} is not positive integer multiple of {name}", quantity(v));
                e.push(Error::invalid(&at, quantity(v), text));
            }
        }
    };
    for (name, v) in r.entries("limits") {
        each("limits", name, v, e);
    }
    for (name, v) in r.entries("requests") {
        each("requests", name, v, e);
        let limit = r.at("limits").at(name);
        if limit.is_null() {
            if !is_overcommit_allowed(name) {
                let text = "Limit must be set for non overcommitable resources";
                e.push(Error::required(&at.child("limits"), text));
            }
            continue;
        }
        let (Some(n), Some(max)) = (amount_value(v), amount_value(limit)) else { continue };
        let word = match is_overcommit_allowed(name) {
            false if n != max => "must be equal to",
            true if n > max => "must be less than or equal to",
            _ => continue,
        };
        let text = format!("{word} {name} limit of {}", quantity(limit));
        e.push(Error::invalid(&at.child("requests"), quantity(v), text));
    }
    if huge && !compute {
        e.push(Error::forbidden(at, "HugePages require cpu or memory"));
    }
    claim_names(r.list("claims"), claims, &at.child("claims"), e);
}

/// A resource that a container can ask for.
pub fn container_resource_name(name: &str, at: &Path, e: &mut ErrorList) {
    if matches!(name, "cpu" | "memory" | "ephemeral-storage") {
        return;
    }
    resource_name(name, at, e);
    if !name.contains('/') {
        if !is_hugepages(name) {
            e.push(Error::invalid(at, name, "must be a standard resource for containers"));
        }
    } else if !is_native_resource(name) && !is_extended_resource(name) {
        e.push(Error::invalid(at, name, "doesn't follow extended resource name standard"));
    }
}

fn pod_resource_name(name: &str, at: &Path, e: &mut ErrorList) {
    if resource_name(name, at, e) && !pods::is_pod_level(name) {
        e.push(Error::not_supported(at, name, &["cpu", "hugepages-", "memory"]));
    }
}

fn claim_names(list: &[Value], known: &[&str], at: &Path, e: &mut ErrorList) {
    let mut seen: Vec<String> = Vec::new();
    for (i, claim) in list.iter().enumerate() {
        let (at, name, request) = (at.index(i), claim.text("name"), claim.text("request"));
        if name.is_empty() {
            e.push(Error::required(&at, ""));
            continue;
        }
        if seen.iter().any(|s| s == name) {
            e.push(Error::duplicate(&at, name));
        } else {
            let key = if request.is_empty() {
                name.to_owned()
            } else {
                checks::label(request, &at.child("request"), e);
                format!("{name}/{request}")
            };
            let whole_after_part =
                request.is_empty() && seen.iter().any(|s| s.split_once('/').is_some_and(|(n, _)| n == name));
            if seen.contains(&key) || whole_after_part {
                e.push(Error::duplicate(&at, key.as_str()));
            }
            seen.push(key);
        }
        if !known.contains(&name) {
            let mut error = Error::not_found(&at, name);
            let mut names = known.to_vec();
            names.sort_unstable();
            error.detail = match names.as_slice() {
                [] => "must be one of the names in pod.spec.resourceClaims which is empty".to_owned(),
                names => format!("must be one of the names in pod.spec.resourceClaims: {}", names.join(", ")),
            };
            e.push(error);
        }
    }
}

/// `spec.resourceClaims`: each named once, each from one source.
pub fn pod_claims(spec: &Value, metadata: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let list = spec.list("resourceClaims");
    for (i, claim) in list.iter().enumerate() {
        if metadata.is_some_and(|m| m.at("annotations").has("kubernetes.io/config.mirror")) {
            e.push(Error::forbidden(&Path::new("[]"), "static pods do not support resource claims"));
            continue;
        }
        let (at, name) = (at.index(i), claim.text("name"));
        if name.is_empty() {
            e.push(Error::required(&at.child("name"), ""));
        } else if list[..i].iter().any(|o| o.text("name") == name) {
            e.push(Error::duplicate(&at.child("name"), name));
        } else {
            checks::label(name, &at.child("name"), e);
        }
        let (direct, template) =
            (claim.opt_text("resourceClaimName"), claim.opt_text("resourceClaimTemplateName"));
        let text = match (direct, template) {
            (Some(_), Some(_)) => {
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            }
            (None, None) => "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            _ => "",
        };
        if !text.is_empty() {
            let printed = crate::shown::internal("k8s.io.api.core.v1.PodResourceClaim", claim);
            e.push(Error::invalid_printed(&at, printed, text));
        }
        for (field, value) in [("resourceClaimName", direct), ("resourceClaimTemplateName", template)] {
            if let Some(value) = value {
                checks::subdomain(value, &at.child(field), e);
            }
        }
    }
}

/// `spec.resources`: the pod's own, which its containers must fit in.
pub fn whole_pod(spec: &Value, at: &Path, e: &mut ErrorList) {
    let r = spec.at("resources");
    if r.is_null() {
        return;
    }
    let at = at.child("resources");
    if spec.at("os").text("name") == "windows" {
        e.push(Error::forbidden(&at, "may not be set for a windows pod"));
        return;
    }
    if r.has("claims") {
        let text = "claims may not be set for Resources at pod-level";
        e.push(Error::forbidden(&at.child("claims"), text));
    }
    let claims: Vec<&str> = spec.list("resourceClaims").iter().map(|c| c.text("name")).collect();
    check(r, Of::Pod, &claims, &at, e);
    for (list, word) in [("requests", "requests"), ("limits", "limits")] {
        for (name, sum) in pods::aggregate(spec, list) {
            let of_pod = r.at(list).at(&name);
            if of_pod.is_null() || (list == "limits" && !is_hugepages(&name)) {
                continue;
            }
            if amount(&sum) > amount_value(of_pod) {
                let text = format!("must be greater than or equal to aggregate container {word} of {sum}");
                e.push(Error::invalid(&at.child(list).key(&name), quantity(of_pod), text));
            }
        }
    }
    for (i, c) in spec.list("containers").iter().enumerate() {
        for (name, limit) in c.at("resources").entries("limits") {
            let of_pod = r.at("limits").at(name);
            if !of_pod.is_null() && amount_value(limit) > amount_value(of_pod) {
                let at = at.child("containers").index(i).key(name).child("limits");
                let text = format!("must be less than or equal to pod limits of {}", quantity(of_pod));
                e.push(Error::invalid(&at, quantity(limit), text));
            }
        }
    }
}
