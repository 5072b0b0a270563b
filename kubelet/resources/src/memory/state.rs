//! `memory_manager_state`: who has which memory, in upstream's form.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Dump};

/// Memory of a kind on a NUMA node, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// All of it.
    pub total: u64,
    /// Not for pods.
    pub system_reserved: u64,
    /// For pods.
    pub allocatable: u64,
    /// Given.
    pub reserved: u64,
    /// Not given.
    pub free: u64,
}

impl Table {
    /// Whether both are of the same size, whatever is given of it.
    pub fn same_size(&self, other: &Self) -> bool {
        let size = |t: &Self| (t.total, t.system_reserved, t.allocatable);
        size(self) == size(other)
    }
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// How many blocks lie on it.
    #[serde(rename = "numberOfAssignments")]
    pub assignments: i64,
    /// Its memory by resource.
    #[serde(rename = "memoryMap")]
    pub memory: BTreeMap<String, Table>,
    /// The nodes that are used together with this one.
    pub cells: Vec<u32>,
}

/// Memory that a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// On these nodes.
    #[serde(rename = "numaAffinity")]
    pub nodes: Vec<u32>,
    /// Of this resource.
    #[serde(rename = "type")]
    pub resource: String,
    /// So many bytes.
    pub size: u64,
}

/// Blocks by pod UID and container.
type Given = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Who has which memory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct State {
    file: PathBuf,
    policy: String,
    /// The machine's NUMA nodes.
    pub nodes: BTreeMap<u32, NodeState>,
    /// What was given.
    pub given: Given,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    policy_name: String,
    #[serde(default)]
    machine_state: BTreeMap<u32, NodeState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Given,
    checksum: u64,
}

impl Form {
    fn sum(&self) -> u64 {
        Dump::of("state.MemoryManagerCheckpoint", |fields| {
            fields.field("PolicyName", "string", |d| d.plain(&self.policy_name));
            fields.field("MachineState", "state.NUMANodeMap", |d| {
                d.map(&self.machine_state, |d, node| dump_node(d.pointer(), node));
            });
            fields.field("Entries", "state.ContainerMemoryAssignments", |d| {
                d.map(&self.entries, |d, containers| {
                    d.map(containers, |d, blocks| d.list(blocks, dump_block));
                });
            });
            fields.field("Checksum", "checksum.Checksum", |d| d.plain(0));
        })
        .checksum()
    }
}

fn dump_node(dump: &mut Dump, node: &NodeState) {
    dump.fields(|fields| {
        fields.field("NumberOfAssignments", "int", |d| d.plain(node.assignments));
        fields.field("MemoryMap", "map[v1.ResourceName]*state.MemoryTable", |d| {
            d.map(&node.memory, |d, table| dump_table(d.pointer(), table));
        });
        fields.field("Cells", "[]int", |d| d.list(&node.cells, |d, cell| d.plain(cell)));
    });
}

fn dump_table(dump: &mut Dump, table: &Table) {
    dump.fields(|fields| {
        for (name, value) in [
            ("TotalMemSize", table.total),
            ("SystemReserved", table.system_reserved),
            ("Allocatable", table.allocatable),
            ("Reserved", table.reserved),
            ("Free", table.free),
        ] {
            fields.field(name, "uint64", |d| d.plain(value));
        }
    });
}

fn dump_block(dump: &mut Dump, block: &Block) {
    dump.fields(|fields| {
        fields.field("NUMAAffinity", "[]int", |d| d.list(&block.nodes, |d, node| d.plain(node)));
        fields.field("Type", "v1.ResourceName", |d| d.plain(&block.resource));
        fields.field("Size", "uint64", |d| d.plain(block.size));
    });
}

impl State {
    /// Reads the file; empty if there is none.
    pub fn read(file: PathBuf, policy: &str) -> Result<Self, String> {
        let shown = file.display().to_string();
        let wrap = |why: String| {
            format!(
                "could not restore state from checkpoint: {why}, please drain this node and delete the memory manager checkpoint file {shown:?} before restarting Kubelet"
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
        if form.policy_name != self.policy {
            return Err(format!(
                "[memorymanager] configured policy {:?} differs from state checkpoint policy {:?}",
                self.policy, form.policy_name
            ));
        }
        self.nodes = form.machine_state;
        self.given = form.entries;
        Ok(())
    }

    /// Writes the file.
    pub fn write(&self) -> Result<(), String> {
        let mut form = Form {
            policy_name: self.policy.clone(),
            machine_state: self.nodes.clone(),
            entries: self.given.clone(),
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
        let file = dir.path().join("memory_manager_state");
        let text = r#"{"policyName":"static","machineState":{"0":{"numberOfAssignments":0,"memoryMap":{"memory":{
            "total":2048,"systemReserved":512,"allocatable":1536,"reserved":512,"free":1024}},"cells":[]}},
            "entries":{"pod":{"container1":[{"numaAffinity":[0],"type":"memory","size":512}]}},"checksum":4215593881}"#;
        std::fs::write(&file, text).unwrap();
        let state = State::read(file.clone(), "static").unwrap();
        assert_eq!(
            (state.nodes[&0].memory["memory"].free, state.given["pod"]["container1"][0].size),
            (1024, 512)
        );
        state.write().unwrap();
        assert_eq!(State::read(file.clone(), "static").unwrap(), state);
        std::fs::write(&file, text.replace("1024", "1025")).unwrap();
        assert!(State::read(file, "static").unwrap_err().contains("checkpoint is corrupted"));
    }
}
