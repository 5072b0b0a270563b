//! Certificates made here are read back by an independent parser.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use crate::*;

fn subject_of(cert_pem: &str) -> (String, Vec<String>) {
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert_pem.as_bytes()).unwrap();
    let cert = pem.parse_x509().unwrap();
    let subject = cert.subject();
    let cn = subject.iter_common_name().map(|a| a.as_str().unwrap().to_owned()).next().unwrap();
    (cn, subject.iter_organization().map(|a| a.as_str().unwrap().to_owned()).collect())
}

#[test]
fn issued_certificates_carry_names_and_verify_against_their_authority() {
    let ca = Ca::new("kubernetes").unwrap();
    let ca = Ca::from_pem(ca.cert_pem(), ca.key_pem()).unwrap();
    let cert = ca
        .issue(Request {
            cn: "system:node:n1".into(),
            orgs: vec!["system:nodes".into(), "second".into()],
            dns: vec!["n1".into()],
            ips: vec!["10.0.0.1".parse().unwrap()],
            client: true,
            server: true,
            days: 2,
        })
        .unwrap();
    let (cn, orgs) = subject_of(&cert.cert_pem);
    assert_eq!((cn.as_str(), orgs), ("system:node:n1", vec!["system:nodes".to_owned(), "second".to_owned()]));
    let (_, ca_pem) = x509_parser::pem::parse_x509_pem(ca.cert_pem().as_bytes()).unwrap();
    let (_, leaf) = x509_parser::pem::parse_x509_pem(cert.cert_pem.as_bytes()).unwrap();
    let issuer = ca_pem.parse_x509().unwrap();
    leaf.parse_x509().unwrap().verify_signature(Some(issuer.public_key())).unwrap();
}

#[test]
fn signing_requests_survive_the_way_there_and_back() {
    let ca = Ca::new("kubernetes").unwrap();
    let ips = ["192.0.2.7".parse().unwrap()];
    let (csr, _) = create_csr("system:node:a", &["system:nodes".into()], &["a".into()], &ips).unwrap();
    let parsed = Csr::parse(&csr).unwrap();
    assert_eq!(parsed.cn, "system:node:a");
    assert_eq!(parsed.orgs, ["system:nodes"]);
    assert_eq!((parsed.dns, parsed.ips), (vec!["a".to_owned()], ips.to_vec()));
    let usages = ["digital signature", "client auth"].iter().filter_map(|u| Usage::parse(u)).collect();
    let options = SignOptions { ttl: Duration::from_secs(3600), backdate: Duration::from_secs(300), usages };
    let cert = ca.sign_csr(&csr, &options).unwrap();
    assert_eq!(subject_of(&cert).0, "system:node:a");
    assert!(Csr::parse("garbage").is_err());
}

#[test]
fn secrets_are_written_private_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sub/x.conf");
    let path = path.to_str().unwrap();
    let ca = Ca::new("c").unwrap();
    let cert = ca.issue(Request { cn: "u".into(), client: true, ..Request::default() }).unwrap();
    Kubeconfig { cert: Some(&cert), ..Kubeconfig::new("https://127.0.0.1:1", ca.cert_pem()) }
        .write(path)
        .unwrap();
    files::write_secret(path, kubeconfig("https://127.0.0.1:1", ca.cert_pem(), &cert).as_bytes()).unwrap();
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path().join("sub")).unwrap().count(), 1);
}
