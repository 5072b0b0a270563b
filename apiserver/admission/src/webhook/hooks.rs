//! The configured webhooks, read again when a configuration changes, and which requests they want.

use crate::attributes::Attributes;
use crate::matching::{Criteria, Match};
use crate::objects::{at, items, name, strings, text};
use crate::scene::{Conditions, Judge, Scene};
use api::Value;
use api::registry::Registry;
use api::status::Result;
use arc_swap::ArcSwapOption;
use auth::Authorizer;
use std::sync::Arc;
use std::time::Duration;

pub const GROUP: &str = "admissionregistration.k8s.io";

/// One webhook of one configuration.
pub struct Hook {
    /// Unique among all hooks.
    pub id: String,
    pub configuration: String,
    pub name: String,
    pub client_config: Value,
    pub timeout: Duration,
    pub ignore_failure: bool,
    pub no_side_effects: bool,
    pub reinvoke_if_needed: bool,
    review_versions: Vec<String>,
    criteria: Criteria,
    conditions: Conditions,
}

impl Hook {
    fn read(configuration: &str, index: usize, v: &Value) -> Self {
        let hook = text(v, &["name"]);
        let seconds = at(v, &["timeoutSeconds"]).as_u64().unwrap_or(10).clamp(1, 30);
        Hook {
            id: format!("{configuration}/{hook}/{index}"),
            configuration: configuration.to_owned(),
            name: hook.to_owned(),
            client_config: at(v, &["clientConfig"]).clone(),
            timeout: Duration::from_secs(seconds),
            ignore_failure: text(v, &["failurePolicy"]) == "Ignore",
            no_side_effects: matches!(text(v, &["sideEffects"]), "None" | "NoneOnDryRun"),
            reinvoke_if_needed: text(v, &["reinvocationPolicy"]) == "IfNeeded",
            review_versions: strings(v, &["admissionReviewVersions"]),
            criteria: Criteria::of_webhook(v),
            conditions: Conditions::compile(items(v, &["matchConditions"]), false),
        }
    }

    /// The first version of AdmissionReview that both sides know.
    pub fn review_version(&self) -> Option<&'static str> {
        let known = |v: &String| ["v1", "v1beta1"].into_iter().find(|k| k == v);
        self.review_versions.iter().find_map(known)
    }

    /// How the hook is to see the request, if it wants to.
    pub async fn matches(&self, a: &Attributes, deps: &Asked<'_>) -> Result<Option<Match>> {
        let Some(found) = self.criteria.find(a, deps.registry).await? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(found));
        }
        let scene = Scene::new(a, &found, None);
        let judge = Judge::new(deps.authorizer, &a.user);
        match self.conditions.hold(&scene, None, &judge).await {
            Ok(true) => Ok(Some(found)),
            Ok(false) => Ok(None),
            Err(why) if self.ignore_failure => {
                tracing::warn!(webhook = self.name, why, "match conditions failed, failing open");
                Ok(None)
            }
            Err(why) => Err(a.forbidden(why)),
        }
    }
}

/// Whom matching may ask.
pub struct Asked<'a> {
    pub registry: &'a dyn Registry,
    pub authorizer: &'a dyn Authorizer,
}

type List = Arc<Vec<Arc<Hook>>>;

/// All hooks of one sort, by name of their configurations.
pub struct Hooks {
    registry: Arc<dyn Registry>,
    resource: &'static str,
    current: ArcSwapOption<(i64, List)>,
}

impl Hooks {
    pub fn new(registry: Arc<dyn Registry>, resource: &'static str) -> Self {
        Hooks { registry, resource, current: ArcSwapOption::empty() }
    }

    pub fn current(&self) -> List {
        let gr = (GROUP, self.resource);
        let revision = self.registry.revision(gr);
        if let Some(known) = self.current.load_full()
            && known.0 == revision
        {
            return known.1.clone();
        }
        let mut configurations = self.registry.list(gr, None);
        configurations.sort_by(|a, b| name(a).cmp(name(b)));
        let read = |c: &Arc<Value>| {
            let hooks = items(c, &["webhooks"]).iter().enumerate();
            hooks.map(|(i, v)| Arc::new(Hook::read(name(c), i, v))).collect::<Vec<_>>()
        };
        let list: List = Arc::new(configurations.iter().flat_map(read).collect());
        self.current.store(Some(Arc::new((revision, list.clone()))));
        list
    }
}
