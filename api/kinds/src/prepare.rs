//! Who may write what: the rules that nearly every kind shares, as data.

use crate::value::{Get, Put, identical};
use crate::{Context, Operation};
use api::Value;

/// What a status update leaves alone beside the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusMeta {
    /// Metadata may change with the status.
    Open,
    /// `metadata.labels` stay.
    KeepLabels,
    /// All of metadata that users write stays.
    Keep,
}

/// How a write treats status, spec and generation.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The kind has a status that only its subresource writes.
    pub status: bool,
    pub status_meta: StatusMeta,
    /// Top-level fields whose change counts a new generation; none: generation is not kept.
    pub generation: &'static [&'static str],
}

impl Plan {
    pub const NONE: Plan = Plan { status: false, status_meta: StatusMeta::Open, generation: &[] };
    pub const STATUS: Plan = Plan { status: true, ..Plan::NONE };
    pub const GENERATION: Plan = Plan { generation: &["spec"], ..Plan::NONE };
    pub const FULL: Plan = Plan { status: true, ..Plan::GENERATION };

    pub fn apply(&self, op: Operation, cx: &Context<'_>, new: &mut Value, old: Option<&Value>) {
        match (op, old) {
            (Operation::Update, Some(old)) if cx.subresource == "status" => self.status_update(new, old),
            (Operation::Update, Some(old)) if cx.subresource.is_empty() => self.update(new, old),
            (Operation::Update, _) => {}
            (Operation::Create, _) => self.create(new),
        }
    }

    fn create(&self, new: &mut Value) {
        if self.status {
            new.unset("status");
        }
        if !self.generation.is_empty() {
            new.ensure("metadata").set("generation", 1);
        }
    }

    fn update(&self, new: &mut Value, old: &Value) {
        if self.status {
            new.copy_from(old, "status");
        }
        if self.generation.iter().any(|f| !identical(new.at(f), old.at(f))) {
            bump_generation(new, old);
        }
    }

    fn status_update(&self, new: &mut Value, old: &Value) {
        keep_all_but(new, old, &["status", "metadata"]);
        match self.status_meta {
            StatusMeta::Open => {}
            StatusMeta::KeepLabels => new.ensure("metadata").copy_from(old.at("metadata"), "labels"),
            StatusMeta::Keep => keep_user_metadata(new, old),
        }
    }

    /// The paths that a write to the subresource leaves alone.
    pub fn reset_fields(&self, subresource: &str) -> &'static [&'static [&'static str]] {
        match (self.status, subresource, self.status_meta) {
            (true, "", _) => &[&["status"]],
            (true, "status", StatusMeta::Open) => &[&["spec"]],
            (true, "status", StatusMeta::KeepLabels) => &[&["spec"], &["metadata", "labels"]],
            (true, "status", StatusMeta::Keep) => &[
                &["spec"],
                &["metadata", "deletionTimestamp"],
                &["metadata", "generation"],
                &["metadata", "selfLink"],
                &["metadata", "labels"],
                &["metadata", "annotations"],
                &["metadata", "finalizers"],
                &["metadata", "ownerReferences"],
            ],
            _ => &[],
        }
    }
}

/// One more than the stored object's generation.
pub fn bump_generation(new: &mut Value, old: &Value) {
    let next = old.at("metadata").int("generation") + 1;
    new.ensure("metadata").set("generation", next);
}

/// Makes every top-level field but the named ones (and the type) what it was.
pub fn keep_all_but(new: &mut Value, old: &Value, but: &[&str]) {
    let mut fields: Vec<String> = Vec::new();
    for side in [&*new, old] {
        fields.extend(side.as_object().into_iter().flatten().map(|(k, _)| k.clone()));
    }
    for field in fields {
        if !but.contains(&field.as_str()) && field != "kind" && field != "apiVersion" {
            new.copy_from(old, &field);
        }
    }
}

/// Metadata as stored, for subresources that may not touch it.
pub fn keep_user_metadata(new: &mut Value, old: &Value) {
    let (meta, was) = (new.ensure("metadata"), old.at("metadata"));
    for field in [
        "deletionTimestamp",
        "generation",
        "selfLink",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        meta.copy_from(was, field);
    }
}
