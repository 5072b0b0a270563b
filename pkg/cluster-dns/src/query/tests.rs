use k8s_openapi::api::core::v1::ServiceSpec;

use super::*;
use crate::records::of_service;
use crate::records::tests::{service, slice, spec};

/// A cluster with one Service of each sort.
pub fn cluster() -> Records {
    let mut records = Records::default();
    records.serial = 7;
    records.add_namespace("ns");
    records.add_namespace("empty");
    let mut put = |name: &str, spec: ServiceSpec, slices: &[_]| {
        records.set("ns", name, of_service(&service(name, spec), slices));
    };
    let external = |target: &str| ServiceSpec {
        type_: Some("ExternalName".to_owned()),
        external_name: Some(target.to_owned()),
        ..ServiceSpec::default()
    };
    put("plain", spec(&["10.96.0.7"]), &[slice(&[("10.244.0.9", None, Some(true))])]);
    put("dual", spec(&["10.96.0.8", "fd00::8"]), &[]);
    let pods = [("10.244.0.5", Some("web-0"), Some(true)), ("10.244.0.6", None, Some(true))];
    put("headless", spec(&["None"]), &[slice(&pods), slice(&[("fd00::5", Some("web-0"), Some(true))])]);
    put("nobody", spec(&["None"]), &[slice(&[("10.244.0.7", Some("web-0"), Some(false))])]);
    put("out", external("www.example.com"), &[]);
    put("in", external("plain.ns.svc.cluster.local."), &[]);
    put("circle", external("circle.ns.svc.cluster.local"), &[]);
    records
}

pub fn zone() -> Zone {
    Zone::new("cluster.local", 5, ("ns", "plain")).unwrap()
}

/// An answer in one line: outcome, records, and `SOA` where that is all there is.
fn ask(name: &str, kind: RecordType) -> String {
    let name = Name::from_ascii(name).unwrap();
    let answer = query(&cluster(), &zone(), &name, kind);
    let outcome = match &answer.outcome {
        Outcome::Found => "found".to_owned(),
        Outcome::Missing => "missing".to_owned(),
        Outcome::Elsewhere => "elsewhere".to_owned(),
        Outcome::Alias(to) => format!("alias {to}"),
    };
    let mut parts = vec![outcome];
    parts.extend(answer.answers.iter().map(|r| r.data.to_string()));
    if !answer.additionals.is_empty() {
        parts.push("+".to_owned());
        parts.extend(answer.additionals.iter().map(|r| format!("{} {}", r.name, r.data)));
    }
    parts.extend(answer.authorities.iter().map(|r| format!("{}", r.record_type())));
    parts.join(" | ")
}

#[test]
fn answers() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let table = [
        // The zone itself.
        (
            "cluster.local.",
            SOA,
            "found | ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5",
        ),
        ("cluster.local.", NS, "found | ns.dns.cluster.local."),
        ("cluster.local.", A, "found | SOA"),
        ("ns.dns.cluster.local.", A, "found | 10.96.0.7"),
        ("dns-version.cluster.local.", TXT, "found | 1.1.0"),
        ("svc.cluster.local.", A, "found | SOA"),
        ("ns.svc.cluster.local.", A, "found | SOA"),
        ("empty.svc.cluster.local.", A, "found | SOA"),
        ("absent.svc.cluster.local.", A, "missing | SOA"),
        ("other.cluster.local.", A, "missing | SOA"),
        // A Service with an address.
        ("plain.ns.svc.cluster.local.", A, "found | 10.96.0.7"),
        ("Plain.NS.svc.CLUSTER.local.", A, "found | 10.96.0.7"),
        ("plain.ns.svc.cluster.local.", AAAA, "found | SOA"),
        ("plain.ns.svc.cluster.local.", MX, "found | SOA"),
        ("dual.ns.svc.cluster.local.", AAAA, "found | fd00::8"),
        ("absent.ns.svc.cluster.local.", A, "missing | SOA"),
        ("plain.empty.svc.cluster.local.", A, "missing | SOA"),
        ("x.plain.ns.svc.cluster.local.", A, "missing | SOA"),
        ("10-244-0-9.plain.ns.svc.cluster.local.", A, "found | 10.244.0.9"),
        // Its ports.
        (
            "_http._tcp.plain.ns.svc.cluster.local.",
            SRV,
            "found | 0 100 80 plain.ns.svc.cluster.local. | + | plain.ns.svc.cluster.local. 10.96.0.7",
        ),
        ("_HTTP._TCP.plain.ns.svc.cluster.local.", A, "found | SOA"),
        ("_tcp.plain.ns.svc.cluster.local.", SRV, "found | SOA"),
        ("_sctp.plain.ns.svc.cluster.local.", SRV, "missing | SOA"),
        ("_http._udp.plain.ns.svc.cluster.local.", SRV, "missing | SOA"),
        ("_._tcp.plain.ns.svc.cluster.local.", SRV, "missing | SOA"),
        ("http.tcp.plain.ns.svc.cluster.local.", SRV, "missing | SOA"),
        // A Service of endpoints.
        ("headless.ns.svc.cluster.local.", A, "found | 10.244.0.6 | 10.244.0.5"),
        ("headless.ns.svc.cluster.local.", AAAA, "found | fd00::5"),
        ("web-0.headless.ns.svc.cluster.local.", A, "found | 10.244.0.5"),
        ("web-0.headless.ns.svc.cluster.local.", AAAA, "found | fd00::5"),
        ("10-244-0-6.headless.ns.svc.cluster.local.", A, "found | 10.244.0.6"),
        ("web-1.headless.ns.svc.cluster.local.", A, "missing | SOA"),
        (
            "_http._tcp.headless.ns.svc.cluster.local.",
            SRV,
            "found | 0 50 8080 10-244-0-6.headless.ns.svc.cluster.local. \
             | 0 50 8080 web-0.headless.ns.svc.cluster.local. | + \
             | 10-244-0-6.headless.ns.svc.cluster.local. 10.244.0.6 \
             | web-0.headless.ns.svc.cluster.local. 10.244.0.5 \
             | web-0.headless.ns.svc.cluster.local. fd00::5",
        ),
        ("nobody.ns.svc.cluster.local.", A, "missing | SOA"),
        ("web-0.nobody.ns.svc.cluster.local.", A, "missing | SOA"),
        // Aliases.
        ("out.ns.svc.cluster.local.", CNAME, "found | www.example.com."),
        ("out.ns.svc.cluster.local.", A, "alias www.example.com. | www.example.com."),
        ("in.ns.svc.cluster.local.", A, "found | plain.ns.svc.cluster.local. | 10.96.0.7"),
        ("in.ns.svc.cluster.local.", AAAA, "found | plain.ns.svc.cluster.local. | SOA"),
        ("circle.ns.svc.cluster.local.", A, "found | circle.ns.svc.cluster.local."),
        ("_http._tcp.out.ns.svc.cluster.local.", SRV, "missing | SOA"),
        // Pods.
        ("10-244-0-5.ns.pod.cluster.local.", A, "found | 10.244.0.5"),
        ("10-244-0-5.ns.pod.cluster.local.", AAAA, "found | SOA"),
        ("fd00--5.ns.pod.cluster.local.", AAAA, "found | fd00::5"),
        ("10-244-0-256.ns.pod.cluster.local.", A, "missing | SOA"),
        ("10-244-0-5.absent.pod.cluster.local.", A, "missing | SOA"),
        ("ns.pod.cluster.local.", A, "found | SOA"),
        // Addresses.
        ("7.0.96.10.in-addr.arpa.", PTR, "found | plain.ns.svc.cluster.local."),
        ("5.0.244.10.in-addr.arpa.", PTR, "found | web-0.headless.ns.svc.cluster.local."),
        ("6.0.244.10.IN-ADDR.arpa.", ANY, "found | 10-244-0-6.headless.ns.svc.cluster.local."),
        (
            "8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "found | dual.ns.svc.cluster.local.",
        ),
        ("7.0.96.10.in-addr.arpa.", A, "found | SOA"),
        ("1.1.1.1.in-addr.arpa.", PTR, "elsewhere"),
        ("96.10.in-addr.arpa.", PTR, "elsewhere"),
        // Not ours.
        ("www.example.com.", A, "elsewhere"),
        ("notcluster.local.", A, "elsewhere"),
        (".", NS, "elsewhere"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn answers_repeat_the_name_as_it_was_asked() {
    let name = Name::from_ascii("PLAIN.ns.svc.cluster.local.").unwrap();
    let answer = query(&cluster(), &zone(), &name, RecordType::A);
    assert!(answer.answers[0].name.eq_case(&name));
    assert_eq!(answer.answers[0].ttl, 5);
}
