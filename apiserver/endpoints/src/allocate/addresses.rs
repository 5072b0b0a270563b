//! Cluster IPs: each is taken by creating the IPAddress object of its name.

use super::families::{is_headless, kind, list, set_list};
use super::{Pools, Reserved, invalid, spec_path};
use crate::server::Server;
use crate::write::Target;
use api::field::Error;
use api::status::{Result, Status};
use api::{Value, json};
use ipnet::IpNet;
use rand::RngExt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) const IPS: (&str, &str) = ("networking.k8s.io", "ipaddresses");
pub(super) const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
pub(super) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// The allocator, as the label of what it made names it.
pub(super) const MANAGER: &str = "ipallocator.k8s.io";
/// Random places that are tried before the whole range is walked.
const GUESSES: u32 = 32;

pub fn family(ip: &IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The addresses that a Service has.
pub fn of(service: &Value) -> Vec<String> {
    if kind(service) == "ExternalName" || is_headless(service) {
        return Vec::new();
    }
    list(service, "clusterIPs").into_iter().filter(|ip| !ip.is_empty()).collect()
}

/// The ranges to take from: those of the ServiceCIDR objects, the flags' own while there are none.
pub(super) fn ranges(server: &Server, pools: &Pools, wanted: &str) -> Vec<IpNet> {
    let mut found: Vec<IpNet> = Vec::new();
    for object in server.registry.list(("networking.k8s.io", "servicecidrs"), None) {
        if !object["metadata"]["deletionTimestamp"].is_null() {
            continue;
        }
        let cidrs = object["spec"]["cidrs"].as_array();
        found.extend(cidrs.into_iter().flatten().filter_map(|c| c.as_str()?.parse::<IpNet>().ok()));
    }
    if found.is_empty() {
        found.clone_from(&pools.ranges);
    }
    found.retain(|r| family(&r.addr()) == wanted);
    found
}

/// Takes an address for each family that has none, and those that the client named.
pub async fn take(
    t: &Target<'_>,
    pools: &Pools,
    new: &mut Value,
    old: Option<&Value>,
    reserved: &mut Reserved,
) -> Result<()> {
    let before = old.map(of).unwrap_or_default();
    if kind(new) == "ExternalName" || is_headless(new) {
        reserved.old_addresses = before;
        return Ok(());
    }
    let families = list(new, "ipFamilies");
    let mut ips = list(new, "clusterIPs");
    for (i, wanted) in families.iter().enumerate() {
        match ips.get(i) {
            Some(ip) if before.contains(ip) => {}
            Some(ip) if !ip.is_empty() => {
                let ip = ip.clone();
                specific(t, pools, wanted, &ip, &ips).await?;
                reserved.addresses.extend((!t.dry_run).then_some(ip));
            }
            _ => {
                let ip = any(t, pools, wanted, new).await?;
                reserved.addresses.extend((!t.dry_run).then(|| ip.clone()));
                if i < ips.len() {
                    ips[i] = ip;
                } else {
                    ips.push(ip);
                }
            }
        }
    }
    reserved.old_addresses = before.into_iter().filter(|b| !ips.contains(b)).collect();
    if let Some(first) = ips.first() {
        new["spec"]["clusterIP"] = first.as_str().into();
    }
    set_list(new, "clusterIPs", &ips);
    Ok(())
}

/// The IPAddress of a Service.
pub(super) fn object(ip: &str, family: &str, namespace: &str, service: &str) -> Value {
    json!({
        "metadata": {"name": ip, "labels": {FAMILY: family, MANAGED_BY: MANAGER}},
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": service}},
    })
}

/// Creates the IPAddress; false when somebody else has it.
async fn claim(t: &Target<'_>, ip: &str, family: &str) -> Result<bool> {
    let registry = &t.call.server.registry;
    if t.dry_run {
        return Ok(registry.get(IPS, "", ip).is_none());
    }
    match registry.create(IPS, "", object(ip, family, t.namespace, t.name)).await {
        Ok(_) => Ok(true),
        Err(e) if e.reason == "AlreadyExists" => Ok(false),
        Err(e) => Err(e),
    }
}

async fn specific(t: &Target<'_>, pools: &Pools, family: &str, ip: &str, all: &[String]) -> Result<()> {
    let refused = |why: &str| {
        let text = format!("failed to allocate IP {ip}: {why}");
        Err(invalid(t, vec![Error::invalid(&spec_path("clusterIPs"), json!(all), text)]))
    };
    let Ok(parsed) = ip.parse::<IpAddr>() else { return refused("invalid address") };
    let inside = ranges(&t.call.server, pools, family).iter().any(|r| usable(r, &parsed));
    if !inside {
        return refused("the provided network does not match the current range");
    }
    if claim(t, ip, family).await? || owned_by(t, ip) {
        Ok(())
    } else {
        refused("provided IP is already allocated")
    }
}

/// The entry may be this very Service's, from a write that was interrupted.
fn owned_by(t: &Target<'_>, ip: &str) -> bool {
    let held = t.call.server.registry.get(IPS, "", ip);
    held.is_some_and(|o| {
        let r = &o["spec"]["parentRef"];
        r["resource"] == "services" && r["namespace"] == t.namespace && r["name"] == t.name
    })
}

fn usable(range: &IpNet, ip: &IpAddr) -> bool {
    range.contains(ip) && *ip != range.network() && (ip.is_ipv6() || *ip != range.broadcast())
}

async fn any(t: &Target<'_>, pools: &Pools, family: &str, new: &Value) -> Result<String> {
    for range in ranges(&t.call.server, pools, family) {
        let count = size(&range);
        if count == 0 {
            continue;
        }
        // The low part is left to those who name their addresses, until the rest is used up.
        let low = (count / 16).clamp(16, 256).min(count);
        let band = if count > low { (low, count - low) } else { (0, count) };
        for _ in 0..GUESSES {
            let ip = nth(&range, band.0 + rand::rng().random_range(0..band.1)).to_string();
            if t.call.server.registry.get(IPS, "", &ip).is_none() && claim(t, &ip, family).await? {
                return Ok(ip);
            }
        }
        let start = rand::rng().random_range(0..count);
        for i in (0..count.min(1 << 20)).map(|i| (start + i) % count) {
            let ip = nth(&range, i).to_string();
            if t.call.server.registry.get(IPS, "", &ip).is_none() && claim(t, &ip, family).await? {
                return Ok(ip);
            }
        }
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::internal(format!("failed to allocate a serviceIP for Service {name:?}: range is full")))
}

/// Usable addresses of a range.
fn size(range: &IpNet) -> u64 {
    let host_bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(63);
    let all = 1u64 << host_bits;
    all.saturating_sub(if range.addr().is_ipv4() { 2 } else { 1 })
}

/// The usable address at a place, from zero.
fn nth(range: &IpNet, i: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(v4) => {
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1 + (i & 0xffff_ffff) as u32)))
        }
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1 + u128::from(i)))),
    }
}

/// Deletes the IPAddress objects of a Service.
pub async fn give_back(server: &Server, owner: &(String, String), ips: &[String]) {
    for ip in ips {
        let held = server.registry.get_live(IPS, "", ip).await;
        let Ok(held) = held else { continue };
        let r = &held["spec"]["parentRef"];
        if r["namespace"] != owner.0.as_str() || r["name"] != owner.1.as_str() {
            continue;
        }
        if let Err(error) = server.registry.delete(IPS, "", ip).await {
            tracing::warn!(ip, %error, "a cluster IP could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_a_range() {
        let r: IpNet = "10.0.0.0/24".parse().unwrap();
        assert_eq!(size(&r), 254);
        assert_eq!(nth(&r, 0).to_string(), "10.0.0.1");
        assert_eq!(nth(&r, 253).to_string(), "10.0.0.254");
        assert!(!usable(&r, &"10.0.0.255".parse().unwrap()) && usable(&r, &"10.0.0.254".parse().unwrap()));
        assert_eq!(size(&"10.0.0.1/32".parse().unwrap()), 0);
        let six: IpNet = "fd00::/112".parse().unwrap();
        assert_eq!((size(&six), nth(&six, 0).to_string().as_str()), (65535, "fd00::1"));
    }
}
