//! Priority and fairness: what the objects say comes into force at once, seats change hands every few seconds, and
//! each FlowSchema is told whether its level exists.

use api::status::Result;
use api::{Value, json};
use endpoints::server::Server;
use endpoints::write::now;
use fairness::limits::PERIOD;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: (&str, &str) = (GROUP, "flowschemas");
const LEVELS: (&str, &str) = (GROUP, "prioritylevelconfigurations");
const RETRY: Duration = Duration::from_secs(1);

/// Follows the objects until the server stops.
pub async fn run(server: Arc<Server>) {
    let Some(fairness) = &server.fairness else { return };
    server.store.wait_ready().await;
    let subscribed = |gr: (&str, &str)| {
        let row = server.storage_row(gr.0, gr.1)?;
        Some(row.stored().ok()?.resource.subscribe())
    };
    let (Some(mut schemas), Some(mut levels)) = (subscribed(SCHEMAS), subscribed(LEVELS)) else { return };
    let mut period = interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (all, known) = (server.registry.list(SCHEMAS, None), server.registry.list(LEVELS, None));
        fairness.configure(&known, &all);
        let told = tell(&server, &all, &known).await;
        let failed = told.is_err();
        super::note("flow schemas", told);
        loop {
            tokio::select! {
                () = tokio::time::sleep(RETRY), if failed => break,
                changed = schemas.changed() => if changed.is_err() { return } else { break },
                changed = levels.changed() => if changed.is_err() { return } else { break },
                _ = period.tick() => fairness.rebalance(),
            }
        }
    }
}

/// Writes the condition `Dangling` where it is not right.
async fn tell(server: &Server, schemas: &[Arc<Value>], levels: &[Arc<Value>]) -> Result<()> {
    let names: BTreeSet<&str> = levels.iter().filter_map(|l| l["metadata"]["name"].as_str()).collect();
    for schema in schemas {
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let Some(conditions) = told(schema, level, names.contains(level)) else { continue };
        let mut new = (**schema).clone();
        new["status"]["conditions"] = conditions;
        super::settled(server.registry.update(SCHEMAS, "status", new).await)?;
    }
    Ok(())
}

/// The conditions with the one that is right; `None` if they are.
fn told(schema: &Value, level: &str, exists: bool) -> Option<Value> {
    let object = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?}");
    let (status, reason, message) = match exists {
        true => ("False", "Found", format!("{object} and it exists")),
        false => ("True", "NotFound", format!("{object} but there is no such object")),
    };
    let mut all = schema["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let old = all.iter().position(|c| c["type"] == "Dangling");
    let same = |c: &Value| c["status"] == status && c["reason"] == reason && c["message"] == message.as_str();
    if old.is_some_and(|i| same(&all[i])) {
        return None;
    }
    let new = json!({
        "type": "Dangling", "status": status, "lastTransitionTime": now(), "reason": reason, "message": message,
    });
    match old {
        Some(i) => all[i] = new,
        None => all.push(new),
    }
    Some(all.into())
}
