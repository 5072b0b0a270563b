//! Certificates that the cluster signs for this node: the one it shows the apiserver and the one it serves with. Asked
//! for by CertificateSigningRequest, kept in files as upstream keeps them, renewed before they end.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::api::core::v1::NodeAddress;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::wait::await_condition;
use tokio_util::sync::CancellationToken;

/// How long a request may wait for its approval before another is made.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// How often the names that a certificate has to hold are looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shown to the apiserver.
    Client,
    /// Served with.
    Server,
}

impl Kind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Client => "kubelet-client",
            Self::Server => "kubelet-server",
        }
    }

    fn signer(self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Server => "kubernetes.io/kubelet-serving",
        }
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Client => "client auth",
            Self::Server => "server auth",
        }
    }

    /// The link to the newest pair.
    pub fn current(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}-current.pem", self.prefix()))
    }
}

/// What a serving certificate is good for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

impl Names {
    /// Those of a node's addresses; `None` while it has none that a certificate could be asked for.
    pub fn of(addresses: &[NodeAddress]) -> Option<Self> {
        let mut names = Self::default();
        for address in addresses {
            match (address.type_.as_str(), address.address.parse::<IpAddr>()) {
                ("Hostname" | "InternalIP" | "ExternalIP", Ok(ip)) => names.ips.push(ip),
                ("Hostname" | "InternalDNS" | "ExternalDNS", Err(_)) if !address.address.is_empty() => {
                    names.dns.push(address.address.clone());
                }
                _ => {}
            }
        }
        names.dns.sort();
        names.dns.dedup();
        names.ips.sort_by_key(ToString::to_string);
        names.ips.dedup();
        (!names.ips.is_empty()).then_some(names)
    }
}

/// The start and end of a certificate in seconds since the epoch.
pub fn lifetime(path: &Path) -> Option<(i64, i64)> {
    let pem = fs::read(path).ok()?;
    let (_, block) = x509_parser::pem::Pem::iter_from_buffer(&pem)
        .flatten()
        .find(|block| block.label == "CERTIFICATE")
        .map(|block| ((), block))?;
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// The names in a certificate.
fn names_in(path: &Path) -> Option<Names> {
    use x509_parser::extensions::GeneralName;
    let pem = fs::read(path).ok()?;
    let block = x509_parser::pem::Pem::iter_from_buffer(&pem).flatten().find(|b| b.label == "CERTIFICATE")?;
    let certificate = block.parse_x509().ok()?;
    let mut names = Names::default();
    for name in &certificate.subject_alternative_name().ok()??.value.general_names {
        match name {
            GeneralName::DNSName(dns) => names.dns.push((*dns).to_string()),
            GeneralName::IPAddress(bytes) => {
                let v4 = <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from);
                names.ips.extend(v4.or_else(|| <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from)));
            }
            _ => {}
        }
    }
    names.dns.sort();
    names.ips.sort_by_key(ToString::to_string);
    Some(names)
}

/// Asks for a certificate and waits for it: certificate and key, PEM.
pub async fn request(client: &kube::Client, kind: Kind, node: &str, names: &Names) -> anyhow::Result<String> {
    let subject = format!("system:node:{node}");
    let (csr, key) = pki::create_csr(&subject, &["system:nodes".to_string()], &names.dns, &names.ips)?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr.into_bytes()),
            signer_name: kind.signer().into(),
            usages: Some(vec!["digital signature".into(), kind.usage().into()]),
            ..Default::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &object).await?.metadata.name.unwrap_or_default();
    tracing::info!(csr = made, signer = kind.signer(), "Certificate signing request made, waiting");
    let over = |csr: Option<&CertificateSigningRequest>| {
        let status = csr.and_then(|c| c.status.as_ref());
        status.is_none_or(|s| certificate(s).is_some() || refusal(s).is_some())
            && csr.is_none_or(|c| c.status.is_some())
    };
    let ended = tokio::time::timeout(PATIENCE, await_condition(api, &made, over)).await;
    let ended = ended.with_context(|| format!("nobody signed {made}"))??;
    let status = ended.and_then(|c| c.status).unwrap_or_default();
    if let Some(why) = refusal(&status) {
        bail!("certificate signing request {made} is {why}");
    }
    let certificate = certificate(&status).with_context(|| format!("{made} is gone"))?;
    let certificate = String::from_utf8(certificate).context("the certificate is no PEM")?;
    Ok(format!("{}\n{key}", certificate.trim_end()))
}

type Status = k8s_openapi::api::certificates::v1::CertificateSigningRequestStatus;

fn certificate(status: &Status) -> Option<Vec<u8>> {
    status.certificate.as_ref().map(|c| c.0.clone()).filter(|c| !c.is_empty())
}

fn refusal(status: &Status) -> Option<String> {
    let refused = |type_: &str| matches!(type_, "Denied" | "Failed");
    let condition = status.conditions.iter().flatten().find(|c| refused(&c.type_))?;
    Some(format!("{}: {}", condition.type_, condition.message.as_deref().unwrap_or_default()))
}

/// Writes the pair and turns the link to it; older pairs but one are removed.
pub fn store(kind: Kind, dir: &Path, pair: &str) -> anyhow::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S");
    let path = dir.join(format!("{}-{stamp}.pem", kind.prefix()));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(pair.as_bytes())?;
    file.sync_all()?;
    let current = kind.current(dir);
    let staged = current.with_extension("pem.new");
    let _ = fs::remove_file(&staged);
    symlink(&path, &staged)?;
    fs::rename(&staged, &current)?;
    Ok(())
}

/// Keeps a certificate: asks for one when there is none, when most of its life is over, or when it is to hold other
/// names. Until the shutdown.
pub async fn keep(
    client: kube::Client,
    kind: Kind,
    dir: PathBuf,
    node: String,
    names: impl Fn() -> Option<Names> + Send,
    shutdown: CancellationToken,
) {
    let current = kind.current(&dir);
    // Nodes that started together do not renew together.
    let share = 0.7 + 0.2 * f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
    let mut delay = Duration::from_secs(1);
    loop {
        let wanted = names();
        let due = match (lifetime(&current), &wanted) {
            (_, None) => None,
            (None, Some(_)) => Some(0),
            (Some(_), Some(wanted))
                if kind == Kind::Server && names_in(&current).as_ref() != Some(wanted) =>
            {
                Some(0)
            }
            (Some((start, end)), Some(_)) => {
                Some(start + ((end - start) as f64 * share) as i64 - jiff::Timestamp::now().as_second())
            }
        };
        let wait = match due {
            Some(seconds) if seconds <= 0 => {
                let names = wanted.unwrap_or_default();
                let renewed = tokio::select! {
                    () = shutdown.cancelled() => return,
                    renewed = request(&client, kind, &node, &names) => renewed.and_then(|pair| store(kind, &dir, &pair)),
                };
                match renewed {
                    Ok(()) => {
                        tracing::info!(kind = kind.prefix(), "Certificate is new");
                        delay = Duration::from_secs(1);
                        LOOK
                    }
                    Err(error) => {
                        tracing::warn!(%error, kind = kind.prefix(), "No certificate yet");
                        delay = (delay * 2).min(Duration::from_secs(60));
                        delay
                    }
                }
            }
            // A node without addresses gets some soon.
            None => Duration::from_secs(1),
            Some(seconds) if kind == Kind::Client => Duration::from_secs(seconds.unsigned_abs()),
            Some(seconds) => LOOK.min(Duration::from_secs(seconds.unsigned_abs())),
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_node() {
        let address = |kind: &str, value: &str| NodeAddress { type_: kind.into(), address: value.into() };
        assert_eq!(Names::of(&[address("Hostname", "n")]), None);
        let names = Names::of(&[
            address("InternalIP", "10.0.0.2"),
            address("Hostname", "n"),
            address("InternalIP", "fd00::1"),
            address("ExternalDNS", "n.example.com"),
        ]);
        let names = names.unwrap();
        assert_eq!((names.dns.join(","), names.ips.len()), ("n,n.example.com".into(), 2));
    }
}
