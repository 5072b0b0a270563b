//! Which server, how to trust it and who we are: from flags, a kubeconfig, or both.

use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Uri};
use rustls::ClientConfig;
use serde::Deserialize;

use crate::args::TargetArgs;

/// A server and how to talk to it.
#[derive(Clone)]
pub struct Target {
    /// Host and port.
    pub authority: String,
    /// Host alone.
    pub host: String,
    pub port: u16,
    /// None for plain HTTP.
    pub tls: Option<ClientConfig>,
    pub authorization: Option<HeaderValue>,
}

#[derive(Default)]
struct Parts {
    server: Option<String>,
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    token: Option<String>,
    insecure: bool,
}

impl Target {
    pub fn from_args(args: &TargetArgs) -> Result<Target> {
        let from_env = || std::env::var_os("KUBECONFIG").map(Into::into);
        let path = args.kubeconfig.clone().or_else(|| if args.server.is_none() { from_env() } else { None });
        let mut parts = match path {
            Some(path) => kubeconfig(&path, args.context.as_deref())
                .with_context(|| format!("kubeconfig {}", path.display()))?,
            None => Parts::default(),
        };
        parts.server = args.server.clone().or(parts.server);
        parts.token = args.token.clone().or(parts.token);
        parts.insecure |= args.insecure_skip_tls_verify;
        for (path, slot) in
            [(&args.ca, &mut parts.ca), (&args.cert, &mut parts.cert), (&args.key, &mut parts.key)]
        {
            if let Some(path) = path {
                *slot = Some(read(path)?);
            }
        }
        Target::new(parts)
    }

    fn new(parts: Parts) -> Result<Target> {
        let server = parts.server.as_deref().context("no server: give --kubeconfig or --server")?;
        let uri: Uri = server.parse().with_context(|| format!("server {server:?}"))?;
        let host = uri.host().context("the server has no host")?.trim_matches(['[', ']']).to_owned();
        let https = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if https { 443 } else { 80 });
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        let tls = if https { Some(tls(&parts)?) } else { None };
        let authorization = match &parts.token {
            Some(token) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Ok(Target { authority, host, port, tls, authorization })
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

fn tls(parts: &Parts) -> Result<ClientConfig> {
    let authority = match &parts.ca {
        _ if parts.insecure => None,
        Some(ca) => Some(pki::trust::authorities(ca)?),
        None => bail!("no CA: give --ca or --insecure-skip-tls-verify"),
    };
    let identity = parts.cert.as_deref().zip(parts.key.as_deref());
    Ok(pki::trust::client(authority, identity)?)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    current_context: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextOf,
}

#[derive(Deserialize)]
struct ContextOf {
    cluster: String,
    user: String,
}

fn kubeconfig(path: &Path, context: Option<&str>) -> Result<Parts> {
    let text = std::fs::read_to_string(path)?;
    let config: Kubeconfig =
        serde_saphyr::from_str(&text).map_err(|_| anyhow::anyhow!("not a kubeconfig"))?;
    let wanted = context.unwrap_or(&config.current_context);
    let Some(context) = config.contexts.iter().find(|c| c.name == wanted).map(|c| &c.context) else {
        bail!("no context {wanted:?}");
    };
    let cluster =
        config.clusters.into_iter().find(|c| c.name == context.cluster).context("no such cluster")?.cluster;
    let user = config.users.into_iter().find(|u| u.name == context.user).context("no such user")?.user;
    let dir = path.parent().unwrap_or(Path::new("."));
    let either = |data: Option<String>, file: Option<String>| -> Result<Option<Vec<u8>>> {
        Ok(match (data, file) {
            (Some(data), _) => Some(STANDARD.decode(data.trim())?),
            (None, Some(file)) => Some(read(&dir.join(file))?),
            (None, None) => None,
        })
    };
    let token = match (user.token, user.token_file) {
        (Some(token), _) => Some(token),
        (None, Some(file)) => Some(std::fs::read_to_string(dir.join(file))?),
        (None, None) => None,
    };
    Ok(Parts {
        server: Some(cluster.server),
        ca: either(cluster.certificate_authority_data, cluster.certificate_authority)?,
        cert: either(user.client_certificate_data, user.client_certificate)?,
        key: either(user.client_key_data, user.client_key)?,
        token,
        insecure: cluster.insecure_skip_tls_verify,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_kubeconfig() {
        let dir = std::env::temp_dir().join(format!("bench-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("token"), "secret\n").unwrap();
        let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\n\
            clusters: [{name: c, cluster: {server: 'https://127.0.0.1:6443', certificate-authority-data: aGk=}}]\n\
            users: [{name: u, user: {tokenFile: token}}]\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n";
        let path = dir.join("config");
        std::fs::write(&path, text).unwrap();
        let parts = kubeconfig(&path, None);
        let missing = kubeconfig(&path, Some("b")).is_err();
        std::fs::remove_dir_all(&dir).unwrap();
        let parts = parts.unwrap();
        assert_eq!(parts.ca.as_deref(), Some(&b"hi"[..]));
        assert_eq!(parts.token.as_deref().map(str::trim), Some("secret"));
        assert!(missing);
        let target = Target::new(Parts { insecure: true, ..parts }).unwrap();
        assert_eq!((target.host.as_str(), target.port), ("127.0.0.1", 6443));
    }
}
