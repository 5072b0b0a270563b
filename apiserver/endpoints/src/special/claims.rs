//! Who may ask for devices as an administrator, and who may say what a claim was given.

use crate::server::attributes;
use crate::write::Target;
use api::Value;
use api::field::{Error, ErrorList, Path};
use kinds::gates;
use std::collections::BTreeSet;

/// The label of namespaces whose claims may use devices that others use.
const ADMIN: &str = "resource.kubernetes.io/admin-access";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// What the user may not write into a claim or a template of claims; both come in the storage version.
pub async fn errors(t: &Target<'_>, new: &Value, old: Option<&Value>) -> ErrorList {
    if t.served.gvk.group != "resource.k8s.io" {
        return ErrorList::new();
    }
    match (t.served.resource.as_str(), t.subresource, old) {
        ("resourceclaims", "", None) => admin(t, asked(&new["spec"])),
        ("resourceclaimtemplates", "", None) => admin(t, asked(&new["spec"]["spec"])),
        ("resourceclaims", "status", Some(old)) => status(t, &new["status"], &old["status"]).await,
        _ => ErrorList::new(),
    }
}

/// The first request that asks for it.
fn asked(spec: &Value) -> Option<Path> {
    let requests = spec["devices"]["requests"].as_array()?;
    let i = requests.iter().position(|r| r["exactly"]["adminAccess"] == true)?;
    Some(Path::new("spec").child("devices").child("requests").index(i).child("adminAccess"))
}

/// The first device that was given that way.
fn granted(status: &Value) -> Option<Path> {
    let results = status["allocation"]["devices"]["results"].as_array()?;
    let i = results.iter().position(|r| r["adminAccess"] == true)?;
    let at = Path::new("status").child("allocation").child("devices").child("results");
    Some(at.index(i).child("adminAccess"))
}

fn admin(t: &Target<'_>, at: Option<Path>) -> ErrorList {
    let Some(at) = at else { return ErrorList::new() };
    let namespace = t.call.server.registry.get(("", "namespaces"), "", t.namespace);
    if namespace.is_some_and(|n| n["metadata"]["labels"][ADMIN] == "true") {
        return ErrorList::new();
    }
    let text =
        format!("admin access to devices requires the `{ADMIN}: true` label on the containing namespace");
    vec![Error::forbidden(&at, text)]
}

async fn status(t: &Target<'_>, new: &Value, old: &Value) -> ErrorList {
    let mut errors = if granted(old).is_some() { ErrorList::new() } else { admin(t, granted(new)) };
    if !gates::enabled("DRAResourceClaimGranularStatusAuthorization") {
        return errors;
    }
    let at = Path::new("status");
    if new["allocation"] != old["allocation"] || new["reservedFor"] != old["reservedFor"] {
        let verb = t.call.info.verb;
        if let Err(why) = allowed(t, verb, "binding", "", "").await {
            let text = format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {why}"
            );
            errors.push(Error::forbidden(&at.child("allocation"), text));
        }
    }
    if gates::enabled("DRAResourceClaimDeviceStatus") && !new["allocation"].is_null() {
        errors.extend(devices(t, new, old, &at.child("devices")).await);
    }
    errors
}

/// Every driver whose devices' status changes is asked for; a driver's own pod may write for its node.
async fn devices(t: &Target<'_>, new: &Value, old: &Value, at: &Path) -> ErrorList {
    let request = t.call.info.verb;
    let mut verbs = vec![format!("arbitrary-node:{request}")];
    if node_of(&new["allocation"]).is_some_and(|node| runs_on(t, node)) {
        verbs.insert(0, format!("associated-node:{request}"));
    }
    let mut errors = ErrorList::new();
    for driver in changed_drivers(new, old) {
        let mut first = None;
        for verb in &verbs {
            match allowed(t, verb, "driver", t.namespace, driver).await {
                Ok(()) => {
                    first = None;
                    break;
                }
                Err(why) => first = first.or(Some(why)),
            }
        }
        if let Some(why) = first {
            let text = format!(
                "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {why}",
                verbs.join(" ")
            );
            errors.push(Error::forbidden(at, text));
        }
    }
    errors
}

async fn allowed(
    t: &Target<'_>,
    verb: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), String> {
    let mut asked = attributes(t.call);
    asked.verb = verb;
    asked.subresource = subresource;
    asked.namespace = namespace;
    asked.name = name;
    let verdict = t.call.server.authorizer.authorize(&asked).await;
    if verdict.allowed() { Ok(()) } else { Err(asked.forbidden(&verdict.reason).message) }
}

fn changed_drivers<'a>(new: &'a Value, old: &'a Value) -> BTreeSet<&'a str> {
    fn list(status: &Value) -> &[Value] {
        status["devices"].as_array().map_or(&[], Vec::as_slice)
    }
    let key = |d: &Value| {
        ["driver", "pool", "device", "shareID"].map(|k| d[k].as_str().unwrap_or_default().to_owned())
    };
    let same = |d: &Value, other: &[Value]| other.iter().any(|o| key(o) == key(d) && o == d);
    let differing = |list: &'a [Value], other: &'a [Value]| {
        list.iter().filter(move |d| !same(d, other)).filter_map(|d| d["driver"].as_str())
    };
    differing(list(new), list(old)).chain(differing(list(old), list(new))).collect()
}

/// The one node that an allocation is for.
fn node_of(allocation: &Value) -> Option<&str> {
    let [term] = allocation["nodeSelector"]["nodeSelectorTerms"].as_array()?.as_slice() else { return None };
    let by_label = term["matchExpressions"].as_array().is_some_and(|e| !e.is_empty());
    let [field] = term["matchFields"].as_array()?.as_slice() else { return None };
    let [node] = field["values"].as_array()?.as_slice() else { return None };
    let is_name = field["key"] == "metadata.name" && field["operator"] == "In";
    node.as_str().filter(|_| is_name && !by_label)
}

/// Whether the user is a service account of a pod on that node.
fn runs_on(t: &Target<'_>, node: &str) -> bool {
    let user = &t.call.user;
    auth::user::split_service_account(&user.name).is_some()
        && user.extra.get(NODE_NAME).is_some_and(|names| matches!(names.as_slice(), [one] if one == node))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn what_changes_and_where() {
        let device =
            |driver: &str, ip: &str| json!({"driver": driver, "pool": "p", "device": "d", "data": ip});
        let status = |devices: &[Value]| json!({"devices": devices});
        let (a, b) = (device("a", "1"), device("b", "1"));
        for (new, old, want) in [
            (status(std::slice::from_ref(&a)), status(std::slice::from_ref(&a)), vec![]),
            (status(&[device("a", "2")]), status(std::slice::from_ref(&a)), vec!["a"]),
            (status(std::slice::from_ref(&b)), status(&[a, b]), vec!["a"]),
        ] {
            assert_eq!(changed_drivers(&new, &old).into_iter().collect::<Vec<_>>(), want);
        }
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
        let allocation = |terms: Value| json!({"nodeSelector": {"nodeSelectorTerms": terms}});
        assert_eq!(node_of(&allocation(json!([{"matchFields": [field]}]))), Some("n"));
        assert_eq!(node_of(&allocation(json!([{"matchFields": [field]}, {}]))), None);
        let granted_one = json!({"allocation": {"devices": {"results": [{}, {"adminAccess": true}]}}});
        assert_eq!(
            granted(&granted_one).map(|p| p.to_string()).as_deref(),
            Some("status.allocation.devices.results[1].adminAccess")
        );
    }
}
