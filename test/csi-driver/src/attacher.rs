//! Attaches by saying so.

use std::pin::pin;

use anyhow::Context;
use futures::StreamExt;
use k8s_openapi::api::storage::v1::VolumeAttachment;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::watcher;

/// Marks each attachment that names the driver as attached.
pub async fn run(kubeconfig: &str, driver: &str) -> anyhow::Result<()> {
    let client = client::connect(Some(kubeconfig), None, "csi-driver", 50.0, 100).await?;
    let api: Api<VolumeAttachment> = Api::all(client);
    let mut events = pin!(watcher(api.clone(), watcher::Config::default()));
    while let Some(event) = events.next().await {
        let attachment = match event {
            Ok(watcher::Event::Apply(attachment) | watcher::Event::InitApply(attachment)) => attachment,
            Ok(_) => continue,
            Err(error) => {
                tracing::warn!(%error, "Watching attachments failed");
                continue;
            }
        };
        let done = attachment.status.as_ref().is_some_and(|s| s.attached);
        if attachment.spec.attacher != driver || done || attachment.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = attachment.metadata.name.context("an attachment without a name")?;
        let status =
            serde_json::json!({"status": {"attached": true, "attachmentMetadata": {"device": "test"}}});
        if let Err(error) = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(status)).await {
            tracing::warn!(name, %error, "Cannot mark the attachment");
        }
    }
    Ok(())
}
