//! Eviction thresholds as configured.

use std::collections::BTreeMap;
use std::time::Duration;

use volumes::quantity;

use crate::config::KubeletConfiguration;

/// What thresholds can be set for.
pub const SIGNALS: [&str; 8] = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "containerfs.available",
    "containerfs.inodesFree",
    "pid.available",
];

/// A signal that nobody can set: what is left of what all pods together may use.
pub const ALLOCATABLE_MEMORY: &str = "allocatableMemory.available";

/// An amount, or a part of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    Units(i64),
    Share(f64),
}

impl Amount {
    /// How much it is of a capacity.
    pub fn of(self, capacity: i64) -> i64 {
        match self {
            Self::Units(units) => units,
            Self::Share(share) => (capacity as f64 * share) as i64,
        }
    }

    fn parse(signal: &str, text: &str) -> Result<Self, String> {
        if let Some(number) = text.strip_suffix('%') {
            let percent: f64 = number
                .parse()
                .map_err(|_| format!("strconv.ParseFloat: parsing {number:?}: invalid syntax"))?;
            if percent < 0.0 {
                return Err(format!("eviction percentage threshold {signal} must be >= 0%: {text}"));
            }
            if percent > 100.0 {
                return Err(format!("eviction percentage threshold {signal} must be <= 100%: {text}"));
            }
            return Ok(Self::Share(percent / 100.0));
        }
        let units = quantity::units(text).ok_or(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        )?;
        if units < 0 || text == "0" {
            return Err(format!("eviction threshold {signal} must be positive: {text}"));
        }
        Ok(Self::Units(units))
    }
}

/// A threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    pub signal: &'static str,
    pub value: Amount,
    /// How the amount was written.
    pub format: api::quantity::Format,
    /// How long it must be met before anything is done; none for a hard one.
    pub patience: Option<Duration>,
    /// How much more than the threshold must be left for it to be over.
    pub reclaim: Amount,
}

impl Threshold {
    /// The amount as messages tell it.
    pub fn quantity(&self, capacity: i64) -> String {
        use api::quantity::{Format, Quantity};
        match self.value {
            Amount::Units(units) => Quantity::new(units, self.format).to_string(),
            share => Quantity::new(share.of(capacity), Format::BinarySI).to_string(),
        }
    }

    /// What it measures, as messages name it.
    pub fn resource(&self) -> &'static str {
        match self.signal {
            "memory.available" | ALLOCATABLE_MEMORY => "memory",
            "pid.available" => "pids",
            signal if signal.ends_with("inodesFree") => "inodes",
            _ => "ephemeral-storage",
        }
    }
}

fn known(signal: &str) -> Result<&'static str, String> {
    let found = SIGNALS.into_iter().find(|s| *s == signal);
    found.ok_or_else(|| format!("unsupported eviction signal {signal}"))
}

/// All thresholds, or what is wrong with them.
pub fn parse(config: &KubeletConfiguration) -> Result<Vec<Threshold>, String> {
    let mut reclaim = BTreeMap::new();
    for (signal, text) in &config.eviction_minimum_reclaim {
        let amount = Amount::parse(signal, text)
            .or_else(|e| if text == "0" { Ok(Amount::Units(0)) } else { Err(e) })?;
        reclaim.insert(known(signal)?, amount);
    }
    let mut patience = BTreeMap::new();
    for (signal, text) in &config.eviction_soft_grace_period {
        let signal = known(signal)?;
        let period = component::duration::parse(text).ok_or_else(|| {
            format!("invalid eviction grace period specified: {text}, must be a positive value")
        })?;
        patience.insert(signal, period);
    }
    let mut out = Vec::new();
    let hard = config.eviction_hard.iter().map(|e| (e, false));
    for ((signal, text), soft) in hard.chain(config.eviction_soft.iter().map(|e| (e, true))) {
        let signal = known(signal)?;
        // Nothing and everything switch a threshold off.
        if matches!(text.as_str(), "0%" | "100%") {
            continue;
        }
        let value = Amount::parse(signal, text)?;
        let patience = match soft {
            false => None,
            true => Some(*patience.get(signal).ok_or_else(|| {
                format!("grace period must be specified for the soft eviction threshold {signal}")
            })?),
        };
        let reclaim = reclaim.get(signal).copied().unwrap_or(Amount::Units(0));
        let format = api::quantity::Quantity::parse(text).map(|q| q.format()).unwrap_or_default();
        // Containers' layers share a file system with either the images or the kubelet's files, whose thresholds
        // protect them, too.
        if signal.starts_with("containerfs") {
            let kind = if soft { "soft" } else { "hard" };
            tracing::warn!("found {signal} for {kind} eviction. ignoring");
            continue;
        }
        out.push(Threshold { signal, value, format, patience, reclaim });
    }
    let enforced = config.enforce_node_allocatable.iter().any(|e| e == "pods");
    let memory = out.iter().find(|t| t.signal == "memory.available" && t.patience.is_none()).cloned();
    if let Some(memory) = memory.filter(|_| enforced) {
        out.push(Threshold { signal: ALLOCATABLE_MEMORY, ..memory });
    }
    Ok(out)
}
