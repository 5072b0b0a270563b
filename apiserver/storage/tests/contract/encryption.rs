//! Encryption at rest against a real etcd and a key management service.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use storage::testing::{Etcd, Kms};
use storage::{
    Config, EncryptionFile, Error, Event, ListOptions, ReadVersion, Resource, Store, WatchOptions,
};
use tokio::time::timeout;

use crate::common::*;

const AES: &str = "aescbc: {keys: [{name: k, secret: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=}]}";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn kms(&self, name: &str) -> String {
        format!(
            "kms: {{apiVersion: v2, name: {name}, endpoint: 'unix://{}', timeout: 1s}}",
            self.path(name).display()
        )
    }

    /// Replaces the configuration at one stroke, as a mounted Secret is replaced.
    fn configure(&self, providers: &[&str]) -> PathBuf {
        let mut text = "kind: EncryptionConfiguration\napiVersion: apiserver.config.k8s.io/v1\nresources:\n\
                        - resources: [pods]\n  providers:\n"
            .to_owned();
        for provider in providers {
            text += &format!("  - {provider}\n");
        }
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path("config.yaml")).unwrap();
        self.path("config.yaml")
    }
}

async fn open_encrypted(etcd: &Etcd, path: PathBuf, reload: bool) -> (Arc<Store>, Arc<Resource>) {
    let encryption = Some(EncryptionFile { path, reload, server: "test".to_owned() });
    let store = Store::open(Config { encryption, ..config(etcd) }).await.unwrap();
    let pods = store.resource(spec("/registry/pods/").named("pods", ""));
    timeout(DEADLINE, store.wait_ready()).await.expect("ready");
    (store, pods)
}

async fn stored(etcd: &Etcd, name: &str) -> Vec<u8> {
    let mut answer = etcd.client().await.get(key(name), None).await.unwrap();
    answer.take_kvs().pop().unwrap().value().to_vec()
}

fn starts(bytes: &[u8], prefix: &str) -> bool {
    bytes.starts_with(prefix.as_bytes())
}

#[tokio::test]
async fn a_service_seals_each_start_s_key_and_opens_each_once() {
    let (etcd, folder) = (Etcd::start().await, Folder::new());
    let kms = Kms::start(&folder.path("one"));
    let file = folder.configure(&[&folder.kms("one"), "identity: {}"]);
    etcd.client().await.put(key("ns/plain"), "app=plain", None).await.unwrap();
    let (first, pods) = open_encrypted(&etcd, file.clone(), false).await;
    for i in 0..20 {
        create(&pods, &format!("ns/{i:02}"), "app=x").await;
    }
    assert!(starts(&stored(&etcd, "ns/00").await, "k8s:enc:kms:v2:one:"));
    assert_ne!(stored(&etcd, "ns/00").await, stored(&etcd, "ns/01").await);
    assert_eq!(kms.decryptions(), 0, "what this process sealed it can open");
    assert!(pods.get(&key("ns/plain"), ReadVersion::Any).await.unwrap().unwrap().stale);

    let (_second, others) = open_encrypted(&etcd, file, false).await;
    assert_eq!(kms.decryptions(), 1, "one data key for all of them");
    let o = others.get(&key("ns/07"), ReadVersion::Any).await.unwrap().unwrap();
    assert_eq!((&o.bytes()[..], o.stale), (&b"app=x"[..], false));
    // A key the service has only now comes through the stream to the other server.
    let mut watcher = pods.watch(pods.prefix(), after(pods.revision())).await.unwrap();
    let written = update(&others, &o, "app=y").await;
    let Event::Modified(seen) = next(&mut watcher).await else { panic!() };
    assert_eq!((seen.revision, &seen.bytes()[..]), (written.revision, &b"app=y"[..]));
    assert_eq!(kms.decryptions(), 2);
    first.encryption().unwrap().check().await.unwrap();
}

#[tokio::test]
async fn without_the_service_reads_fail_clearly_and_come_back() {
    let (etcd, folder) = (Etcd::start().await, Folder::new());
    let file = folder.configure(&[&folder.kms("one")]);
    let kms = Kms::start(&folder.path("one"));
    let (first, pods) = open_encrypted(&etcd, file.clone(), false).await;
    create(&pods, "ns/a", "app=x").await;
    first.shutdown().await;
    drop(kms);

    let (store, pods) = open_encrypted(&etcd, file, false).await;
    let error = pods.list(pods.prefix(), ListOptions::default()).await.unwrap_err().to_string();
    assert!(
        error.contains("unable to transform key \"/registry/pods/ns/a\": failed to decrypt DEK"),
        "{error}"
    );
    let error = pods.create(&key("ns/b"), Bytes::from_static(b"v"), None).await.unwrap_err();
    assert!(matches!(&error, Error::Internal(t) if t.contains("unable to transform key")), "{error}");
    assert!(store.encryption().unwrap().check().await.is_err());

    let kms = Kms::start(&folder.path("one"));
    let list = until(async || pods.list(pods.prefix(), ListOptions::default()).await).await;
    assert_eq!(&list.items[0].bytes()[..], b"app=x");
    let initial = WatchOptions { initial: true, ..WatchOptions::default() };
    let mut watcher = pods.watch(pods.prefix(), initial).await.unwrap();
    assert!(matches!(next(&mut watcher).await, Event::Added(o) if o.attributes.label("app") == Some("x")));
    kms.say("out of order");
    let error = until(async || store.encryption().unwrap().check().await.err().ok_or("healthy")).await;
    assert!(error.starts_with("kms-provider-0: "), "{error}");
}

#[tokio::test]
async fn a_changed_file_is_followed_and_a_bad_one_is_not() {
    let (etcd, folder) = (Etcd::start().await, Folder::new());
    let file = folder.configure(&[AES, "identity: {}"]);
    let (store, pods) = open_encrypted(&etcd, file.clone(), true).await;
    let mut pod = create(&pods, "ns/a", "app=x").await;
    assert!(starts(&stored(&etcd, "ns/a").await, "k8s:enc:aescbc:v1:k:"));
    let _kms = Kms::start(&folder.path("one"));
    folder.configure(&["nonsense: {}"]);
    folder.configure(&[&folder.kms("one"), AES]);
    until(async || {
        pod = update(&pods, &pod, "app=x").await;
        if starts(&stored(&etcd, "ns/a").await, "k8s:enc:kms:v2:one:") { Ok(()) } else { Err("not yet") }
    })
    .await;
    assert_eq!(store.encryption().unwrap().providers(), 1);
    // Written before the exchange, read after it: still to be had, and due for a write.
    let (_old, others) = open_encrypted(&etcd, folder.configure(&[AES, &folder.kms("one")]), false).await;
    create(&others, "ns/b", "app=y").await;
    let b = until(async || match pods.get(&key("ns/b"), ReadVersion::Consistent).await {
        Ok(Some(b)) => Ok(b),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(&b.bytes()[..], b"app=y");
    let missing = EncryptionFile { path: folder.path("none"), reload: false, server: String::new() };
    let Err(error) = Store::open(Config { encryption: Some(missing), ..config(&etcd) }).await else {
        panic!()
    };
    assert!(error.to_string().contains("error reading encryption provider configuration file"), "{error}");
}
