//! Which endpoints traffic goes to: traffic policies, topology hints, and endpoints that are on their way out.

use crate::model::{Endpoint, ServicePort};

/// The endpoints of a port, by use.
#[derive(Debug, Default, PartialEq)]
pub struct Choice<'a> {
    /// For traffic under policy Cluster.
    pub cluster: Vec<&'a Endpoint>,
    /// For traffic under policy Local.
    pub local: Vec<&'a Endpoint>,
    /// Both, each once.
    pub reachable: Vec<&'a Endpoint>,
    /// Whether there are usable endpoints anywhere: without any, traffic is rejected rather than dropped.
    pub any: bool,
}

/// Whose endpoints are preferred.
#[derive(Clone, Copy, PartialEq)]
enum Preference {
    Nobody,
    SameNode,
    SameZone,
}

fn leaving(e: &Endpoint) -> bool {
    e.serving && e.terminating
}

/// Chooses among a port's endpoints.
pub fn choose<'a>(port: &ServicePort, all: &'a [Endpoint], node: &str, zone: &str) -> Choice<'a> {
    let mut choice = Choice::default();
    let pick = |good: &dyn Fn(&Endpoint) -> bool| all.iter().filter(|e| good(e)).collect::<Vec<_>>();
    if port.uses_cluster_endpoints() {
        let preference = preference(all, node, zone);
        choice.cluster = pick(&|e| e.ready && preferred(e, preference, node, zone));
        if choice.cluster.is_empty() {
            // Better an endpoint that is leaving than none.
            choice.cluster = pick(&leaving);
        }
        choice.any = !choice.cluster.is_empty();
    }
    if port.uses_local_endpoints() {
        choice.any |= all.iter().any(|e| e.ready || leaving(e));
        choice.local = pick(&|e| e.local && e.ready);
        if choice.local.is_empty() {
            choice.local = pick(&|e| e.local && !e.ready && leaving(e));
        }
    }
    choice.reachable = all
        .iter()
        .filter(|e| choice.cluster.iter().chain(&choice.local).any(|c| std::ptr::eq(*c, *e)))
        .collect();
    choice
}

/// Hints count only if every ready endpoint has one and at least one of them names us.
fn preference(all: &[Endpoint], node: &str, zone: &str) -> Preference {
    let ready = || all.iter().filter(|e| e.ready);
    let hinted = |hints: fn(&Endpoint) -> &Vec<String>, us: &str| {
        ready().next().is_some()
            && ready().all(|e| !hints(e).is_empty())
            && ready().any(|e| hints(e).iter().any(|h| h == us))
    };
    if hinted(|e| &e.nodes, node) {
        Preference::SameNode
    } else if hinted(|e| &e.zones, zone) {
        Preference::SameZone
    } else {
        Preference::Nobody
    }
}

fn preferred(e: &Endpoint, preference: Preference, node: &str, zone: &str) -> bool {
    match preference {
        Preference::Nobody => true,
        Preference::SameNode => e.nodes.iter().any(|n| n == node),
        Preference::SameZone => e.zones.iter().any(|z| z == zone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn port(external_local: bool, internal_local: bool) -> ServicePort {
        ServicePort {
            service: "ns/s".into(),
            name: String::new(),
            protocol: Protocol::Tcp,
            cluster_ip: "10.96.0.1".parse().unwrap(),
            port: 80,
            node_port: Some(30080),
            external_ips: vec![],
            balancer_ips: vec![],
            source_ranges: vec![],
            affinity: None,
            external_local,
            internal_local,
        }
    }

    /// `text`: `l` local, `r` ready, `s` serving, `t` terminating, `za`/`zb` zone hint, `n` hint for this node.
    fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
        let one = |(i, t): (usize, &&str)| {
            let has = |p: &str| t.split(' ').any(|w| w == p);
            Endpoint {
                ip: format!("10.0.0.{}", i + 1).parse().unwrap(),
                port: 8080,
                local: has("l"),
                ready: has("r"),
                serving: has("s") || has("r"),
                terminating: has("t"),
                zones: ["za", "zb"].iter().filter(|z| has(z)).map(|z| (*z).to_owned()).collect(),
                nodes: if has("n") { vec!["me".into()] } else { vec![] },
            }
        };
        texts.iter().enumerate().map(one).collect()
    }

    #[test]
    fn choices() {
        let cluster = port(false, false);
        let external_local = port(true, false);
        let both_local = port(true, true);
        // port, endpoints, cluster, local, any
        type Case<'a> = (&'a ServicePort, &'a [&'a str], &'a [usize], &'a [usize], bool);
        let cases: &[Case<'_>] = &[
            (&cluster, &["r", "l r", "s t", ""], &[1, 2], &[], true),
            (&cluster, &["s t", "t"], &[1], &[], true),
            (&cluster, &[""], &[], &[], false),
            (&cluster, &["r za", "r zb"], &[1], &[], true),
            (&cluster, &["r za", "r"], &[1, 2], &[], true),
            (&cluster, &["r zb", "r zb"], &[1, 2], &[], true),
            (&cluster, &["r n za", "r za"], &[1, 2], &[], true),
            (&external_local, &["r", "l r"], &[1, 2], &[2], true),
            (&external_local, &["r", "l s t"], &[1], &[2], true),
            (&both_local, &["r"], &[1], &[], true),
        ];
        for (i, (port, texts, want_cluster, want_local, any)) in cases.iter().enumerate() {
            let all = endpoints(texts);
            let choice = choose(port, &all, "me", "za");
            let numbers = |list: &[&Endpoint]| -> Vec<usize> {
                list.iter().map(|e| all.iter().position(|a| std::ptr::eq(a, *e)).unwrap() + 1).collect()
            };
            assert_eq!(numbers(&choice.cluster), *want_cluster, "case {i} cluster");
            assert_eq!(numbers(&choice.local), *want_local, "case {i} local");
            assert_eq!(choice.any, *any, "case {i} any");
        }
    }
}
