//! certificatesigningrequest-signing-controller: signs approved requests of the built-in signers.
//!
//! The authority's files are read for each signature, so that a renewed authority is used at once.

use std::path::PathBuf;
use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, now_time};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::Api;
use kube::api::PostParams;
use pki::{Ca, Csr, SignOptions, Usage};

use super::recognize::{CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, valid};
use super::{approved, is, issued, request};

const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Certificates shorter than this are not shortened by the backdating.
const SHORT: Duration = Duration::from_secs(8 * 3600);
const SHORTEST: Duration = Duration::from_secs(10 * 60);

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let requests = ctx.informer::<CertificateSigningRequest>();
    requests.synced().await;
    let q = queue.clone();
    requests.watch(move |change| {
        let csr = change.object();
        if !change.deleted() && approved(csr) && issued(csr).is_none() {
            q.add(csr.key());
        }
    });
    let workers = ctx.workers("csrsigning", "csr", 5);
    let (ctx, requests) = (&ctx, &requests);
    workers
        .run(queue, |key: Key| async move {
            match requests.get(&key) {
                Some(csr) => reconcile(ctx, &csr).await,
                None => Ok(None),
            }
        })
        .await;
    Ok(())
}

/// Certificate and key of a signer: its own, or the common ones.
fn files<'a>(ctx: &'a Context, signer: &str) -> Option<&'a (PathBuf, PathBuf)> {
    if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer) {
        return None;
    }
    let files = &ctx.settings.signing.files;
    files.get(signer).or_else(|| files.get(""))
}

async fn reconcile(ctx: &Context, csr: &CertificateSigningRequest) -> anyhow::Result<Requeue> {
    if !approved(csr) || is(csr, "Failed") || issued(csr).is_some() {
        return Ok(None);
    }
    let Some((cert, key)) = files(ctx, &csr.spec.signer_name) else { return Ok(None) };
    let text = request(csr)?;
    let usages = csr.spec.usages.clone().unwrap_or_default();
    let mut next = csr.clone();
    let status = next.status.get_or_insert_default();
    match valid(&csr.spec.signer_name, &Csr::parse(text)?, &usages) {
        Err(why) => status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
            type_: "Failed".into(),
            status: "True".into(),
            reason: Some("SignerValidationFailure".into()),
            message: Some(why),
            last_update_time: Some(now_time()),
            last_transition_time: None,
        }),
        Ok(()) => {
            let ca = Ca::load(&cert.to_string_lossy(), &key.to_string_lossy())?;
            let ttl = lifetime(ctx.settings.signing.duration, csr.spec.expiration_seconds);
            let usages = usages.iter().filter_map(|u| Usage::parse(u)).collect();
            let pem = ca.sign_csr(text, &SignOptions { ttl, backdate: BACKDATE, usages })?;
            status.certificate = Some(ByteString(pem.into_bytes()));
        }
    }
    let api: Api<CertificateSigningRequest> = Api::all(ctx.client.clone());
    api.replace_status(csr.name(), &PostParams::default(), &next).await?;
    Ok(None)
}

/// How long a certificate is valid from now on.
fn lifetime(most: Duration, wanted: Option<i32>) -> Duration {
    let asked = wanted.map(|s| Duration::from_secs(u64::try_from(s).unwrap_or(0)));
    let ttl = asked.map_or(most, |a| a.max(SHORTEST).min(most));
    if ttl >= SHORT { ttl - BACKDATE } else { ttl }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_bounded() {
        let year = Duration::from_secs(365 * 86400);
        assert_eq!(lifetime(year, None), year - BACKDATE);
        assert_eq!(lifetime(year, Some(60)), SHORTEST);
        assert_eq!(lifetime(year, Some(3600)), Duration::from_secs(3600));
        assert_eq!(lifetime(Duration::from_secs(7200), Some(90000)), Duration::from_secs(7200));
    }
}
