//! certificatesigningrequest-approving-controller: approves client certificates of kubelets, if the one who
//! asks is allowed to have them approved.

use controller_kit::meta::MetaExt;
use controller_kit::{Context, Key, Queue, Requeue, now_time};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use kube::Api;
use kube::api::PostParams;
use pki::Csr;

use super::recognize::{KUBELET_CLIENT, kubelet_client};
use super::{has, issued, request};

/// Runs until shutdown.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let queue = Queue::new();
    let requests = ctx.informer::<CertificateSigningRequest>();
    requests.synced().await;
    let q = queue.clone();
    requests.watch(move |change| {
        if !change.deleted() && change.object().spec.signer_name == KUBELET_CLIENT {
            q.add(change.object().key());
        }
    });
    let workers = ctx.workers("csrapproving", "csr", 5);
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

async fn reconcile(ctx: &Context, csr: &CertificateSigningRequest) -> anyhow::Result<Requeue> {
    if issued(csr).is_some() || has(csr, "Approved") || has(csr, "Denied") {
        return Ok(None);
    }
    let parsed = Csr::parse(request(csr)?)?;
    let usages = csr.spec.usages.clone().unwrap_or_default();
    if kubelet_client(&parsed, &usages).is_err() {
        return Ok(None);
    }
    let own = csr.spec.username.as_deref() == Some(parsed.cn.as_str());
    let ways = [
        (own, "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
        (true, "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
    ];
    for (applies, permission, message) in ways {
        if applies && allowed(ctx, csr, permission).await? {
            return approve(ctx, csr, message).await;
        }
    }
    // Permissions may come later; nothing tells us when.
    anyhow::bail!("recognized csr {} but subject access review was not approved", csr.name())
}

async fn allowed(ctx: &Context, csr: &CertificateSigningRequest, permission: &str) -> anyhow::Result<bool> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: csr.spec.username.clone(),
            uid: csr.spec.uid.clone(),
            groups: csr.spec.groups.clone(),
            extra: csr.spec.extra.clone(),
            resource_attributes: Some(ResourceAttributes {
                group: Some("certificates.k8s.io".into()),
                resource: Some("certificatesigningrequests".into()),
                verb: Some("create".into()),
                subresource: Some(permission.into()),
                version: Some("*".into()),
                ..ResourceAttributes::default()
            }),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(ctx.client.clone());
    let review = api.create(&PostParams::default(), &review).await?;
    Ok(review.status.is_some_and(|s| s.allowed))
}

async fn approve(ctx: &Context, csr: &CertificateSigningRequest, message: &str) -> anyhow::Result<Requeue> {
    let mut next = csr.clone();
    next.status.get_or_insert_default().conditions.get_or_insert_default().push(
        CertificateSigningRequestCondition {
            type_: "Approved".into(),
            status: "True".into(),
            reason: Some("AutoApproved".into()),
            message: Some(message.into()),
            last_update_time: Some(now_time()),
            last_transition_time: None,
        },
    );
    let api: Api<CertificateSigningRequest> = Api::all(ctx.client.clone());
    let _: CertificateSigningRequest =
        api.replace_subresource("approval", csr.name(), &PostParams::default(), &next).await?;
    Ok(None)
}
