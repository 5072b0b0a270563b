//! Addresses and networks.

use crate::error::{Fault, Result};
use crate::value::Val;
use ipnet::IpNet;
use std::net::IpAddr;

/// An address; neither with a zone nor IPv4 in IPv6.
fn ip(text: &str) -> Result<IpAddr> {
    if let Some((address, _)) = text.split_once('%')
        && address.parse::<IpAddr>().is_ok()
    {
        return Err(Fault::error(format!("IP address {text:?} with zone value is not allowed")));
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(Fault::error(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(Fault::error(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))),
    }
}

fn cidr(text: &str) -> Result<IpNet> {
    let wrong = |why: &str| {
        const TWICE: &str = "network address parse error during conversion from string: ";
        Fault::error(format!("{TWICE}{TWICE}netip.ParsePrefix({text:?}): {why}"))
    };
    let (address, bits) = text.split_once('/').ok_or_else(|| wrong("no '/'"))?;
    let address = address.parse::<IpAddr>().map_err(|_| wrong("unable to parse IP"))?;
    if bits.is_empty() || bits.len() > 1 && bits.starts_with('0') || !bits.bytes().all(|b| b.is_ascii_digit())
    {
        return Err(wrong(&format!("bad bits after slash: {bits:?}")));
    }
    let range = || wrong("prefix length out of range");
    let net = IpNet::new(address, bits.parse().map_err(|_| range())?).map_err(|_| range())?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(Fault::error(format!("IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        _ => Ok(net),
    }
}

fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn is_link_local_multicast(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_global_unicast(ip: &IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_link_local(ip)
}

pub fn call<'a>(name: &str, args: &[Val<'a>]) -> Result<Val<'a>> {
    let truth = |b: bool| Ok(Val::Bool(b));
    match (name, args) {
        ("isIP", [Val::Str(s)]) => truth(ip(s).is_ok()),
        ("isCIDR", [Val::Str(s)]) => truth(cidr(s).is_ok()),
        ("ip", [Val::Str(s)]) => ip(s).map(Val::Ip),
        ("ip", [Val::Cidr(c)]) => Ok(Val::Ip(c.addr())),
        ("cidr", [Val::Str(s)]) => cidr(s).map(Val::Cidr),
        ("ip.isCanonical", [Val::Str(s)]) => truth(ip(s)?.to_string() == **s),
        ("family", [Val::Ip(ip)]) => Ok(Val::Int(if ip.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", [Val::Ip(ip)]) => truth(ip.is_unspecified()),
        ("isLoopback", [Val::Ip(ip)]) => truth(ip.is_loopback()),
        ("isLinkLocalMulticast", [Val::Ip(ip)]) => truth(is_link_local_multicast(ip)),
        ("isLinkLocalUnicast", [Val::Ip(ip)]) => truth(is_link_local(ip)),
        ("isGlobalUnicast", [Val::Ip(ip)]) => truth(is_global_unicast(ip)),
        ("containsIP", [Val::Cidr(c), Val::Ip(ip)]) => truth(c.contains(ip)),
        ("containsIP", [Val::Cidr(c), Val::Str(s)]) => truth(c.contains(&ip(s)?)),
        ("containsCIDR", [Val::Cidr(c), Val::Cidr(other)]) => truth(c.trunc().contains(other)),
        ("containsCIDR", [Val::Cidr(c), Val::Str(s)]) => truth(c.trunc().contains(&cidr(s)?)),
        ("prefixLength", [Val::Cidr(c)]) => Ok(Val::Int(c.prefix_len().into())),
        ("masked", [Val::Cidr(c)]) => Ok(Val::Cidr(c.trunc())),
        _ => Err(Fault::no_such_overload()),
    }
}
