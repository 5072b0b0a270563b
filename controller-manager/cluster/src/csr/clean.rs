//! certificatesigningrequest-cleaner-controller: requests are deleted some time after they were decided, or
//! when nobody ever did.

use std::time::Duration;

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, errors, now};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::DeleteParams;

use super::issued;

const DECIDED: i64 = 3600;
const PENDING: i64 = 24 * 3600;

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let requests = ctx.informer::<CertificateSigningRequest>();
    requests.synced().await;
    let q = queue.clone();
    requests.watch(move |change| {
        if !change.deleted() {
            q.add(change.object().key());
        }
    });
    let workers = ctx.workers("csrcleaner", "csrcleaner", 1);
    let (client, requests) = (&ctx.client, &requests);
    workers
        .run(queue, |key: Key| async move {
            let Some(csr) = requests.get(&key) else { return Ok(None) };
            let left = left(&csr, now());
            if left > 0 {
                return Ok::<Requeue, anyhow::Error>(Some(Duration::from_secs(left.unsigned_abs() + 1)));
            }
            let api: Api<CertificateSigningRequest> = Api::all(client.clone());
            errors::optional(api.delete(&key.name, &DeleteParams::default()).await)?;
            Ok(None)
        })
        .await;
    Ok(())
}

/// Seconds until the request may go.
fn left(csr: &CertificateSigningRequest, now: jiff::Timestamp) -> i64 {
    let since = |t: Option<&Time>, limit: i64| t.map_or(limit, |t| limit - now.duration_since(t.0).as_secs());
    let created = csr.metadata.creation_timestamp.as_ref();
    if issued(csr).is_some_and(|pem| expired(pem, now)) {
        return 0;
    }
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let decided =
        conditions.into_iter().filter(|c| ["Approved", "Denied", "Failed"].contains(&c.type_.as_str()));
    let soonest = decided.map(|c| since(c.last_update_time.as_ref().or(created), DECIDED)).min();
    soonest.unwrap_or_else(|| since(created, PENDING))
}

fn expired(pem: &[u8], now: jiff::Timestamp) -> bool {
    let Ok(block) = pem::parse(pem) else { return false };
    let Ok((_, cert)) = x509_parser::parse_x509_certificate(block.contents()) else { return false };
    cert.validity().not_after.timestamp() < now.as_second()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decided_requests_go_sooner() {
        let csr = |conditions: serde_json::Value| -> CertificateSigningRequest {
            serde_json::from_value(json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
                "spec": {"request": "", "signerName": "x"}, "status": {"conditions": conditions}}))
            .unwrap()
        };
        let now = "2026-01-01T02:00:00Z".parse().unwrap();
        assert_eq!(left(&csr(json!([])), now), 22 * 3600);
        let denied = json!([{"type": "Denied", "status": "True", "lastUpdateTime": "2026-01-01T01:30:00Z"}]);
        assert_eq!(left(&csr(denied), now), 1800);
    }
}
