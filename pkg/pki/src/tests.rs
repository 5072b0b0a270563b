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
            orgs: vec!["system:nodes".into(), "second".into(), "third".into()],
            dns: vec!["n1".into()],
            ips: vec!["10.0.0.1".parse().unwrap()],
            client: true,
            server: true,
            days: 2,
        })
        .unwrap();
    let (cn, orgs) = subject_of(&cert.cert_pem);
    assert_eq!(
        (cn.as_str(), orgs),
        ("system:node:n1", ["system:nodes", "second", "third"].map(String::from).to_vec())
    );
    let (_, ca_pem) = x509_parser::pem::parse_x509_pem(ca.cert_pem().as_bytes()).unwrap();
    let (_, leaf) = x509_parser::pem::parse_x509_pem(cert.cert_pem.as_bytes()).unwrap();
    let issuer = ca_pem.parse_x509().unwrap();
    leaf.parse_x509().unwrap().verify_signature(Some(issuer.public_key())).unwrap();
}

#[test]
fn signing_requests_survive_the_way_there_and_back() {
    let ca = Ca::new("kubernetes").unwrap();
    let ips = ["192.0.2.7".parse().unwrap()];
    let (csr, _) =
        create_csr("system:node:a", &["g1".into(), "g2".into(), "g3".into()], &["a".into()], &ips).unwrap();
    let parsed = Csr::parse(&csr).unwrap();
    assert_eq!(parsed.cn, "system:node:a");
    assert_eq!(parsed.orgs, ["g1", "g2", "g3"]);
    assert_eq!((parsed.dns, parsed.ips), (vec!["a".to_owned()], ips.to_vec()));
    let usages = ["digital signature", "client auth"].iter().filter_map(|u| Usage::parse(u)).collect();
    let options = SignOptions { ttl: Duration::from_secs(3600), backdate: Duration::from_secs(300), usages };
    let cert = ca.sign_csr(&csr, &options).unwrap();
    assert_eq!(subject_of(&cert), ("system:node:a".to_owned(), parsed.orgs));
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).unwrap();
    let x509 = pem.parse_x509().unwrap();
    assert!(!x509.is_ca() && x509.key_usage().unwrap().unwrap().value.digital_signature());
    let extended = x509.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && !extended.server_auth);
    let names = &x509.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 2, "the request's names");
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

#[test]
fn openssl_agrees() {
    let run = |args: &[&str]| std::process::Command::new("openssl").args(args).output();
    if run(&["version"]).is_err() {
        eprintln!("skipped: no openssl here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let ok = |args: &[&str]| {
        let out = run(args).unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // Authorities as kubeadm makes them (RSA, PKCS#1) and as others do (EC, SEC1).
    ok(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        &path("8.key"),
        "-out",
        &path("rsa.crt"),
        "-subj",
        "/CN=kubernetes",
    ]);
    ok(&["rsa", "-in", &path("8.key"), "-traditional", "-out", &path("rsa.key")]);
    ok(&["ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", &path("ec.key")]);
    ok(&["req", "-x509", "-key", &path("ec.key"), "-out", &path("ec.crt"), "-subj", "/CN=ec"]);
    for kind in ["rsa", "ec"] {
        let ca = Ca::load(&path(&format!("{kind}.crt")), &path(&format!("{kind}.key"))).unwrap();
        let cert =
            ca.issue(Request { cn: "u".into(), dns: vec!["a.b".into()], client: true, ..Request::default() });
        files::write_public(&path("leaf.crt"), cert.unwrap().cert_pem.as_bytes()).unwrap();
        ok(&[
            "verify",
            "-purpose",
            "sslclient",
            "-CAfile",
            ca_file(&path("own.crt"), &ca),
            &path("leaf.crt"),
        ]);
    }
    let own = Ca::new("own").unwrap();
    ok(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        &path("u.key"),
        "-out",
        &path("u.csr"),
        "-subj",
        "/O=a/O=b/CN=jane",
    ]);
    let csr = files::read(&path("u.csr")).unwrap();
    assert_eq!(Csr::parse(&csr).unwrap().orgs, ["a", "b"]);
    let options = SignOptions { ttl: Duration::from_secs(60), backdate: Duration::ZERO, usages: vec![] };
    files::write_public(&path("u.crt"), own.sign_csr(&csr, &options).unwrap().as_bytes()).unwrap();
    ok(&["verify", "-x509_strict", "-CAfile", ca_file(&path("own.crt"), &own), &path("u.crt")]);
    let (csr, _) = create_csr("x", &[], &["d".into()], &[]).unwrap();
    files::write_public(&path("x.csr"), csr.as_bytes()).unwrap();
    ok(&["req", "-in", &path("x.csr"), "-verify", "-noout"]);
}

fn ca_file<'a>(path: &'a str, ca: &Ca) -> &'a str {
    files::write_public(path, ca.cert_pem().as_bytes()).unwrap();
    path
}

#[test]
fn bundles_of_objects_are_read_leniently_and_files_strictly() {
    let ca = Ca::new("kubernetes").unwrap();
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let mixed = format!("{junk}{}", ca.cert_pem());
    for (pem, strict, lenient) in [
        (ca.cert_pem().to_owned(), Some(1), Some(1)),
        (mixed, None, Some(1)),
        (junk.to_owned(), None, None),
        ("no PEM at all".to_owned(), Some(0), None),
    ] {
        let count = |r: crate::Result<rustls::RootCertStore>| r.ok().map(|r| r.len());
        assert_eq!(count(trust::authorities(pem.as_bytes())), strict, "{pem}");
        assert_eq!(count(trust::authorities_or_system(pem.as_bytes())), lenient, "{pem}");
    }
    let refused = trust::authorities_or_system(junk.as_bytes()).unwrap_err();
    assert_eq!(refused.to_string(), "unable to load root certificates");
    assert!(trust::authorities_or_system(b"").is_ok(), "the system's");
}
