//! Custom resources: from the definitions that are stored to the table and the routes of this server.
//!
//! Every change of a definition is looked at once: its names are accepted or refused, its resources come into the
//! routes, and only then is it called established. A definition that is being deleted takes its objects with it.

use admission::webhook::Clients;
use api::registry::Registry;
use api::resources::{Resource, Table};
use api::status::Result;
use api::{Map, Value};
use endpoints::served::{RoomRef, Routes, Served, Stored};
use endpoints::server::Server;
use endpoints::write::now;
use extensions::conversion::{Conversion, Webhook};
use extensions::room::Custom;
use extensions::status::{self, Taken};
use extensions::{Definition, stored};
use kinds::CUSTOM_RESOURCE_CLEANUP as CLEANUP;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

const GR: (&str, &str) = ("apiextensions.k8s.io", "customresourcedefinitions");
/// How long until objects with finalizers of their own are looked at again.
const RETRY: Duration = Duration::from_secs(1);

/// Serves what is defined until the server stops.
pub async fn run(server: Arc<Server>) {
    server.store.wait_ready().await;
    let Some(row) = server.storage_row(GR.0, GR.1) else { return };
    let Ok(stored) = row.stored() else { return };
    let mut changes = stored.resource.subscribe();
    let mut manager = Manager::new(server.clone());
    loop {
        let done = manager.sync().await;
        let again = *done.as_ref().unwrap_or(&true);
        super::note("custom resource definitions", done.map(drop));
        tokio::select! {
            () = tokio::time::sleep(RETRY), if again => {}
            changed = changes.changed() => if changed.is_err() { return },
        }
        // The more there are, the more is made anew at each change: then several are taken together.
        let patience = Duration::from_millis((manager.entries.len() as u64 / 20).min(100));
        if !patience.is_zero() {
            tokio::time::sleep(patience).await;
        }
    }
}

/// A definition in the routes, and the state of it that they were made from.
struct Entry {
    version: String,
    basis: Value,
    definition: Definition,
    served: Vec<Arc<Served>>,
}

struct Manager {
    server: Arc<Server>,
    builtin: Arc<Table>,
    routes: Vec<Arc<Served>>,
    clients: Arc<Clients>,
    /// By UID.
    entries: HashMap<String, Entry>,
    /// Definitions of which all is said, by UID: their versions. With a thousand of them nobody could look at all
    /// whenever one changes.
    settled: HashMap<String, String>,
}

fn uid(crd: &Value) -> &str {
    crd["metadata"]["uid"].as_str().unwrap_or_default()
}

fn version(crd: &Value) -> &str {
    crd["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

/// Whether nobody else has taken any of its names. What has been accepted stays so.
fn accepted(crd: &Value) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "NamesAccepted" && c["status"] == "True")
}

/// What of a definition decides what is served.
fn basis(crd: &Value) -> Value {
    let deleting = !crd["metadata"]["deletionTimestamp"].is_null();
    api::json!([crd["spec"], crd["status"]["acceptedNames"], deleting])
}

impl Manager {
    fn new(server: Arc<Server>) -> Manager {
        Manager {
            builtin: server.table.load_full(),
            routes: server.routes.load().all().to_vec(),
            clients: Arc::default(),
            entries: HashMap::new(),
            settled: HashMap::new(),
            server,
        }
    }

    /// One round over all definitions. Returns whether another is needed though nothing changes.
    async fn sync(&mut self) -> Result<bool> {
        let all = self.server.registry.list(GR, None);
        self.serve(&all);
        let mut again = false;
        for crd in &all {
            if crd["metadata"]["deletionTimestamp"].is_null() {
                if self.settled.get(uid(crd)).is_some_and(|v| v == version(crd)) {
                    continue;
                }
                if self.say(crd, &all).await? && accepted(crd) {
                    self.settled.insert(uid(crd).to_owned(), version(crd).to_owned());
                }
            } else {
                again |= self.clean_up(crd).await?;
            }
        }
        Ok(again)
    }

    /// Brings the routes in line with the definitions.
    fn serve(&mut self, all: &[Arc<Value>]) {
        let present: HashSet<&str> = all.iter().map(|crd| uid(crd)).collect();
        self.settled.retain(|uid, _| present.contains(uid.as_str()));
        let before = self.entries.len();
        let store = self.server.store.clone();
        self.entries.retain(|uid, entry| {
            let stays = present.contains(uid.as_str());
            if !stays {
                store.remove(&entry.definition.prefix());
            }
            stays
        });
        let mut changed = before != self.entries.len();
        for crd in all {
            if self.entries.get(uid(crd)).is_some_and(|e| e.version == version(crd)) {
                continue;
            }
            let basis = basis(crd);
            if let Some(entry) = self.entries.get_mut(uid(crd)).filter(|e| e.basis == basis) {
                entry.version = version(crd).to_owned();
                continue;
            }
            let Some(definition) = Definition::of(crd) else { continue };
            // What is kept of the objects was made by the old words: all is read again, and watches begin anew.
            if self.entries.get(uid(crd)).is_some_and(|e| e.basis[0] != basis[0]) {
                store.remove(&definition.prefix());
            }
            let served = self.routes_of(&definition);
            let version = version(crd).to_owned();
            self.entries.insert(uid(crd).to_owned(), Entry { version, basis, definition, served });
            changed = true;
        }
        if changed {
            self.swap();
        }
    }

    /// One route a served version; all of them read and write the same objects.
    fn routes_of(&self, definition: &Definition) -> Vec<Arc<Served>> {
        let Some(storage) = definition.storage() else { return Vec::new() };
        let resource = self.server.store.resource(stored::spec(definition));
        let webhook = matches!(*definition.conversion, Conversion::Webhook { .. });
        let route = |version: &Arc<extensions::Version>| {
            let room: Arc<dyn kinds::Room> = Arc::new(Custom::new(version));
            // Without a webhook all versions have one shape, and the request's own schema judges.
            let judge = if webhook { storage } else { version };
            let place = Stored {
                resource: resource.clone(),
                gvk: definition.gvk(&storage.name),
                message: None,
                room: RoomRef::Owned(Arc::new(Custom::new(judge))),
                ttl: None,
                gated: false,
            };
            let row = Arc::new(definition.row(version));
            let mut served = Served::with(row, RoomRef::Owned(room), None, Some(place));
            served.convert = self.webhook(definition);
            served.scale = version.scale.clone();
            served.deprecation = version.deprecation.clone();
            Arc::new(served)
        };
        definition.versions.iter().filter(|v| v.served).map(route).collect()
    }

    fn webhook(&self, definition: &Definition) -> Option<Arc<dyn endpoints::served::Convert>> {
        let Conversion::Webhook { client_config, .. } = &*definition.conversion else { return None };
        Some(Arc::new(Webhook {
            client_config: client_config.clone(),
            clients: self.clients.clone(),
            registry: Arc::downgrade(&self.server.registry),
            runtime: tokio::runtime::Handle::current(),
            kind: definition.kind.clone(),
        }))
    }

    /// The routes come first: what discovery names can be asked for.
    fn swap(&self) {
        let custom = || self.entries.values().flat_map(|e| &e.served);
        let routes = self.routes.iter().chain(custom()).cloned().collect();
        self.server.routes.store(Arc::new(Routes::new(routes)));
        let rows: Vec<Resource> = custom().map(|s| (*s.row).clone()).collect();
        self.server.table.store(Arc::new(self.builtin.with(rows, [])));
    }

    /// Writes the status, or returns true as there is nothing new to say.
    async fn say(&self, crd: &Value, all: &[Arc<Value>]) -> Result<bool> {
        let served = self.entries.contains_key(uid(crd));
        let status = status::wanted(crd, &Taken::by_others(crd, all), served, &now());
        if status == crd["status"] {
            return Ok(true);
        }
        let mut new = crd.clone();
        new["status"] = status;
        written(self.server.registry.update(GR, "status", new).await).map(|()| false)
    }

    /// Deletes the objects of a definition that is going, then lets it go. Returns whether some are left.
    async fn clean_up(&self, crd: &Value) -> Result<bool> {
        let registry = &*self.server.registry;
        let name = crd["metadata"]["name"].as_str().unwrap_or_default();
        let finalizers = crd["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if !finalizers.iter().any(|f| f == CLEANUP) {
            return Ok(false);
        }
        let uid = crd["metadata"]["uid"].as_str().unwrap_or_default();
        if let Some(entry) = self.entries.get(uid) {
            let (reason, text) = ("InstanceDeletionInProgress", "CustomResource deletion is in progress");
            self.terminating(crd, reason, text).await?;
            if delete_objects(registry, &entry.definition).await? > 0 {
                return Ok(true);
            }
        }
        let mut rest = registry.get_live(GR, "", name).await?;
        let kept: Vec<Value> = finalizers.into_iter().filter(|f| f != CLEANUP).collect();
        if kept.is_empty() {
            return written(registry.delete(GR, "", name).await).map(|()| false);
        }
        rest["metadata"]["finalizers"] = kept.into();
        written(registry.update(GR, "", rest).await).map(|()| false)
    }

    async fn terminating(&self, crd: &Value, reason: &str, message: &str) -> Result<()> {
        let mut status: Map<String, Value> = crd["status"].as_object().cloned().unwrap_or_default();
        status::set(&mut status, status::condition("Terminating", true, reason, message), &now());
        let status = Value::from(status);
        if status == crd["status"] {
            return Ok(());
        }
        let mut new = crd.clone();
        new["status"] = status;
        written(self.server.registry.update(GR, "status", new).await)
    }
}

/// Somebody else was faster: the next change shows what they did.
fn written<T>(done: Result<T>) -> Result<()> {
    match done {
        Err(e) if matches!(e.reason, "Conflict" | "NotFound") => Ok(()),
        other => other.map(drop),
    }
}

/// Deletes all objects, and returns how many are still there: those with finalizers are only marked.
async fn delete_objects(registry: &dyn Registry, definition: &Definition) -> Result<usize> {
    let gr = (definition.group.as_str(), definition.plural.as_str());
    let mut left = 0;
    for object in registry.list(gr, None) {
        let meta = &object["metadata"];
        let text = |key: &str| meta[key].as_str().unwrap_or_default();
        let finalizers = meta["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        if !finalizers {
            written(registry.delete(gr, text("namespace"), text("name")).await)?;
            continue;
        }
        left += 1;
        if meta["deletionTimestamp"].is_null() {
            let mut marked = (*object).clone();
            marked["metadata"]["deletionTimestamp"] = now().into();
            marked["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            written(registry.update(gr, "", marked).await)?;
        }
    }
    Ok(left)
}
