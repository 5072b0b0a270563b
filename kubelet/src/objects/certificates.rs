//! Certificates of pods: a fresh key, a PodCertificateRequest for it, and what its signer makes of that.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1beta1::{
    PodCertificateRequest, PodCertificateRequestSpec, PodCertificateRequestStatus,
};
use k8s_openapi::api::core::v1::{Node, Pod, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
use kube::runtime::watcher;
use parking_lot::Mutex;
use volumes::{Credentials, Error, PodCertificate, Result};

use crate::pod::PodExt;

/// How long a signer may take before the volume is tried again.
const PATIENCE: Duration = Duration::from_secs(60);

/// The certificates of this node's pods.
pub struct Certificates {
    client: kube::Client,
    node: String,
    known: Mutex<HashMap<Key, Known>>,
}

/// Pod UID, and the projection as text.
type Key = (String, String);

struct Known {
    credentials: Credentials,
    refresh_at: SystemTime,
    ends: SystemTime,
}

impl Certificates {
    /// Certificates asked for with `client` for pods on `node`.
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.to_string(), known: Mutex::default() }
    }

    /// Key and certificates of a pod; kept ones while they are fresh, or if there are no others and they still work.
    pub async fn get(&self, pod: &Pod, source: &PodCertificate) -> Result<Credentials> {
        let key = (pod.uid().to_string(), serde_json::to_string(source).unwrap_or_default());
        let now = SystemTime::now();
        if let Some(known) = self.known.lock().get(&key).filter(|k| now < k.refresh_at) {
            return Ok(known.credentials.clone());
        }
        match self.ask(pod, source).await {
            Ok(known) => {
                let credentials = known.credentials.clone();
                self.known.lock().insert(key, known);
                Ok(credentials)
            }
            Err(error) => {
                let known = self.known.lock();
                let old = known.get(&key).filter(|k| now < k.ends).map(|k| k.credentials.clone());
                old.ok_or(Error::other(error))
            }
        }
    }

    async fn ask(&self, pod: &Pod, source: &PodCertificate) -> std::result::Result<Known, String> {
        let (key, request) = key_and_request(&source.key_type)?;
        let account = pod.spec().service_account_name.clone().unwrap_or_else(|| "default".into());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), pod.namespace());
        let nodes: Api<Node> = Api::all(self.client.clone());
        let uid = |meta: ObjectMeta| meta.uid.unwrap_or_default();
        let account_uid = uid(accounts.get(&account).await.map_err(|e| super::words(&e))?.metadata);
        let node_uid = uid(nodes.get(&self.node).await.map_err(|e| super::words(&e))?.metadata);
        let object = PodCertificateRequest {
            metadata: ObjectMeta {
                generate_name: Some("req-".into()),
                namespace: Some(pod.namespace().into()),
                owner_references: Some(vec![OwnerReference {
                    api_version: "v1".into(),
                    kind: "Pod".into(),
                    name: pod.name().into(),
                    uid: pod.uid().into(),
                    ..Default::default()
                }]),
                ..Default::default()
            },
            spec: PodCertificateRequestSpec {
                signer_name: source.signer_name.clone(),
                pod_name: pod.name().into(),
                pod_uid: pod.uid().into(),
                service_account_name: account,
                service_account_uid: account_uid,
                node_name: self.node.clone(),
                node_uid,
                max_expiration_seconds: source.max_expiration_seconds,
                stub_pkc_s10_request: ByteString(request),
                unverified_user_annotations: source.user_annotations.clone(),
                ..Default::default()
            },
            status: None,
        };
        let api: Api<PodCertificateRequest> = Api::namespaced(self.client.clone(), pod.namespace());
        let created = api.create(&PostParams::default(), &object).await.map_err(|e| super::words(&e))?;
        let name = created.metadata.name.unwrap_or_default();
        let decided = tokio::time::timeout(PATIENCE, self.decision(api, &name));
        let status =
            decided.await.map_err(|_| format!("PodCertificateRequest {name:?} is not issued yet"))??;
        let time = |t: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            t.as_ref().map(|t| SystemTime::from(t.0))
        };
        let later = SystemTime::now() + Duration::from_secs(1800);
        Ok(Known {
            credentials: Credentials { key, chain: status.certificate_chain.clone().unwrap_or_default() },
            refresh_at: time(&status.begin_refresh_at).unwrap_or(later),
            ends: time(&status.not_after).unwrap_or(later),
        })
    }

    /// Waits for what the signer decides.
    async fn decision(
        &self,
        api: Api<PodCertificateRequest>,
        name: &str,
    ) -> std::result::Result<PodCertificateRequestStatus, String> {
        // A node may only watch the requests that are its own.
        let fields = format!("spec.nodeName={},metadata.name={name}", self.node);
        let mut events = std::pin::pin!(watcher(api, watcher::Config::default().fields(&fields)));
        while let Some(event) = events.next().await {
            let object = match event {
                Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => object,
                Ok(watcher::Event::Delete(_)) => {
                    return Err(format!("PodCertificateRequest {name:?} was deleted"));
                }
                Ok(_) => continue,
                Err(error) => return Err(error.to_string()),
            };
            let Some(status) = object.status else { continue };
            let verdict = |kind: &str| {
                let conditions = status.conditions.iter().flatten();
                conditions.into_iter().find(|c| c.type_ == kind && c.status == "True")
            };
            if verdict("Issued").is_some() {
                return Ok(status);
            }
            for kind in ["Denied", "Failed"] {
                if let Some(condition) = verdict(kind) {
                    let text = format!(
                        "PodCertificateRequest {name:?} {}: {} {}",
                        kind.to_lowercase(),
                        condition.reason,
                        condition.message
                    );
                    return Err(text);
                }
            }
        }
        Err("the watch ended".into())
    }

    /// Forgets the certificates of all other pods.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.known.lock().retain(|(uid, _), _| uids.contains(uid));
    }
}

/// A private key of the type, PEM, and an empty signing request for it, DER.
fn key_and_request(kind: &str) -> std::result::Result<(String, Vec<u8>), String> {
    let algorithm = match kind {
        "ED25519" => &rcgen::PKCS_ED25519,
        "ECDSAP256" => &rcgen::PKCS_ECDSA_P256_SHA256,
        "ECDSAP384" => &rcgen::PKCS_ECDSA_P384_SHA384,
        other => return Err(format!("keys of type {other:?} cannot be made here")),
    };
    let key =
        rcgen::KeyPair::generate_for(algorithm).map_err(|e| format!("while generating keypair: {e}"))?;
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let request = params.serialize_request(&key).map_err(|e| e.to_string())?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for kind in ["ED25519", "ECDSAP256", "ECDSAP384"] {
            let (pem, request) = key_and_request(kind).unwrap();
            assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----"), "{kind}");
            assert_eq!(request.first(), Some(&0x30), "{kind}");
        }
        assert!(key_and_request("X").is_err());
    }
}
