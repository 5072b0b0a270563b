//! LimitRanger: defaults and bounds of what single containers, pods and claims may ask for.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{aggregate, at, containers_mut, items, object_at, text};
use crate::resources::{Amounts, amounts, of_pod};
use api::Value;
use api::quantity::Quantity;
use api::registry::Registry;
use api::status::Result;
use std::collections::BTreeMap;
use std::sync::Arc;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Above this, amounts are compared in whole units: thousandths would overflow.
const MAX_MILLI: i64 = i64::MAX / 1000;

pub struct LimitRanger {
    registry: Arc<dyn Registry>,
}

impl LimitRanger {
    pub fn new(deps: &Deps) -> Self {
        LimitRanger { registry: deps.registry.clone() }
    }

    fn ranges(&self, a: &Attributes) -> Vec<Arc<Value>> {
        let being_deleted =
            a.old_object.as_deref().is_some_and(|o| !at(o, &["metadata", "deletionTimestamp"]).is_null());
        if being_deleted || !applies(a) {
            return Vec::new();
        }
        self.registry.list(("", "limitranges"), Some(&a.namespace))
    }
}

/// The containers of a pod cannot be changed later, but for a resize.
fn applies(a: &Attributes) -> bool {
    match (a.resource.resource.as_str(), a.subresource.as_str(), a.operation) {
        ("pods", "resize", Operation::Update) | ("pods", "", Operation::Create) => {
            a.resource.group.is_empty()
        }
        ("persistentvolumeclaims", "", _) => a.resource.group.is_empty(),
        _ => false,
    }
}

fn set_defaults(range: &Value, pod: &mut Value) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for limit in items(range, &["spec", "limits"]).iter().filter(|l| text(l, &["type"]) == "Container") {
        for (field, defaults) in [("defaultRequest", &mut requests), ("default", &mut limits)] {
            for (k, v) in at(limit, &[field]).as_object().into_iter().flatten() {
                defaults.insert(k.clone(), v.clone());
            }
        }
    }
    let mut notes = Vec::new();
    for (sort, word) in [("containers", "container"), ("initContainers", "init container")] {
        containers_mut(pod, &[sort], |container| {
            let container_name = text(container, &["name"]).to_owned();
            for (field, which, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)]
            {
                let set = fill(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {which} for {word} {container_name}", set.join(", ")));
                }
            }
        });
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        object_at(&mut pod["metadata"], "annotations").insert(ANNOTATION.into(), note.into());
    }
}

/// Names of the amounts that were missing.
fn fill(container: &mut Value, field: &str, defaults: &BTreeMap<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, amount) in defaults {
        if at(container, &["resources", field, resource]).is_null() {
            if !container["resources"].is_object() {
                container["resources"] = api::json!({});
            }
            object_at(&mut container["resources"], field).insert(resource.clone(), amount.clone());
            set.push(resource.clone());
        }
    }
    set
}

/// Values that can be compared with one another.
fn comparable<const N: usize>(amounts: [Quantity; N]) -> [i64; N] {
    let fits = amounts.iter().all(|q| q.value() <= MAX_MILLI);
    amounts.map(|q| if fits { q.milli_value() } else { q.value() })
}

/// One thing that is measured, e.g. a container.
struct Measured<'a> {
    sort: &'a str,
    requests: Amounts,
    limits: Amounts,
}

impl Measured<'_> {
    fn amounts(&self, resource: &str) -> (Option<Quantity>, Option<Quantity>) {
        (self.requests.get(resource).copied(), self.limits.get(resource).copied())
    }

    fn min(&self, resource: &str, bound: Quantity) -> Option<String> {
        let (request, limit) = self.amounts(resource);
        let head = format!("minimum {resource} usage per {} is {bound}", self.sort);
        let Some(request) = request else { return Some(format!("{head}.  No request is specified")) };
        let [r, l, b] = comparable([request, limit.unwrap_or(Quantity::ZERO), bound]);
        match limit {
            _ if r < b => Some(format!("{head}, but request is {request}")),
            Some(limit) if l < b => Some(format!("{head}, but limit is {limit}")),
            _ => None,
        }
    }

    fn max(&self, resource: &str, bound: Quantity) -> Option<String> {
        let (request, limit) = self.amounts(resource);
        let head = format!("maximum {resource} usage per {} is {bound}", self.sort);
        let Some(limit) = limit else { return Some(format!("{head}.  No limit is specified")) };
        let [r, l, b] = comparable([request.unwrap_or(Quantity::ZERO), limit, bound]);
        match request {
            _ if l > b => Some(format!("{head}, but limit is {limit}")),
            Some(request) if r > b => Some(format!("{head}, but request is {request}")),
            _ => None,
        }
    }

    /// Claims have requests only.
    fn max_request(&self, resource: &str, bound: Quantity) -> Option<String> {
        let head = format!("maximum {resource} usage per {} is {bound}", self.sort);
        let Some(request) = self.amounts(resource).0 else {
            return Some(format!("{head}.  No request is specified"));
        };
        let [r, b] = comparable([request, bound]);
        (r > b).then(|| format!("{head}, but request is {request}"))
    }

    fn ratio(&self, resource: &str, bound: Quantity) -> Option<String> {
        let (request, limit) = self.amounts(resource);
        let head = format!("{resource} max limit to request ratio per {} is {bound}", self.sort);
        let zero = |q: Option<Quantity>| q.is_none_or(|q| q.is_zero());
        if zero(request) {
            return Some(format!("{head}, but no request is specified or request is 0"));
        }
        if zero(limit) {
            return Some(format!("{head}, but no limit is specified or limit is 0"));
        }
        let [r, l] = comparable([request.unwrap_or(Quantity::ZERO), limit.unwrap_or(Quantity::ZERO)]);
        let ratio = l as f64 / r as f64;
        (ratio > bound.as_f64()).then(|| format!("{head}, but provided ratio is {ratio:.6}"))
    }

    fn complaints(&self, limit: &Value, out: &mut Vec<String>) {
        let bounds = |field: &str| amounts(at(limit, &[field]));
        out.extend(bounds("min").iter().filter_map(|(k, v)| self.min(k, *v)));
        if self.sort == "PersistentVolumeClaim" {
            out.extend(bounds("max").iter().filter_map(|(k, v)| self.max_request(k, *v)));
            return;
        }
        out.extend(bounds("max").iter().filter_map(|(k, v)| self.max(k, *v)));
        out.extend(bounds("maxLimitRequestRatio").iter().filter_map(|(k, v)| self.ratio(k, *v)));
    }
}

fn measured<'a>(object: &Value, resource: &str, sort: &'a str) -> Vec<Measured<'a>> {
    let one = |v: &Value, path: &[&str]| Measured {
        sort,
        requests: amounts(at(at(v, path), &["resources", "requests"])),
        limits: if path.is_empty() { amounts(at(v, &["resources", "limits"])) } else { Amounts::new() },
    };
    match (resource, sort) {
        ("pods", "Container") => ["containers", "initContainers"]
            .iter()
            .flat_map(|f| items(object, &["spec", f]))
            .map(|c| one(c, &[]))
            .collect(),
        ("pods", "Pod") => vec![Measured {
            sort,
            requests: of_pod(object, "requests", false),
            limits: of_pod(object, "limits", false),
        }],
        ("persistentvolumeclaims", "PersistentVolumeClaim") => vec![one(object, &["spec"])],
        _ => Vec::new(),
    }
}

#[async_trait::async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is("", "pods") {
            return Ok(());
        }
        for range in self.ranges(a) {
            if let Some(pod) = a.object.as_mut() {
                set_defaults(&range, pod);
            }
        }
        Ok(())
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        for range in self.ranges(a) {
            let Some(object) = &a.object else { return Ok(()) };
            let mut complaints = Vec::new();
            for limit in items(&range, &["spec", "limits"]) {
                for thing in measured(object, &a.resource.resource, text(limit, &["type"])) {
                    thing.complaints(limit, &mut complaints);
                }
            }
            if let Some(why) = aggregate(complaints) {
                return Err(a.forbidden(why));
            }
        }
        Ok(())
    }
}
