//! User namespaces: each pod that wants its own gets 65536 ids of the node that no other pod has.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cri::v1;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::pod::PodExt;

/// Ids of a pod come in multiples of this.
const UNIT: u32 = 65_536;

/// Which ids each pod has; kept on disk so that a restart does not mix them up.
pub struct UserNamespaces {
    pods_dir: PathBuf,
    /// Ids of each pod.
    length: u32,
    taken: Mutex<BTreeMap<String, u32>>,
}

impl UserNamespaces {
    /// Reads back what pods below `pods_dir` have.
    pub fn new(pods_dir: PathBuf, ids_per_pod: Option<i64>) -> Self {
        let length = ids_per_pod.and_then(|n| u32::try_from(n).ok()).filter(|n| *n >= UNIT).unwrap_or(UNIT);
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(&pods_dir).into_iter().flatten().flatten() {
            let Ok(text) = std::fs::read(entry.path().join("userns")) else { continue };
            let Ok(value) = serde_json::from_slice::<Value>(&text) else { continue };
            let host = value["uidMappings"][0]["hostId"].as_u64().and_then(|id| u32::try_from(id).ok());
            if let (Some(host), Ok(uid)) = (host, entry.file_name().into_string()) {
                taken.insert(uid, host);
            }
        }
        Self { pods_dir, length, taken: Mutex::new(taken) }
    }

    /// The mapping of a pod; `None` for one that shares the node's ids.
    pub fn of_pod(&self, pod: &Pod) -> Result<Option<v1::UserNamespace>, String> {
        if pod.spec().host_users.unwrap_or(true) {
            return Ok(None);
        }
        let host_id = self.allocate(pod.uid())?;
        let mapping = v1::IdMapping { host_id, container_id: 0, length: self.length };
        Ok(Some(v1::UserNamespace {
            mode: v1::NamespaceMode::Pod as i32,
            uids: vec![mapping],
            gids: vec![mapping],
        }))
    }

    fn allocate(&self, uid: &str) -> Result<u32, String> {
        let mut taken = self.taken.lock();
        if let Some(host) = taken.get(uid) {
            return Ok(*host);
        }
        // The ids below the first slot are the node's own.
        let slots = u32::MAX / self.length;
        let free = (1..slots).map(|slot| slot * self.length).find(|host| !taken.values().any(|t| t == host));
        let host = free.ok_or("no user namespace slots left")?;
        let mapping = json!([{"hostId": host, "containerId": 0, "length": self.length}]);
        let record = json!({"uidMappings": mapping, "gidMappings": mapping}).to_string();
        let dir = self.pods_dir.join(uid);
        let write = std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(dir.join("userns"), record));
        write.map_err(|e| format!("cannot keep user namespace mapping: {e}"))?;
        taken.insert(uid.to_string(), host);
        Ok(host)
    }

    /// Gives the ids of a pod back.
    pub fn release(&self, uid: &str) {
        self.taken.lock().remove(uid);
    }
}
