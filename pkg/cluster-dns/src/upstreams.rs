//! Which resolvers there are: addresses, or a file in `resolv.conf`'s format.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;

const DNS_PORT: u16 = 53;

/// The resolvers that `--forward` names. A file that is not there names none: the cluster's own names must work anyway.
pub fn of_flags(values: &[String], listen: &[SocketAddr]) -> anyhow::Result<Vec<SocketAddr>> {
    let mut found = Vec::new();
    for value in values {
        if value.starts_with('/') {
            match std::fs::read_to_string(value) {
                Ok(text) => found.extend(of_file(&text)),
                Err(e) => tracing::warn!(file = value, "Cannot read the list of resolvers: {e}"),
            }
        } else if let Some(address) = parse(value) {
            found.push(address);
        } else {
            bail!("--forward must be a file or addresses of resolvers, not {value:?}");
        }
    }
    let mut kept: Vec<SocketAddr> = Vec::new();
    for address in found {
        if is_ourselves(address, listen) {
            tracing::warn!(%address, "Not forwarding to ourselves");
        } else if !kept.contains(&address) {
            kept.push(address);
        }
    }
    Ok(kept)
}

/// The name servers of a `resolv.conf`. One with an interface (`fe80::1%eth0`) is of no use inside a pod.
fn of_file(text: &str) -> Vec<SocketAddr> {
    let value = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next().map(str::to_owned)).flatten()
    };
    text.lines().filter_map(value).filter_map(|v| parse(&v)).collect()
}

fn parse(text: &str) -> Option<SocketAddr> {
    let only_ip = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
    text.parse::<SocketAddr>().or_else(only_ip).ok()
}

/// A node's own resolver at a loopback address is, seen from a pod, the pod.
fn is_ourselves(address: SocketAddr, listen: &[SocketAddr]) -> bool {
    listen.iter().any(|own| {
        own.port() == address.port()
            && (own.ip() == address.ip() || (own.ip().is_unspecified() && address.ip().is_loopback()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_names_servers() {
        let text = "# nameserver 9.9.9.9\nsearch a.b\nnameserver 10.0.0.1\nnameserver\t2001:db8::1 \nnameserver fe80::1%eth0\n;x\noptions ndots:5\n";
        let found: Vec<String> = of_file(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1:53", "[2001:db8::1]:53"]);
    }

    #[test]
    fn never_forwards_to_itself() {
        let listen = ["[::]:53".parse().unwrap()];
        let of = |v: &[&str]| of_flags(&v.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(), &listen);
        let found = of(&["127.0.0.53", "127.0.0.1:5353", "10.0.0.1", "10.0.0.1:53"]).unwrap();
        assert_eq!(found, ["127.0.0.1:5353".parse().unwrap(), "10.0.0.1:53".parse().unwrap()]);
        assert!(of(&["resolver.example"]).is_err());
        assert!(of(&["/nowhere/resolv.conf"]).unwrap().is_empty());
    }
}
