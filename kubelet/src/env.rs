//! The environment of containers: variables of services, of ConfigMaps and Secrets, of the pod itself, and
//! references between them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use volumes::field::{self, Downward};
use volumes::{Error, Objects};

use crate::pod::PodExt;

mod file;

/// Where the volumes of a pod lie on the node, by their names.
pub type Places<'a> = &'a BTreeMap<String, ::volumes::Mounted>;

/// Replaces `$(NAME)` by the value of a variable, `$$` by `$`. What has no value stays as it is.
pub fn expand<'a>(text: &str, value: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match value(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&rest[at..at + name.len() + 3]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// A service as far as variables need it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceInfo {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: String,
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: i32,
}

/// The variables of the services that a pod of `namespace` sees: the apiserver always, the others of its namespace
/// if it wants links.
pub fn service_variables(services: &[ServiceInfo], namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut visible: BTreeMap<&str, &ServiceInfo> = BTreeMap::new();
    for service in services {
        let api = service.namespace == "default" && service.name == "kubernetes";
        if api {
            visible.entry(&service.name).or_insert(service);
        }
        if service.namespace == namespace && (links || api) {
            visible.insert(&service.name, service);
        }
    }
    let mut out = BTreeMap::new();
    for service in visible.values() {
        variables_of(service, &mut out);
    }
    out
}

fn variables_of(service: &ServiceInfo, out: &mut BTreeMap<String, String>) {
    let Some(first) = service.ports.first() else { return };
    let upper = |name: &str| name.to_uppercase().replace('-', "_");
    let name = upper(&service.name);
    let ip = &service.cluster_ip;
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
    out.insert(format!("{name}_SERVICE_HOST"), ip.clone());
    out.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
    for port in service.ports.iter().filter(|port| !port.name.is_empty()) {
        out.insert(format!("{name}_SERVICE_PORT_{}", upper(&port.name)), port.port.to_string());
    }
    for (index, port) in service.ports.iter().enumerate() {
        let protocol = if port.protocol.is_empty() { "TCP" } else { &port.protocol };
        let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        if index == 0 {
            out.insert(format!("{name}_PORT"), url.clone());
        }
        out.insert(prefix.clone(), url);
        out.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        out.insert(format!("{prefix}_PORT"), port.port.to_string());
        out.insert(format!("{prefix}_ADDR"), ip.clone());
    }
}

/// The environment of a container. The error is the message of `CreateContainerConfigError`.
pub async fn of_container(
    pod: &Pod,
    container: &Container,
    services: &BTreeMap<String, String>,
    downward: &Downward,
    objects: &dyn Objects,
    places: Places<'_>,
) -> Result<Vec<(String, String)>, String> {
    let mut values: BTreeMap<String, String> = env_from(pod, container, objects).await?;
    for variable in container.env.iter().flatten() {
        let value = match (variable.value.as_deref().filter(|v| !v.is_empty()), &variable.value_from) {
            (Some(text), _) => {
                let lookup = |name: &str| values.get(name).or_else(|| services.get(name)).map(String::as_str);
                Some(expand(text, lookup))
            }
            (None, Some(source)) => match &source.file_key_ref {
                Some(reference) => file::value(reference, places)?,
                None => from_source(pod, container, source, downward, objects).await?,
            },
            (None, None) => Some(String::new()),
        };
        if let Some(value) = value {
            values.insert(variable.name.clone(), value);
        }
    }
    for (name, value) in services {
        values.entry(name.clone()).or_insert_with(|| value.clone());
    }
    Ok(values.into_iter().collect())
}

async fn env_from(
    pod: &Pod,
    container: &Container,
    objects: &dyn Objects,
) -> Result<BTreeMap<String, String>, String> {
    let mut values = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        let mut put = |key: &str, value: String| values.insert(format!("{prefix}{key}"), value);
        if let Some(reference) = &source.config_map_ref {
            match objects.config_map(pod.namespace(), &reference.name).await {
                Ok(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        put(key, value.clone());
                    }
                }
                Err(Error::NotFound(_)) if reference.optional.unwrap_or(false) => {}
                Err(error) => return Err(error.to_string()),
            }
        } else if let Some(reference) = &source.secret_ref {
            match objects.secret(pod.namespace(), &reference.name).await {
                Ok(object) => {
                    for (key, value) in object.data.iter().flatten() {
                        put(key, String::from_utf8_lossy(&value.0).into_owned());
                    }
                }
                Err(Error::NotFound(_)) if reference.optional.unwrap_or(false) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
    Ok(values)
}

/// The value of a variable's source; `None` for an optional one that is not there.
async fn from_source(
    pod: &Pod,
    container: &Container,
    source: &k8s_openapi::api::core::v1::EnvVarSource,
    downward: &Downward,
    objects: &dyn Objects,
) -> Result<Option<String>, String> {
    let namespace = pod.namespace();
    if let Some(field) = &source.field_ref {
        return field::value(pod, &field.field_path, downward).map(Some);
    }
    if let Some(selector) = &source.resource_field_ref {
        let other = selector.container_name.as_deref().filter(|name| !name.is_empty());
        let found = other.and_then(|name| pod.find_container(name)).map(|(_, c)| c);
        let of = match (other, &found) {
            (None, _) => container,
            (Some(_), Some(found)) => found,
            (Some(name), None) => return Err(format!("container {name} not found")),
        };
        return field::resource(selector, of, downward).map(Some);
    }
    if let Some(reference) = &source.config_map_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let object = match objects.config_map(namespace, &reference.name).await {
            Ok(object) => object,
            Err(Error::NotFound(_)) if optional => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let key = &reference.key;
        return match object.data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(value.clone())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in ConfigMap {namespace}/{}", reference.name)),
        };
    }
    if let Some(reference) = &source.secret_key_ref {
        let optional = reference.optional.unwrap_or(false);
        let object = match objects.secret(namespace, &reference.name).await {
            Ok(object) => object,
            Err(Error::NotFound(_)) if optional => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let key = &reference.key;
        return match object.data.as_ref().and_then(|data| data.get(key)) {
            Some(value) => Ok(Some(String::from_utf8_lossy(&value.0).into_owned())),
            None if optional => Ok(None),
            None => Err(format!("couldn't find key {key} in Secret {namespace}/{}", reference.name)),
        };
    }
    Err("environment variable has a source of an unknown kind".into())
}

/// Command or arguments with references replaced.
pub fn expand_list(list: Option<&Vec<String>>, env: &[(String, String)]) -> Vec<String> {
    let lookup = |name: &str| env.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    list.into_iter().flatten().map(|text| expand(text, lookup)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion() {
        let value = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            _ => None,
        };
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("$(EMPTY)|$", "|$"),
            ("", ""),
        ] {
            assert_eq!(expand(text, value), expected, "{text}");
        }
    }

    #[test]
    fn services() {
        let service = |namespace: &str, name: &str, ip: &str| ServiceInfo {
            namespace: namespace.into(),
            name: name.into(),
            cluster_ip: ip.into(),
            ports: vec![ServicePort { name: "http-x".into(), protocol: "TCP".into(), port: 80 }],
        };
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("n", "my-svc", "10.0.0.2"),
            service("o", "other", "10.0.0.3"),
        ];
        let got = service_variables(&all, "n", true);
        assert_eq!(got["MY_SVC_SERVICE_PORT_HTTP_X"], "80");
        assert_eq!(got["MY_SVC_PORT_80_TCP"], "tcp://10.0.0.2:80");
        assert_eq!(got["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert!(!got.contains_key("OTHER_SERVICE_HOST"));
        let got = service_variables(&all, "n", false);
        assert!(got.contains_key("KUBERNETES_SERVICE_HOST") && !got.contains_key("MY_SVC_SERVICE_HOST"));
    }
}
