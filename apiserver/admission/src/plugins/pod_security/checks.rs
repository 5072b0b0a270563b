//! The checks of the Pod Security Standards, each with the versions that it belongs to.

use super::policy::{Level, LevelVersion, Version};
use crate::objects::{ALL_CONTAINERS, at, items, strings, text};
use api::Value;
use std::collections::BTreeSet;

mod kernel;

use kernel::{se_linux, seccomp_baseline, seccomp_restricted, sysctls};

/// The last version that changed anything; `latest` and whatever comes later mean this one.
const NEWEST: u32 = 35;

/// Why a check refuses: a short reason and the details.
#[derive(Debug, PartialEq)]
pub struct Violation {
    pub reason: String,
    pub detail: String,
}

type Check = fn(&Pod<'_>, u32) -> Option<Violation>;

/// A check from one version up to (not including) another, baseline ones first, each group by name.
/// `overridden` is the version from which a restricted check takes a baseline one's place.
struct Row {
    level: Level,
    since: u32,
    overridden: u32,
    check: Check,
}

const NEVER: u32 = u32::MAX;

const fn baseline(since: u32, overridden: u32, check: Check) -> Row {
    Row { level: Level::Baseline, since, overridden, check }
}

const fn restricted(since: u32, check: Check) -> Row {
    Row { level: Level::Restricted, since, overridden: NEVER, check }
}

static TABLE: [Row; 19] = [
    baseline(0, NEVER, app_armor),
    baseline(0, 22, capabilities_baseline),
    baseline(0, NEVER, host_namespaces),
    baseline(0, 0, host_path),
    baseline(0, NEVER, host_ports),
    baseline(34, NEVER, probe_hosts),
    baseline(0, NEVER, privileged),
    baseline(0, 35, proc_mount_baseline),
    baseline(0, NEVER, se_linux),
    baseline(0, 19, seccomp_baseline),
    baseline(0, NEVER, sysctls),
    baseline(0, NEVER, host_process),
    restricted(8, privilege_escalation),
    restricted(22, capabilities_restricted),
    restricted(35, proc_mount),
    restricted(0, volume_types),
    restricted(0, non_root),
    restricted(23, root_user),
    restricted(19, seccomp_restricted),
];

/// Pod metadata and spec, of a pod or of a template.
pub struct Pod<'a> {
    pub metadata: &'a Value,
    pub spec: &'a Value,
}

/// All violations, in the order in which they are reported.
pub fn evaluate(policy: LevelVersion, pod: &Pod<'_>) -> Vec<Violation> {
    let version = match policy.version {
        Version::Minor(minor) => minor.min(NEWEST),
        Version::Latest => NEWEST,
    };
    let applies = |row: &&Row| {
        let replaced = policy.level == Level::Restricted && version >= row.overridden;
        row.level <= policy.level && version >= row.since && !replaced
    };
    match policy.level {
        Level::Privileged => Vec::new(),
        _ => TABLE.iter().filter(applies).filter_map(|row| (row.check)(pod, version)).collect(),
    }
}

fn violation(reason: &str, detail: String) -> Option<Violation> {
    Some(Violation { reason: reason.to_owned(), detail })
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn quoted<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> String {
    let texts: Vec<String> = list.into_iter().map(|s| format!("\"{}\"", s.as_ref())).collect();
    texts.join(", ")
}

fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// `pod and containers "a", "b"`
fn setters(pod: bool, names: &[&str]) -> String {
    let mut parts = Vec::new();
    if pod {
        parts.push("pod".to_owned());
    }
    if !names.is_empty() {
        parts.push(containers(names));
    }
    parts.join(" and ")
}

fn context(container: &Value) -> &Value {
    at(container, &["securityContext"])
}

fn is_windows(pod: &Pod<'_>) -> bool {
    text(pod.spec, &["os", "name"]) == "windows"
}

fn has_user_namespace(pod: &Pod<'_>) -> bool {
    at(pod.spec, &["hostUsers"]) == &Value::Bool(false)
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ALL_CONTAINERS.into_iter().flat_map(move |list| items(spec, &[list]))
    }

    /// Names of the containers that `bad` is true of.
    fn names(&self, bad: impl FnMut(&&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(bad).map(|c| text(c, &["name"])).collect()
    }

    fn context(&self) -> &'a Value {
        context(self.spec)
    }
}

fn app_armor(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let mut bad_values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let profile = at(context, &["appArmorProfile"]);
        let kind = text(profile, &["type"]);
        let bad = profile.is_object() && !matches!(kind, "RuntimeDefault" | "Localhost");
        if bad {
            bad_values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = bad(pod.context());
    let names = pod.names(|c| bad(context(c)));
    let mut values: Vec<String> = bad_values.into_iter().collect();
    let annotations: Vec<String> = at(pod.metadata, &["annotations"])
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, _)| k.starts_with("container.apparmor.security.beta.kubernetes.io/"))
        .filter_map(|(k, v)| Some((k, v.as_str()?)))
        .filter(|(_, v)| !v.is_empty() && *v != "runtime/default" && !v.starts_with("localhost/"))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    let mut who = setters(by_pod, &names);
    if !annotations.is_empty() {
        if !who.is_empty() {
            who.push_str(" and ");
        }
        who.push_str(&plural("annotation", annotations.len()));
        values.extend(annotations);
    }
    if who.is_empty() {
        return None;
    }
    let reason = plural("forbidden AppArmor profile", values.len());
    violation(&reason, format!("{who} must not set AppArmor profile type to {}", quoted(values)))
}

const DEFAULT_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Containers that add capabilities other than `allowed`, and which ones they add.
fn added<'a>(pod: &Pod<'a>, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<String>) {
    let mut all = BTreeSet::new();
    let names = pod.names(|c| {
        let bad: Vec<String> = strings(c, &["securityContext", "capabilities", "add"])
            .into_iter()
            .filter(|cap| !allowed.contains(&cap.as_str()))
            .collect();
        let any = !bad.is_empty();
        all.extend(bad);
        any
    });
    (names, all)
}

fn capabilities_baseline(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let (names, bad) = added(pod, &DEFAULT_CAPABILITIES);
    if names.is_empty() {
        return None;
    }
    let what = quoted(bad);
    let who = containers(&names);
    violation(
        "non-default capabilities",
        format!("{who} must not include {what} in securityContext.capabilities.add"),
    )
}

fn capabilities_restricted(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 25 && is_windows(pod) {
        return None;
    }
    let mut details = Vec::new();
    let keeps =
        pod.names(|c| !strings(c, &["securityContext", "capabilities", "drop"]).iter().any(|d| d == "ALL"));
    if !keeps.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeps)));
    }
    let (names, bad) = added(pod, &["NET_BIND_SERVICE"]);
    if !names.is_empty() {
        let (who, what) = (containers(&names), quoted(bad));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

fn host_namespaces(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|f| at(pod.spec, &[f]) == &Value::Bool(true))
        .map(|f| format!("{f}=true"))
        .collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn host_path(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let volumes = items(pod.spec, &["volumes"]).iter().filter(|v| at(v, &["hostPath"]).is_object());
    let names: Vec<&str> = volumes.map(|v| text(v, &["name"])).collect();
    if names.is_empty() {
        return None;
    }
    violation("hostPath volumes", format!("{} {}", plural("volume", names.len()), quoted(names)))
}

fn uses(count: usize) -> &'static str {
    if count == 1 { "uses" } else { "use" }
}

fn host_ports(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let names = pod.names(|c| {
        let bad: Vec<i64> = items(c, &["ports"])
            .iter()
            .filter_map(|p| at(p, &["hostPort"]).as_i64())
            .filter(|p| *p != 0)
            .collect();
        ports.extend(bad.iter().map(i64::to_string));
        !bad.is_empty()
    });
    if names.is_empty() {
        return None;
    }
    let list: Vec<String> = ports.into_iter().collect();
    let what = format!("{} {}", plural("hostPort", list.len()), list.join(", "));
    violation("hostPort", format!("{} {} {what}", containers(&names), uses(names.len())))
}

fn probe_hosts(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut hosts = BTreeSet::new();
    let names: BTreeSet<&str> = pod
        .names(|c| {
            let handlers = HANDLERS.iter().map(|path| at(c, path));
            let found: Vec<String> = handlers
                .flat_map(|h| [text(h, &["httpGet", "host"]), text(h, &["tcpSocket", "host"])])
                .filter(|host| !host.is_empty())
                .map(str::to_owned)
                .collect();
            let any = !found.is_empty();
            hosts.extend(found);
            any
        })
        .into_iter()
        .collect();
    if names.is_empty() {
        return None;
    }
    let names: Vec<&str> = names.into_iter().collect();
    let what = format!("{} {}", plural("probe or lifecycle host", hosts.len()), quoted(hosts));
    violation("probe or lifecycle host", format!("{} {} {what}", containers(&names), uses(names.len())))
}

fn privileged(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let names = pod.names(|c| at(c, &["securityContext", "privileged"]) == &Value::Bool(true));
    if names.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

fn proc_mount(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let names = pod.names(|c| {
        let kind = at(c, &["securityContext", "procMount"]).as_str().filter(|k| *k != "Default");
        kinds.extend(kind.map(str::to_owned));
        kind.is_some()
    });
    if names.is_empty() {
        return None;
    }
    let who = containers(&names);
    violation("procMount", format!("{who} must not set securityContext.procMount to {}", quoted(kinds)))
}

fn proc_mount_baseline(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 35 && has_user_namespace(pod) { None } else { proc_mount(pod, version) }
}

fn host_process(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let bad = |context: &Value| at(context, &["windowsOptions", "hostProcess"]) == &Value::Bool(true);
    let (by_pod, names) = (bad(pod.context()), pod.names(|c| bad(context(c))));
    if !by_pod && names.is_empty() {
        return None;
    }
    let who = setters(by_pod, &names);
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

fn privilege_escalation(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 25 && is_windows(pod) {
        return None;
    }
    let names = pod.names(|c| at(c, &["securityContext", "allowPrivilegeEscalation"]) != &Value::Bool(false));
    if names.is_empty() {
        return None;
    }
    let who = containers(&names);
    violation(
        "allowPrivilegeEscalation != false",
        format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

const GOOD_VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const BAD_VOLUMES: [&str; 21] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "gitRepo",
    "nfs",
    "iscsi",
    "glusterfs",
    "rbd",
    "flexVolume",
    "cinder",
    "cephfs",
    "flocker",
    "fc",
    "azureFile",
    "vsphereVolume",
    "quobyte",
    "azureDisk",
    "photonPersistentDisk",
    "portworxVolume",
    "scaleIO",
    "storageos",
];

fn volume_types(pod: &Pod<'_>, _version: u32) -> Option<Violation> {
    let has = |v: &Value, sort: &&&str| at(v, &[sort]).is_object();
    let mut types = BTreeSet::new();
    let mut names = Vec::new();
    for volume in items(pod.spec, &["volumes"]) {
        if !GOOD_VOLUMES.iter().any(|s| has(volume, &s)) {
            names.push(text(volume, &["name"]));
            types.insert(*BAD_VOLUMES.iter().find(|s| has(volume, s)).unwrap_or(&"unknown"));
        }
    }
    if names.is_empty() {
        return None;
    }
    let what = format!("{} {}", plural("restricted volume type", types.len()), quoted(types));
    let (who, verb) = (plural("volume", names.len()), uses(names.len()));
    violation("restricted volume types", format!("{who} {} {verb} {what}", quoted(names)))
}

fn non_root(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if version >= 35 && has_user_namespace(pod) {
        return None;
    }
    let choice = |context: &Value| at(context, &["runAsNonRoot"]).as_bool();
    let by_pod = choice(pod.context());
    let explicit = pod.names(|c| choice(context(c)) == Some(false));
    if by_pod == Some(false) || !explicit.is_empty() {
        let who = setters(by_pod == Some(false), &explicit);
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let implicit = pod.names(|c| choice(context(c)).is_none() && by_pod != Some(true));
    if implicit.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&implicit)))
}

fn root_user(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 35 && has_user_namespace(pod) {
        return None;
    }
    let root = |context: &Value| at(context, &["runAsUser"]).as_i64() == Some(0);
    let (by_pod, names) = (root(pod.context()), pod.names(|c| root(context(c))));
    if !by_pod && names.is_empty() {
        return None;
    }
    violation("runAsUser=0", format!("{} must not set runAsUser=0", setters(by_pod, &names)))
}
