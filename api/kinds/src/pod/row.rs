//! The row of a pod: ready counts, one word for its state, restarts.

use crate::table::{age, condition, condition_true, name, or_none, since};
use crate::value::Get;
use api::Value;

/// What the containers say, summed up on the way through their statuses.
#[derive(Default)]
struct Tally<'a> {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: &'a str,
}

impl<'a> Tally<'a> {
    fn count_restarts(&mut self, status: &'a Value) {
        self.restarts += status.int("restartCount");
        let finished = status.at("lastState").at("terminated").text("finishedAt");
        // Timestamps in UTC of whole seconds sort as text.
        if finished > self.last_restart {
            self.last_restart = finished;
        }
    }
}

pub fn pod(pod: &Value) -> Vec<Value> {
    let (spec, status) = (pod.at("spec"), pod.at("status"));
    let phase = status.text("phase");
    let mut tally = Tally {
        reason: match status.text("reason") {
            "" => phase.to_owned(),
            reason => reason.to_owned(),
        },
        ..Tally::default()
    };
    if condition(status, "PodScheduled").is_some_and(|c| c.text("reason") == "SchedulingGated") {
        tally.reason = "SchedulingGated".to_owned();
    }
    let total = spec.list("containers").len()
        + spec.list("initContainers").iter().filter(|c| c.text("restartPolicy") == "Always").count();
    let mut sidecars = Tally::default();
    let initializing = init_containers(spec, status, &mut tally, &mut sidecars);
    if !initializing || condition_true(status, "Initialized") {
        tally.restarts = sidecars.restarts;
        tally.last_restart = sidecars.last_restart;
        containers(status, &mut tally);
    }
    if pod.at("metadata").has("deletionTimestamp") {
        if status.text("reason") == "NodeLost" {
            tally.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            tally.reason = "Terminating".to_owned();
        }
    }
    let restarts = match (tally.restarts, tally.last_restart) {
        (n, last) if n != 0 && !last.is_empty() => format!("{n} ({} ago)", since(last)),
        (n, _) => n.to_string(),
    };
    vec![
        name(pod),
        format!("{}/{total}", tally.ready).into(),
        tally.reason.into(),
        restarts.into(),
        age(pod),
        or_none(status.list("podIPs").first().map_or("", |ip| ip.text("ip"))),
        or_none(spec.text("nodeName")),
        or_none(status.text("nominatedNodeName")),
        readiness_gates(spec, status),
    ]
}

/// Clients may grey out pods that are done.
pub fn conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match pod.at("status").text("phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    let done = api::json!({"type": "Completed", "status": "True", "reason": reason, "message": message});
    Some(Value::Array(vec![done]))
}

/// Words of the first init container that is not done; whether there is one.
fn init_containers<'a>(
    spec: &Value,
    status: &'a Value,
    tally: &mut Tally<'a>,
    sidecars: &mut Tally<'a>,
) -> bool {
    let inits = spec.list("initContainers");
    for (i, c) in status.list("initContainerStatuses").iter().enumerate() {
        let sidecar =
            inits.iter().any(|s| s.text("name") == c.text("name") && s.text("restartPolicy") == "Always");
        tally.count_restarts(c);
        if sidecar {
            sidecars.count_restarts(c);
        }
        let (terminated, waiting) =
            (c.at("state").at("terminated"), c.at("state").at("waiting").text("reason"));
        if !terminated.is_null() && terminated.int("exitCode") == 0 {
            continue;
        }
        if sidecar && c.flag("started") {
            tally.ready += usize::from(c.flag("ready"));
            continue;
        }
        tally.reason = if !terminated.is_null() {
            format!("Init:{}", exit_word(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", inits.len())
        };
        return true;
    }
    false
}

fn exit_word(terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.int("signal")) {
        ("", 0) => format!("ExitCode:{}", terminated.int("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn containers<'a>(status: &'a Value, tally: &mut Tally<'a>) {
    let (mut running, mut failure) = (false, None);
    for c in status.list("containerStatuses").iter().rev() {
        tally.count_restarts(c);
        let state = c.at("state");
        let waiting = state.at("waiting").text("reason");
        if !waiting.is_empty() {
            tally.reason = waiting.to_owned();
        } else if state.has("terminated") {
            tally.reason = exit_word(state.at("terminated"));
            if state.at("terminated").int("exitCode") != 0 {
                failure = Some(tally.reason.clone());
            }
        } else if c.flag("ready") && state.has("running") {
            running = true;
            tally.ready += 1;
        }
    }
    if tally.reason == "Completed" {
        if running && condition_true_any(status, "Ready") {
            tally.reason = "Running".to_owned();
        } else if let Some(failure) = failure {
            tally.reason = failure;
        } else if running {
            tally.reason = "NotReady".to_owned();
        }
    }
}

fn condition_true_any(status: &Value, kind: &str) -> bool {
    status.list("conditions").iter().any(|c| c.text("type") == kind && c.text("status") == "True")
}

fn readiness_gates(spec: &Value, status: &Value) -> Value {
    let gates = spec.list("readinessGates");
    if gates.is_empty() {
        return or_none("");
    }
    let open = gates.iter().filter(|g| condition_true(status, g.text("conditionType"))).count();
    format!("{open}/{}", gates.len()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn words(p: Value) -> [String; 3] {
        let row = pod(&p);
        [1, 2, 3].map(|i| row[i].as_str().unwrap_or_default().to_owned())
    }

    #[test]
    fn only_finished_pods_have_a_condition() {
        for (phase, want) in [("Running", None), ("Failed", Some("Failed")), ("Succeeded", Some("Succeeded"))]
        {
            let got = conditions(&json!({"status": {"phase": phase}}));
            assert_eq!(got.as_ref().map(|c| c[0]["reason"].as_str().unwrap_or_default()), want);
        }
    }

    #[test]
    fn status_words() {
        let two = json!([{"name": "a"}, {"name": "b"}]);
        let running = json!({"name": "a", "ready": true, "state": {"running": {}}});
        for (spec, status, want) in [
            (json!({"containers": two}), json!({"phase": "Pending"}), ["0/2", "Pending", "0"]),
            (
                json!({"containers": two}),
                json!({"phase": "Running", "containerStatuses": [running, {"name": "b", "restartCount": 3,
                    "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
                ["1/2", "CrashLoopBackOff", "3"],
            ),
            (
                json!({"containers": two}),
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 2}}},
                    {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]}),
                ["0/2", "ExitCode:2", "0"],
            ),
            (
                json!({"containers": two}),
                json!({"phase": "Running", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}, running],
                    "conditions": [{"type": "Ready", "status": "True"}]}),
                ["1/2", "Running", "0"],
            ),
            (
                json!({"containers": two, "initContainers": [{"name": "i"}, {"name": "j"}]}),
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0}}},
                    {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                ["0/2", "Init:1/2", "0"],
            ),
            (
                json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]}),
                json!({"phase": "Running", "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "restartCount": 1,
                    "state": {"running": {}}}], "containerStatuses": [running]}),
                ["2/2", "Running", "1"],
            ),
            (
                json!({"containers": two}),
                json!({"conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}], "phase": "Pending"}),
                ["0/2", "SchedulingGated", "0"],
            ),
        ] {
            assert_eq!(words(json!({"metadata": {}, "spec": spec, "status": status})), want);
        }
        let gone = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}, "spec": {}, "status": {"phase": "Running"}});
        assert_eq!(words(gone)[1], "Terminating");
    }
}
