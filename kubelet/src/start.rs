//! Puts the parts together and runs them.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::allocation::Allocations;
use crate::backoff::Backoff;
use crate::cgroups::{self, Cgroups, Driver};
use crate::config::KubeletConfiguration;
use crate::dns::NodeDns;
use crate::events::Events;
use crate::images::Images;
use crate::images::providers::Providers;
use crate::kubelet::{Kubelet, RuntimeInfo};
use crate::machine::{self, Machine};
use crate::managers::{self, Managers};
use crate::node::{self, Registration};
use crate::objects::ObjectStore;
use crate::pods::{self, Pods};
use crate::prober::Prober;
use crate::resources::{MemoryQos, NodeResources, Swap};
use crate::security::NodeSecurity;
use crate::services::Services;
use crate::sources::Source;
use crate::status::manager::Statuses;
use crate::userns::UserNamespaces;
use crate::{
    bootstrap, certificates, container, eviction, gc, plugins, relist, runtime_info, server, sources, storage,
};

mod allocatable;

use allocatable::{enforce_allocatable, weigh_burstable};

/// What flags say beside the configuration.
pub struct Options {
    pub kubeconfig: Option<String>,
    pub bootstrap_kubeconfig: Option<String>,
    pub node_name: String,
    pub node_ip: Option<String>,
    pub root: PathBuf,
    pub cert_dir: PathBuf,
    pub registration: Registration,
    /// The configuration of credential providers, and where their programs lie.
    pub credential_providers: Option<(PathBuf, PathBuf)>,
    /// All flags, for whoever asks how the kubelet was started.
    pub flags: component::Flags,
}

/// Runs the kubelet until the shutdown.
pub async fn run(
    config: KubeletConfiguration,
    options: Options,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let _lock = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        lock = crate::lock::acquire(&options.flags, &shutdown) => lock?,
    };
    for dir in [
        options.root.clone(),
        options.root.join("pods"),
        options.root.join("plugins"),
        options.cert_dir.clone(),
    ] {
        container::make_dir(&dir, 0o750).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    for dir in [config.pod_logs_dir(), PathBuf::from("/var/log/containers")] {
        container::make_dir(&dir, 0o755).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    let clients = tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        clients = connect(&config, &options) => clients?,
    };
    let client = clients.as_ref().map(|c| c.all.clone());
    if let Some(tracing) =
        config.tracing.as_ref().filter(|t| t.endpoint.is_some() || t.sampling_rate_per_million.is_some())
    {
        let wanted = component::traces::Config {
            endpoint: tracing.endpoint.clone().filter(|e| !e.is_empty()),
            sampling_rate_per_million: tracing.sampling_rate_per_million,
        };
        component::traces::start(&wanted, "kubelet").context("failed to initialize tracing")?;
    }
    let (statuses, woken) = Statuses::new();
    let kubelet = Arc::new(assemble(&config, &options, clients, statuses.clone(), shutdown.clone()).await?);
    crate::metrics::watch_runtime();
    component::metrics::registry().feature_gates(&kubelet.gates);
    set_oom_score(config.oom_score_adj);
    warn_of_machine(&kubelet);
    for (name, done) in [
        (&config.system_cgroups, Cgroups::gather_system as fn(&Cgroups, &str) -> Result<(), String>),
        (&config.kubelet_cgroups, Cgroups::enter),
    ] {
        if !name.is_empty()
            && let Err(error) = done(&kubelet.cgroups, name)
        {
            tracing::warn!(cgroup = name, error, "Failed to ensure state of a system container");
        }
    }
    enforce_allocatable(&kubelet).inspect_err(|error| {
        kubelet.events.node("Warning", "KubeletSetupFailed", &error.to_string());
    })?;
    kubelet.events.node("Normal", "Starting", "Starting kubelet.");
    let mut tasks = tokio::task::JoinSet::new();
    let (updates, inbox) = mpsc::channel(64);
    // Why the kubelet has to end though nobody asked it to.
    let failed = Arc::new(std::sync::OnceLock::new());
    tasks.spawn(statuses.run(client.clone(), woken, shutdown.clone()));
    tasks.spawn(pods::run(kubelet.clone(), inbox, shutdown.clone()));
    tasks.spawn(relist::run(kubelet.clone(), shutdown.clone()));
    tasks.spawn(gc::run(kubelet.clone(), shutdown.clone()));
    tasks.spawn(resident::trim(shutdown.clone()));
    tasks.spawn(crate::shutdown::run(kubelet.clone(), shutdown.clone()));
    tasks.spawn(eviction::manager::run(kubelet.clone(), shutdown.clone()));
    tasks.spawn(kubelet.managers.devices.clone().run());
    tasks.spawn(managers::serve_pod_resources(kubelet.clone(), shutdown.clone()));
    tasks.spawn(managers::keep_cpusets(Arc::downgrade(&kubelet), shutdown.clone()));
    tasks.spawn(managers::health::watch(Arc::downgrade(&kubelet), shutdown.clone()));
    tasks.spawn(plugins::watcher(&kubelet, &shutdown).run(shutdown.clone()));
    tasks.spawn(storage::run(kubelet.clone(), shutdown.clone()));
    tasks.spawn(weigh_burstable(kubelet.clone(), shutdown.clone()));
    if config.make_iptables_util_chains {
        tasks.spawn(crate::firewall::run(shutdown.clone()));
    }
    if !config.static_pod_path.is_empty() {
        let path = PathBuf::from(&config.static_pod_path);
        let (name, interval) = (options.node_name.clone(), config.file_check_frequency);
        tasks.spawn(sources::files::run(path, name, interval, updates.clone(), shutdown.clone()));
    }
    if !config.static_pod_url.is_empty() {
        let url = sources::url::Url {
            url: config.static_pod_url.clone(),
            headers: headers(&config),
            node: options.node_name.clone(),
            interval: config.http_check_frequency,
        };
        tasks.spawn(sources::url::run(url, updates.clone(), shutdown.clone()));
    }
    if let Some(client) = client {
        tasks.spawn(node::run(kubelet.clone(), options.registration.clone(), shutdown.clone()));
        tasks.spawn(node::lease::run(kubelet.clone(), shutdown.clone()));
        if config.rotate_certificates {
            let (dir, name) = (options.cert_dir.clone(), options.node_name.clone());
            let (client, token, failed) = (client.clone(), shutdown.clone(), failed.clone());
            tasks.spawn(async move {
                if let Err(why) = bootstrap::rotate(client, dir, name, token.clone()).await {
                    let _ = failed.set(why);
                    token.cancel();
                }
            });
        }
        if config.server_tls_bootstrap {
            let (node, dir, name) = (kubelet.clone(), options.cert_dir.clone(), options.node_name.clone());
            let names = move || {
                let node = node.node.load_full()?;
                certificates::Names::of(node.status.as_ref()?.addresses.as_deref()?)
            };
            let kind = certificates::Kind::Server;
            tasks.spawn(certificates::keep(client.clone(), kind, dir, name, names, shutdown.clone()));
        }
        let (services, watcher, token) = (kubelet.clone(), client.clone(), shutdown.clone());
        tasks.spawn(async move { services.services.run(watcher, token).await });
        tasks.spawn(sources::api(client, options.node_name.clone(), updates, shutdown.clone()));
    } else {
        tasks.spawn(keep_runtime_info(kubelet.clone(), shutdown.clone()));
        if !config.pod_cidr.is_empty()
            && let Err(error) = kubelet.runtime.update_runtime_config(&config.pod_cidr).await
        {
            tracing::error!(%error, "Pod CIDR update failed");
        }
    }
    let served = server::run(kubelet, options.cert_dir.clone(), &options.flags, shutdown.clone()).await;
    // Without its server the kubelet is no use: it ends, and is started again by whoever keeps it.
    shutdown.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.context("a part of the kubelet failed")?;
    }
    if let Some(why) = failed.get() {
        bail!("{why}");
    }
    served
}

/// Clients with limits of their own: neither a burst of events nor one of pods delays the heartbeat, or each other.
struct Clients {
    all: kube::Client,
    events: kube::Client,
    heartbeats: kube::Client,
}

async fn connect(config: &KubeletConfiguration, options: &Options) -> anyhow::Result<Option<Clients>> {
    let Some(path) = &options.kubeconfig else {
        tracing::info!("No kubeconfig given: static pods only");
        return Ok(None);
    };
    if let Some(bootstrap) = &options.bootstrap_kubeconfig {
        bootstrap::ensure(path, bootstrap, &options.cert_dir, &options.node_name).await?;
    }
    let agent = format!("kubelet/{}", component::version::GIT_VERSION);
    let connection = client::Connection::open(path, &agent).await?;
    let limited = |qps, burst| connection.client(f64::from(qps), u32::try_from(burst).unwrap_or(100));
    Ok(Some(Clients {
        all: limited(config.kube_api_qps, config.kube_api_burst)?,
        events: limited(config.event_record_qps, config.event_burst)?,
        heartbeats: limited(0, 0)?,
    }))
}

async fn assemble(
    config: &KubeletConfiguration,
    options: &Options,
    clients: Option<Clients>,
    statuses: Arc<Statuses>,
    shutdown: CancellationToken,
) -> anyhow::Result<Kubelet> {
    let runtime = cri::Runtime::new(
        &config.container_runtime_endpoint,
        Some(&config.image_service_endpoint),
        config.runtime_request_timeout,
    )?;
    let driver = driver(&runtime, config).await?;
    let (units, orders) = match driver {
        Driver::Systemd => Some(cgroups::units::Units::new()).unzip(),
        Driver::Cgroupfs => (None, None),
    };
    let gates = component::gates::Gates::default().with(&config.feature_gates)?;
    let free_pinned =
        config.cpu_manager_policy == "static" && gates.enabled("DisableCPUQuotaWithExclusiveCPUs");
    let memory_qos = gates.enabled("MemoryQoS");
    let cgroups = Cgroups::new(config, cgroups::Setup { driver, units, memory_qos, free_pinned });
    if let Some(orders) = orders {
        // Ends with the shutdown, or when nobody can give orders any more.
        tokio::spawn(cgroups::units::run(orders, cgroups.is_v2(), shutdown.clone()));
    }
    if config.protect_kernel_defaults {
        machine::check_kernel(std::path::Path::new("/proc/sys"))?;
    }
    limit_open_files(config.max_open_files);
    cgroups.check_root().map_err(anyhow::Error::msg)?;
    let machine = Machine::read(&options.root);
    if machine.swap > 0 && config.fail_swap_on {
        bail!(
            "running with swap on is not supported, please disable swap or set --fail-swap-on flag to false"
        );
    }
    let node_changed = Arc::new(Notify::new());
    let managers = Managers::new(managers::Setup {
        config,
        gates: &gates,
        root: options.root.clone(),
        memory: machine.memory,
        changed: node_changed.clone(),
        shutdown,
    })?;
    let providers = match &options.credential_providers {
        Some((file, bin_dir)) => {
            Providers::load(file, bin_dir).context("failed to register CRI auth plugins")?
        }
        None => Providers::default(),
    };
    let (client, heartbeats, told) = match clients {
        Some(c) => (Some(c.all), Some(c.heartbeats), Some(c.events)),
        None => (None, None, None),
    };
    let events = Events::new(told, &options.node_name);
    let store = client.clone().map(|client| Arc::new(ObjectStore::new(client, &options.node_name, config)));
    Ok(Kubelet {
        images: Images::new(runtime.clone(), events.clone(), config, &options.root, providers).await,
        prober: Prober::new(runtime.clone(), events.clone()),
        runtime_info: ArcSwap::from_pointee(RuntimeInfo::default()),
        statuses,
        pods: Pods::new(client.clone(), sources_of(config, client.is_some())),
        allocations: Allocations::new(&options.root),
        shutdown: Default::default(),
        services: Services::new(client.is_none()),
        volumes: storage::manager(&options.root, &options.node_name, store.clone(), &events),
        store,
        user_namespaces: UserNamespaces::new(
            options.root.join("pods"),
            config.user_namespaces.as_ref().and_then(|u| u.ids_per_pod),
        ),
        node_resources: NodeResources {
            memory: machine.memory,
            cfs_quota: config.cpu_cfs_quota,
            cfs_period: i64::try_from(config.cpu_cfs_quota_period.as_micros()).unwrap_or(100_000),
            free_pinned,
            cgroup_v2: cgroups.is_v2(),
            swap: Swap::new(config.swap_behavior(), cgroups.is_v2(), machine.swap),
            kill_whole: !config.single_process_oom_kill.unwrap_or(!cgroups.is_v2()),
            memory_qos: gates.enabled("MemoryQoS").then(|| MemoryQos {
                factor: config.memory_throttling_factor,
                tiered: config.memory_reservation_policy == "TieredReservation",
                allocatable: machine.allocatable(config).memory,
            }),
        },
        cgroups,
        managers,
        drivers: kubelet_plugins::dra::Drivers::new(options.root.join("dra_manager_state"))
            .map_err(anyhow::Error::msg)?,
        gates,
        machine,
        security: NodeSecurity {
            seccomp_default: config.seccomp_default,
            seccomp_dir: options.root.join("seccomp"),
        },
        dns: NodeDns {
            cluster_dns: config.cluster_dns.clone(),
            cluster_domain: config.cluster_domain.clone(),
            resolv_conf: config.resolv_conf.clone(),
        },
        crash_backoff: crash_backoff(config),
        node: ArcSwapOption::empty(),
        host_ips: ArcSwap::from_pointee(machine::addresses(options.node_ip.as_deref())?),
        node_changed,
        pressure: Default::default(),
        places: Default::default(),
        image_use: Default::default(),
        container_gc: gc::Policy::from_flags(&options.flags),
        relist: Notify::new(),
        listing: crate::listing::Lister::new(runtime.clone()),
        config: config.clone(),
        node_name: options.node_name.clone(),
        root: options.root.clone(),
        cert_dir: options.cert_dir.clone(),
        runtime,
        client,
        heartbeats,
        events,
    })
}

/// How long containers that fail wait to start again; a quiet time of ten minutes lets them begin anew.
fn crash_backoff(config: &KubeletConfiguration) -> Backoff {
    let gates = component::gates::Gates::default().with(&config.feature_gates).unwrap_or_default();
    let (mut initial, mut max) = match gates.enabled("ReduceDefaultCrashLoopBackOffDecay") {
        true => (Duration::from_secs(1), Duration::from_secs(60)),
        false => (Duration::from_secs(10), Duration::from_secs(300)),
    };
    let own = config.crash_loop_back_off.max_container_restart_period;
    if let Some(own) = own.filter(|_| gates.enabled("KubeletCrashLoopBackOffMax")) {
        max = own;
        initial = initial.min(own);
    }
    Backoff::new(initial, max).forgetting_after(Duration::from_secs(600))
}

/// The sources that pods of this configuration come from.
fn sources_of(config: &KubeletConfiguration, api: bool) -> HashSet<Source> {
    let all = [
        (api, Source::Api),
        (!config.static_pod_path.is_empty(), Source::File),
        (!config.static_pod_url.is_empty(), Source::Http),
    ];
    all.into_iter().filter(|(used, _)| *used).map(|(_, source)| source).collect()
}

/// The headers to ask for static pods with.
fn headers(config: &KubeletConfiguration) -> Vec<(String, String)> {
    let lists = config.static_pod_url_header.iter();
    lists.flat_map(|(name, values)| values.iter().map(|v| (name.clone(), v.clone()))).collect()
}

/// How long the runtime may take to come up, and how often it is asked meanwhile.
const RUNTIME_PATIENCE: Duration = Duration::from_secs(10);
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The cgroup driver: the runtime's if it tells, the configured one if it cannot. A guess would put pods where the
/// runtime does not look for them, so a kubelet whose runtime is away does not start.
async fn driver(runtime: &cri::Runtime, config: &KubeletConfiguration) -> anyhow::Result<Driver> {
    let end = tokio::time::Instant::now() + RUNTIME_PATIENCE;
    let reply = loop {
        match runtime.runtime_config().await {
            Err(error) if error.is_unimplemented() => {
                crate::metrics::node::runtime_is_old();
                break None;
            }
            Err(error) if tokio::time::Instant::now() >= end => {
                return Err(error).context("failed to get the cgroup driver from the container runtime");
            }
            Err(error) => {
                tracing::debug!(%error, "The runtime does not answer yet");
                tokio::time::sleep(ASK_AGAIN).await;
            }
            Ok(reply) => break reply.linux,
        }
    };
    Ok(match reply.map(|linux| linux.cgroup_driver()) {
        Some(cri::v1::CgroupDriver::Systemd) => Driver::Systemd,
        Some(cri::v1::CgroupDriver::Cgroupfs) => Driver::Cgroupfs,
        None if config.cgroup_driver == "systemd" => Driver::Systemd,
        None => Driver::Cgroupfs,
    })
}

/// Tells of what the machine lacks.
fn warn_of_machine(kubelet: &Kubelet) {
    if !kubelet.cgroups.is_v2() {
        let message = "cgroup v1 detected. cgroup v1 support is deprecated and will be removed in a future release. Please migrate to cgroup v2. More information at https://git.k8s.io/enhancements/keps/sig-node/5573-remove-cgroup-v1";
        tracing::warn!("{message}");
        kubelet.events.node("Warning", "CgroupV1", message);
    }
    if kubelet.machine.swap > 0 && !volumes::memory_stays(&kubelet.root) {
        let message = "The tmpfs noswap option is not supported. Memory-backed volumes (e.g. secrets, emptyDirs, etc.) might be swapped to disk and should no longer be considered secure.";
        kubelet.events.node("Warning", "PossibleMemoryBackedVolumesOnDisk", message);
    }
}

/// Lets the kubelet open as many files as configured, as far as it may.
fn limit_open_files(most: i64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok(wanted) = u64::try_from(most) else { return };
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(wanted, |(_, hard)| hard);
    let set = setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted.max(hard))
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard));
    if let Err(error) = set {
        tracing::info!(%error, wanted, "Cannot set the limit of open files");
    }
}

/// Makes the kernel spare the kubelet. May be refused, which is no reason to stop.
fn set_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::info!(%error, score, "Cannot set the kubelet's own OOM score");
    }
}

/// Without an apiserver nobody else asks how the runtime is.
async fn keep_runtime_info(kubelet: Arc<Kubelet>, shutdown: CancellationToken) {
    loop {
        runtime_info::update(&kubelet).await;
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(10)) => {}
        }
    }
}
