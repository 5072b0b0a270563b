//! The arithmetic of a rollout: which replica set gets which size next. Pure functions.

use std::sync::Arc;

use controller_kit::meta::MetaExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub(super) const HASH: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
pub(super) const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Replica sets are shared with the cache and replaced as they are written.
pub(super) type Sets = Vec<Arc<ReplicaSet>>;

/// The size a replica set shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resize {
    pub name: String,
    pub to: i32,
}

pub(super) fn wanted(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(super) fn total(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|s| size(s)).sum()
}

pub(super) fn active(sets: &[Arc<ReplicaSet>]) -> Sets {
    sets.iter().filter(|s| size(s) > 0).cloned().collect()
}

pub(super) fn rolling(d: &Deployment) -> bool {
    let strategy = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref());
    strategy.is_none_or(|kind| kind == "RollingUpdate")
}

/// An absolute number, or a percentage of `whole` rounded up or down.
pub(crate) fn scaled(value: Option<&IntOrString>, whole: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let Some(percent) = text.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) else { return 0 };
            let product = percent * i64::from(whole);
            let rounded = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// maxSurge and maxUnavailable as numbers of pods. Both zero would never move, so then one may be unavailable.
pub(super) fn fenceposts(d: &Deployment) -> (i32, i32) {
    let update = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let Some(update) = update else { return (0, 0) };
    let surge = scaled(update.max_surge.as_ref(), wanted(d), true);
    let unavailable = scaled(update.max_unavailable.as_ref(), wanted(d), false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub(super) fn max_surge(d: &Deployment) -> i32 {
    if rolling(d) { fenceposts(d).0 } else { 0 }
}

pub(super) fn max_unavailable(d: &Deployment) -> i32 {
    if !rolling(d) || wanted(d) == 0 {
        return 0;
    }
    fenceposts(d).1.min(wanted(d))
}

/// Whether two templates are the same but for the hash label.
pub(super) fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    let strip = |t: &PodTemplateSpec| {
        let mut t = t.clone();
        let meta = t.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.take().filter(|l| !l.is_empty());
        t
    };
    strip(a) == strip(b)
}

/// Oldest first; of one age by name.
pub(super) fn by_age(sets: &mut Sets) {
    sets.sort_by(|a, b| (a.created(), a.name()).cmp(&(b.created(), b.name())));
}

/// The replica set of the current template (the oldest, should there be several), and all others.
pub(super) fn split(d: &Deployment, sets: &Sets) -> (Option<Arc<ReplicaSet>>, Sets) {
    let template = d.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let mut sorted = sets.clone();
    by_age(&mut sorted);
    let new = sorted
        .iter()
        .find(|s| {
            s.spec.as_ref().and_then(|s| s.template.as_ref()).is_some_and(|t| same_template(t, &template))
        })
        .cloned();
    let old = sorted.into_iter().filter(|s| new.as_ref().is_none_or(|n| n.uid() != s.uid())).collect();
    (new, old)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The size a new replica set may have while `all` are there.
pub(super) fn new_size(d: &Deployment, all_total: i32, current: i32) -> i32 {
    if !rolling(d) {
        return wanted(d);
    }
    let most = wanted(d) + max_surge(d);
    if all_total >= most {
        return current;
    }
    current + (most - all_total).min(wanted(d) - current)
}

/// Shrinks old replica sets as far as availability allows: first what is unhealthy, then the rest.
pub(super) fn shrink_old(d: &Deployment, new: &ReplicaSet, old: &Sets) -> Vec<Resize> {
    let mut old = active(old);
    let all = total(&old) + size(new);
    let floor = wanted(d) - max_unavailable(d);
    let budget = all - floor - (size(new) - available(new));
    if old.is_empty() || budget <= 0 {
        return Vec::new();
    }
    by_age(&mut old);
    let mut sizes: Vec<i32> = old.iter().map(|s| size(s)).collect();
    let mut cleaned = 0;
    for (set, to) in old.iter().zip(&mut sizes) {
        let unhealthy = (*to - available(set)).max(0).min(budget - cleaned);
        *to -= unhealthy;
        cleaned += unhealthy;
    }
    let all_available = old.iter().map(|s| available(s)).sum::<i32>() + available(new);
    let mut spare = (all_available - floor).max(0);
    for to in &mut sizes {
        let less = spare.min(*to);
        *to -= less;
        spare -= less;
    }
    let changed = old.iter().zip(sizes).filter(|(set, to)| size(set) != *to);
    changed.map(|(set, to)| Resize { name: set.name().to_owned(), to }).collect()
}

/// What scaling (not rolling out) asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// Nothing to do.
    Keep,
    /// Only where the size differs.
    Lazy(Vec<Resize>),
    /// Also where only the annotations differ.
    Forced(Vec<Resize>),
}

/// Spreads a change of `replicas` over the replica sets there are, so that a rollout under way is neither
/// hastened nor set back.
pub(super) fn scale(d: &Deployment, new: Option<&Arc<ReplicaSet>>, old: &Sets) -> Scale {
    if let Some(only) = active_or_latest(new, old) {
        if size(&only) == wanted(d) {
            return Scale::Keep;
        }
        return Scale::Lazy(vec![Resize { name: only.name().to_owned(), to: wanted(d) }]);
    }
    if saturated(d, new) {
        let gone = active(old).iter().map(|s| Resize { name: s.name().to_owned(), to: 0 }).collect();
        return Scale::Lazy(gone);
    }
    if !rolling(d) {
        return Scale::Keep;
    }
    Scale::Forced(proportional(d, new, old))
}

fn proportional(d: &Deployment, new: Option<&Arc<ReplicaSet>>, old: &Sets) -> Vec<Resize> {
    let mut all = active(old);
    all.extend(new.filter(|s| size(s) > 0).cloned());
    let allowed = if wanted(d) > 0 { wanted(d) + max_surge(d) } else { 0 };
    let to_add = allowed - total(&all);
    let larger = |a: &ReplicaSet, b: &ReplicaSet| size(b).cmp(&size(a));
    if to_add > 0 {
        all.sort_by(|a, b| larger(a, b).then_with(|| (b.created(), b.name()).cmp(&(a.created(), a.name()))));
    } else {
        all.sort_by(|a, b| larger(a, b).then_with(|| (a.created(), a.name()).cmp(&(b.created(), b.name()))));
    }
    let mut added = 0;
    let mut result: Vec<Resize> = Vec::new();
    for set in &all {
        let share = proportion(d, set, to_add, added);
        added += share;
        result.push(Resize { name: set.name().to_owned(), to: size(set) + share });
    }
    if let Some(first) = result.first_mut().filter(|_| to_add != 0) {
        first.to = (first.to + to_add - added).max(0);
    }
    result
}

fn proportion(d: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if size(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (share, left) = (fraction(d, set), to_add - added);
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(d: &Deployment, set: &ReplicaSet) -> i32 {
    if wanted(d) == 0 {
        return -size(set);
    }
    let most = wanted(d) + max_surge(d);
    let noted = set.annotation(MAX).and_then(|m| m.parse::<i32>().ok()).filter(|m| *m != 0);
    let before = noted.or(d.status.as_ref().and_then(|s| s.replicas)).unwrap_or(0);
    if before == 0 {
        return 0;
    }
    let share = f64::from(size(set)) * f64::from(most) / f64::from(before);
    share.round() as i32 - size(set)
}

fn active_or_latest(new: Option<&Arc<ReplicaSet>>, old: &Sets) -> Option<Arc<ReplicaSet>> {
    let mut all = active(old);
    all.extend(new.filter(|s| size(s) > 0).cloned());
    match all.len() {
        0 => {
            let mut newest_first = old.clone();
            newest_first.sort_by_key(|s| std::cmp::Reverse(s.created()));
            new.cloned().or_else(|| newest_first.first().cloned())
        }
        1 => all.pop(),
        _ => None,
    }
}

fn saturated(d: &Deployment, new: Option<&Arc<ReplicaSet>>) -> bool {
    let Some(new) = new else { return false };
    let desired = new.annotation(DESIRED).and_then(|n| n.parse::<i32>().ok());
    size(new) == wanted(d) && desired == Some(wanted(d)) && available(new) == wanted(d)
}

/// The old replica sets that the history limit lets go, oldest revision first.
pub(super) fn surplus_history(d: &Deployment, old: &Sets) -> Sets {
    let limit = d.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
    if limit == i32::MAX {
        return Vec::new();
    }
    let mut alive: Sets = old.iter().filter(|s| !s.deleting()).cloned().collect();
    let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    alive.sort_by_key(|s| (revision(s), s.created()));
    let idle = |s: &Arc<ReplicaSet>| {
        let status = s.status.as_ref();
        status.is_none_or(|st| st.replicas == 0)
            && size(s) == 0
            && s.generation() <= status.and_then(|st| st.observed_generation).unwrap_or(0)
    };
    alive.into_iter().take(surplus).filter(idle).collect()
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
