//! namespace-controller: empties a namespace that is being deleted and then lets it go.
//!
//! Pods go first: what guards them (network policies, quotas, admission configuration) stays until the last
//! one has ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use controller_kit::discovery::{self, Discovery, Found};
use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, Shared, condition, errors, now_time};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, Pod};
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams, PropagationPolicy};
use kube::{Api, Client};

const FINALIZER: &str = "kubernetes";

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let (namespaces, pods) = (ctx.informer::<Namespace>(), ctx.informer::<Pod>());
    namespaces.synced().await;
    let q = queue.clone();
    namespaces.watch(move |change| {
        if !change.deleted() && change.object().deleting() {
            q.add(Key::cluster(change.object().name()));
        }
    });
    // The last pod's end is what most emptying waits for.
    let (q, cache) = (queue.clone(), namespaces.clone());
    pods.watch(move |change| {
        let key = Key::cluster(change.object().ns());
        if change.deleted() && cache.get(&key).is_some_and(|n| n.deleting()) {
            q.add(key);
        }
    });
    let workers = ctx.workers("namespace", "namespace", 10);
    let (client, namespaces) = (&ctx.client, &namespaces);
    workers.run(queue, |key| async move { reconcile(client, namespaces, &key).await }).await;
    Ok(())
}

async fn reconcile(
    client: &Client,
    namespaces: &Arc<Shared<Namespace>>,
    key: &Key,
) -> anyhow::Result<Requeue> {
    let Some(cached) = namespaces.get(key) else { return Ok(None) };
    if !cached.deleting() {
        return Ok(None);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(mut namespace) = errors::optional(api.get(&key.name).await)? else { return Ok(None) };
    if namespace.uid() != cached.uid() || !namespace.deleting() {
        return Ok(None);
    }
    if namespace.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating") {
        namespace.status.get_or_insert_default().phase = Some("Terminating".into());
        let written =
            errors::optional(api.replace_status(&key.name, &PostParams::default(), &namespace).await)?;
        let Some(written) = written else { return Ok(None) };
        namespace = written;
    }
    if !finalizers(&namespace).iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    let emptied = empty(client, &key.name).await;
    write_conditions(&api, &namespace, &emptied).await?;
    if let Some(error) = emptied.errors.first() {
        anyhow::bail!("deleting the content of {key}: {error}");
    }
    if !emptied.remaining.is_empty() {
        let pods = emptied.remaining.keys().any(|r| r == "pods.");
        return Ok(Some(Duration::from_secs(if pods { 5 } else { 1 })));
    }
    finalize(client, &namespace).await?;
    Ok(None)
}

fn finalizers(namespace: &Namespace) -> Vec<String> {
    namespace.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default()
}

/// Takes our own finalizer away; with the last one the server removes the namespace.
async fn finalize(client: &Client, namespace: &Namespace) -> anyhow::Result<()> {
    let mut namespace = namespace.clone();
    let api: Api<Namespace> = Api::all(client.clone());
    let Some(fresh) = errors::optional(api.get(namespace.name()).await)? else { return Ok(()) };
    namespace.metadata = fresh.metadata;
    let left = finalizers(&namespace).into_iter().filter(|f| f != FINALIZER).collect();
    namespace.spec.get_or_insert_default().finalizers = Some(left);
    let path = format!("/api/v1/namespaces/{}/finalize", namespace.name());
    let request = kube::core::Request::new("/api/v1/namespaces");
    let body = serde_json::to_vec(&namespace)?;
    let mut request =
        request.create_subresource("finalize", namespace.name(), &PostParams::default(), body)?;
    *request.method_mut() = http::Method::PUT;
    *request.uri_mut() = path.parse()?;
    let result: Result<Namespace, kube::Error> = client.request(request).await;
    errors::optional(result)?;
    Ok(())
}

/// What a pass over the content found.
#[derive(Debug, Default)]
struct Emptied {
    discovery: Vec<String>,
    errors: Vec<String>,
    /// `resource.group` and how many objects are left.
    remaining: BTreeMap<String, usize>,
    /// Finalizer and how many objects it holds.
    finalizers: BTreeMap<String, usize>,
}

async fn empty(client: &Client, namespace: &str) -> Emptied {
    let mut emptied = Emptied::default();
    let found = match discovery::discover(client).await {
        Ok(found) => found,
        Err(error) => {
            emptied.discovery.push(errors::text(&error));
            Discovery::default()
        }
    };
    emptied
        .discovery
        .extend(found.stale.iter().map(|gv| format!("{gv}: stale GroupVersion discovery: {gv}")));
    let content = |r: &&Found| r.namespaced && r.can("delete") && !r.plural.contains('/');
    let is_pods = |r: &Found| r.group.is_empty() && r.plural == "pods";
    let resources: Vec<&Found> = found.resources.iter().filter(content).collect();
    for resource in resources.iter().filter(|r| is_pods(r)) {
        sweep(client, namespace, resource, &mut emptied).await;
    }
    if emptied.remaining.is_empty() && emptied.errors.is_empty() {
        for resource in resources.iter().filter(|r| !is_pods(r)) {
            sweep(client, namespace, resource, &mut emptied).await;
        }
    }
    if !emptied.discovery.is_empty() {
        emptied.errors.extend(emptied.discovery.clone());
    }
    emptied
}

async fn sweep(client: &Client, namespace: &str, resource: &Found, emptied: &mut Emptied) {
    if let Err(error) = try_sweep(client, namespace, resource, emptied).await
        && !errors::not_found(&error)
        && !errors::method_not_supported(&error)
    {
        emptied.errors.push(errors::text(&error));
    }
}

async fn try_sweep(
    client: &Client,
    namespace: &str,
    resource: &Found,
    emptied: &mut Emptied,
) -> Result<(), kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource.dynamic());
    // Most resources hold nothing: one small list spares their deletion.
    if resource.can("list") && api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
        return Ok(());
    }
    let background =
        DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
    if resource.can("deletecollection") {
        api.delete_collection(&background, &ListParams::default()).await?;
    } else if resource.can("list") {
        for object in api.list_metadata(&ListParams::default()).await?.items {
            errors::optional(
                api.delete(object.metadata.name.as_deref().unwrap_or_default(), &background).await,
            )?;
        }
    }
    if !resource.can("list") {
        return Ok(());
    }
    let left = api.list_metadata(&ListParams::default()).await?.items;
    if left.is_empty() {
        return Ok(());
    }
    emptied.remaining.insert(format!("{}.{}", resource.plural, resource.group), left.len());
    for finalizer in left.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
        *emptied.finalizers.entry(finalizer.clone()).or_default() += 1;
    }
    Ok(())
}

/// The five conditions of a namespace on its way out.
fn conditions(emptied: &Emptied) -> Vec<NamespaceCondition> {
    let make = |kind: &str, bad: Option<(String, &str)>, good: (&str, &str)| NamespaceCondition {
        type_: kind.into(),
        status: if bad.is_some() { "True" } else { "False" }.into(),
        reason: Some(bad.as_ref().map_or(good.0, |b| b.1).into()),
        message: Some(bad.map_or_else(|| good.1.to_owned(), |b| b.0)),
        last_transition_time: Some(now_time()),
    };
    let list = |text: &str, entries: &BTreeMap<String, usize>, last: &str| {
        let parts: Vec<_> =
            entries.iter().map(|(k, n)| format!("{k} {last} {n} resource instances")).collect();
        (!parts.is_empty()).then(|| format!("{text}: {}", parts.join(", ")))
    };
    let discovery = (!emptied.discovery.is_empty()).then(|| {
        (
            format!(
                "Discovery failed for some groups, {} failing: {}",
                emptied.discovery.len(),
                emptied.discovery.join(", ")
            ),
            "DiscoveryFailed",
        )
    });
    let failed: Vec<_> = emptied.errors.iter().filter(|e| !emptied.discovery.contains(e)).cloned().collect();
    let failed = (!failed.is_empty()).then(|| {
        (
            format!("Failed to delete all resource types, {} remaining: {}", failed.len(), failed.join(", ")),
            "ContentDeletionFailed",
        )
    });
    let remaining =
        list("Some resources are remaining", &emptied.remaining, "has").map(|t| (t, "SomeResourcesRemain"));
    let held = list("Some content in the namespace has finalizers remaining", &emptied.finalizers, "in")
        .map(|t| (t, "SomeFinalizersRemain"));
    vec![
        make(
            "NamespaceDeletionDiscoveryFailure",
            discovery,
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        make(
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        make(
            "NamespaceDeletionContentFailure",
            failed,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        make("NamespaceContentRemaining", remaining, ("ContentRemoved", "All content successfully removed")),
        make(
            "NamespaceFinalizersRemaining",
            held,
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}

async fn write_conditions(
    api: &Api<Namespace>,
    namespace: &Namespace,
    emptied: &Emptied,
) -> anyhow::Result<()> {
    let mut next = namespace.clone();
    let mut changed = false;
    for new in conditions(emptied) {
        changed |= condition::set(&mut next.status.get_or_insert_default().conditions, new, true);
    }
    if !changed {
        return Ok(());
    }
    match api.replace_status(namespace.name(), &PostParams::default(), &next).await {
        Err(error) if !errors::not_found(&error) && !errors::conflict(&error) => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_name_what_remains() {
        let mut emptied = Emptied::default();
        assert!(conditions(&emptied).iter().all(|c| c.status == "False"));
        emptied.remaining.insert("pods.".into(), 2);
        emptied.finalizers.insert("example.com/x".into(), 1);
        emptied.discovery.push("g/v1: down".into());
        emptied.errors.push("g/v1: down".into());
        let all = conditions(&emptied);
        let text = |i: usize| (all[i].status.as_str(), all[i].message.clone().unwrap_or_default());
        assert_eq!(text(0).0, "True");
        assert_eq!(text(2).0, "False");
        assert_eq!(text(3), ("True", "Some resources are remaining: pods. has 2 resource instances".into()));
        assert_eq!(
            text(4).1,
            "Some content in the namespace has finalizers remaining: example.com/x in 1 resource instances"
        );
    }
}
