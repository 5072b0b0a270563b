//! The kubelet's own client certificate: asked for with a bootstrap kubeconfig when there is none, and renewed before
//! it ends. The files are those of upstream: `kubelet-client-current.pem` is a link to the newest pair.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{AuthInfo, Kubeconfig};
use tokio_util::sync::CancellationToken;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const CURRENT: &str = "kubelet-client-current.pem";

/// How often an issued certificate is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// How long a request may wait for its approval before another is made.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Makes sure that `kubeconfig` is there, by means of `bootstrap` if it is not or its certificate has ended.
pub async fn ensure(kubeconfig: &str, bootstrap: &str, cert_dir: &Path, node: &str) -> anyhow::Result<()> {
    let current = cert_dir.join(CURRENT);
    if Path::new(kubeconfig).exists() && still_good(kubeconfig, &current) {
        return Ok(());
    }
    tracing::info!(bootstrap, "Requesting a client certificate");
    let config = Kubeconfig::read_from(bootstrap).with_context(|| format!("cannot read {bootstrap}"))?;
    let client = client::connect(Some(bootstrap), None, "kubelet-bootstrap", 5.0, 10).await?;
    let mut delay = Duration::from_secs(1);
    loop {
        match request(&client, node).await {
            Ok(pair) => {
                store(cert_dir, &pair)?;
                break;
            }
            Err(error) => {
                tracing::warn!(%error, "No client certificate yet");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(30));
            }
        }
    }
    write_kubeconfig(kubeconfig, config, &current)
}

/// Whether the kubeconfig is not ours to renew, or its certificate has not ended.
fn still_good(kubeconfig: &str, current: &Path) -> bool {
    let ours = fs::read_to_string(kubeconfig).is_ok_and(|text| text.contains(CURRENT));
    !ours || lifetime(current).is_some_and(|(_, end)| end > jiff::Timestamp::now().as_second())
}

/// The start and end of a certificate in seconds since the epoch.
fn lifetime(path: &Path) -> Option<(i64, i64)> {
    let pem = fs::read(path).ok()?;
    let (_, block) = x509_parser::pem::Pem::iter_from_buffer(&pem)
        .flatten()
        .find(|block| block.label == "CERTIFICATE")
        .map(|block| ((), block))?;
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Asks for a certificate and waits for it: certificate and key, PEM.
async fn request(client: &kube::Client, node: &str) -> anyhow::Result<String> {
    let name = format!("system:node:{node}");
    let (csr, key) = pki::create_csr(&name, &["system:nodes".to_string()], &[], &[])?;
    let api: Api<CertificateSigningRequest> = Api::all(client.clone());
    let object = CertificateSigningRequest {
        metadata: ObjectMeta { generate_name: Some("csr-".into()), ..Default::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(csr.into_bytes()),
            signer_name: SIGNER.into(),
            usages: Some(vec!["digital signature".into(), "client auth".into()]),
            ..Default::default()
        },
        status: None,
    };
    let made = api.create(&PostParams::default(), &object).await?;
    let made = made.metadata.name.unwrap_or_default();
    let wait = async {
        loop {
            let status = api.get(&made).await?.status.unwrap_or_default();
            for condition in status.conditions.iter().flatten() {
                if matches!(condition.type_.as_str(), "Denied" | "Failed") {
                    bail!(
                        "certificate signing request {made} is {}: {:?}",
                        condition.type_,
                        condition.message
                    );
                }
            }
            if let Some(certificate) = status.certificate.filter(|c| !c.0.is_empty()) {
                let certificate = String::from_utf8(certificate.0).context("the certificate is no PEM")?;
                return Ok(format!("{}\n{key}", certificate.trim_end()));
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.with_context(|| format!("nobody signed {made}"))?
}

/// Writes the pair and turns the link to it.
fn store(dir: &Path, pair: &str) -> anyhow::Result<()> {
    let stamp = jiff::Timestamp::now().strftime("%Y-%m-%d-%H-%M-%S");
    let path = dir.join(format!("kubelet-client-{stamp}.pem"));
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    file.write_all(pair.as_bytes())?;
    file.sync_all()?;
    let staged = dir.join(format!("{CURRENT}.new"));
    let _ = fs::remove_file(&staged);
    symlink(&path, &staged)?;
    fs::rename(&staged, dir.join(CURRENT))?;
    Ok(())
}

/// Writes a kubeconfig for the same cluster that shows the certificate.
fn write_kubeconfig(path: &str, mut config: Kubeconfig, current: &Path) -> anyhow::Result<()> {
    let file = current.to_string_lossy().into_owned();
    for named in &mut config.auth_infos {
        named.auth_info = Some(AuthInfo {
            client_certificate: Some(file.clone()),
            client_key: Some(file.clone()),
            ..Default::default()
        });
    }
    // JSON is YAML.
    let text = serde_json::to_string_pretty(&config)?;
    let staged = PathBuf::from(format!("{path}.new"));
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    out.write_all(text.as_bytes())?;
    fs::rename(&staged, path).with_context(|| format!("cannot write {path}"))
}

/// Renews the certificate when most of its life is over, until the shutdown. The client reads the files again by itself.
pub async fn rotate(client: kube::Client, cert_dir: PathBuf, node: String, shutdown: CancellationToken) {
    let current = cert_dir.join(CURRENT);
    loop {
        let Some((start, end)) = lifetime(&current) else { return };
        let share = 0.7 + 0.2 * f64::from(rand::random::<u16>()) / f64::from(u16::MAX);
        let due = start + ((end - start) as f64 * share) as i64;
        let wait = u64::try_from(due - jiff::Timestamp::now().as_second()).unwrap_or(0);
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(wait)) => {}
        }
        let renewed = tokio::select! {
            () = shutdown.cancelled() => return,
            renewed = request(&client, &node) => renewed.and_then(|pair| store(&cert_dir, &pair)),
        };
        if let Err(error) = renewed {
            tracing::warn!(%error, "Cannot renew the client certificate yet");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(60)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_pair_is_current() {
        let dir = tempfile::tempdir().unwrap();
        let ca = pki::Ca::new("kubernetes").unwrap();
        let (csr, key) = pki::create_csr("system:node:n", &["system:nodes".into()], &[], &[]).unwrap();
        let _ = (csr, &key);
        store(dir.path(), &format!("{}\n{key}", ca.cert_pem().trim_end())).unwrap();
        let (start, end) = lifetime(&dir.path().join(CURRENT)).unwrap();
        let now = jiff::Timestamp::now().as_second();
        assert!(start <= now && now < end);
        let kubeconfig = dir.path().join("kubelet.conf");
        let config = Kubeconfig { auth_infos: vec![Default::default()], ..Default::default() };
        write_kubeconfig(kubeconfig.to_str().unwrap(), config, &dir.path().join(CURRENT)).unwrap();
        assert!(still_good(kubeconfig.to_str().unwrap(), &dir.path().join(CURRENT)));
    }
}
