//! `cpu_manager_state`: who has which CPUs, in upstream's form.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::CpuSet;
use crate::checkpoint::{self, Dump};

/// Who has which CPUs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    file: PathBuf,
    policy: String,
    /// The CPUs of all who have none of their own.
    pub shared: CpuSet,
    /// CPUs by pod UID and container.
    pub given: BTreeMap<String, BTreeMap<String, CpuSet>>,
}

/// The file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Form {
    #[serde(rename = "policyName")]
    policy: String,
    // Go reads field names in any case.
    #[serde(rename = "defaultCpuSet", alias = "defaultCPUSet", default)]
    shared: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    checksum: u64,
}

impl Form {
    fn sum(&self) -> u64 {
        Dump::of("state.CPUManagerCheckpoint", |fields| {
            fields.field("PolicyName", "string", |d| d.plain(&self.policy));
            fields.field("DefaultCPUSet", "string", |d| d.plain(&self.shared));
            fields.field("Entries", "map[string]map[string]string", |d| {
                d.map(&self.entries, |d, containers| d.map(containers, |d, cpus| d.plain(cpus)));
            });
            fields.field("Checksum", "checksum.Checksum", |d| d.plain(0));
        })
        .checksum()
    }
}

impl State {
    /// Reads the file; empty if there is none.
    pub fn read(file: PathBuf, policy: &str) -> Result<Self, String> {
        let shown = file.display().to_string();
        let wrap = |why: String| {
            format!(
                "could not restore state from checkpoint: {why}, please drain this node and delete the CPU manager checkpoint file {shown:?} before restarting Kubelet"
            )
        };
        let mut state = Self { file, policy: policy.into(), ..Default::default() };
        match std::fs::read(&state.file) {
            Ok(text) => state.restore(&text).map_err(wrap)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrap(error.to_string())),
        }
        Ok(state)
    }

    fn restore(&mut self, text: &[u8]) -> Result<(), String> {
        let form: Form = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        if form.sum() != form.checksum {
            return Err("checkpoint is corrupted".into());
        }
        if form.policy != self.policy {
            return Err(format!(
                "configured policy {:?} differs from state checkpoint policy {:?}",
                self.policy, form.policy
            ));
        }
        self.shared = form
            .shared
            .parse()
            .map_err(|e| format!("could not parse default cpu set {:?}: {e}", form.shared))?;
        for (pod, containers) in form.entries {
            for (container, text) in containers {
                let cpus = text.parse().map_err(|e| {
                    format!("could not parse cpuset {text:?} for container {container:?} in pod {pod:?}: {e}")
                })?;
                self.given.entry(pod.clone()).or_default().insert(container, cpus);
            }
        }
        Ok(())
    }

    /// Writes the file.
    pub fn write(&self) -> Result<(), String> {
        let texts = |containers: &BTreeMap<String, CpuSet>| {
            containers.iter().map(|(name, cpus)| (name.clone(), cpus.to_string())).collect()
        };
        let mut form = Form {
            policy: self.policy.clone(),
            shared: self.shared.to_string(),
            entries: self.given.iter().map(|(pod, containers)| (pod.clone(), texts(containers))).collect(),
            checksum: 0,
        };
        form.checksum = form.sum();
        let text = serde_json::to_vec(&form).map_err(|e| e.to_string())?;
        checkpoint::write(&self.file, &text).map_err(|e| e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_files_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cpu_manager_state");
        let read = |text: &str, policy: &str| {
            std::fs::write(&file, text).unwrap();
            State::read(file.clone(), policy)
        };
        let empty = r#"{"policyName":"none","defaultCPUSet":"4-6","entries":{},"checksum":354655845}"#;
        assert_eq!(read(empty, "none").unwrap().shared.to_string(), "4-6");
        let full = r#"{"policyName":"none","defaultCPUSet":"1-3",
            "entries":{"pod":{"container1":"4-6","container2":"1-3"}},"checksum":3610638499}"#;
        assert_eq!(read(full, "none").unwrap().given["pod"]["container1"].to_string(), "4-6");
        assert!(read(full, "static").unwrap_err().contains("differs from state checkpoint policy"));
        assert!(read(&full.replace("4-6", "4-7"), "none").unwrap_err().contains("checkpoint is corrupted"));
        let state = read(full, "none").unwrap();
        state.write().unwrap();
        assert_eq!(State::read(file.clone(), "none").unwrap(), state);
    }
}
