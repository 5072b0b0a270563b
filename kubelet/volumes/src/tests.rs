use super::*;
use k8s_openapi::ByteString;

struct Fixed;

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
        Err(Error::NotFound(format!("secret {name:?} not found")))
    }
    async fn token(&self, _: &Pod, _: TokenRequest<'_>) -> Result<String> {
        Ok("token".into())
    }
    async fn claim(&self, _: &str, name: &str) -> Result<Arc<PersistentVolumeClaim>> {
        Err(Error::NotFound(format!("persistentvolumeclaim {name:?} not found")))
    }
    async fn persistent_volume(&self, name: &str) -> Result<Arc<PersistentVolume>> {
        Err(Error::NotFound(format!("persistentvolume {name:?} not found")))
    }
    async fn trust_bundle(&self, _: &TrustBundle) -> Result<String> {
        Err(Error::NotFound("no bundle".into()))
    }
}

#[tokio::test]
async fn sets_up_what_can_be_and_says_what_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": [], "volumes": [
            {"name": "good", "configMap": {"name": "there"}},
            {"name": "items", "configMap": {"name": "there", "items": [{"key": "a", "path": "x/y", "mode": 256}]}},
            {"name": "key", "configMap": {"name": "there", "items": [{"key": "zz", "path": "x"}]}},
            {"name": "bad", "configMap": {"name": "gone"}},
            {"name": "maybe", "configMap": {"name": "gone", "optional": true}},
            {"name": "own", "emptyDir": {}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "c"}},
        ]}}))
    .unwrap();
    let pod_dir = dir.path().join("pods/u");
    let (ready, failed) = set_up_all(&pod, &pod_dir, &Fixed, &Facts::default()).await;
    let names: Vec<&str> = ready.keys().map(String::as_str).collect();
    assert_eq!(names, ["good", "items", "maybe", "own"]);
    assert_eq!(std::fs::read(ready["good"].path.join("b")).unwrap(), [0, 1]);
    assert_eq!(std::fs::read_to_string(ready["items"].path.join("x/y")).unwrap(), "1");
    let texts: Vec<String> = failed.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "MountVolume.SetUp failed for volume \"key\" : configmap references non-existent config key: zz",
            "MountVolume.SetUp failed for volume \"bad\" : configmap \"gone\" not found",
            "MountVolume.SetUp failed for volume \"claim\" : persistentvolumeclaim \"c\" not found",
        ]
    );
    teardown::volumes(&pod_dir).unwrap();
    teardown::pod_dir(&pod_dir).unwrap();
    assert!(!pod_dir.exists());
}
