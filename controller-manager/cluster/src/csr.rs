//! The life of a certificate signing request: approved when a kubelet may have it, signed once approved,
//! removed when nobody needs it any more.

pub mod approve;
pub mod clean;
mod recognize;
pub mod sign;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

/// Whether a condition of that type is there, and true.
fn is(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind && c.status == "True")
}

/// Whether a condition of that type is there at all.
fn has(csr: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == kind)
}

fn approved(csr: &CertificateSigningRequest) -> bool {
    has(csr, "Approved") && !has(csr, "Denied")
}

/// The certificate that was issued, as PEM.
fn issued(csr: &CertificateSigningRequest) -> Option<&[u8]> {
    csr.status.as_ref()?.certificate.as_ref().map(|c| c.0.as_slice()).filter(|c| !c.is_empty())
}

/// The request as PEM text.
fn request(csr: &CertificateSigningRequest) -> anyhow::Result<&str> {
    Ok(std::str::from_utf8(&csr.spec.request.0)?)
}
