//! What is in the kernel's table, and the transactions that change it by difference.
//!
//! The cost of a change is that of the Services that changed, never that of all. Elements can be wanted by several
//! Services (an external address that two claim, an endpoint behind two); the first who came has it, the next inherits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::time::Duration;

use tokio::time::Instant;

use crate::model::Family;
use crate::plan::{Container, Plan};
use crate::rules::TABLE;

/// A chain that nothing leads to any more may still be referred to by an element that the kernel has not freed yet:
/// it is emptied at once and deleted this much later.
const CHAIN_GRACE: Duration = Duration::from_secs(1);

/// The Services' part of one family's table.
pub struct Table {
    family: Family,
    plans: HashMap<String, Plan>,
    wanted: HashMap<(Container, String), Vec<(String, String)>>,
    stale: BTreeMap<String, Instant>,
    no_local: (usize, usize),
}

/// Commands under way, in the order in which nft must see them.
#[derive(Default)]
pub struct Transaction {
    sets: Vec<(String, u32)>,
    chains: Vec<(String, Vec<String>)>,
    deleted: BTreeMap<Container, Vec<String>>,
    added: BTreeMap<Container, Vec<String>>,
    emptied: Vec<String>,
    removed_sets: Vec<String>,
}

impl Table {
    /// An empty table.
    pub fn new(family: Family) -> Table {
        Table {
            family,
            plans: HashMap::new(),
            wanted: HashMap::new(),
            stale: BTreeMap::new(),
            no_local: (0, 0),
        }
    }

    /// Forgets everything: the kernel's table is about to be made anew.
    pub fn clear(&mut self) {
        *self = Table::new(self.family);
    }

    /// Sums of what the plans could not serve locally: internal, external.
    pub fn no_local(&self) -> (usize, usize) {
        self.no_local
    }

    /// Puts, replaces or (by an empty plan) removes a Service's plan.
    pub fn update(&mut self, service: &str, plan: Plan, tx: &mut Transaction) {
        let old = self.plans.remove(service).unwrap_or_default();
        if old == plan {
            if plan != Plan::default() {
                self.plans.insert(service.to_owned(), plan);
            }
            return;
        }
        self.no_local.0 = self.no_local.0 + plan.no_local_internal - old.no_local_internal;
        self.no_local.1 = self.no_local.1 + plan.no_local_external - old.no_local_external;
        for (name, timeout) in plan.affinity.iter().filter(|(n, _)| !old.affinity.contains_key(*n)) {
            tx.sets.push((name.clone(), *timeout));
        }
        for (name, rules) in plan.chains.iter().filter(|(n, r)| old.chains.get(*n) != Some(*r)) {
            self.stale.remove(name);
            tx.chains.push((name.clone(), rules.clone()));
        }
        self.update_elements(service, &old, &plan, tx);
        for name in old.chains.keys().filter(|n| !plan.chains.contains_key(*n)) {
            self.stale.insert(name.clone(), Instant::now());
            tx.emptied.push(name.clone());
        }
        tx.removed_sets.extend(old.affinity.keys().filter(|n| !plan.affinity.contains_key(*n)).cloned());
        if plan != Plan::default() {
            self.plans.insert(service.to_owned(), plan);
        }
    }

    fn update_elements(&mut self, service: &str, old: &Plan, new: &Plan, tx: &mut Transaction) {
        let keys: BTreeSet<_> = old.elements.keys().chain(new.elements.keys()).collect();
        for key in keys {
            let (before, after) = (old.elements.get(key), new.elements.get(key));
            if before == after {
                continue;
            }
            let claims = self.wanted.entry(key.clone()).or_default();
            let had = claims.first().map(|(_, v)| v.clone());
            match (claims.iter_mut().find(|(s, _)| s == service), after) {
                (Some(claim), Some(value)) => claim.1.clone_from(value),
                (None, Some(value)) => claims.push((service.to_owned(), value.clone())),
                (_, None) => claims.retain(|(s, _)| s != service),
            }
            let has = claims.first().map(|(_, v)| v.clone());
            if claims.is_empty() {
                self.wanted.remove(key);
            }
            tx.change_element(key, had, has);
        }
    }

    /// The commands that delete chains which have been empty for long enough.
    pub fn collect_stale(&mut self) -> Option<String> {
        let now = Instant::now();
        let ripe: Vec<String> =
            self.stale.iter().filter(|(_, t)| now >= **t + CHAIN_GRACE).map(|(n, _)| n.clone()).collect();
        let mut out = String::new();
        for name in &ripe {
            self.stale.remove(name);
            let _ = writeln!(out, "delete chain {} {TABLE} {name}", self.family.nft());
        }
        (!out.is_empty()).then_some(out)
    }

    /// When the next chain can be deleted.
    pub fn next_stale(&self) -> Option<Instant> {
        self.stale.values().min().map(|t| *t + CHAIN_GRACE)
    }
}

impl Transaction {
    fn change_element(
        &mut self,
        (container, key): &(Container, String),
        had: Option<String>,
        has: Option<String>,
    ) {
        if had == has {
            return;
        }
        let text = |value: String| if value.is_empty() { key.clone() } else { format!("{key} : {value}") };
        if let Some(value) = had {
            self.deleted.entry(*container).or_default().push(text(value));
        }
        if let Some(value) = has {
            self.added.entry(*container).or_default().push(text(value));
        }
    }

    /// The affinity sets that are made, with their timeouts.
    pub fn new_sets(&self) -> &[(String, u32)] {
        &self.sets
    }

    /// The transaction's text for `nft -f`.
    pub fn render(&self, family: Family) -> String {
        let (f, address) = (family.nft(), family.address_type());
        let mut out = String::new();
        for (name, timeout) in &self.sets {
            let _ = writeln!(
                out,
                "add set {f} {TABLE} {name} {{ type {address} ; flags dynamic,timeout ; timeout {timeout}s ; }}"
            );
        }
        // First all chains, because rules go to each other's.
        for (name, _) in &self.chains {
            let _ = writeln!(out, "add chain {f} {TABLE} {name}\nflush chain {f} {TABLE} {name}");
        }
        for (name, rules) in &self.chains {
            for rule in rules {
                let _ = writeln!(out, "add rule {f} {TABLE} {name} {rule}");
            }
        }
        for (verb, elements) in [("delete", &self.deleted), ("add", &self.added)] {
            for (container, list) in elements {
                let _ = writeln!(
                    out,
                    "{verb} element {f} {TABLE} {} {{ {} }}",
                    container.name(),
                    list.join(", ")
                );
            }
        }
        for name in &self.emptied {
            let _ = writeln!(out, "flush chain {f} {TABLE} {name}");
        }
        for name in &self.removed_sets {
            let _ = writeln!(out, "delete set {f} {TABLE} {name}");
        }
        out
    }
}

#[cfg(test)]
mod tests;
