//! From a request to the address and path of its backend.

use super::target::{Address, Backend, Secure};
use crate::call::Call;
use api::Value;
use api::status::{Result, Status};
use std::net::{IpAddr, SocketAddr};

const KUBELET_PORT: u16 = 10250;

/// The kubelet of a node.
async fn kubelet(call: &Call, node: &str, path: String) -> Result<Backend> {
    let registry = &call.server.registry;
    let object = match registry.get(("", "nodes"), "", node) {
        Some(found) => found,
        None => registry.get_live(("", "nodes"), "", node).await.map(Into::into)?,
    };
    let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
    let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(KUBELET_PORT);
    let host = node_address(call, &object).ok_or_else(|| {
        Status::internal(format!(
            "no preferred addresses found; known addresses: {}",
            object["status"]["addresses"]
        ))
    })?;
    Ok(backend(&host, port, path, Secure::Kubelet))
}

fn node_address(call: &Call, node: &Value) -> Option<String> {
    let kubelets = call.server.special.kubelet.as_ref()?;
    let addresses = node["status"]["addresses"].as_array()?;
    kubelets.options.preferred_address_types.iter().find_map(|wanted| {
        let found = addresses.iter().find(|a| a["type"] == wanted.as_str())?;
        found["address"].as_str().filter(|a| !a.is_empty()).map(str::to_owned)
    })
}

fn backend(host: &str, port: u16, path: String, secure: Secure) -> Backend {
    let (address, authority) = match host.parse::<IpAddr>() {
        Ok(ip) => {
            let socket = SocketAddr::new(ip, port);
            (Address::Socket(socket), socket.to_string())
        }
        Err(_) => (Address::Name(host.to_owned(), port), format!("{host}:{port}")),
    };
    Backend { address, authority, path, secure }
}

fn names<'a>(pod: &'a Value, list: &str) -> Vec<&'a str> {
    pod["spec"][list].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
}

/// The container of a request: the one that is named, or the only one.
fn container(call: &Call, pod: &Value) -> Result<String> {
    let name = call.info.name.as_str();
    let (main, init, ephemeral) =
        (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    match call.query.get("container").filter(|c| !c.is_empty()) {
        Some(asked) if main.iter().chain(&init).chain(&ephemeral).any(|c| *c == asked) => {
            Ok(asked.to_owned())
        }
        Some(asked) => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None => {
            let default = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
            match (main.as_slice(), default.filter(|d| main.contains(d))) {
                ([one], _) => Ok((*one).to_owned()),
                (_, Some(default)) => Ok(default.to_owned()),
                ([], _) => {
                    Err(Status::bad_request(format!("a container name must be specified for pod {name}")))
                }
                _ => Err(Status::bad_request(ambiguous(name, &main, &init, &ephemeral))),
            }
        }
    }
}

fn ambiguous(pod: &str, main: &[&str], init: &[&str], ephemeral: &[&str]) -> String {
    let mut text =
        format!("a container name must be specified for pod {pod}, choose one of: [{}]", main.join(" "));
    if !init.is_empty() {
        text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
    }
    if !ephemeral.is_empty() {
        text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
    }
    text
}

fn host_of(call: &Call, pod: &Value) -> Result<String> {
    let node = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty());
    let node = node.ok_or_else(|| {
        Status::bad_request(format!("pod {} does not have a host assigned", call.info.name))
    })?;
    Ok(node.to_owned())
}

fn with_query(path: String, query: String) -> String {
    if query.is_empty() { path } else { format!("{path}?{query}") }
}

/// `pods/log`: the kubelet's `containerLogs`.
pub async fn log(call: &Call, pod: &Value) -> Result<Backend> {
    let container = container(call, pod)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(Status::bad_request(format!("pod {} does not have a host assigned", call.info.name)));
    }
    check_log_numbers(call)?;
    let path = log_path(call, &container);
    kubelet(call, node, path).await
}

fn log_path(call: &Call, container: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for name in ["follow", "previous", "timestamps"] {
        if call.query.flag(name) {
            query.append_pair(name, "true");
        }
    }
    for name in ["sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"] {
        if let Some(v) = call.query.get(name).filter(|v| !v.is_empty()) {
            query.append_pair(name, v);
        }
    }
    let path = format!("/containerLogs/{}/{}/{container}", call.info.namespace, call.info.name);
    with_query(path, query.finish())
}

fn check_log_numbers(call: &Call) -> Result<()> {
    use api::field::{Error, Path};
    let mut errors = Vec::new();
    let root = Path::default();
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let Some(text) = call.query.get(name).filter(|v| !v.is_empty()) else { continue };
        match text.parse::<i64>() {
            Err(_) => {
                return Err(Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: invalid syntax"
                )));
            }
            Ok(n) if n < least => {
                let why = format!("must be greater than or equal to {least}");
                errors.push(Error::invalid(&root.child(name), n, why));
            }
            Ok(_) => {}
        }
    }
    let both = |k: &str| call.query.get(k).is_some_and(|v| !v.is_empty());
    if both("sinceSeconds") && both("sinceTime") {
        errors.push(Error::forbidden(&root, "at most one of `sinceTime` or `sinceSeconds` may be specified"));
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(Status::invalid("", "PodLogOptions", &call.info.name, &errors))
    }
}

/// `pods/exec`, `pods/attach` and `pods/portforward`, in the kubelet's own words.
pub async fn stream(call: &Call, pod: &Value, how: &str) -> Result<Backend> {
    let node = host_of(call, pod)?;
    let path = stream_path(call, pod, how)?;
    kubelet(call, &node, path).await
}

fn stream_path(call: &Call, pod: &Value, how: &str) -> Result<String> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    let base = match how {
        "portforward" => {
            for port in call.query.all("ports") {
                query.append_pair("port", port);
            }
            format!("/portForward/{}/{}", call.info.namespace, call.info.name)
        }
        _ => {
            let container = container(call, pod)?;
            for (ours, theirs) in
                [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
            {
                if call.query.flag(ours) {
                    query.append_pair(theirs, "1");
                }
            }
            for word in call.query.all("command") {
                query.append_pair("command", word);
            }
            format!("/{how}/{}/{}/{container}", call.info.namespace, call.info.name)
        }
    };
    Ok(with_query(base, query.finish()))
}

/// The part of the raw path behind `/proxy`, still encoded as the client wrote it.
fn rest(call: &Call) -> String {
    let raw = call.uri.path();
    let marker = format!("/{}/proxy", call.info.name);
    let tail = raw.find(&marker).map(|i| &raw[i + marker.len()..]).unwrap_or_default();
    let mut path = if tail.is_empty() { "/".to_owned() } else { tail.to_owned() };
    if let Some(q) = call.uri.query() {
        path = format!("{path}?{q}");
    }
    path
}

/// `[scheme:]name[:port]`.
fn split_name(name: &str) -> Result<(&str, &str, &str)> {
    let parts: Vec<&str> = name.split(':').collect();
    match parts.as_slice() {
        [name] => Ok(("", name, "")),
        [name, port] => Ok(("", name, port)),
        [scheme @ ("" | "http" | "https"), name, port] => Ok((scheme, name, port)),
        _ => Err(Status::bad_request(format!("invalid resource request {name:?}"))),
    }
}

/// `nodes/proxy`, `pods/proxy`, `services/proxy`.
pub async fn proxied(call: &Call) -> Result<Backend> {
    let (scheme, name, port) = split_name(&call.info.name)?;
    let path = rest(call);
    let secure = if scheme == "https" { Secure::Unverified } else { Secure::No };
    match call.info.resource.as_str() {
        "nodes" => node(call, name, port, path, scheme).await,
        "pods" => pod(call, name, port, path, secure).await,
        _ => service(call, name, port, path, secure).await,
    }
}

async fn node(call: &Call, name: &str, port: &str, path: String, scheme: &str) -> Result<Backend> {
    let mut found = kubelet(call, name, path).await?;
    let own = match &found.address {
        Address::Socket(s) => s.port(),
        Address::Name(_, p) => *p,
    };
    let asked = if port.is_empty() {
        own
    } else {
        port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")))?
    };
    if asked == own {
        return Ok(found);
    }
    // Anything but the kubelet is just a server on that machine: it does not get our certificate.
    let host = match &found.address {
        Address::Socket(s) => s.ip().to_string(),
        Address::Name(h, _) => h.clone(),
    };
    refuse_special(&host)?;
    found =
        backend(&host, asked, found.path, if scheme == "https" { Secure::Unverified } else { Secure::No });
    Ok(found)
}

/// Addresses of this machine and of its link are nobody's pods.
fn refuse_special(host: &str) -> Result<()> {
    let Ok(ip) = host.parse::<IpAddr>() else { return Ok(()) };
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_multicast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast(),
    };
    if ip.is_loopback() || ip.is_unspecified() || link_local {
        return Err(Status::bad_request("address not allowed"));
    }
    Ok(())
}

async fn pod(call: &Call, name: &str, port: &str, path: String, secure: Secure) -> Result<Backend> {
    let pod = call.server.registry.get_live(("", "pods"), &call.info.namespace, name).await?;
    let ip = pod["status"]["podIP"].as_str().unwrap_or_default();
    if ip.is_empty() {
        return Err(Status::bad_request("address not allowed"));
    }
    refuse_special(ip)?;
    let port = match port {
        "" => {
            let declared = pod["spec"]["containers"].as_array().into_iter().flatten();
            declared
                .flat_map(|c| c["ports"].as_array().into_iter().flatten())
                .find_map(|p| p["containerPort"].as_u64())
                .unwrap_or(80)
        }
        text => text.parse().map_err(|_| Status::bad_request(format!("invalid port {text:?}")))?,
    };
    let port = u16::try_from(port).map_err(|_| Status::bad_request("invalid port"))?;
    Ok(backend(ip, port, path, secure))
}

async fn service(call: &Call, name: &str, port: &str, path: String, secure: Secure) -> Result<Backend> {
    let registry = &call.server.registry;
    let ns = call.info.namespace.as_str();
    let service = match registry.get(("", "services"), ns, name) {
        Some(found) => found,
        None => registry.get_live(("", "services"), ns, name).await.map(Into::into)?,
    };
    let ports = service["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let number: Option<i64> = port.parse().ok();
    let matches = |p: &Value| {
        p["name"].as_str().unwrap_or_default() == port || (number.is_some() && p["port"].as_i64() == number)
    };
    let wanted = match (port, ports.as_slice()) {
        ("", [one]) => one["name"].as_str().unwrap_or_default().to_owned(),
        ("", _) => String::new(),
        _ => {
            let found = ports.iter().find(|p| matches(p));
            let found = found.ok_or_else(|| {
                Status::unavailable(format!("no service port {port:?} found for service {name:?}"))
            })?;
            found["name"].as_str().unwrap_or_default().to_owned()
        }
    };
    let mut ready = Vec::new();
    for slice in registry.list(("discovery.k8s.io", "endpointslices"), Some(ns)) {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != name {
            continue;
        }
        let port = slice["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|p| p["name"].as_str().unwrap_or_default() == wanted);
        let Some(port) = port.and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok()) else {
            continue;
        };
        for e in slice["endpoints"].as_array().into_iter().flatten() {
            if e["conditions"]["ready"].as_bool().unwrap_or(true)
                && let Some(ip) = e["addresses"][0].as_str()
            {
                ready.push((ip.to_owned(), port));
            }
        }
    }
    if ready.is_empty() {
        return Err(Status::unavailable(format!("no endpoints available for service {name:?}")));
    }
    let pick = rand::RngExt::random_range(&mut rand::rng(), 0..ready.len());
    let (ip, port) = ready.swap_remove(pick);
    refuse_special(&ip)?;
    Ok(backend(&ip, port, path, secure))
}
