//! Services as pods see them in their environment, and as who gives them addresses checks them.

pub use crate::corev1::service::address_errors;

use k8s_openapi::api::core::v1::Service;

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// The variables that containers get for a service with a cluster address; none for others.
pub fn environment(service: &Service) -> Vec<(String, String)> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = spec.cluster_ip.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let (Some(first), false) = (ports.first(), matches!(address, "" | "None")) else { return Vec::new() };
    let name = variable(service.metadata.name.as_deref().unwrap_or_default());
    let mut all = vec![
        (format!("{name}_SERVICE_HOST"), address.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(port_name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            all.push((format!("{name}_SERVICE_PORT_{}", variable(port_name)), port.port.to_string()));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().filter(|p| !p.is_empty()).unwrap_or("TCP");
        let lower = protocol.to_lowercase();
        let host = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
        let url = format!("{lower}://{host}:{}", port.port);
        if i == 0 {
            all.push((format!("{name}_PORT"), url.clone()));
        }
        let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
        all.push((prefix.clone(), url));
        all.push((format!("{prefix}_PROTO"), lower));
        all.push((format!("{prefix}_PORT"), port.port.to_string()));
        all.push((format!("{prefix}_ADDR"), address.to_owned()));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    #[test]
    fn variables() {
        let s: Service = serde_json::from_value(json!({"metadata": {"name": "my-db"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 5432, "name": "sql"}]}}))
        .unwrap();
        let env = environment(&s);
        let get = |k: &str| env.iter().find(|(n, _)| n == k).map(|(_, v)| v.as_str());
        assert_eq!(get("MY_DB_SERVICE_HOST"), Some("10.0.0.1"));
        assert_eq!(get("MY_DB_SERVICE_PORT_SQL"), Some("5432"));
        assert_eq!(get("MY_DB_PORT_5432_TCP"), Some("tcp://10.0.0.1:5432"));
        let headless: Service = serde_json::from_value(json!({"metadata": {"name": "h"},
            "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}))
        .unwrap();
        assert!(environment(&headless).is_empty());
    }
}
