//! Certificate requests: who may approve, sign or attest for a signer, and which subjects nobody gets.

use crate::attributes::{Attributes, Operation};
use crate::chain::{Deps, Plugin};
use crate::objects::{at, text};
use api::Value;
use api::status::Result;
use auth::{Attributes as Question, Authorizer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::sync::Arc;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

const GROUP: &str = "certificates.k8s.io";
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

/// Common name and organizations of a PEM certificate signing request.
pub fn subject(csr: &Value) -> std::result::Result<(String, Vec<String>), String> {
    let encoded = text(csr, &["spec", "request"]);
    let pem_text = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    let block = pem::parse(pem_text)
        .ok()
        .filter(|b| b.tag() == "CERTIFICATE REQUEST")
        .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) = X509CertificationRequest::from_der(block.contents()).map_err(|e| e.to_string())?;
    let subject = &request.certification_request_info.subject;
    let name = subject.iter_common_name().last().and_then(|a| a.as_str().ok()).unwrap_or_default();
    let groups = subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned);
    Ok((name.to_owned(), groups.collect()))
}

/// `signers` are named by name or, for a whole domain, by `domain/*`.
async fn may(authorizer: &dyn Authorizer, a: &Attributes, verb: &str, signer: &str) -> bool {
    let ask = |name| Question::resource(&a.user, verb, GROUP, "signers").name(name);
    if authorizer.authorize(&ask(signer)).await.allowed() {
        return true;
    }
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    authorizer.authorize(&ask(&domain)).await.allowed()
}

fn is_request(a: &Attributes, subresource: &str) -> bool {
    a.is(GROUP, "certificatesigningrequests") && a.subresource == subresource
}

/// CertificateApproval, CertificateSigning.
pub struct Signers {
    authorizer: Arc<dyn Authorizer>,
    signing: bool,
}

impl Signers {
    pub fn approval(deps: &Deps) -> Self {
        Signers { authorizer: deps.authorizer.clone(), signing: false }
    }
    pub fn signing(deps: &Deps) -> Self {
        Signers { authorizer: deps.authorizer.clone(), signing: true }
    }
}

#[async_trait::async_trait]
impl Plugin for Signers {
    fn name(&self) -> &'static str {
        if self.signing { "CertificateSigning" } else { "CertificateApproval" }
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Update
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let (subresource, verb) = if self.signing { ("status", "sign") } else { ("approval", "approve") };
        if !is_request(a, subresource) {
            return Ok(());
        }
        // The stored object decides: the new one could name another signer.
        let (Some(new), Some(old)) = (&a.object, a.old_object.as_deref()) else { return Ok(()) };
        let same = |field: &str| at(new, &["status", field]) == at(old, &["status", field]);
        if self.signing && same("certificate") && same("conditions") {
            return Ok(());
        }
        let signer = text(old, &["spec", "signerName"]);
        if may(&*self.authorizer, a, verb, signer).await {
            return Ok(());
        }
        Err(a.forbidden(format!("user not permitted to {verb} requests with signerName {signer:?}")))
    }
}

/// ClusterTrustBundleAttest.
pub struct Attest {
    authorizer: Arc<dyn Authorizer>,
    enabled: bool,
}

impl Attest {
    pub fn new(deps: &Deps) -> Self {
        Attest { authorizer: deps.authorizer.clone(), enabled: (deps.gate)("ClusterTrustBundle") }
    }
}

#[async_trait::async_trait]
impl Plugin for Attest {
    fn name(&self) -> &'static str {
        "ClusterTrustBundleAttest"
    }
    fn handles(&self, operation: Operation) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        if !self.enabled || !a.is(GROUP, "clustertrustbundles") {
            return Ok(());
        }
        let Some(new) = &a.object else { return Ok(()) };
        let signer = text(new, &["spec", "signerName"]);
        let unchanged = a.old_object.as_deref().is_some_and(|old| {
            at(old, &["spec"]) == at(new, &["spec"])
                && ["labels", "annotations"]
                    .iter()
                    .all(|m| at(old, &["metadata", m]) == at(new, &["metadata", m]))
        });
        if signer.is_empty() || unchanged || may(&*self.authorizer, a, "attest", signer).await {
            return Ok(());
        }
        Err(a.forbidden(format!("user not permitted to attest for signerName {signer:?}")))
    }
}

/// CertificateSubjectRestriction.
pub struct Subject;

#[async_trait::async_trait]
impl Plugin for Subject {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }
    fn handles(&self, operation: Operation) -> bool {
        operation == Operation::Create
    }
    async fn validate(&self, a: &mut Attributes) -> Result<()> {
        let Some(csr) = a.object.as_ref().filter(|_| is_request(a, "")) else { return Ok(()) };
        if text(csr, &["spec", "signerName"]) != CLIENT_SIGNER {
            return Ok(());
        }
        match subject(csr) {
            Err(why) => Err(a.forbidden(format!("failed to parse CSR: {why}"))),
            Ok((_, groups)) if groups.iter().any(|g| g == auth::user::MASTERS) => Err(a.forbidden(format!(
                "use of {CLIENT_SIGNER} signer with system:masters group is not allowed"
            ))),
            Ok(_) => Ok(()),
        }
    }
}
