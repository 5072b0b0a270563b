//! KMS v2: a service outside of the process keeps the key that opens the keys that open the data.
//!
//! Writes never wait for the service: a probe asks for its status once a minute, has a new seed
//! sealed whenever the service's key changes, and writes use that seed for as long as the service
//! has been healthy within the last minutes. Reads ask the service once for each data key that they
//! meet, and remember it.

pub(crate) mod client;
mod envelope;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prost::Message;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::metrics::{METRICS, hash};
use client::{Client, DecryptRequest, EncryptRequest};
use envelope::{Dek, EncryptedObject, HKDF_SEED};

/// Between two probes of a healthy service.
const HEALTHY: Duration = Duration::from_secs(60);
/// Between two probes of one that is not.
const UNHEALTHY: Duration = Duration::from_secs(10);
/// A seed may be written with so long after the last healthy probe.
const WRITABLE: Duration = Duration::from_secs(180);
/// How long a probe's outcome answers health checks.
const GOOD_NEWS: Duration = Duration::from_secs(20);
const BAD_NEWS: Duration = Duration::from_secs(3);
/// A data key that could not be had is not asked for again within this.
const REFUSED: Duration = Duration::from_secs(1);
/// Data keys that are remembered; there is one for each key of the service and start of a server.
const KNOWN: usize = 4096;

/// One `kms` provider of the configuration.
pub(super) struct Provider {
    name: String,
    client: Client,
    state: ArcSwapOption<State>,
    version: Mutex<String>,
    known: Mutex<FxHashMap<Vec<u8>, Known>>,
    /// Held while the service is asked for a data key, so that it is asked once.
    fetching: tokio::sync::Mutex<()>,
    last: tokio::sync::Mutex<Option<Probe>>,
}

/// What writes use.
struct State {
    dek: Arc<Dek>,
    key_id: String,
    source: Vec<u8>,
    annotations: BTreeMap<String, Vec<u8>>,
    expires: SystemTime,
}

enum Known {
    Dek(Arc<Dek>),
    Refused(String, Instant),
}

struct Probe {
    outcome: Result<(), String>,
    at: Instant,
}

impl Provider {
    pub(super) fn new(name: &str, socket: &str, timeout: Duration) -> Arc<Provider> {
        Arc::new(Provider {
            client: Client::new(name, socket, timeout),
            name: name.to_owned(),
            state: ArcSwapOption::empty(),
            version: Mutex::default(),
            known: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
            last: tokio::sync::Mutex::default(),
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Keeps the state fresh until it is cancelled.
    pub(super) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        loop {
            let outcome = self.check().await;
            if let Err(error) = &outcome {
                tracing::warn!(name = self.name, %error, "KMS plugin failed health check probe");
            }
            let pause = if outcome.is_ok() { HEALTHY } else { UNHEALTHY };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Whether the service works; asks it when the last answer is too old.
    pub(super) async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some(probe) = &*last {
            let good_for = if probe.outcome.is_ok() { GOOD_NEWS } else { BAD_NEWS };
            if probe.at.elapsed() < good_for {
                return probe.outcome.clone();
            }
        }
        let outcome = self.probe().await;
        *last = Some(Probe { outcome: outcome.clone(), at: Instant::now() });
        outcome
    }

    async fn probe(&self) -> Result<(), String> {
        let status = self.client.status().await.map_err(|e| {
            format!(
                "failed to perform status section of the healthz check for KMS Provider {}, error: {e}",
                self.name
            )
        })?;
        let mut errors = Vec::new();
        if status.healthz != "ok" {
            errors.push(format!("got unexpected healthz status: {}", status.healthz));
        }
        errors.extend(self.check_version(&status.version).err());
        match envelope::key_id(&status.key_id) {
            Err((code, why)) => {
                METRICS.invalid_key_id(&self.name, code);
                errors.push(format!("got invalid KMSv2 KeyID hash {:?}: {why}", hash(&status.key_id)));
            }
            Ok(()) => {
                METRICS.status_key_id(&self.name, &status.key_id);
                errors.extend(self.rotate(&status.key_id).await.err());
            }
        }
        match errors.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("kmsv2 Provider {} is not healthy, error: {one}", self.name)),
            many => Err(format!("kmsv2 Provider {} is not healthy, error: [{}]", self.name, many.join(", "))),
        }
    }

    fn check_version(&self, version: &str) -> Result<(), String> {
        if !matches!(version, "v2" | "v2beta1") {
            return Err(format!("expected KMSv2 API version v2, got {version}"));
        }
        let mut first = self.version.lock();
        if first.is_empty() {
            version.clone_into(&mut first);
        }
        if *first == version {
            return Ok(());
        }
        Err(format!(
            "KMSv2 API version should not change after the initial status response version {first}, got {version}"
        ))
    }

    /// Prolongs the state if it is of this key, else makes one.
    async fn rotate(&self, key_id: &str) -> Result<(), String> {
        // Before the call: the time is an upper bound.
        let expires = SystemTime::now() + WRITABLE;
        if let Some(state) = self.state.load_full().filter(|s| s.key_id == key_id) {
            let same = State {
                dek: state.dek.clone(),
                key_id: state.key_id.clone(),
                source: state.source.clone(),
                annotations: state.annotations.clone(),
                expires,
            };
            self.state.store(Some(Arc::new(same)));
            return Ok(());
        }
        let seed: [u8; 32] = rand::random();
        let uid = uuid::Uuid::new_v4().to_string();
        METRICS.generated(self.generate(key_id, &uid, &seed, expires).await.map_err(|e| {
            format!(
                "failed to rotate DEK uid={uid:?}, useSeed=true, errGen={e}, statusKeyIDHash={:?}",
                hash(key_id)
            )
        }))
    }

    async fn generate(
        &self,
        key_id: &str,
        uid: &str,
        seed: &[u8],
        expires: SystemTime,
    ) -> Result<(), String> {
        let request = EncryptRequest { plaintext: seed.to_vec(), uid: uid.to_owned() };
        let sealed =
            self.client.encrypt(request).await.map_err(|e| format!("failed to encrypt DEK, error: {e}"))?;
        let annotations: BTreeMap<_, _> = sealed.annotations.into_iter().collect();
        let object = EncryptedObject {
            // Not empty, so that the rest is judged.
            encrypted_data: vec![0],
            key_id: sealed.key_id,
            encrypted_dek_source: sealed.ciphertext,
            annotations,
            source_type: HKDF_SEED,
        };
        object.validate()?;
        if object.key_id != key_id {
            return Err(format!("encryptKeyIDHash={:?} differs", hash(&object.key_id)));
        }
        let dek = Arc::new(Dek::new(HKDF_SEED, seed)?);
        self.remember(object.identity(), Known::Dek(dek.clone()));
        let EncryptedObject { key_id, encrypted_dek_source: source, annotations, .. } = object;
        self.state.store(Some(Arc::new(State { dek, key_id, source, annotations, expires })));
        Ok(())
    }

    pub(super) fn seal(&self, etcd_key: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let state = self.state.load_full().ok_or("got unexpected nil transformer")?;
        if SystemTime::now() > state.expires {
            return Err(format!("encryptedDEKSource with keyID hash {:?} expired", hash(&state.key_id)));
        }
        METRICS.used_key_id("to_storage", &self.name, &state.key_id);
        let object = EncryptedObject {
            encrypted_data: state.dek.seal(etcd_key, plain)?,
            key_id: state.key_id.clone(),
            encrypted_dek_source: state.source.clone(),
            annotations: state.annotations.clone(),
            source_type: HKDF_SEED,
        };
        object.validate()?;
        Ok(object.encode_to_vec())
    }

    /// The plain bytes, and whether a write would use another key now.
    pub(super) fn open(&self, etcd_key: &str, stored: &[u8]) -> Result<(Bytes, bool), String> {
        let object = EncryptedObject::read(stored)?;
        let dek = match self.known.lock().get(&object.identity()) {
            Some(Known::Dek(dek)) => dek.clone(),
            Some(Known::Refused(why, _)) => return Err(format!("failed to decrypt DEK, error: {why}")),
            None => return Err("failed to decrypt DEK, error: it has not been fetched yet".to_owned()),
        };
        METRICS.used_key_id("from_storage", &self.name, &object.key_id);
        let plain = dek.open(etcd_key, &object.encrypted_data)?;
        let stale = self
            .state
            .load()
            .as_ref()
            .is_some_and(|s| s.key_id != object.key_id || object.source_type != HKDF_SEED);
        Ok((plain.into(), stale))
    }

    /// Asks the service for the value's data key, unless it is known.
    pub(super) fn fetch(self: Arc<Self>, stored: &[u8]) -> Option<BoxFuture<'static, ()>> {
        let object = EncryptedObject::read(stored).ok()?;
        let identity = object.identity();
        if self.at_hand(&identity) {
            return None;
        }
        let (source, key_id, kind) = (object.encrypted_dek_source, object.key_id, object.source_type);
        let request = DecryptRequest {
            ciphertext: source,
            uid: uuid::Uuid::new_v4().to_string(),
            key_id,
            annotations: object.annotations.into_iter().collect(),
        };
        Some(
            async move {
                let _turn = self.fetching.lock().await;
                if self.at_hand(&identity) {
                    return;
                }
                METRICS.cache_miss();
                let opened = self.client.decrypt(request).await;
                let known = match opened.and_then(|answer| Dek::new(kind, &answer.plaintext)) {
                    Ok(dek) => Known::Dek(Arc::new(dek)),
                    Err(why) => Known::Refused(why, Instant::now()),
                };
                self.remember(identity, known);
            }
            .boxed(),
        )
    }

    /// Whether asking now would bring nothing new.
    fn at_hand(&self, identity: &[u8]) -> bool {
        match self.known.lock().get(identity) {
            Some(Known::Dek(_)) => true,
            Some(Known::Refused(_, at)) => at.elapsed() < REFUSED,
            None => false,
        }
    }

    fn remember(&self, identity: Vec<u8>, what: Known) {
        let mut known = self.known.lock();
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(identity, what);
        METRICS.cache_size(&self.name, known.len());
    }
}
