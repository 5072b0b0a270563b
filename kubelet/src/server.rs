//! The HTTPS API: what `kubelet-server` needs to know of this kubelet, and serving it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use component::delegated::{Auth, AuthOptions};
use component::health::Checks;
use component::serve::{Server, tls};
use k8s_openapi::api::core::v1::{Node, Pod};
use kubelet_server::{Host, ProbeCount, ProbeDuration, VolumePath, VolumeUse};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::certificates::Kind;
use crate::kubelet::Kubelet;
use crate::pod::PodExt;
use crate::prober::Tally;

/// The kubelet as its server sees it.
struct Front {
    kubelet: Arc<Kubelet>,
    logs: PathBuf,
    /// Where the operator says the container runtime runs; empty if nowhere.
    runtime_cgroup: String,
}

impl Front {
    fn new(kubelet: &Arc<Kubelet>, flags: &component::Flags) -> Self {
        Self {
            kubelet: kubelet.clone(),
            logs: kubelet.config.pod_logs_dir(),
            runtime_cgroup: flags.opt("runtime-cgroups").unwrap_or_default().to_owned(),
        }
    }

    /// The pod with its newest status.
    fn reported(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.kubelet.statuses.get(pod.uid()) {
            Some(status) => Arc::new(Pod { status: Some(status), ..(**pod).clone() }),
            None => pod.clone(),
        }
    }
}

impl Front {
    /// Name and namespace of a pod; empty for one that is gone.
    fn name_of(&self, uid: &str) -> (String, String) {
        let pod = self.kubelet.pods.get(uid).map(|d| d.pod);
        pod.map(|p| (p.name().to_owned(), p.namespace().to_owned())).unwrap_or_default()
    }
}

#[async_trait]
impl Host for Front {
    fn node_name(&self) -> &str {
        &self.kubelet.node_name
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.kubelet.node.load_full()
    }

    fn pods(&self) -> Vec<Arc<Pod>> {
        self.kubelet.pods.all().iter().map(|desired| self.reported(&desired.pod)).collect()
    }

    fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<Arc<Pod>> {
        let all = self.kubelet.pods.all();
        let found = all.iter().find(|d| {
            let mirror = d.target.as_ref().is_some_and(|m| uid == Some(m.uid()));
            d.pod.namespace() == namespace
                && d.pod.name() == name
                && (uid.is_none_or(|u| u == d.pod.uid()) || mirror)
        })?;
        Some(self.reported(&found.pod))
    }

    fn runtime_uid(&self, pod: &Pod) -> String {
        pod.uid().to_owned()
    }

    fn runtime(&self) -> &cri::Runtime {
        &self.kubelet.runtime
    }

    fn pod_cgroup(&self, pod: &Pod) -> Option<PathBuf> {
        self.kubelet.cgroups.pod_path(pod)
    }

    fn pods_cgroup(&self) -> PathBuf {
        self.kubelet.cgroups.pods_path()
    }

    fn system_cgroups(&self) -> Vec<(&'static str, PathBuf)> {
        let told = [("runtime", &self.runtime_cgroup), ("misc", &self.kubelet.config.system_cgroups)];
        told.into_iter().filter(|(_, c)| !c.is_empty()).map(|(name, c)| (name, c.into())).collect()
    }

    fn root_dir(&self) -> &Path {
        &self.kubelet.root
    }

    fn pod_logs_dir(&self) -> &Path {
        &self.logs
    }

    fn volumes(&self, pod: &Pod) -> Vec<VolumePath> {
        // A hostPath is the node's and not the pod's; a device holds no files.
        let dir = self.kubelet.pod_dir(pod.uid());
        let mounted = self.kubelet.volumes.mounted(pod.uid()).into_iter();
        let own = mounted.filter(|(_, m)| !m.block && m.path.starts_with(&dir));
        let owned = |path: &Path| {
            let plugin =
                path.strip_prefix(volumes::layout::volumes_dir(&dir)).ok()?.iter().next()?.to_str()?;
            Some(volumes::layout::OWNED.contains(&plugin))
        };
        own.map(|(name, m)| VolumePath {
            claim: m.claim,
            name,
            owned: owned(&m.path).unwrap_or(false),
            path: m.path,
        })
        .collect()
    }

    async fn volume_use(&self, pod: &Pod, volume: &VolumePath) -> Option<VolumeUse> {
        // A driver knows its volumes by the names of their folders.
        let dir = volume.path.strip_prefix(self.kubelet.pod_dir(pod.uid())).ok()?;
        let mut parts = dir.iter().skip(1).filter_map(|part| part.to_str());
        if parts.next()? != volumes::layout::CSI {
            return None;
        }
        let told = volumes::csi::usage(&self.kubelet.volumes, pod.uid(), parts.next()?).await?;
        if let Some(Some(message)) = &told.abnormal
            && self.volume_health()
        {
            let message = format!("Volume {}: {message}", volume.name);
            self.kubelet.events.pod(pod, "Warning", "VolumeConditionAbnormal", &message);
        }
        Some(VolumeUse { bytes: told.bytes, inodes: told.inodes, abnormal: told.abnormal })
    }

    fn volume_stats_period(&self) -> Option<std::time::Duration> {
        Some(self.kubelet.config.volume_stats_agg_period).filter(|period| !period.is_zero())
    }

    fn volume_health(&self) -> bool {
        self.kubelet.gates.enabled("CSIVolumeHealth")
    }

    fn config(&self) -> serde_json::Value {
        let mut config = self.kubelet.config.shown();
        let dir = &self.kubelet.cert_dir;
        for (field, file) in [("tlsCertFile", "kubelet.crt"), ("tlsPrivateKeyFile", "kubelet.key")] {
            if config[field].is_null() && !self.kubelet.config.server_tls_bootstrap {
                config[field] = dir.join(file).to_string_lossy().into();
            }
        }
        config
    }

    fn health(&self) -> Vec<(&'static str, String)> {
        sync_loop().err().map(|why| ("syncloop", why)).into_iter().collect()
    }

    fn refresh_metrics(&self) {
        crate::metrics::refresh(&self.kubelet);
    }

    fn probe_counts(&self) -> Vec<ProbeCount> {
        let results = ["successful", "failed", "unknown"];
        let of = |(uid, container, which, tally): (String, String, crate::prober::Type, Tally)| {
            let (pod, namespace) = self.name_of(&uid);
            let counts = results.into_iter().zip(tally.results).filter(|(_, count)| *count > 0);
            counts.map(move |(result, count)| ProbeCount {
                probe_type: which.name(),
                container: container.clone(),
                pod: pod.clone(),
                namespace: namespace.clone(),
                pod_uid: uid.clone(),
                result,
                count,
            })
        };
        self.kubelet.prober.counts().into_iter().flat_map(of).collect()
    }

    fn probe_durations(&self) -> Vec<ProbeDuration> {
        let of = |(uid, container, which, tally): (String, String, crate::prober::Type, Tally)| {
            let (pod, namespace) = self.name_of(&uid);
            ProbeDuration { probe_type: which.name(), container, pod, namespace, took: tally.took }
        };
        let all = self.kubelet.prober.counts().into_iter();
        all.filter(|(.., tally)| tally.results[0] > 0).map(of).collect()
    }
}

/// Serves the API, and the health port of localhost, until the shutdown.
pub async fn run(
    kubelet: Arc<Kubelet>,
    cert_dir: PathBuf,
    flags: &component::Flags,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let health = health(&kubelet, shutdown.clone());
    let api = api(&kubelet, &cert_dir, flags, shutdown.clone());
    let read_only = read_only(&kubelet, flags, shutdown.clone());
    tokio::try_join!(api, health, read_only).map(drop)
}

async fn health(kubelet: &Kubelet, shutdown: CancellationToken) -> anyhow::Result<()> {
    let config = &kubelet.config;
    let port = u16::try_from(config.healthz_port).context("healthzPort must be between 0 and 65535")?;
    if port == 0 {
        shutdown.cancelled().await;
        return Ok(());
    }
    let checks = Checks::new().add("log", || Ok(())).add("syncloop", sync_loop);
    Server::new(&config.healthz_bind_address, port).health(&checks).run(shutdown).await
}

/// What `/statusz` lists.
const PATHS: &[&str] = &["/configz", "/debug/flags/v", "/healthz", "/metrics"];

async fn api(
    kubelet: &Arc<Kubelet>,
    cert_dir: &Path,
    flags: &component::Flags,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = &kubelet.config;
    if !config.enable_server {
        tracing::info!("The kubelet's API is off by configuration");
        shutdown.cancelled().await;
        return Ok(());
    }
    let auth = Arc::new(Auth::new(auth_options(kubelet))?);
    let tasks = TaskTracker::new();
    let host = Arc::new(Front::new(kubelet, flags));
    let options = kubelet_server::Options {
        auth: Some(auth),
        debugging_handlers: config.enable_debugging_handlers,
        flags_handler: config.enable_debug_flags_handler,
        profiling_handler: config.enable_profiling_handler,
        checkpoint: kubelet.gates.enabled("ContainerCheckpoint"),
        zpages: component::serve::zpages(flags, &kubelet.gates, PATHS),
        system_log_handler: config.enable_system_log_handler,
        system_log_query: config.enable_system_log_query.unwrap_or(false),
        tasks: tasks.clone(),
    };
    let port = u16::try_from(config.port).context("port must be between 0 and 65535")?;
    let (mut cert_file, mut key_file) = (config.tls_cert_file.clone(), config.tls_private_key_file.clone());
    if config.server_tls_bootstrap {
        let current = Kind::Server.current(cert_dir);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = appears(&current) => {}
        }
        cert_file = current.to_string_lossy().into_owned();
        key_file = cert_file.clone();
    }
    let tls = tls::Options {
        cert_file,
        key_file,
        hostnames: vec![kubelet.node_name.clone()],
        ips: kubelet.host_ips.load().iter().filter_map(|ip| ip.parse().ok()).collect(),
        curves: config.tls_curve_preferences.iter().filter_map(|c| u16::try_from(*c).ok()).collect(),
        cert_dir: cert_dir.to_string_lossy().into_owned(),
        name: "kubelet".to_owned(),
        min_version: config.tls_min_version.clone(),
        cipher_suites: config.tls_cipher_suites.clone(),
        ..tls::Options::default()
    };
    let router = kubelet_server::router(host, options);
    Server::new(&config.address, port).tls_options(tls).routes(router).run(shutdown).await?;
    tasks.close();
    // Streams of clients do not hold the kubelet's end.
    Ok(())
}

/// Whether the runtime is still listened to: nothing is well with a kubelet that does not notice its pods.
fn sync_loop() -> Result<(), String> {
    const LONGEST: std::time::Duration = std::time::Duration::from_secs(180);
    match crate::metrics::since_relist() {
        Some(since) if since > LONGEST => {
            Err(format!("pleg was last seen active {since:?} ago; threshold is {LONGEST:?}"))
        }
        _ => Ok(()),
    }
}

/// Waits for the first certificate that the cluster signs; nothing can be served before.
async fn appears(current: &Path) {
    while crate::certificates::lifetime(current).is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
}

/// Serves what anybody may read, without TLS and without asking who it is, where the configuration opens that port.
async fn read_only(
    kubelet: &Arc<Kubelet>,
    flags: &component::Flags,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let config = &kubelet.config;
    let port = u16::try_from(config.read_only_port).context("readOnlyPort must be between 0 and 65535")?;
    if port == 0 || !config.enable_server {
        shutdown.cancelled().await;
        return Ok(());
    }
    tracing::info!(port, "Starting to listen read-only");
    let host = Arc::new(Front::new(kubelet, flags));
    Server::new(&config.address, port).routes(kubelet_server::read_only(host)).run(shutdown).await
}

fn auth_options(kubelet: &Kubelet) -> AuthOptions {
    let config = &kubelet.config;
    let (authn, authz) = (&config.authentication, &config.authorization);
    let ca = &authn.x509.client_ca_file;
    AuthOptions {
        client: kubelet.client.clone(),
        always_allow: Vec::new(),
        anonymous: authn.anonymous.enabled,
        token_review: authn.webhook.enabled,
        access_review: authz.mode == "Webhook",
        client_ca_file: (!ca.is_empty()).then(|| ca.clone()),
        published: false,
        front_proxy: None,
        token_ttl: authn.webhook.cache_ttl,
        allow_ttl: authz.webhook.cache_authorized_ttl,
        deny_ttl: authz.webhook.cache_unauthorized_ttl,
    }
}
