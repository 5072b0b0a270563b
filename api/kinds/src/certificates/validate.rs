//! Validation of signing requests and trust bundles.

use super::signer_name;
use crate::metadata::immutable;
use crate::names;
use crate::value::{Get, same};
use crate::{Context, checks};
use api::Value;
use api::field::{Error, ErrorList, Path};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::collections::{BTreeMap, HashSet};
use x509_parser::prelude::{FromDer, X509Certificate, X509CertificationRequest};

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY: &str = "kubernetes.io/legacy-unknown";
const LARGEST_BUNDLE: usize = 1 << 20;
const HIDDEN: &str = "<value omitted>";

pub fn request(cx: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    if let Err(why) = signing_request(spec.text("request")) {
        e.push(Error::invalid(&at.child("request"), spec.text("request"), why));
    }
    usages(spec, old, &at, e);
    let signer = spec.text("signerName");
    let was_legacy = old.is_some_and(|o| o.at("spec").text("signerName") == LEGACY);
    if signer == LEGACY && !was_legacy {
        let text = "the legacy signerName is not allowed via this API version";
        e.push(Error::invalid(&at.child("signerName"), signer, text));
    } else {
        signer_name(signer, &at.child("signerName"), e);
    }
    if let Some(n) = spec.opt_int("expirationSeconds").filter(|n| *n < 600) {
        let text = "may not specify a duration less than 600 seconds (10 minutes)";
        e.push(Error::invalid(&at.child("expirationSeconds"), n, text));
    }
    let at = Path::new("status");
    conditions(new.at("status"), old.map(|o| o.at("status")), &at.child("conditions"), e);
    issued(cx, new, old, &at, e);
    if let Some(old) = old {
        decisions(cx, new, old, &at.child("conditions"), e);
    }
}

fn usages(spec: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    checks::required(spec, "usages", at, e);
    let stored: Vec<&str> = old.map(|o| o.at("spec").texts("usages").collect()).unwrap_or_default();
    let unknown_ok = stored.iter().any(|u| !USAGES.contains(u));
    let repeated_ok = stored.iter().collect::<HashSet<_>>().len() < stored.len();
    let mut seen = HashSet::new();
    for (i, usage) in spec.texts("usages").enumerate() {
        let at = at.child("usages").index(i);
        if !unknown_ok {
            checks::one_of(usage, &USAGES, &at, e);
        }
        if !seen.insert(usage) && !repeated_ok {
            e.push(Error::duplicate(&at, usage));
        }
    }
}

/// The request must parse, and be signed by the key in it.
fn signing_request(encoded: &str) -> Result<(), String> {
    const TYPE: &str = "PEM block type must be CERTIFICATE REQUEST";
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|why| why.to_string())?;
    let block = pem::parse(&bytes).map_err(|_| TYPE)?;
    if block.tag() != "CERTIFICATE REQUEST" {
        return Err(TYPE.to_owned());
    }
    let (rest, request) =
        X509CertificationRequest::from_der(block.contents()).map_err(|why| format!("x509: {why}"))?;
    if !rest.is_empty() {
        return Err("asn1: syntax error: trailing data".to_owned());
    }
    request.verify_signature().map_err(|why| format!("x509: {why}"))
}

fn certificates(encoded: &str) -> Result<(), String> {
    if encoded.is_empty() {
        return Ok(());
    }
    let bytes = BASE64_STANDARD.decode(encoded).map_err(|why| why.to_string())?;
    let blocks = pem::parse_many(&bytes).unwrap_or_default();
    if blocks.is_empty() {
        return Err("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    for block in blocks {
        if block.tag() != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.tag()));
        }
        if block.headers().iter().next().is_some() {
            return Err("no PEM block headers are permitted".to_owned());
        }
        if block.contents().is_empty() {
            return Err("found CERTIFICATE PEM block containing 0 certificates".to_owned());
        }
        X509Certificate::from_der(block.contents()).map_err(|why| format!("x509: {why}"))?;
    }
    Ok(())
}

fn issued(cx: &Context<'_>, new: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let at = at.child("certificate");
    let certificate = new.at("status").text("certificate");
    let before = old.map(|o| o.at("status").text("certificate"));
    if before == Some(certificate) {
        return;
    }
    if before.is_none_or(|b| certificates(b).is_ok())
        && let Err(why) = certificates(certificate)
    {
        e.push(Error::invalid(&at, "<certificate data>", why));
    }
    match before {
        Some(_) if cx.subresource != "status" => {
            e.push(Error::forbidden(&at, "updates may not set certificate content"));
        }
        Some(before) if !before.is_empty() => {
            e.push(Error::forbidden(&at, "updates may not modify existing certificate content"));
        }
        _ => {}
    }
}

fn conditions(status: &Value, old: Option<&Value>, at: &Path, e: &mut ErrorList) {
    let stored: Vec<&str> =
        old.map(|o| o.list("conditions").iter().map(|c| c.text("type")).collect()).unwrap_or_default();
    let both_ok = stored.contains(&"Approved") && stored.contains(&"Denied");
    let repeated_ok = stored.iter().collect::<HashSet<_>>().len() < stored.len();
    let mut seen = HashSet::new();
    for (i, c) in status.list("conditions").iter().enumerate() {
        let (kind, at_one) = (c.text("type"), at.index(i));
        if kind.is_empty() && !stored.contains(&"") {
            e.push(Error::required(&at_one.child("type"), ""));
        }
        let allowed: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["True", "False", "Unknown"],
        };
        checks::one_of_required(c.text("status"), allowed, &at_one.child("status"), e);
        let against = match kind {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "\0",
        };
        if !both_ok && seen.contains(against) {
            let text = "Approved and Denied conditions are mutually exclusive";
            e.push(Error::invalid(at, kind, text));
        }
        if !seen.insert(kind) && !repeated_ok {
            e.push(Error::duplicate(&at_one.child("type"), kind));
        }
    }
}

/// What was decided stays; only `approval` decides.
fn decisions(cx: &Context<'_>, new: &Value, old: &Value, at: &Path, e: &mut ErrorList) {
    let of = |o: &Value, kind: &str| -> Vec<Value> {
        o.at("status").list("conditions").iter().filter(|c| c.text("type") == kind).cloned().collect()
    };
    for kind in ["Approved", "Denied", "Failed"] {
        if of(new, kind).len() < of(old, kind).len() {
            e.push(Error::forbidden(at, format!("updates may not remove a condition of type {kind:?}")));
        }
    }
    if cx.subresource == "approval" {
        return;
    }
    for kind in ["Approved", "Denied"] {
        let (new, old) = (of(new, kind), of(old, kind));
        if new.len() > old.len() {
            e.push(Error::forbidden(at, format!("updates may not add a condition of type {kind:?}")));
        } else if new.len() == old.len() && !same(&new.into(), &old.into()) {
            e.push(Error::forbidden(at, format!("updates may not modify a condition of type {kind:?}")));
        }
    }
}

pub fn trust_bundle(_: &Context<'_>, new: &Value, old: Option<&Value>, e: &mut ErrorList) {
    let (spec, at) = (new.at("spec"), Path::new("spec"));
    let (name, signer) = (new.at("metadata").text("name"), spec.text("signerName"));
    checks::texts(name, bundle_name(name, signer), &Path::new("metadata").child("name"), e);
    if !signer.is_empty() {
        signer_name(signer, &at.child("signerName"), e);
    }
    let stored = old.map(|o| o.at("spec"));
    if stored.is_none_or(|s| s.text("trustBundle") != spec.text("trustBundle")) {
        anchors(spec.text("trustBundle"), &at.child("trustBundle"), e);
    }
    if let Some(stored) = stored {
        immutable(spec.at("signerName"), stored.at("signerName"), &at.child("signerName"), e);
    }
}

/// Bundles of a signer are named after it.
fn bundle_name(name: &str, signer: &str) -> Vec<String> {
    if name.is_empty() {
        return Vec::new();
    }
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return names::dns_subdomain(name);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::dns_subdomain(rest),
        None => {
            vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")]
        }
    }
}

fn anchors(text: &str, at: &Path, e: &mut ErrorList) {
    if text.len() > LARGEST_BUNDLE {
        return e.push(Error::too_long(at, LARGEST_BUNDLE));
    }
    let (before, mut seen) = (e.len(), BTreeMap::<Vec<u8>, Vec<usize>>::new());
    for (i, block) in pem::parse_many(text).unwrap_or_default().into_iter().enumerate() {
        match anchor(&block) {
            Ok(()) => seen.entry(block.into_contents()).or_default().push(i),
            Err(why) => e.push(Error::invalid(at, HIDDEN, format!("entry {i} {why}"))),
        }
    }
    if e.len() > before {
        return;
    }
    if seen.is_empty() {
        e.push(Error::invalid(at, HIDDEN, "at least one trust anchor must be provided"));
    }
    for indices in seen.into_values().filter(|i| i.len() > 1) {
        let listed: Vec<_> = indices.iter().map(ToString::to_string).collect();
        let text = format!("duplicate trust anchor (indices [{}])", listed.join(" "));
        e.push(Error::invalid(at, HIDDEN, text));
    }
}

fn anchor(block: &pem::Pem) -> Result<(), String> {
    if block.tag() != "CERTIFICATE" {
        return Err(format!("has bad block type: {}", block.tag()));
    }
    if block.headers().iter().next().is_some() {
        return Err("has PEM block headers".to_owned());
    }
    let (_, certificate) =
        X509Certificate::from_der(block.contents()).map_err(|_| "does not parse as X.509".to_owned())?;
    if certificate.is_ca() { Ok(()) } else { Err("does not have the CA bit set".to_owned()) }
}
