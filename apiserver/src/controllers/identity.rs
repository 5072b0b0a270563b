//! This server's identity: a Lease that says that it is there, and the removal of those who are not.

use crate::options::Options;
use api::registry::Registry;
use api::status::Result;
use api::{Value, json};
use endpoints::server::Server;
use std::time::Duration;

const GR: (&str, &str) = ("coordination.k8s.io", "leases");
const NAMESPACE: &str = "kube-system";
const LABEL: &str = "apiserver.kubernetes.io/identity";
const SECONDS: i64 = 3600;

pub async fn run(server: &Server, options: &Options) {
    server.store.wait_ready().await;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let name = format!("apiserver-{}", short(&format!("{host}:{}", options.port)));
    let holder = format!("{name}_{}", endpoints::write::random_suffix());
    loop {
        let address = format!("{}:{}", options.advertise, options.port);
        super::note("identity lease", renew(&*server.registry, &name, &holder, &host, &address).await);
        super::note("old identity leases", sweep(&*server.registry, &name).await);
        tokio::time::sleep(Duration::from_secs(600)).await;
    }
}

/// A name from a text: stable, and the same length whatever the text.
fn short(text: &str) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    // FNV-1a, twice: this only has to tell a few servers apart.
    let hash = |seed: u64| text.bytes().fold(seed, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let bits = u128::from(hash(0xcbf2_9ce4_8422_2325)) << 64 | u128::from(hash(0x9e37_79b9_7f4a_7c15));
    (0..26).map(|i| char::from(LETTERS[(bits >> (i * 5) & 31) as usize])).collect()
}

fn now_micro() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

async fn renew(registry: &dyn Registry, name: &str, holder: &str, host: &str, address: &str) -> Result<()> {
    let spec = json!({"holderIdentity": holder, "leaseDurationSeconds": SECONDS, "renewTime": now_micro()});
    match registry.get_live(GR, NAMESPACE, name).await {
        Ok(mut lease) => {
            lease["spec"] = spec;
            registry.update(GR, "", lease).await.map(drop)
        }
        Err(e) if e.code == 404 => {
            let lease = json!({
                "metadata": {
                    "name": name,
                    "labels": {LABEL: "kube-apiserver", "kubernetes.io/hostname": host},
                    "annotations": {"kubernetes.io/peer-advertise-address": address},
                },
                "spec": spec,
            });
            registry.create(GR, NAMESPACE, lease).await.map(drop)
        }
        Err(e) => Err(e),
    }
}

/// Leases of servers that have not been heard of for longer than they promised.
async fn sweep(registry: &dyn Registry, own: &str) -> Result<()> {
    for lease in registry.list(GR, Some(NAMESPACE)) {
        let name = lease["metadata"]["name"].as_str().unwrap_or_default();
        if lease["metadata"]["labels"][LABEL] != "kube-apiserver" || name == own || !expired(&lease) {
            continue;
        }
        match registry.delete(GR, NAMESPACE, name).await {
            Err(e) if e.code != 404 => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn expired(lease: &Value) -> bool {
    let renewed = lease["spec"]["renewTime"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
    let seconds = lease["spec"]["leaseDurationSeconds"].as_i64().unwrap_or(SECONDS);
    renewed.is_some_and(|t| jiff::Timestamp::now().as_second() - t.as_second() > seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stable_and_differ() {
        assert_eq!(short("a:6443"), short("a:6443"));
        assert_ne!(short("a:6443"), short("b:6443"));
        assert_eq!(short("").len(), 26);
    }
}
