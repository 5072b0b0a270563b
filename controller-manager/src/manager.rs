//! Runs the chosen controllers side by side; one that fails is started again, the others go on.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use controller_kit::Context;
use futures::FutureExt;
use tokio::task::JoinSet;

use crate::controllers::{ALL, Controller, Running, Selection};
use crate::credentials::Credentials;

/// Runs until shutdown.
pub async fn run(ctx: Context, credentials: &Credentials, selection: &Selection) {
    let mut tasks = JoinSet::new();
    for controller in ALL {
        if let Some(start) = startable(&ctx, selection, controller) {
            tasks.spawn(keep(controller.name, start, ctx.clone(), credentials.clone()));
        }
    }
    while tasks.join_next().await.is_some() {}
    ctx.informers.stopped().await;
}

fn startable(
    ctx: &Context,
    selection: &Selection,
    controller: &Controller,
) -> Option<fn(Context) -> Running> {
    let name = controller.name;
    if !selection.enabled(controller) {
        tracing::info!(controller = name, "controller is disabled");
        return None;
    }
    if let Some(gate) = controller.gates.iter().find(|gate| !ctx.settings.gate(gate)) {
        tracing::debug!(controller = name, gate, "controller is off: its feature gate is");
        return None;
    }
    if controller.cloud {
        return None;
    }
    if let Some(missing) = unmet(ctx, name) {
        tracing::warn!(controller = name, missing, "skipping controller");
        return None;
    }
    if controller.start.is_none() {
        tracing::warn!(controller = name, "controller is not implemented yet");
    }
    controller.start
}

/// The flag without which a controller has nothing to work with.
fn unmet(ctx: &Context, name: &str) -> Option<&'static str> {
    let settings = &ctx.settings;
    match name {
        "serviceaccount-token-controller" if settings.service_account_key.is_none() => {
            Some("service-account-private-key-file")
        }
        "certificatesigningrequest-signing-controller" if settings.signing.files.is_empty() => {
            Some("cluster-signing-cert-file")
        }
        "node-ipam-controller" if !settings.ipam.allocate => Some("allocate-node-cidrs"),
        "garbage-collector-controller" if !settings.collect_garbage => Some("enable-garbage-collector"),
        _ => None,
    }
}

async fn keep(name: &'static str, start: fn(Context) -> Running, ctx: Context, credentials: Credentials) {
    let mut delay = Duration::from_secs(1);
    loop {
        tracing::info!(controller = name, "starting controller");
        let work = async {
            let client = credentials.client(name, &ctx.shutdown).await?;
            start(Context { client, ..ctx.clone() }).await
        };
        let outcome = AssertUnwindSafe(work).catch_unwind().await;
        if ctx.shutdown.is_cancelled() {
            return;
        }
        match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(controller = name, error = format!("{error:#}"), "controller failed")
            }
            Err(_) => tracing::error!(controller = name, "controller panicked"),
        }
        tokio::select! {
            () = ctx.shutdown.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(Duration::from_secs(60));
    }
}
