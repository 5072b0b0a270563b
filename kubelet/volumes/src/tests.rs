use super::*;
use k8s_openapi::ByteString;
use parking_lot::Mutex;
use serde_json::json;
use std::time::Duration;

mod csi;

/// Objects that are always the same.
#[derive(Default)]
pub(crate) struct Fixed {
    pub claims: Mutex<BTreeMap<String, PersistentVolumeClaim>>,
    pub volumes: Mutex<BTreeMap<String, PersistentVolume>>,
    pub drivers: Mutex<BTreeMap<String, CSIDriver>>,
}

#[async_trait]
impl Objects for Fixed {
    async fn config_map(&self, _: &str, name: &str) -> Result<Arc<ConfigMap>> {
        match name {
            "there" => Ok(Arc::new(ConfigMap {
                data: Some(BTreeMap::from([("a".into(), "1".into())])),
                binary_data: Some(BTreeMap::from([("b".into(), ByteString(vec![0, 1]))])),
                ..Default::default()
            })),
            _ => Err(Error::NotFound(format!("configmap {name:?} not found"))),
        }
    }
    async fn secret(&self, _: &str, name: &str) -> Result<Arc<Secret>> {
        match name {
            "creds" => Ok(Arc::new(Secret {
                data: Some(BTreeMap::from([("key".into(), ByteString(b"pw".to_vec()))])),
                ..Default::default()
            })),
            _ => Err(Error::NotFound(format!("secret {name:?} not found"))),
        }
    }
    async fn token(&self, _: &Pod, request: TokenRequest<'_>) -> Result<Token> {
        Ok(Token { token: format!("token-{}", request.audience), expires: jiff::Timestamp::UNIX_EPOCH })
    }
    async fn claim(&self, _: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>> {
        let found = self.claims.lock().get(name).cloned().map(Arc::new);
        found.ok_or_else(|| Error::NotFound(format!("persistentvolumeclaim {name:?} not found")))
    }
    async fn service_account(&self, _: &str, name: &str) -> Result<Arc<ServiceAccount>> {
        Err(Error::NotFound(format!("serviceaccount {name:?} not found")))
    }
    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>> {
        let found = self.volumes.lock().get(name).cloned().map(Arc::new);
        found.ok_or_else(|| Error::NotFound(format!("persistentvolume {name:?} not found")))
    }
    async fn trust_bundle(&self, _: &TrustBundle) -> Result<String> {
        Err(Error::NotFound("no bundle".into()))
    }
    async fn pod_certificate(&self, _: &Pod, _: &PodCertificate) -> Result<Credentials> {
        Ok(Credentials { key: "KEY\n".into(), chain: "CHAIN\n".into() })
    }
    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>> {
        Ok(self.drivers.lock().get(name).cloned().map(Arc::new))
    }
    async fn node_is_full(&self, _: &str) -> Result<bool> {
        Ok(false)
    }
    async fn attachment_metadata(&self, _: &str) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::from([("device".into(), "d1".into())]))
    }
    async fn attached(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn patch_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: serde_json::Value,
    ) -> Result<PersistentVolumeClaim> {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let mut claims = self.claims.lock();
        let Some(claim) = claims.get_mut(&name) else { return Err(Error::NotFound(name)) };
        let mut whole = serde_json::to_value(&*claim).unwrap();
        merge(&mut whole["status"], &status);
        *claim = serde_json::from_value(whole).unwrap();
        Ok(claim.clone())
    }
    async fn changed(&self) {
        std::future::pending().await
    }
}

fn merge(into: &mut serde_json::Value, patch: &serde_json::Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().map(|o| o.remove(key));
        } else {
            merge(&mut into[key], value);
        }
    }
}

/// Keeps what was said.
#[derive(Default)]
pub(crate) struct Heard(pub Mutex<Vec<String>>);

impl Recorder for Heard {
    fn pod(&self, _: &Pod, kind: &str, reason: &str, message: &str) {
        self.0.lock().push(format!("{kind} {reason} {message}"));
    }
    fn claim(&self, _: &PersistentVolumeClaim, kind: &str, reason: &str, message: &str) {
        self.0.lock().push(format!("claim {kind} {reason} {message}"));
    }
    fn volume(&self, _: &PersistentVolume, kind: &str, reason: &str, message: &str) {
        self.0.lock().push(format!("volume {kind} {reason} {message}"));
    }
    fn node(&self, kind: &str, reason: &str, message: &str) {
        self.0.lock().push(format!("node {kind} {reason} {message}"));
    }
}

#[tokio::test]
async fn sets_up_what_can_be_and_says_what_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let heard = Arc::new(Heard::default());
    let manager = Manager::new(dir.path().into(), "node".into(), Arc::new(Fixed::default()), heard.clone());
    let names = ["good", "items", "key", "bad", "maybe", "own", "file", "claim"];
    let mounts: Vec<_> = names.iter().map(|n| json!({"name": n, "mountPath": format!("/{n}")})).collect();
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        "spec": {"containers": [{"name": "c", "volumeMounts": mounts}], "volumes": [
            {"name": "unused", "configMap": {"name": "gone"}},
            {"name": "good", "configMap": {"name": "there"}},
            {"name": "items", "configMap": {"name": "there", "items": [{"key": "a", "path": "x/y", "mode": 256}]}},
            {"name": "key", "configMap": {"name": "there", "items": [{"key": "zz", "path": "x"}]}},
            {"name": "bad", "configMap": {"name": "gone"}},
            {"name": "maybe", "configMap": {"name": "gone", "optional": true}},
            {"name": "own", "emptyDir": {}},
            {"name": "file", "hostPath": {"path": "/", "type": "File"}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
        ]}}))
    .unwrap();
    let mut state = PodVolumes::default();
    let age = Duration::from_secs(60);
    let NotReady(text) =
        manager.bring_up(&pod, &Facts::default(), &mut state, age, Duration::ZERO).await.unwrap_err();
    let ready = state.mounted();
    let names: Vec<&str> = ready.keys().map(String::as_str).collect();
    assert_eq!(names, ["good", "items", "maybe", "own"]);
    assert_eq!(std::fs::read(ready["good"].path.join("b")).unwrap(), [0, 1]);
    assert_eq!(std::fs::read_to_string(ready["items"].path.join("x/y")).unwrap(), "1");
    let mut events = heard.0.lock().clone();
    events.sort();
    assert_eq!(
        events,
        [
            "Warning FailedMount MountVolume.SetUp failed for volume \"bad\" : configmap \"gone\" not found",
            "Warning FailedMount MountVolume.SetUp failed for volume \"file\" : hostPath type check failed: / is not a file",
            "Warning FailedMount MountVolume.SetUp failed for volume \"key\" : configmap references non-existent config key: zz",
        ]
    );
    assert_eq!(
        text,
        "unmounted volumes=[bad claim file key], unattached volumes=[], failed to process volumes=[claim]: \
        error processing PVC n/c: failed to fetch PVC from API server: persistentvolumeclaim \"c\" not found"
    );
    manager.tear_down("u").await.unwrap();
    teardown::pod_dir(&dir.path().join("pods/u")).unwrap();
    assert!(!dir.path().join("pods/u").exists());
}
