//! PodNodeSelector: the nodes that a namespace's pods may use.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::live::fetch;
use crate::objects::{annotation, at, object_at, text};
use api::registry::Registry;
use api::status::{Result, Status};
use api::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const DEFAULT_KEY: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

pub struct PodNodeSelector {
    registry: Arc<dyn Registry>,
    /// By namespace, and the default.
    selectors: BTreeMap<String, String>,
}

impl PodNodeSelector {
    pub fn new(deps: &Deps, config: Option<&Value>) -> Self {
        let table = config.map_or(&Value::Null, |c| at(c, &["podNodeSelectorPluginConfig"])).as_object();
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let selectors = table.into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect();
        PodNodeSelector { registry: deps.registry.clone(), selectors }
    }

    async fn of_namespace(&self, namespace: &str) -> Result<Labels> {
        let found = fetch(&*self.registry, ("", "namespaces"), "", namespace).await?;
        let default = self.selectors.get(DEFAULT_KEY).map_or("", String::as_str);
        parse(annotation(&found, ANNOTATION).unwrap_or(default))
    }
}

/// `a=b,c=d`
fn parse(selector: &str) -> Result<Labels> {
    let mut out = Labels::new();
    for pair in selector.split(',').filter(|p| !p.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Status::internal(format!("invalid selector: {pair}")));
        };
        out.insert(key.trim().to_owned(), value.trim().to_owned());
    }
    Ok(out)
}

fn selector_of(pod: &Value) -> Labels {
    let map = at(pod, &["spec", "nodeSelector"]).as_object();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    map.into_iter().flatten().map(|(k, v)| (k.clone(), text(v))).collect()
}

#[async_trait::async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn admit(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let wanted = self.of_namespace(&a.namespace).await?;
        let Some(pod) = a.object.as_mut() else { return Ok(()) };
        let own = selector_of(pod);
        if own.iter().all(|(k, v)| wanted.get(k).is_none_or(|w| w == v)) && !wanted.is_empty() {
            if !pod["spec"].is_object() {
                pod["spec"] = json!({});
            }
            let selector = object_at(&mut pod["spec"], "nodeSelector");
            selector.extend(wanted.into_iter().map(|(k, v)| (k, v.into())));
        }
        self.validate(a).await
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !a.is_main("", "pods") {
            return Ok(());
        }
        let wanted = self.of_namespace(&a.namespace).await?;
        let Some(pod) = &a.object else { return Ok(()) };
        let refuse = |why: &str| Err(Status::forbidden("", "pods", text(pod, &["metadata", "name"]), why));
        let own = selector_of(pod);
        if own.iter().any(|(k, v)| wanted.get(k).is_some_and(|w| w != v)) {
            return refuse("pod node label selector conflicts with its namespace node label selector");
        }
        let whitelist = parse(self.selectors.get(&a.namespace).map_or("", String::as_str))?;
        if !whitelist.is_empty() && !own.iter().all(|(k, v)| whitelist.get(k) == Some(v)) {
            return refuse("pod node label selector labels conflict with its namespace whitelist");
        }
        Ok(())
    }
}
