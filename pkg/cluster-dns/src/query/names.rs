//! Names: the zone's own, and what is read out of those of questions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, ensure};
use hickory_proto::rr::Name;

/// The cluster's zone: constants of all answers.
#[derive(Debug)]
pub struct Zone {
    labels: Vec<String>,
    pub origin: Name,
    /// The origin as text, for metrics.
    pub text: String,
    pub name_server: Name,
    pub contact: Name,
    pub ttl: u32,
    /// Namespace and name of the Service that clients reach us by.
    pub own_service: (String, String),
}

impl Zone {
    /// The zone of a cluster domain.
    pub fn new(domain: &str, ttl: u32, own_service: (&str, &str)) -> anyhow::Result<Zone> {
        let mut origin =
            Name::from_ascii(domain).with_context(|| format!("invalid cluster domain {domain:?}"))?;
        origin.set_fqdn(true);
        ensure!(!origin.is_root(), "the cluster domain must not be empty");
        let origin = origin.to_lowercase();
        let below = |label: &str| {
            let name = Name::from_ascii(label).and_then(|n| n.append_domain(&origin));
            name.with_context(|| format!("the cluster domain {domain:?} is too long"))
        };
        Ok(Zone {
            labels: labels_of(&origin),
            text: origin.to_ascii(),
            name_server: below("ns.dns")?,
            contact: below("hostmaster")?,
            ttl,
            own_service: (own_service.0.to_owned(), own_service.1.to_owned()),
            origin,
        })
    }

    /// The labels before the zone's; `None` if a name is not in the zone.
    pub fn strip<'a>(&self, labels: &'a [String]) -> Option<&'a [String]> {
        labels.strip_suffix(self.labels.as_slice())
    }

    /// A name in the zone; `None` if it would be too long.
    pub fn name<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Option<Name> {
        let mut name = Name::from_labels(labels.into_iter().map(str::as_bytes)).ok()?;
        name.set_fqdn(false);
        name.append_domain(&self.origin).ok()
    }
}

/// A name's labels in lower case; no object has a name that is not ASCII.
pub fn labels_of(name: &Name) -> Vec<String> {
    name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect()
}

/// The address that a whole `in-addr.arpa` or `ip6.arpa` name stands for.
pub fn reverse_address(labels: &[String]) -> Option<IpAddr> {
    let (digits, zone) = labels.split_at_checked(labels.len().checked_sub(2)?)?;
    match (zone[0].as_str(), zone[1].as_str(), digits.len()) {
        ("in-addr", "arpa", 4) => {
            let text: Vec<&str> = digits.iter().rev().map(String::as_str).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        ("ip6", "arpa", 32) => {
            let one = |d: &String| (d.len() == 1).then(|| u128::from_str_radix(d, 16).ok()).flatten();
            let bits = digits.iter().rev().try_fold(0u128, |sum, d| Some(sum << 4 | one(d)?))?;
            Some(IpAddr::V6(Ipv6Addr::from(bits)))
        }
        _ => None,
    }
}

/// The address that a pod's label spells with dashes.
pub fn address_of_label(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}
