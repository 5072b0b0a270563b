//! Who owns whom, over every deletable object of the cluster. Pure data: what events do to the graph and
//! which objects have to be looked at because of them.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use rustc_hash::FxHashMap;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// An object by its uid.
pub(super) type Uid = Arc<str>;

/// Where an object is found.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub api_version: Arc<str>,
    pub kind: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub identity: Identity,
    pub owners: Vec<OwnerReference>,
    pub dependents: HashSet<Uid>,
    pub deleting: bool,
    /// Being deleted in the foreground: it goes when the dependents that block it are gone.
    pub waits: bool,
    /// Known only from a reference to it, not seen itself.
    pub hearsay: bool,
}

/// What an event calls for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Objects that may have to go.
    pub delete: Vec<Uid>,
    /// Owners whose dependents are to be set free.
    pub orphan: Vec<Uid>,
}

#[derive(Default)]
pub(super) struct Graph {
    pub nodes: FxHashMap<Uid, Node>,
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == finalizer))
}

impl Graph {
    /// An object was added or changed.
    pub fn observe(&mut self, identity: Identity, meta: &ObjectMeta) -> Work {
        let mut work = Work::default();
        let Some(uid) = meta.uid.as_deref().map(Uid::from) else { return work };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let before = self.nodes.get(&uid).map(|n| (n.owners.clone(), n.deleting, n.waits, n.hearsay));
        let (old_owners, was_deleting, waited, hearsay) = before.unwrap_or((Vec::new(), false, false, true));
        let waits = deleting && has(meta, FOREGROUND);
        let node = self.nodes.entry(uid.clone()).or_insert_with(|| Node {
            identity: identity.clone(),
            owners: Vec::new(),
            dependents: HashSet::new(),
            deleting: false,
            waits: false,
            hearsay: false,
        });
        // Children that named this uid at another place are looked at: their reference points nowhere.
        let misnamed = hearsay && node.identity != identity && !node.dependents.is_empty();
        if misnamed {
            work.delete.extend(node.dependents.iter().cloned());
        }
        node.identity = identity;
        node.hearsay = false;
        node.owners = owners.clone();
        node.deleting = deleting;
        node.waits = waits;
        if waits && !waited {
            work.delete.extend(node.dependents.iter().cloned());
            work.delete.push(uid.clone());
        }
        if deleting && (!was_deleting || hearsay) && has(meta, ORPHAN) {
            work.orphan.push(uid.clone());
        }
        self.relink(&uid, &old_owners, &owners, &mut work);
        work
    }

    fn relink(&mut self, uid: &Uid, old: &[OwnerReference], new: &[OwnerReference], work: &mut Work) {
        for gone in old.iter().filter(|o| !new.iter().any(|n| n.uid == o.uid)) {
            if let Some(owner) = self.nodes.get_mut(gone.uid.as_str()) {
                owner.dependents.remove(uid);
                if owner.waits {
                    work.delete.push(gone.uid.as_str().into());
                }
            }
        }
        for unblocked in new.iter().filter(|n| n.block_owner_deletion != Some(true)) {
            let blocked = old.iter().any(|o| o.uid == unblocked.uid && o.block_owner_deletion == Some(true));
            if blocked && self.nodes.get(unblocked.uid.as_str()).is_some_and(|o| o.waits) {
                work.delete.push(unblocked.uid.as_str().into());
            }
        }
        let namespace =
            self.nodes.get(uid).map(|n| n.identity.namespace.clone()).unwrap_or_else(|| "".into());
        let mut doubtful = false;
        for added in new.iter().filter(|n| !old.iter().any(|o| o.uid == n.uid)) {
            let owner_uid: Uid = added.uid.as_str().into();
            let owner = self.nodes.entry(owner_uid.clone()).or_insert_with(|| {
                work.delete.push(owner_uid);
                Node {
                    identity: Identity {
                        api_version: added.api_version.as_str().into(),
                        kind: added.kind.as_str().into(),
                        namespace: namespace.clone(),
                        name: added.name.as_str().into(),
                    },
                    owners: Vec::new(),
                    dependents: HashSet::new(),
                    deleting: false,
                    waits: false,
                    hearsay: true,
                }
            });
            owner.dependents.insert(uid.clone());
            let id = &owner.identity;
            let elsewhere = *id.name != *added.name
                || *id.kind != *added.kind
                || (!id.namespace.is_empty() && id.namespace != namespace);
            doubtful |= elsewhere || (owner.waits && !owner.hearsay);
        }
        if doubtful {
            work.delete.push(uid.clone());
        }
    }

    /// An object is gone: its dependents lost an owner, its waiting owners one reason to wait.
    pub fn forget(&mut self, uid: &str) -> Work {
        let mut work = Work::default();
        let Some(node) = self.nodes.remove(uid) else { return work };
        for owner in &node.owners {
            if let Some(owner_node) = self.nodes.get_mut(owner.uid.as_str()) {
                owner_node.dependents.remove(uid);
                if owner_node.waits {
                    work.delete.push(owner.uid.as_str().into());
                }
                // Nobody refers to it any more and it was never seen: nothing is known of it.
                if owner_node.hearsay && owner_node.dependents.is_empty() {
                    self.nodes.remove(owner.uid.as_str());
                }
            }
        }
        work.delete.extend(node.dependents);
        work
    }

    /// The dependents that keep a waiting owner from going.
    pub fn blocking(&self, uid: &str) -> Vec<Uid> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        let blocks = |dependent: &&Uid| {
            self.nodes.get(*dependent).is_some_and(|d| {
                d.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true))
            })
        };
        node.dependents.iter().filter(blocks).cloned().collect()
    }
}

/// What the owners of an object turned out to be.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// There, and not waiting for dependents.
    pub solid: Vec<OwnerReference>,
    /// Not there.
    pub dangling: Vec<OwnerReference>,
    /// Being deleted in the foreground.
    pub waiting: Vec<OwnerReference>,
}

/// What has to happen to an object with such owners.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Some owner holds it: forget the others.
    DropOwners(Vec<String>),
    /// All its owners that are left wait for it, and it has dependents itself.
    DeleteForeground,
    /// No owner is left.
    Delete,
}

/// Decides over an object by its owners.
pub(super) fn judge(owners: &Owners, has_dependents: bool) -> Verdict {
    let uids = |list: &[OwnerReference]| list.iter().map(|o| o.uid.clone()).collect::<Vec<_>>();
    if !owners.solid.is_empty() {
        let mut gone = uids(&owners.dangling);
        gone.extend(uids(&owners.waiting));
        return if gone.is_empty() { Verdict::Keep } else { Verdict::DropOwners(gone) };
    }
    if owners.waiting.is_empty() && owners.dangling.is_empty() {
        return Verdict::Keep;
    }
    if !owners.waiting.is_empty() && has_dependents { Verdict::DeleteForeground } else { Verdict::Delete }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id(name: &str) -> Identity {
        Identity { api_version: "v1".into(), kind: "Pod".into(), namespace: "n".into(), name: name.into() }
    }

    fn meta(uid: &str, owners: &[(&str, bool)], finalizers: &[&str], deleting: bool) -> ObjectMeta {
        let owners: Vec<_> = owners
            .iter()
            .map(|(o, b)| json!({"apiVersion": "v1", "kind": "Pod", "name": o, "uid": o, "blockOwnerDeletion": b}))
            .collect();
        let mut m = json!({"uid": uid, "name": uid, "ownerReferences": owners, "finalizers": finalizers});
        if deleting {
            m["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        serde_json::from_value(m).unwrap()
    }

    fn names(uids: &[Uid]) -> Vec<&str> {
        let mut names: Vec<_> = uids.iter().map(|u| &**u).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_lost_owner_puts_its_dependents_in_question() {
        let mut g = Graph::default();
        // A dependent seen first makes its owner hearsay, which is verified.
        assert_eq!(names(&g.observe(id("b"), &meta("b", &[("a", true)], &[], false)).delete), ["a"]);
        assert_eq!(g.observe(id("a"), &meta("a", &[], &[], false)), Work::default());
        assert_eq!(names(&g.forget("a").delete), ["b"]);
        assert!(g.forget("zzz").delete.is_empty());
    }

    #[test]
    fn foreground_deletion_waits_for_blocking_dependents() {
        let mut g = Graph::default();
        g.observe(id("a"), &meta("a", &[], &[], false));
        g.observe(id("b"), &meta("b", &[("a", true)], &[], false));
        g.observe(id("c"), &meta("c", &[("a", false)], &[], false));
        let work = g.observe(id("a"), &meta("a", &[], &[FOREGROUND], true));
        assert_eq!(names(&work.delete), ["a", "b", "c"]);
        assert_eq!(names(&g.blocking("a")), ["b"]);
        assert_eq!(names(&g.observe(id("b"), &meta("b", &[("a", false)], &[], false)).delete), ["a"]);
        assert!(g.blocking("a").is_empty());
        assert_eq!(names(&g.forget("b").delete), ["a"]);
    }

    #[test]
    fn orphaning_is_asked_for_once() {
        let mut g = Graph::default();
        g.observe(id("a"), &meta("a", &[], &[], false));
        assert_eq!(names(&g.observe(id("a"), &meta("a", &[], &[ORPHAN], true)).orphan), ["a"]);
        assert!(g.observe(id("a"), &meta("a", &[], &[ORPHAN], true)).orphan.is_empty());
    }

    #[test]
    fn verdicts() {
        let o = |uid: &str| OwnerReference { uid: uid.into(), ..OwnerReference::default() };
        let cases = [
            (vec![], vec![], vec![], false, Verdict::Keep),
            (vec![o("s")], vec![], vec![], false, Verdict::Keep),
            (
                vec![o("s")],
                vec![o("d")],
                vec![o("w")],
                true,
                Verdict::DropOwners(vec!["d".into(), "w".into()]),
            ),
            (vec![], vec![o("d")], vec![], true, Verdict::Delete),
            (vec![], vec![], vec![o("w")], false, Verdict::Delete),
            (vec![], vec![o("d")], vec![o("w")], true, Verdict::DeleteForeground),
        ];
        for (solid, dangling, waiting, dependents, want) in cases {
            assert_eq!(judge(&Owners { solid, dangling, waiting }, dependents), want);
        }
    }
}
