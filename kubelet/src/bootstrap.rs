//! The kubelet's own client certificate: asked for with a bootstrap kubeconfig when there is none, and renewed before
//! it ends. The files are those of upstream: `kubelet-client-current.pem` is a link to the newest pair.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use kube::config::{AuthInfo, Kubeconfig};
use tokio_util::sync::CancellationToken;

use crate::certificates::{self, Kind, Names};

/// Makes sure that `kubeconfig` is there, by means of `bootstrap` if it is not or its certificate has ended.
pub async fn ensure(kubeconfig: &str, bootstrap: &str, cert_dir: &Path, node: &str) -> anyhow::Result<()> {
    let current = Kind::Client.current(cert_dir);
    if Path::new(kubeconfig).exists() && still_good(kubeconfig, &current) {
        return Ok(());
    }
    tracing::info!(bootstrap, "Requesting a client certificate");
    let config = Kubeconfig::read_from(bootstrap).with_context(|| format!("cannot read {bootstrap}"))?;
    let client = client::connect(Some(bootstrap), None, "kubelet-bootstrap", 5.0, 10).await?;
    let mut delay = Duration::from_secs(1);
    loop {
        match certificates::request(&client, Kind::Client, node, &Names::default()).await {
            Ok(pair) => {
                certificates::store(Kind::Client, cert_dir, &pair)?;
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
    let ours = fs::read_to_string(kubeconfig).is_ok_and(|text| text.contains("kubelet-client-current.pem"));
    !ours || certificates::lifetime(current).is_some_and(|(_, end)| end > jiff::Timestamp::now().as_second())
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

/// How long a kubelet goes on trying after its certificate has ended, and how often it looks.
const AFTER_THE_END: Duration = Duration::from_secs(5 * 60);
const LOOK: Duration = Duration::from_secs(30);

/// Renews the certificate when most of its life is over, until the shutdown. The client reads the files again by itself.
///
/// An error if the certificate ended a while ago although there is an apiserver to renew it: only a new start, which
/// asks with the bootstrap kubeconfig, can help then.
pub async fn rotate(
    client: kube::Client,
    cert_dir: PathBuf,
    node: String,
    shutdown: CancellationToken,
) -> Result<(), String> {
    let names = || Some(Names::default());
    let current = Kind::Client.current(&cert_dir);
    let kept = certificates::keep(client.clone(), Kind::Client, cert_dir, node, names, shutdown);
    tokio::select! {
        () = kept => Ok(()),
        error = ended(&client, &current) => Err(error),
    }
}

/// Returns when the certificate ended long ago and the apiserver answers.
async fn ended(client: &kube::Client, current: &Path) -> String {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some((_, end)) = certificates::lifetime(current) else { continue };
        let since = u64::try_from(jiff::Timestamp::now().as_second() - end).unwrap_or(0);
        if since < AFTER_THE_END.as_secs() {
            continue;
        }
        // Whatever it answers, it answers.
        if matches!(client.apiserver_version().await, Ok(_) | Err(kube::Error::Api(_))) {
            let since = crate::backoff::go_duration(Duration::from_secs(since));
            return format!(
                "it has been {since} since a valid client cert was found, and the server is responsive, exiting"
            );
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
        let (_, key) = pki::create_csr("system:node:n", &["system:nodes".into()], &[], &[]).unwrap();
        let pair = format!("{}\n{key}", ca.cert_pem().trim_end());
        certificates::store(Kind::Client, dir.path(), &pair).unwrap();
        let current = Kind::Client.current(dir.path());
        let (start, end) = certificates::lifetime(&current).unwrap();
        let now = jiff::Timestamp::now().as_second();
        assert!(start <= now && now < end);
        let kubeconfig = dir.path().join("kubelet.conf");
        let config = Kubeconfig { auth_infos: vec![Default::default()], ..Default::default() };
        write_kubeconfig(kubeconfig.to_str().unwrap(), config, &current).unwrap();
        assert!(still_good(kubeconfig.to_str().unwrap(), &current));
    }
}
