//! TLS of a server: certificates that are read again when their files change, client certificates that are asked for
//! and left to the authenticator to judge, and upstream's names for versions and cipher suites.

mod clients;
mod reload;

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::Flags;

pub use clients::{AnyClientCert, ClientCa};
pub use reload::{ReloadingResolver, Watched};

/// Makes ring the process's TLS provider; safe to call again.
pub fn install_provider() {
    let _ = ring::default_provider().install_default();
}

/// What a secure port is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Certificate chain, PEM.
    pub cert_file: String,
    /// Its key, PEM.
    pub key_file: String,
    /// `--tls-sni-cert-key`: certificate, key and the names they are for (those in the certificate if none are given).
    pub sni: Vec<(String, String, Vec<String>)>,
    /// Where a self-signed pair is kept; nowhere if empty.
    pub cert_dir: String,
    /// The pair's name in `cert_dir`.
    pub name: String,
    /// Further DNS names of a self-signed certificate.
    pub hostnames: Vec<String>,
    /// Further addresses of a self-signed certificate.
    pub ips: Vec<IpAddr>,
    /// `VersionTLS12` or `VersionTLS13`; empty is TLS 1.2.
    pub min_version: String,
    /// IANA names of TLS 1.2 suites; empty is all that are safe.
    pub cipher_suites: Vec<String>,
    /// Numbers of TLS key exchange groups; empty is all that are safe.
    pub curves: Vec<u16>,
    /// ALPN without h2 (`--disable-http2-serving`).
    pub http1_only: bool,
    /// Ask clients for a certificate.
    pub request_client_cert: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cert_file: String::new(),
            key_file: String::new(),
            sni: Vec::new(),
            cert_dir: String::new(),
            name: "tls".to_owned(),
            hostnames: Vec::new(),
            ips: Vec::new(),
            min_version: String::new(),
            cipher_suites: Vec::new(),
            curves: Vec::new(),
            http1_only: false,
            request_client_cert: true,
        }
    }
}

impl Options {
    /// The options that the standard flags give.
    pub fn from_flags(flags: &Flags, name: &str) -> anyhow::Result<Options> {
        let text = |n: &str| if flags.has(n) { flags.str(n).to_owned() } else { String::new() };
        let mut sni = Vec::new();
        if flags.has("tls-sni-cert-key") {
            for entry in flags.list("tls-sni-cert-key") {
                sni.push(parse_sni(&entry)?);
            }
        }
        Ok(Options {
            cert_file: text("tls-cert-file"),
            key_file: text("tls-private-key-file"),
            sni,
            cert_dir: text("cert-dir"),
            name: name.to_owned(),
            min_version: text("tls-min-version"),
            cipher_suites: if flags.has("tls-cipher-suites") {
                flags.list("tls-cipher-suites")
            } else {
                Vec::new()
            },
            curves: match flags.has("tls-curve-preferences") {
                true => {
                    flags.list("tls-curve-preferences").iter().filter_map(|n| n.trim().parse().ok()).collect()
                }
                false => Vec::new(),
            },
            http1_only: flags.has("disable-http2-serving") && flags.bool("disable-http2-serving"),
            ..Options::default()
        })
    }

    /// The acceptor of these options; certificate files are read now, so that mistakes show at start.
    pub fn acceptor(&self) -> anyhow::Result<TlsAcceptor> {
        Ok(TlsAcceptor::from(Arc::new(self.server_config()?)))
    }

    /// The rustls configuration of these options.
    pub fn server_config(&self) -> anyhow::Result<ServerConfig> {
        let provider = Arc::new(self.provider()?);
        let versions: &[&rustls::SupportedProtocolVersion] = match self.min_version.as_str() {
            "" | "VersionTLS12" | "VersionTLS10" | "VersionTLS11" => {
                &[&rustls::version::TLS12, &rustls::version::TLS13]
            }
            "VersionTLS13" => &[&rustls::version::TLS13],
            other => bail!("unknown tls version {other:?}"),
        };
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
        let builder = match self.request_client_cert {
            true => builder.with_client_cert_verifier(Arc::new(AnyClientCert::new(&provider))),
            false => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.resolver()?));
        config.alpn_protocols = match self.http1_only {
            true => vec![b"http/1.1".to_vec()],
            false => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        Ok(config)
    }

    fn resolver(&self) -> anyhow::Result<ReloadingResolver> {
        let default = if !self.cert_file.is_empty() || !self.key_file.is_empty() {
            Watched::files(&self.cert_file, &self.key_file)?
        } else {
            self.self_signed()?
        };
        let mut sni = Vec::new();
        for (cert, key, names) in &self.sni {
            sni.push((names.clone(), Watched::files(cert, key)?));
        }
        Ok(ReloadingResolver::new(default, sni))
    }

    fn self_signed(&self) -> anyhow::Result<Watched> {
        let (cert_file, key_file) =
            (format!("{}/{}.crt", self.cert_dir, self.name), format!("{}/{}.key", self.cert_dir, self.name));
        let kept = !self.cert_dir.is_empty();
        if kept && std::fs::exists(&cert_file)? && std::fs::exists(&key_file)? {
            return Watched::files(&cert_file, &key_file);
        }
        let mut dns = self.hostnames.clone();
        dns.push("localhost".to_owned());
        let mut ips = self.ips.clone();
        ips.push(IpAddr::from([127, 0, 0, 1]));
        let cert = pki::self_signed(&hostname(), &dns, &ips)?;
        if kept {
            pki::files::write_pair(&self.cert_dir, &self.name, &cert)?;
            tracing::info!(cert = cert_file, key = key_file, "Generated self-signed cert");
            return Watched::files(&cert_file, &key_file);
        }
        tracing::info!("Generated self-signed cert in-memory");
        Watched::pem(&cert.cert_pem, &cert.key_pem)
    }

    fn provider(&self) -> anyhow::Result<CryptoProvider> {
        let mut provider = ring::default_provider();
        if !self.curves.is_empty() {
            let wanted =
                |g: &&dyn rustls::crypto::SupportedKxGroup| self.curves.contains(&u16::from(g.name()));
            provider.kx_groups.retain(|g| wanted(g));
            if provider.kx_groups.is_empty() {
                bail!("none of the curves {:?} is supported", self.curves);
            }
        }
        if self.cipher_suites.is_empty() {
            return Ok(provider);
        }
        let mut wanted = Vec::new();
        for name in &self.cipher_suites {
            wanted.push(suite_named(name)?);
        }
        // As in Go, the names choose among TLS 1.2's suites; those of TLS 1.3 are not configurable.
        provider.cipher_suites.retain(|s| s.tls13().is_some() || wanted.contains(&Some(s.suite())));
        Ok(provider)
    }
}

/// Suites that Go knows and this stack does not offer, because they lack forward secrecy or authentication of data.
const WEAK: [&str; 14] = [
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// The suite of an IANA name, `None` for a known one that is not offered.
fn suite_named(name: &str) -> anyhow::Result<Option<CipherSuite>> {
    // Go also accepts the two ChaCha20 suites by a shorter, older name.
    let full = match name {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" | "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => {
            format!("{name}_SHA256")
        }
        other => other.to_owned(),
    };
    for suite in ring::ALL_CIPHER_SUITES {
        let iana = format!("{:?}", suite.suite()).replace("TLS13_", "TLS_");
        if iana == full {
            return Ok(Some(suite.suite()));
        }
    }
    if WEAK.contains(&name) {
        tracing::warn!(cipher = name, "Cipher suite is insecure and is not offered");
        return Ok(None);
    }
    bail!("cipher suite {name:?} not supported or doesn't exist")
}

/// `cert,key` or `cert,key:name1,name2`.
fn parse_sni(entry: &str) -> anyhow::Result<(String, String, Vec<String>)> {
    let (files, names) = entry.split_once(':').unwrap_or((entry, ""));
    let (cert, key) =
        files.split_once(',').context("expected comma separated certificate and key file paths")?;
    let names = names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
    Ok((cert.to_owned(), key.to_owned(), names))
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        n => n.to_ascii_lowercase(),
    }
}
