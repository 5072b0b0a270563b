//! The pods of the storm, and how they stand.

use anyhow::{Context, Result, ensure};
use e2e::Bed;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a pod does.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Runs on, with volumes.
    Plain,
    /// Fails again and again.
    Fails,
    /// Ends by itself.
    Ends,
    /// Has an init container and a sidecar.
    Sidecar,
    /// Takes its time to end.
    Slow,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Plain, Kind::Fails, Kind::Ends, Kind::Sidecar, Kind::Slow];

    fn spec(self) -> Value {
        let container = |name: &str, script: &str| json!({"name": name, "image": "localhost/busybox:local", "command": ["sh", "-c", script]});
        let forever = "trap 'exit 0' TERM; sleep 3600 & wait";
        let mut spec = json!({"terminationGracePeriodSeconds": 1});
        let mut main = container("main", forever);
        match self {
            Kind::Plain => {
                spec["volumes"] = json!([{"name": "disk", "emptyDir": {}},
                    {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
                main["volumeMounts"] = json!([{"name": "disk", "mountPath": "/disk"},
                    {"name": "memory", "mountPath": "/memory"}]);
            }
            Kind::Fails => main = container("main", "sleep 0.5; exit 1"),
            Kind::Ends => {
                spec["restartPolicy"] = json!("Never");
                main = container("main", "sleep 1");
            }
            Kind::Sidecar => {
                let mut sidecar = container("sidecar", forever);
                sidecar["restartPolicy"] = json!("Always");
                spec["initContainers"] = json!([container("first", "sleep 0.2"), sidecar]);
            }
            Kind::Slow => {
                spec["terminationGracePeriodSeconds"] = json!(3);
                main["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 1}}});
            }
        }
        spec["containers"] = json!([main]);
        spec
    }

    /// Whether a pod is what its spec asks for.
    fn settled(self, pod: &Value) -> bool {
        let status = &pod["status"];
        let main = &status["containerStatuses"][0];
        let ready = |c: &Value| c["type"] == "Ready" && c["status"] == "True";
        match self {
            Kind::Plain | Kind::Sidecar | Kind::Slow => {
                status["conditions"].as_array().is_some_and(|c| c.iter().any(ready))
            }
            Kind::Fails => main["restartCount"].as_i64().unwrap_or(0) > 0,
            // One that ended while its runtime was away has no exit code that anybody could know.
            Kind::Ends => status["phase"] == "Succeeded" || status["phase"] == "Failed",
        }
    }
}

/// Creates a pod of each of these kinds.
pub fn create_all(bed: &Bed, prefix: &str, kinds: &[Kind]) -> Result<Vec<(String, Kind)>> {
    let named: Vec<(String, Kind)> =
        kinds.iter().enumerate().map(|(i, kind)| (format!("{prefix}-{i}"), *kind)).collect();
    let items: Vec<Value> = named
        .iter()
        .map(|(name, kind)| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": kind.spec()})
        })
        .collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string();
    bed.kubectl("create -f -").input(&list).text()?;
    Ok(named)
}

pub fn delete(bed: &Bed, name: &str) -> Result<()> {
    bed.kubectl("delete pod --wait=false").arg(name).text().map(drop)
}

/// All pods of all namespaces, or of one.
pub fn list(bed: &Bed, which: &str) -> Result<Vec<Value>> {
    let text = bed.kubectl(&format!("get pods {which} -o json")).text()?;
    let list: Value = serde_json::from_str(&text)?;
    list["items"].as_array().cloned().context("no list of pods")
}

pub fn all_settled(bed: &Bed, wanted: &[(String, Kind)]) -> Result<bool> {
    let pods = list(bed, "")?;
    Ok(wanted.iter().all(|(name, kind)| {
        pods.iter().any(|pod| pod["metadata"]["name"] == name.as_str() && kind.settled(pod))
    }))
}

pub fn none_left(bed: &Bed) -> Result<()> {
    let left = list(bed, "")?;
    let names: Vec<&Value> = left.iter().map(|pod| &pod["metadata"]["name"]).collect();
    ensure!(names.is_empty(), "left: {names:?}");
    Ok(())
}

/// The container ids and restart counts of the pods whose names begin so.
pub fn runs(bed: &Bed, prefix: &str) -> Result<BTreeMap<String, String>> {
    let mut runs = BTreeMap::new();
    for pod in list(bed, "")? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !name.starts_with(prefix) {
            continue;
        }
        for kind in ["initContainerStatuses", "containerStatuses"] {
            for status in pod["status"][kind].as_array().into_iter().flatten() {
                let (id, count) = (&status["containerID"], &status["restartCount"]);
                runs.insert(format!("{name}/{}", status["name"]), format!("{id} {count}"));
            }
        }
    }
    Ok(runs)
}
