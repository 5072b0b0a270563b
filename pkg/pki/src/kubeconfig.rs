//! Kubeconfig files with embedded credentials.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::ca::Cert;
use crate::{Result, files};

/// How a kubeconfig names its parts and who it authenticates.
#[derive(Clone, Debug)]
pub struct Kubeconfig<'a> {
    /// URL of the API server.
    pub server: &'a str,
    /// Authority that signed the server's certificate, PEM.
    pub ca_pem: &'a str,
    /// Name of the cluster entry.
    pub cluster: &'a str,
    /// Name of the user entry.
    pub user: &'a str,
    /// Client certificate, if that is how the user authenticates.
    pub cert: Option<&'a Cert>,
    /// Files of a client certificate that somebody else rotates: `(certificate, key)`.
    pub cert_files: Option<(&'a str, &'a str)>,
    /// Bearer token.
    pub token: Option<&'a str>,
}

impl<'a> Kubeconfig<'a> {
    /// A kubeconfig for `server` with kubeadm's names.
    pub fn new(server: &'a str, ca_pem: &'a str) -> Kubeconfig<'a> {
        Kubeconfig {
            server,
            ca_pem,
            cluster: "kubernetes",
            user: "default",
            cert: None,
            cert_files: None,
            token: None,
        }
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let context = format!("{}@{}", self.user, self.cluster);
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: {cluster}\n  cluster:\n    server: {server}\n    \
             certificate-authority-data: {ca}\nusers:\n- name: {user}\n  user:{credential}\ncontexts:\n- name: {context}\n  \
             context:\n    cluster: {cluster}\n    user: {user}\ncurrent-context: {context}\npreferences: {{}}\n",
            cluster = quote(self.cluster),
            server = quote(self.server),
            ca = STANDARD.encode(self.ca_pem),
            user = quote(self.user),
            credential = self.credential(),
            context = quote(&context),
        )
    }

    fn credential(&self) -> String {
        let mut out = String::new();
        if let Some(cert) = self.cert {
            out += &format!("\n    client-certificate-data: {}", STANDARD.encode(&cert.cert_pem));
            out += &format!("\n    client-key-data: {}", STANDARD.encode(&cert.key_pem));
        }
        if let Some((cert, key)) = self.cert_files {
            out += &format!("\n    client-certificate: {}\n    client-key: {}", quote(cert), quote(key));
        }
        if let Some(token) = self.token {
            out += &format!("\n    token: {}", quote(token));
        }
        if out.is_empty() { " {}".to_owned() } else { out }
    }

    /// Writes the file with mode 0600, atomically.
    pub fn write(&self, path: &str) -> Result<()> {
        files::write_secret(path, self.render().as_bytes())
    }
}

/// Plain where YAML allows it, else a JSON string, which YAML reads alike.
fn quote(s: &str) -> String {
    let plain = s.chars().all(|c| c.is_ascii_alphanumeric() || "-_./@".contains(c))
        && s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && !matches!(s, "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n");
    if plain { s.to_owned() } else { format!("{s:?}") }
}

/// A kubeconfig for `server` that authenticates by `cert`.
pub fn kubeconfig(server: &str, ca_pem: &str, cert: &Cert) -> String {
    Kubeconfig { cert: Some(cert), ..Kubeconfig::new(server, ca_pem) }.render()
}
