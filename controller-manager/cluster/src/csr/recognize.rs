//! What each signer accepts. Pure functions.

use pki::Csr;

pub(super) const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// Whether the signer may sign the request; the error says why not.
pub(super) fn valid(signer: &str, csr: &Csr, usages: &[String]) -> Result<(), String> {
    match signer {
        CLIENT => client(usages),
        KUBELET_CLIENT => kubelet_client(csr, usages),
        KUBELET_SERVING => kubelet_serving(csr, usages),
        _ => Ok(()),
    }
}

fn client(usages: &[String]) -> Result<(), String> {
    if let Some(other) = usages
        .iter()
        .find(|u| !["digital signature", "key encipherment", "client auth"].contains(&u.as_str()))
    {
        return Err(format!("invalid usage for client certificate: {other}"));
    }
    if !usages.iter().any(|u| u == "client auth") {
        return Err("missing required usage for client certificate: client auth".into());
    }
    Ok(())
}

fn same_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let all = [purpose, "digital signature", "key encipherment"];
    let within = usages.iter().all(|u| all.contains(&u.as_str()));
    let needed = [purpose, "digital signature"].iter().all(|n| usages.iter().any(|u| u == n));
    if within && needed {
        return Ok(());
    }
    let mut names = all;
    names.sort_unstable();
    Err(format!("usages did not match [{}]", names.join(" ")))
}

fn node_subject(csr: &Csr) -> Result<(), String> {
    if csr.orgs != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    Ok(())
}

fn node_name(csr: &Csr) -> Result<(), String> {
    if !csr.cn.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".into());
    }
    Ok(())
}

fn refuse(present: bool, what: &str) -> Result<(), String> {
    if present { Err(format!("{what} subjectAltNames are not allowed")) } else { Ok(()) }
}

/// A kubelet's client certificate.
pub(super) fn kubelet_client(csr: &Csr, usages: &[String]) -> Result<(), String> {
    node_subject(csr)?;
    refuse(!csr.dns.is_empty(), "DNS")?;
    refuse(!csr.emails.is_empty(), "Email")?;
    refuse(!csr.ips.is_empty(), "IP")?;
    refuse(!csr.uris.is_empty(), "URI")?;
    node_name(csr)?;
    same_usages(usages, "client auth")
}

fn kubelet_serving(csr: &Csr, usages: &[String]) -> Result<(), String> {
    node_subject(csr)?;
    if csr.dns.is_empty() && csr.ips.is_empty() {
        return Err("DNS or IP subjectAltName is required".into());
    }
    refuse(!csr.emails.is_empty(), "Email")?;
    refuse(!csr.uris.is_empty(), "URI")?;
    same_usages(usages, "server auth")?;
    node_name(csr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn csr(cn: &str, org: &str, dns: &[&str]) -> Csr {
        let dns = dns.iter().map(|d| (*d).to_owned()).collect::<Vec<_>>();
        let (text, _) = pki::create_csr(cn, &[org.to_owned()], &dns, &[]).unwrap();
        Csr::parse(&text).unwrap()
    }

    #[test]
    fn signers_accept_what_they_are_for() {
        let node = csr("system:node:n1", "system:nodes", &[]);
        let serving = csr("system:node:n1", "system:nodes", &["n1"]);
        let user = csr("jane", "dev", &[]);
        let u = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let client_usages = u(&["digital signature", "client auth"]);
        let server_usages = u(&["digital signature", "key encipherment", "server auth"]);
        assert!(valid(KUBELET_CLIENT, &node, &client_usages).is_ok());
        assert!(valid(KUBELET_CLIENT, &user, &client_usages).is_err());
        assert!(valid(KUBELET_CLIENT, &serving, &client_usages).is_err());
        assert!(valid(KUBELET_CLIENT, &node, &server_usages).is_err());
        assert!(valid(KUBELET_SERVING, &serving, &server_usages).is_ok());
        assert!(valid(KUBELET_SERVING, &node, &server_usages).is_err());
        assert!(valid(CLIENT, &user, &u(&["client auth"])).is_ok());
        assert!(valid(CLIENT, &user, &u(&["server auth"])).is_err());
        assert!(valid(LEGACY, &user, &server_usages).is_ok());
    }
}
