//! The DNS configuration and the host name of a pod.

use cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod::PodExt;

/// The most name servers, search domains and characters of these that are passed on.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
/// Some resolvers give up at a longer one.
const MAX_SEARCH_PATH: usize = 253;

/// The kernel's limit for host names.
const MAX_HOSTNAME: usize = 63;

/// What the node has to say about DNS.
#[derive(Debug, Clone, Default)]
pub struct NodeDns {
    pub cluster_dns: Vec<String>,
    pub cluster_domain: String,
    pub resolv_conf: String,
}

/// An event to warn the pod's owner with: its reason and its message.
pub type Warning = (&'static str, String);

/// The configuration of a pod, and what its owner should know of it.
pub fn of_pod(pod: &Pod, node: &NodeDns) -> Result<(DnsConfig, Vec<Warning>), String> {
    let mut warnings = Vec::new();
    let host = if node.resolv_conf.is_empty() {
        DnsConfig::default()
    } else {
        parse_resolv_conf(&node.resolv_conf)?
    };
    let policy = pod.spec().dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "None" => None,
        "ClusterFirstWithHostNet" => Some(true),
        "ClusterFirst" => Some(!pod.host_network()),
        _ => Some(false),
    };
    if cluster == Some(true) && node.cluster_dns.is_empty() {
        let message = format!(
            "pod: {:?}. kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
            pod.formatted()
        );
        warnings.push(("MissingClusterDNS", message));
    }
    let mut config = match cluster {
        None => DnsConfig::default(),
        // Without a cluster DNS the node's has to do.
        Some(true) if !node.cluster_dns.is_empty() => with_cluster(pod.namespace(), node, host),
        Some(_) => host,
    };
    if let Some(own) = &pod.spec().dns_config {
        append(&mut config.servers, own.nameservers.iter().flatten());
        append(&mut config.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            config.options.retain(|have| have.split(':').next() != Some(name));
            config.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_string(),
            });
        }
    }
    warnings.extend(limit(&mut config));
    Ok((config, warnings))
}

fn with_cluster(namespace: &str, node: &NodeDns, host: DnsConfig) -> DnsConfig {
    let mut searches = Vec::new();
    if !node.cluster_domain.is_empty() {
        let domain = &node.cluster_domain;
        searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    }
    append(&mut searches, host.searches.iter());
    DnsConfig { servers: node.cluster_dns.clone(), searches, options: vec!["ndots:5".into()] }
}

fn append<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

/// Cuts what resolvers could not take. Returns what was cut.
fn limit(config: &mut DnsConfig) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        let line = config.servers.join(" ");
        warnings.push(("DNSConfigForming", format!("Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {line}")));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|search| search.len() <= MAX_SEARCH_PATH);
    let mut length = 0;
    config.searches.retain(|search| {
        length += search.len() + 1;
        length - 1 <= MAX_SEARCH_CHARS
    });
    if config.searches.len() < before {
        let line = config.searches.join(" ");
        warnings.push(("DNSConfigForming", format!("Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {line}")));
    }
    warnings
}

fn parse_resolv_conf(path: &str) -> Result<DnsConfig, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("open {path}: {e}"))?;
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_string)),
            Some("search") => config.searches = words.map(|w| w.trim_end_matches('.').to_string()).collect(),
            Some("options") => config.options = words.map(str::to_string).collect(),
            _ => {}
        }
    }
    config.searches.retain(|s| !s.is_empty());
    limit(&mut config);
    Ok(config)
}

/// Host name and domain of a pod.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let spec = pod.spec();
    if let Some(name) = spec.hostname_override.as_ref().filter(|name| !name.is_empty()) {
        return Ok((name.clone(), String::new()));
    }
    let own = spec.hostname.as_deref().filter(|name| !name.is_empty());
    let name = own.unwrap_or(pod.name());
    // A pod's name may be longer than a host's.
    let name =
        name.get(..MAX_HOSTNAME.min(name.len())).unwrap_or(name).trim_end_matches(['-', '.']).to_string();
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(subdomain) => format!("{subdomain}.{}.svc.{cluster_domain}", pod.namespace()),
        None => String::new(),
    };
    Ok((name, domain))
}

/// The name that the kernel of the pod shows: with its domain if the pod wants that.
pub fn kernel_hostname(pod: &Pod, name: &str, domain: &str) -> Result<String, String> {
    if !pod.spec().set_hostname_as_fqdn.unwrap_or(false) || domain.is_empty() {
        return Ok(name.to_string());
    }
    let full = format!("{name}.{domain}");
    if full.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
            full.len()
        ));
    }
    Ok(full)
}

/// The content of the pod's /etc/hosts.
pub fn hosts_file(pod: &Pod, ips: &[String], name: &str, domain: &str) -> String {
    let mut out = if pod.host_network() {
        let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{own}")
    } else {
        let mut out = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for ip in ips {
            match domain {
                "" => out.push_str(&format!("{ip}\t{name}\n")),
                domain => out.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
            }
        }
        out
    };
    let aliases: Vec<_> = pod.spec().host_aliases.iter().flatten().collect();
    if !aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let mut value = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec});
        value["spec"]["containers"] = json!([]);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn policies() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("resolv.conf");
        std::fs::write(&conf, "# x\nnameserver 9.9.9.9\nsearch a.b. c\noptions ndots:2\n").unwrap();
        let node = NodeDns {
            cluster_dns: vec!["10.0.0.10".into()],
            cluster_domain: "cluster.local".into(),
            resolv_conf: conf.to_str().unwrap().into(),
        };
        let cluster: &[&str] = &["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "a.b", "c"];
        for (spec, servers, searches, options) in [
            (json!({}), "10.0.0.10", cluster, "ndots:5"),
            (json!({"dnsPolicy": "Default"}), "9.9.9.9", &["a.b", "c"][..], "ndots:2"),
            (json!({"hostNetwork": true}), "9.9.9.9", &["a.b", "c"][..], "ndots:2"),
            (
                json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
                "10.0.0.10",
                cluster,
                "ndots:5",
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["z"],
                    "options": [{"name": "ndots", "value": "7"}]}}),
                "1.1.1.1",
                &["z"][..],
                "ndots:7",
            ),
        ] {
            let (got, warnings) = of_pod(&pod(spec.clone()), &node).unwrap();
            assert!(warnings.is_empty(), "{warnings:?}");
            assert_eq!(
                (got.servers, got.options),
                (vec![servers.to_string()], vec![options.to_string()]),
                "{spec}"
            );
            assert_eq!(got.searches, searches, "{spec}");
        }
    }

    #[test]
    fn what_was_cut_is_told() {
        let node = NodeDns::default();
        let list = |n: usize| (0..n).map(|i| format!("10.0.0.{i}")).collect::<Vec<_>>();
        let spec = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": list(4), "searches": list(40)}});
        let (got, warnings) = of_pod(&pod(spec), &node).unwrap();
        assert_eq!((got.servers.len(), got.searches.len(), warnings.len()), (3, 32, 2));
        let (_, warnings) = of_pod(&pod(json!({})), &node).unwrap();
        assert_eq!(warnings[0].0, "MissingClusterDNS");
    }

    #[test]
    fn names_and_hosts() {
        let p = pod(
            json!({"hostname": "h", "subdomain": "s", "hostAliases": [{"ip": "5.5.5.5", "hostnames": ["x", "y"]}]}),
        );
        let (name, domain) = hostname(&p, "cluster.local").unwrap();
        assert_eq!((name.as_str(), domain.as_str()), ("h", "s.n.svc.cluster.local"));
        let hosts = hosts_file(&p, &["1.2.3.4".into()], &name, &domain);
        assert!(hosts.contains("1.2.3.4\th.s.n.svc.cluster.local\th\n"), "{hosts}");
        assert!(hosts.ends_with("# Entries added by HostAliases.\n5.5.5.5\tx\ty\n"), "{hosts}");
    }
}
