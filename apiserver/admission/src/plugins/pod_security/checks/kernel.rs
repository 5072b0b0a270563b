//! What the kernel is asked to enforce: seccomp, SELinux, sysctls.

use super::*;

/// `None` if the context sets no seccomp profile, else its type.
fn seccomp_type(context: &Value) -> Option<&str> {
    let profile = at(context, &["seccompProfile"]);
    profile.is_object().then(|| text(profile, &["type"]))
}

fn is_good_seccomp(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

/// Whoever sets a forbidden type explicitly.
fn bad_seccomp(pod: &Pod<'_>) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut bad = |context: &Value| {
        let kind = seccomp_type(context).filter(|k| !is_good_seccomp(k));
        values.extend(kind.map(str::to_owned));
        kind.is_some()
    };
    let by_pod = bad(pod.context());
    let names = pod.names(|c| bad(context(c)));
    if !by_pod && names.is_empty() {
        return None;
    }
    let who = setters(by_pod, &names);
    violation(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values)),
    )
}

pub(super) fn seccomp_baseline(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 19 {
        return bad_seccomp(pod);
    }
    let annotations = at(pod.metadata, &["annotations"]);
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(
        pod.containers()
            .map(|c| format!("container.seccomp.security.alpha.kubernetes.io/{}", text(c, &["name"]))),
    );
    let forbidden: BTreeSet<String> = keys
        .filter_map(|k| {
            let value = annotations.get(&k)?.as_str()?;
            let good =
                matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
            (!good).then(|| format!("{k}={value:?}"))
        })
        .collect();
    if forbidden.is_empty() {
        return None;
    }
    let list: Vec<String> = forbidden.into_iter().collect();
    violation("seccompProfile", format!("forbidden {} {}", plural("annotation", list.len()), list.join(", ")))
}

pub(super) fn seccomp_restricted(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    if version >= 25 && is_windows(pod) {
        return None;
    }
    if let Some(found) = bad_seccomp(pod) {
        return Some(found);
    }
    if seccomp_type(pod.context()).is_some() {
        return None;
    }
    let names = pod.names(|c| seccomp_type(context(c)).is_none());
    if names.is_empty() {
        return None;
    }
    let who = containers(&names);
    let wanted = r#"must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost""#;
    violation("seccompProfile", format!("pod or {who} {wanted}"))
}

pub(super) fn sysctls(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    let allowed = |name: &str| match name {
        "kernel.shm_rmid_forced"
        | "net.ipv4.ip_local_port_range"
        | "net.ipv4.tcp_syncookies"
        | "net.ipv4.ping_group_range"
        | "net.ipv4.ip_unprivileged_port_start" => true,
        "net.ipv4.ip_local_reserved_ports" => version >= 27,
        "net.ipv4.tcp_keepalive_time"
        | "net.ipv4.tcp_fin_timeout"
        | "net.ipv4.tcp_keepalive_intvl"
        | "net.ipv4.tcp_keepalive_probes" => version >= 29,
        "net.ipv4.tcp_rmem" | "net.ipv4.tcp_wmem" => version >= 32,
        _ => false,
    };
    let names = items(pod.context(), &["sysctls"]).iter().map(|s| text(s, &["name"]));
    let bad: Vec<&str> = names.filter(|n| !allowed(n)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

pub(super) fn se_linux(pod: &Pod<'_>, version: u32) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |context: &Value| {
        let options = at(context, &["seLinuxOptions"]);
        let kind = text(options, &["type"]);
        let allowed = match kind {
            "" | "container_t" | "container_init_t" | "container_kvm_t" => true,
            "container_engine_t" => version >= 31,
            _ => false,
        };
        if !allowed {
            types.insert(kind.to_owned());
        }
        let (sets_user, sets_role) =
            (!text(options, &["user"]).is_empty(), !text(options, &["role"]).is_empty());
        user |= sets_user;
        role |= sets_role;
        !allowed || sets_user || sets_role
    };
    let by_pod = bad(pod.context());
    let names = pod.names(|c| bad(context(c)));
    if !by_pod && names.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    let who = setters(by_pod, &names);
    violation(
        "seLinuxOptions",
        format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")),
    )
}
