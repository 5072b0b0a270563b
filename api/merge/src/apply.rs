//! Server-side apply: merging a configuration into an object by the ownership of its fields.

use crate::managed::{self, Entry, Managed, Manager, Versions};
use crate::reset::Filter;
use crate::set::Set;
use crate::typed::{self, compare, field_set};
use crate::typing::Type;
use api::status::{Cause, Details, Status};
use api::{GroupVersionKind, Value, json};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A field that someone else owns at another value.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflict {
    pub manager: Manager,
    /// Readable, e.g. `.spec.replicas`.
    pub path: String,
}

impl Conflict {
    /// As the error texts name the manager.
    fn who(&self) -> String {
        let m = &self.manager;
        let mut out = format!("{:?}", m.name);
        if !m.subresource.is_empty() {
            out += &format!(" with subresource {:?}", m.subresource);
        }
        if m.operation == managed::Operation::Update {
            out += &format!(" using {}", m.api_version);
        }
        out
    }
}

/// Why an apply did not go through without force.
#[derive(Clone, Debug, PartialEq)]
pub struct Conflicts(pub Vec<Conflict>);

impl Conflicts {
    fn message(&self) -> String {
        if let [one] = self.0.as_slice() {
            return format!("Apply failed with 1 conflict: conflict with {}: {}", one.who(), one.path);
        }
        let mut managers: Vec<String> = self.0.iter().map(Conflict::who).collect();
        managers.sort();
        managers.dedup();
        let mut lines = Vec::new();
        for who in managers {
            lines.push(format!("conflicts with {who}:"));
            lines.extend(self.0.iter().filter(|c| c.who() == who).map(|c| format!("- {}", c.path)));
        }
        format!("Apply failed with {} conflicts: {}", self.0.len(), lines.join("\n"))
    }

    /// The 409 with one cause a field.
    pub fn to_status(&self) -> Status {
        let mut status = Status::new(409, "Conflict", self.message());
        let mut all: Vec<&Conflict> = self.0.iter().collect();
        all.sort_by_cached_key(|c| c.who());
        let causes = all.into_iter().map(|c| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {}", c.who()),
            field: c.path.clone(),
        });
        status.details = Some(Box::new(Details { causes: causes.collect(), ..Default::default() }));
        status
    }
}

enum Failure {
    Conflicts(Conflicts, Vec<Set>),
    Status(Status),
}

/// Merges `applied` into `live` (the empty object of the kind when it is created).
///
/// The result has its `managedFields` set, but is otherwise as merged: the caller conforms, defaults,
/// admits and validates it as any new object. It equals `live` if nothing changed.
#[expect(clippy::too_many_arguments, reason = "each is a parameter of the request")]
pub fn apply(
    versions: &dyn Versions,
    gvk: &GroupVersionKind,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager,
    force: bool,
    filter: &Filter,
    now: &str,
) -> Result<Value, Status> {
    let ty = versions
        .typing(&manager.api_version)
        .ok_or_else(|| Status::internal(format!("no type for {}", manager.api_version)))?;
    check_request(ty, gvk, applied)?;
    let live = live.unwrap_or_else(|| managed::empty_object(ty));
    let mut managed = Managed::decode(Some(live))
        .map_err(|e| Status::internal(format!("failed to decode managed fields: {e}")))?;
    if managed.0.is_empty() {
        // What is there already is put down to a manager, so that it can be told from what is applied.
        let earlier = Manager::update("before-first-apply", &manager.api_version, &manager.subresource);
        let empty = managed::empty_object(ty);
        managed::record(versions, ty, empty, live, &mut managed, &earlier, filter, now);
    }
    let step = Step { versions, ty, live, applied, manager, filter, now };
    let mut out = match step.run(managed.clone(), force) {
        Ok(out) => out,
        Err(Failure::Status(s)) => return Err(s),
        Err(Failure::Conflicts(conflicts, sets)) => {
            let left =
                if manager.name == "kubectl" { not_last_applied(ty, live, &conflicts, &sets) } else { None };
            match left {
                // All conflicts are with kubectl's own client-side past.
                Some(none) if none.0.is_empty() => match step.run(managed, true) {
                    Ok(out) => out,
                    Err(Failure::Status(s)) => return Err(s),
                    Err(Failure::Conflicts(c, _)) => return Err(c.to_status()),
                },
                Some(some) => return Err(some.to_status()),
                None => return Err(conflicts.to_status()),
            }
        }
    };
    if manager.name == "kubectl" {
        refresh_last_applied(&mut out, applied);
    }
    Ok(out)
}

fn check_request(ty: Type<'_>, gvk: &GroupVersionKind, applied: &Value) -> Result<(), Status> {
    let text = |key: &str| applied.get(key).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != gvk.api_version() || text("kind") != gvk.kind {
        let (version, kind) = (text("apiVersion"), text("kind"));
        return Err(Status::bad_request(format!("invalid object type: {version}, Kind={kind}")));
    }
    if applied.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let mut errors = Vec::new();
    typed::validate(ty, applied, &mut String::new(), &mut errors);
    if errors.is_empty() {
        return Ok(());
    }
    let meta =
        |key: &str| applied.pointer(&format!("/metadata/{key}")).and_then(Value::as_str).unwrap_or_default();
    let body = match errors.as_slice() {
        [one] => one.clone(),
        many => format!("errors:\n{}", many.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n")),
    };
    let object = format!("{}/{}", meta("namespace"), meta("name"));
    let id = format!("{object}; {}/{}, Kind={}", gvk.group, gvk.version, gvk.kind);
    Err(Status::new(500, "", format!("failed to create typed patch object ({id}): {body}")))
}

struct Step<'a> {
    versions: &'a dyn Versions,
    ty: Type<'a>,
    live: &'a Value,
    applied: &'a Value,
    manager: &'a Manager,
    filter: &'a Filter,
    now: &'a str,
}

impl Step<'_> {
    fn run(&self, mut managed: Managed, force: bool) -> Result<Value, Failure> {
        let merged = typed::merge(self.ty, Some(self.live), Some(self.applied)).unwrap_or_else(|| json!({}));
        let last = managed.take(self.manager);
        let set = self.filter.apply(field_set(self.ty, self.applied));
        let time = last.as_ref().and_then(|e| e.time.clone());
        let mut mine = Entry { manager: self.manager.clone(), time, set };
        let new = match &last {
            Some(last) => self.prune(merged, &managed, &mine, last).map_err(Failure::Status)?,
            None => merged,
        };
        let diff = compare(self.ty, Some(self.live), Some(&new)).map(|s| self.filter.apply(s));
        if !force {
            self.check_conflicts(&managed, &new, &diff)?;
        }
        managed::disown_everywhere(
            &mut managed,
            self.versions,
            self.filter,
            self.manager,
            self.live,
            &new,
            &diff,
        );
        let unchanged = new == *self.live;
        mine.set.remove_all(managed::server_fields(), false);
        mine.set.member = false;
        // A claim to fields that have these values already is recorded without a time, as upstream does.
        if !unchanged {
            mine.time = managed::stamp(self.now);
        }
        managed.put(mine);
        let mut out = new;
        managed.encode_into(&mut out);
        Ok(out)
    }

    fn check_conflicts(&self, managed: &Managed, new: &Value, diff: &typed::Diff) -> Result<(), Failure> {
        let (mut conflicts, mut sets) = (Vec::new(), Vec::new());
        let changed = diff.modified.clone().union(&diff.added);
        for e in &managed.0 {
            let version = &e.manager.api_version;
            let foreign = if *version == self.manager.api_version {
                None
            } else {
                let at = |v: &Value| self.versions.convert(v, version);
                let (Some(old), Some(new), Some(ty)) =
                    (at(self.live), at(new), self.versions.typing(version))
                else {
                    continue;
                };
                let d = compare(ty, Some(&old), Some(&new)).map(|s| self.filter.apply(s));
                Some(d.modified.union(&d.added))
            };
            let set = e.set.intersection(foreign.as_ref().unwrap_or(&changed));
            for path in set.paths() {
                conflicts.push(Conflict { manager: e.manager.clone(), path });
            }
            if !set.is_empty() {
                sets.push(set);
            }
        }
        if conflicts.is_empty() { Ok(()) } else { Err(Failure::Conflicts(Conflicts(conflicts), sets)) }
    }

    /// Removes what this manager applied before, does not apply now, and nobody else owns.
    fn prune(&self, merged: Value, managed: &Managed, mine: &Entry, last: &Entry) -> Result<Value, Status> {
        if last.set.is_empty() {
            return Ok(merged);
        }
        let version = &last.manager.api_version;
        let same = *version == self.manager.api_version;
        let (ty, merged) = if same {
            (self.ty, merged)
        } else {
            match (self.versions.typing(version), self.versions.convert(&merged, version)) {
                (Some(ty), Some(converted)) => (ty, converted),
                _ => return Ok(merged),
            }
        };
        let last_set = typed::with_named_fields(&last.set, ty);
        let pruned = typed::remove(ty, &merged, &last_set).unwrap_or_else(|| json!({}));
        let merged_set = typed::with_named_fields(&field_set(ty, &merged), ty);
        let named = |v: &Value| typed::with_named_fields(&field_set(ty, v), ty);

        // What any manager still owns comes back …
        let mut owned = mine.set.clone();
        managed.0.iter().for_each(|e| owned.union_with(&e.set));
        let keep = named(&pruned).union(&typed::with_named_fields(&owned, ty));
        let gone = merged_set.difference(&keep);
        let pruned = typed::remove(ty, &merged, &gone).unwrap_or_else(|| json!({}));

        // … and so does what only hung below something that was removed.
        let gone = merged_set.difference(&named(&pruned)).intersection(&last_set);
        let out = typed::remove(ty, &merged, &gone).unwrap_or_else(|| json!({}));
        if same {
            return Ok(out);
        }
        let back = self.versions.convert(&out, &self.manager.api_version);
        back.ok_or_else(|| Status::internal("failed to convert pruned object"))
    }
}

/// Conflicts about fields that `kubectl apply` set on the client side to what is live now are no conflicts.
fn not_last_applied(ty: Type<'_>, live: &Value, conflicts: &Conflicts, sets: &[Set]) -> Option<Conflicts> {
    let text = live.get("metadata")?.get("annotations")?.get(LAST_APPLIED)?.as_str()?;
    let last: Value = serde_json::from_str(text).ok()?;
    if last.get("apiVersion")? != live.get("apiVersion")? {
        return None;
    }
    let diff = compare(ty, Some(&last), Some(live));
    let allowed =
        field_set(ty, &last).difference(&diff.modified).difference(&diff.added).difference(&diff.removed);
    let mut refused = Vec::new();
    for set in sets {
        refused.extend(set.difference(&allowed).paths());
    }
    Some(Conflicts(conflicts.0.iter().filter(|c| refused.contains(&c.path)).cloned().collect()))
}

/// Keeps the client-side annotation true, so that one can go back to client-side apply.
fn refresh_last_applied(out: &mut Value, applied: &Value) {
    let Some(annotations) = out.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    if annotations.get(LAST_APPLIED).and_then(Value::as_str).is_none_or(str::is_empty) {
        return;
    }
    let mut plain = applied.clone();
    if let Some(a) = plain.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        a.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.into(), format!("{}\n", json::to_string(&plain)).into());
}

#[cfg(test)]
mod tests;
