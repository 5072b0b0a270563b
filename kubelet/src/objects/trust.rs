//! Cluster trust bundles: their certificates without what else their PEM says, each once.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Api, ListParams};
use volumes::{Error, Result, TrustBundle};

/// The certificates that a projection shows.
pub async fn read(client: &kube::Client, source: &TrustBundle) -> Result<String> {
    let api: Api<ClusterTrustBundle> = Api::all(client.clone());
    if let Some(name) = &source.name {
        let found = api.get_opt(name).await.map_err(|e| Error::other(super::words(&e)))?;
        let missing = || {
            Error::NotFound(format!(
                "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io {name:?} not found"
            ))
        };
        return Ok(normalize(&[found.ok_or_else(missing)?.spec.trust_bundle]));
    }
    let Some(signer) = &source.signer_name else {
        return Err(Error::other(
            "ClusterTrustBundle projection requires either name or signerName to be set",
        ));
    };
    // No selector is no bundle; an empty one is every bundle of the signer.
    let mut bundles = Vec::new();
    if let Some(selector) = &source.label_selector {
        let fields = format!("spec.signerName={signer}");
        let params = ListParams::default().fields(&fields).labels(&text(selector));
        let list = api.list(&params).await.map_err(|e| Error::other(super::words(&e)))?;
        bundles.extend(list.items.into_iter().map(|b| b.spec.trust_bundle));
    }
    if bundles.is_empty() {
        return Err(Error::NotFound(
            "combination of signerName and labelSelector matched zero ClusterTrustBundles".into(),
        ));
    }
    Ok(normalize(&bundles))
}

/// A selector as a query says it.
fn text(selector: &LabelSelector) -> String {
    let labels = selector.match_labels.iter().flatten().map(|(key, value)| format!("{key}={value}"));
    let expressions = selector.match_expressions.iter().flatten().map(|e| {
        let values = e.values.clone().unwrap_or_default().join(",");
        match e.operator.as_str() {
            "In" => format!("{} in ({values})", e.key),
            "NotIn" => format!("{} notin ({values})", e.key),
            "DoesNotExist" => format!("!{}", e.key),
            _ => e.key.clone(),
        }
    });
    labels.chain(expressions).collect::<Vec<_>>().join(",")
}

/// All certificates of all bundles, each once.
fn normalize(bundles: &[String]) -> String {
    let mut all = BTreeSet::new();
    for bundle in bundles {
        for block in bundle.split("-----BEGIN CERTIFICATE-----").skip(1) {
            let body = block.split("-----END CERTIFICATE-----").next().unwrap_or_default();
            let packed: String =
                body.lines().filter(|l| !l.contains(':')).flat_map(|l| l.trim().chars()).collect();
            all.extend(STANDARD.decode(packed).ok());
        }
    }
    let mut out = String::new();
    for certificate in all {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = STANDARD.encode(certificate);
        for line in text.as_bytes().chunks(64) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_once_and_bare() {
        let pem = |data: &str| format!("-----BEGIN CERTIFICATE-----\n{data}\n-----END CERTIFICATE-----\n");
        let bundle = format!("a comment\n{}{}", pem("AAAA"), pem("BBBB"));
        assert_eq!(normalize(&[bundle, pem("AAAA")]), format!("{}{}", pem("AAAA"), pem("BBBB")));
    }

    #[test]
    fn selectors() {
        let selector: LabelSelector = serde_json::from_value(serde_json::json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}, {"key": "f", "operator": "DoesNotExist"},
                {"key": "g", "operator": "Exists"}]}))
        .unwrap();
        assert_eq!(text(&selector), "a=b,c in (d,e),!f,g");
    }
}
