//! Security contexts, and what the operating system rules out.

use crate::checks::{self, descending_path, texts};
use crate::names;
use crate::value::Get;
use api::Value;
use api::field::{Error, ErrorList, Path};

const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Every container of a spec with its path.
fn containers<'a>(spec: &'a Value, at: &'a Path) -> impl Iterator<Item = (&'a Value, Path)> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(move |list| {
        spec.list(list).iter().enumerate().map(move |(i, c)| (c, at.child(list).index(i)))
    })
}

/// The security context of a pod.
pub fn pod(spec: &Value, at_spec: &Path, e: &mut ErrorList) {
    let sc = spec.at("securityContext");
    if sc.as_object().is_none_or(|m| m.is_empty()) && !spec.has("shareProcessNamespace") {
        return;
    }
    let at = at_spec.child("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        if let Some(id) = sc.opt_int(field) {
            texts(id, names::id_number(id), &at.child(field), e);
        }
    }
    for (i, id) in sc.list("supplementalGroups").iter().enumerate() {
        let id = id.as_i64().unwrap_or_default();
        texts(id, names::id_number(id), &at.child("supplementalGroups").index(i), e);
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        e.push(Error::invalid(&at.child("shareProcessNamespace"), true, text));
    }
    sysctls(spec, sc.list("sysctls"), &at.child("sysctls"), e);
    checks::opt_one_of(sc, "fsGroupChangePolicy", &["OnRootMismatch", "Always"], &at, e);
    seccomp(sc.at("seccompProfile"), &at.child("seccompProfile"), e);
    windows_options(sc.at("windowsOptions"), &at.child("windowsOptions"), e);
    apparmor(sc.at("appArmorProfile"), &at.child("appArmorProfile"), e);
    checks::opt_one_of(sc, "supplementalGroupsPolicy", &["Merge", "Strict"], &at, e);
    let policies: &[&str] = match crate::gates::enabled("SELinuxMount") {
        true => &["Recursive", "MountOption"],
        false => &["Recursive"],
    };
    checks::opt_one_of(sc, "seLinuxChangePolicy", policies, &at, e);
}

/// The security context of a container.
pub fn container(sc: &Value, host_users: bool, at: &Path, e: &mut ErrorList) {
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = sc.opt_int(field) {
            texts(id, names::id_number(id), &at.child(field), e);
        }
    }
    if let Some(mount) = sc.opt_text("procMount") {
        checks::one_of(mount, &["Default", "Unmasked"], &at.child("procMount"), e);
        if host_users && mount == "Unmasked" {
            let text = "`hostUsers` must be false to use `Unmasked`";
            e.push(Error::invalid(&at.child("procMount"), mount, text));
        }
    }
    seccomp(sc.at("seccompProfile"), &at.child("seccompProfile"), e);
    if sc.opt_flag("allowPrivilegeEscalation") == Some(false) {
        if sc.flag("privileged") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.push(Error::invalid(at, sc.clone(), text));
        }
        if sc.at("capabilities").texts("add").any(|c| c == "CAP_SYS_ADMIN") {
            let text = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            e.push(Error::invalid(at, sc.clone(), text));
        }
    }
    windows_options(sc.at("windowsOptions"), &at.child("windowsOptions"), e);
    apparmor(sc.at("appArmorProfile"), &at.child("appArmorProfile"), e);
}

fn is_sysctl(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    let ends = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|s| {
            let b = s.as_bytes();
            b.first().is_some_and(ends) && b.last().is_some_and(ends) && b.iter().all(|b| inner(*b))
        })
}

fn sysctls(spec: &Value, list: &[Value], at: &Path, e: &mut ErrorList) {
    for (i, sysctl) in list.iter().enumerate() {
        let (at, name) = (at.index(i).child("name"), sysctl.text("name"));
        if name.is_empty() {
            e.push(Error::required(&at, ""));
        } else if !is_sysctl(name) {
            let text = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            e.push(Error::invalid(&at, name, text));
        } else if list[..i].iter().any(|o| o.text("name") == name) {
            e.push(Error::duplicate(&at, name));
        }
        let dotted = name.replace('/', ".");
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            e.push(Error::invalid(&at, name, "may not be specified when 'hostNetwork' is true"));
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p))
            || dotted == "kernel.sem";
        if spec.flag("hostIPC") && ipc {
            e.push(Error::invalid(&at, name, "may not be specified when 'hostIPC' is true"));
        }
    }
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(profile: &Value, at: &Path, e: &mut ErrorList) {
    if profile.is_null() {
        return;
    }
    let (kind, file) = (profile.text("type"), profile.opt_text("localhostProfile"));
    if kind.is_empty() {
        e.push(Error::required(&at.child("type"), "type is required when seccompProfile is set"));
    } else {
        checks::one_of(kind, &PROFILES, &at.child("type"), e);
    }
    let at = at.child("localhostProfile");
    match (kind, file) {
        ("Localhost", None) => {
            e.push(Error::required(&at, "must be set when seccomp type is Localhost"));
        }
        ("Localhost", Some(file)) => descending_path(file, &at, e),
        (_, Some(_)) => {
            let text = "can only be set when seccomp type is Localhost";
            let printed = crate::shown::internal("k8s.io.api.core.v1.SeccompProfile", profile);
            e.push(Error::invalid_printed(&at, printed, text));
        }
        _ => {}
    }
}

fn apparmor(profile: &Value, at: &Path, e: &mut ErrorList) {
    if profile.is_null() {
        return;
    }
    let at_file = at.child("localhostProfile");
    match (profile.text("type"), profile.opt_text("localhostProfile")) {
        ("Localhost", None) => {
            e.push(Error::required(&at_file, "must be set when AppArmor type is Localhost"));
        }
        ("Localhost", Some(file)) => {
            if file.trim() != file {
                e.push(Error::invalid(&at_file, file, "must not be padded with whitespace"));
            } else if file.is_empty() {
                e.push(Error::required(&at_file, "must be set when AppArmor type is Localhost"));
            }
            if file.len() > 4095 {
                e.push(Error::too_long(&at_file, 4095));
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(file)) => {
            e.push(Error::invalid(&at_file, file, "can only be set when AppArmor type is Localhost"));
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("", _) => {
            e.push(Error::required(&at.child("type"), "type is required when appArmorProfile is set"));
        }
        (other, _) => e.push(Error::not_supported(&at.child("type"), other, &PROFILES)),
    }
}

fn windows_options(options: &Value, at: &Path, e: &mut ErrorList) {
    if options.is_null() {
        return;
    }
    if options.opt_text("gmsaCredentialSpecName").is_some() {
        let name = options.text("gmsaCredentialSpecName");
        checks::subdomain(name, &at.child("gmsaCredentialSpecName"), e);
    }
    if let Some(spec) = options.opt_text("gmsaCredentialSpec") {
        let at = at.child("gmsaCredentialSpec");
        if spec.is_empty() {
            e.push(Error::invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > 64 * 1024 {
            e.push(Error::invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if let Some(user) = options.opt_text("runAsUserName") {
        let at = at.child("runAsUserName");
        if user.is_empty() {
            e.push(Error::invalid(&at, user, "runAsUserName cannot be an empty string"));
        } else if user.chars().any(char::is_control) {
            e.push(Error::invalid(&at, user, "runAsUserName cannot contain control characters"));
        } else {
            windows_user(user, &at, e);
        }
    }
}

/// `DOMAIN\user` or `user`.
fn windows_user(name: &str, at: &Path, e: &mut ErrorList) {
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => {
            e.push(Error::invalid(at, name, "runAsUserName cannot contain more than one backslash"));
            return;
        }
    };
    let mut bad = |text: &str| e.push(Error::invalid(at, name, text));
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            bad("runAsUserName's Domain length must be under 256 characters");
        }
        if !is_netbios(domain) && !is_windows_dns(domain) {
            bad("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        bad("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        bad("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        bad("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        bad("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
}

fn is_netbios(domain: &str) -> bool {
    let never = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=15).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(never)
}

fn is_windows_dns(domain: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    domain.strip_suffix('.').unwrap_or(domain).split('.').all(fits)
}

/// Either all containers are host processes or none, and then on the host's network.
pub fn host_process(spec: &Value, at: &Path, e: &mut ErrorList) {
    let of = |sc: &Value| sc.at("windowsOptions").opt_flag("hostProcess");
    let of_pod = of(spec.at("securityContext"));
    let (mut all, mut host) = (0, 0);
    for (c, at) in containers(spec, at) {
        let own = of(c.at("securityContext"));
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let text = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            let at = at.child("securityContext").child("windowsOptions").child("hostProcess");
            e.push(Error::invalid(&at, own, text));
        }
        all += 1;
        host += usize::from(own.or(of_pod) == Some(true));
    }
    if host == 0 {
        return;
    }
    if host != all {
        let text =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        e.push(Error::invalid(at, "", text));
    }
    if !spec.flag("hostNetwork") {
        let text = "hostNetwork must be true if pod contains any hostProcess containers";
        e.push(Error::invalid(&at.child("hostNetwork"), false, text));
    }
}

/// What a pod with its own user namespace cannot share with the host.
pub fn host_users(spec: &Value, at: &Path, e: &mut ErrorList) {
    if spec.opt_flag("hostUsers") != Some(false) {
        return;
    }
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(field) {
            e.push(Error::forbidden(&at.child(shown), "when `hostUsers` is false"));
        }
    }
    for (_, at) in containers(spec, at).filter(|(c, _)| c.len("volumeDevices") > 0) {
        e.push(Error::forbidden(&at.child("volumeDevices"), "when `hostUsers` is false"));
    }
}

/// `spec.os`, and the fields that the other system does not know.
pub fn operating_system(spec: &Value, at: &Path, e: &mut ErrorList) {
    let os = spec.at("os");
    if os.is_null() {
        return;
    }
    match os.text("name") {
        "" => e.push(Error::required(&at.child("os").child("name"), "")),
        "linux" => {
            let text = "windows options cannot be set for a linux pod";
            let at_pod = at.child("securityContext");
            if spec.at("securityContext").has("windowsOptions") {
                e.push(Error::forbidden(&at_pod.child("windowsOptions"), text));
            }
            for (c, at) in containers(spec, at) {
                if c.at("securityContext").has("windowsOptions") {
                    e.push(Error::forbidden(&at.child("securityContext").child("windowsOptions"), text));
                }
            }
        }
        "windows" => windows(spec, at, e),
        other => e.push(Error::not_supported(&at.child("os"), other, &["linux", "windows"])),
    }
}

fn windows(spec: &Value, at: &Path, e: &mut ErrorList) {
    let text = "cannot be set for a windows pod";
    let set =
        |v: &Value, field: &str| !crate::value::is_zero(v.at(field)) || v.has(field) && field == "hostUsers";
    for field in ["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"] {
        if set(spec, field) {
            e.push(Error::forbidden(&at.child(field), text));
        }
    }
    let (sc, at_sc) = (spec.at("securityContext"), at.child("securityContext"));
    for field in [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ] {
        if sc.has(field) {
            e.push(Error::forbidden(&at_sc.child(field), text));
        }
    }
    for (c, at) in containers(spec, at) {
        let (sc, at) = (c.at("securityContext"), at.child("securityContext"));
        for field in [
            "appArmorProfile",
            "seLinuxOptions",
            "seccompProfile",
            "capabilities",
            "readOnlyRootFilesystem",
            "privileged",
            "allowPrivilegeEscalation",
            "procMount",
            "runAsUser",
            "runAsGroup",
        ] {
            if sc.has(field) {
                e.push(Error::forbidden(&at.child(field), text));
            }
        }
    }
}

/// Annotations that once did what security contexts do.
pub fn annotations(pod: &Value, at: &Path, e: &mut ErrorList) {
    for (key, profile) in pod.at("metadata").entries("annotations") {
        let profile = profile.as_str().unwrap_or_default();
        if key == SECCOMP_POD || key.starts_with(SECCOMP_CONTAINER) {
            match profile.strip_prefix("localhost/") {
                Some(file) => descending_path(file, &at.child(key), e),
                None if matches!(profile, "runtime/default" | "docker/default" | "unconfined") => {}
                None => e.push(Error::invalid(&at.child(key), profile, "must be a valid seccomp profile")),
            }
        }
        if let Some(name) = key.strip_prefix(APPARMOR) {
            let root = Path::new("spec");
            if !containers(pod.at("spec"), &root).any(|(c, _)| c.text("name") == name) {
                e.push(Error::invalid(&at.key(key), name, "container not found"));
            }
            let known =
                matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
            if !known {
                let text = format!("invalid AppArmor profile name: {profile:?}");
                e.push(Error::invalid(&at.key(key), profile, text));
            }
        }
    }
}

/// Where both the old annotation and the field are there, they say the same.
pub fn annotations_match_fields(pod: &Value, at: &Path, e: &mut ErrorList) {
    let (spec, annotations) = (pod.at("spec"), pod.at("metadata").at("annotations"));
    if annotations
        .as_object()
        .is_none_or(|a| !a.keys().any(|k| k.contains("seccomp") || k.contains("apparmor")))
    {
        return;
    }
    let profile = spec.at("securityContext").at("seccompProfile");
    if let Some(annotation) = annotations.opt_text(SECCOMP_POD) {
        matches(annotation, profile, "seccomp", &at.child("securityContext").child("seccompProfile"), e);
    }
    let of_pod = spec.at("securityContext").at("appArmorProfile");
    for (c, at) in containers(spec, at) {
        let (name, sc, at) = (c.text("name"), c.at("securityContext"), at.child("securityContext"));
        if let Some(annotation) = annotations.opt_text(&format!("{SECCOMP_CONTAINER}{name}")) {
            matches(annotation, sc.at("seccompProfile"), "seccomp", &at.child("seccompProfile"), e);
        }
        if let Some(annotation) = annotations.opt_text(&format!("{APPARMOR}{name}")) {
            let own = sc.at("appArmorProfile");
            let profile = if own.is_null() { of_pod } else { own };
            matches(annotation, profile, "apparmor", &at.child("appArmorProfile"), e);
        }
    }
}

fn matches(annotation: &str, profile: &Value, what: &str, at: &Path, e: &mut ErrorList) {
    let file = annotation.strip_prefix("localhost/");
    let kind_fits = match profile.text("type") {
        "" => true,
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => file.is_some(),
        _ => true,
    };
    if !kind_fits {
        let text = format!("{what} type in annotation and field must match");
        e.push(Error::forbidden(&at.child("type"), text));
    } else if profile.text("type") == "Localhost" && file != profile.opt_text("localhostProfile") {
        let text = format!("{what} profile in annotation and field must match");
        e.push(Error::forbidden(&at.child("localhostProfile"), text));
    }
}
