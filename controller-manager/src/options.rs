//! The flags that have an effect, and the settings that controllers read from them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use component::gates::Gates;
use component::{Command, Flags};
use controller_kit::Settings;
use controller_kit::context::{Hpa, Ipam, Nodes, Signing};

/// The command with its flags.
pub fn command() -> Command {
    Command::new(
        "kube-controller-manager",
        "Runs the controllers that bring a cluster from the state it is in to the state it shall be in.",
        include_str!("../flags.json"),
    )
    .implements(component::serve::FLAGS)
    .implements(component::delegated::FLAGS)
    .implements(component::delegated::FRONT_PROXY_FLAGS)
    .implements(client::leader::FLAGS)
    .implements(&[
        ("allocate-node-cidrs", "Give every node a range of pod addresses."),
        ("cluster-cidr", "Ranges that nodes' pod address ranges are taken from."),
        ("cluster-name", "The cluster's name."),
        ("cluster-signing-cert-file", "Certificate of the authority that signs requests."),
        ("cluster-signing-duration", "How long signed certificates are valid at most."),
        ("cluster-signing-key-file", "Key of the authority that signs requests."),
        (
            "cluster-signing-kube-apiserver-client-cert-file",
            "Certificate for signer kubernetes.io/kube-apiserver-client.",
        ),
        (
            "cluster-signing-kube-apiserver-client-key-file",
            "Key for signer kubernetes.io/kube-apiserver-client.",
        ),
        (
            "cluster-signing-kubelet-client-cert-file",
            "Certificate for signer kubernetes.io/kube-apiserver-client-kubelet.",
        ),
        (
            "cluster-signing-kubelet-client-key-file",
            "Key for signer kubernetes.io/kube-apiserver-client-kubelet.",
        ),
        (
            "cluster-signing-kubelet-serving-cert-file",
            "Certificate for signer kubernetes.io/kubelet-serving.",
        ),
        ("cluster-signing-kubelet-serving-key-file", "Key for signer kubernetes.io/kubelet-serving."),
        ("cluster-signing-legacy-unknown-cert-file", "Certificate for signer kubernetes.io/legacy-unknown."),
        ("cluster-signing-legacy-unknown-key-file", "Key for signer kubernetes.io/legacy-unknown."),
        ("concurrent-cron-job-syncs", "Cron jobs worked on at a time."),
        ("concurrent-daemonset-syncs", "Daemon sets worked on at a time."),
        ("concurrent-deployment-syncs", "Deployments worked on at a time."),
        ("concurrent-endpoint-syncs", "Endpoints worked on at a time."),
        ("concurrent-ephemeralvolume-syncs", "Pods with ephemeral volumes worked on at a time."),
        ("concurrent-gc-syncs", "Garbage worked on at a time."),
        ("concurrent-horizontal-pod-autoscaler-syncs", "Autoscalers worked on at a time."),
        ("concurrent-job-syncs", "Jobs worked on at a time."),
        ("concurrent-namespace-syncs", "Namespaces worked on at a time."),
        ("concurrent-rc-syncs", "Replication controllers worked on at a time."),
        ("concurrent-replicaset-syncs", "Replica sets worked on at a time."),
        ("concurrent-resource-quota-syncs", "Quotas worked on at a time."),
        ("concurrent-resourceclaim-syncs", "Resource claims worked on at a time."),
        ("concurrent-service-endpoint-syncs", "Services whose slices are worked on at a time."),
        ("concurrent-serviceaccount-token-syncs", "Service account tokens worked on at a time."),
        ("concurrent-statefulset-syncs", "Stateful sets worked on at a time."),
        ("concurrent-ttl-after-finished-syncs", "Finished jobs worked on at a time."),
        ("mirroring-concurrent-service-endpoint-syncs", "Endpoints mirrored at a time."),
        (
            "controllers",
            "Controllers to run: `*` is all that run by default, `name` turns one on, `-name` off.",
        ),
        ("enable-garbage-collector", "Delete dependents whose owners are gone."),
        ("feature-gates", "Features on or off."),
        (
            "horizontal-pod-autoscaler-cpu-initialization-period",
            "How long a pod's CPU use may be left out after its start.",
        ),
        ("horizontal-pod-autoscaler-downscale-stabilization", "How far back scaling down looks."),
        (
            "horizontal-pod-autoscaler-initial-readiness-delay",
            "How long after its start a pod's first readiness counts.",
        ),
        ("horizontal-pod-autoscaler-sync-period", "How often autoscalers look."),
        ("horizontal-pod-autoscaler-tolerance", "How far from the target nothing is scaled."),
        ("kube-api-burst", "Requests to the API server at once."),
        ("kube-api-qps", "Requests to the API server a second."),
        ("kubeconfig", "How to reach the API server."),
        ("large-cluster-size-threshold", "Nodes from which a cluster counts as large when evicting."),
        (
            "legacy-service-account-token-clean-up-period",
            "After how long an unused token secret is cleaned up.",
        ),
        ("master", "The API server's address, over what the kubeconfig says."),
        ("node-cidr-mask-size", "Prefix length of a node's range."),
        ("node-cidr-mask-size-ipv4", "Prefix length of a node's IPv4 range."),
        ("node-cidr-mask-size-ipv6", "Prefix length of a node's IPv6 range."),
        ("node-eviction-rate", "Nodes a second whose pods are evicted in a healthy zone."),
        ("node-monitor-grace-period", "How long a node may be silent before it counts as unknown."),
        ("node-startup-grace-period", "How long a new node may be silent."),
        ("resource-quota-sync-period", "How often quotas are counted anew."),
        ("root-ca-file", "Certificate authorities to publish in every namespace."),
        ("secondary-node-eviction-rate", "Nodes a second whose pods are evicted in an unhealthy zone."),
        ("service-account-private-key-file", "Key that signs token secrets."),
        ("service-cluster-ip-range", "Ranges of Service addresses, kept out of nodes' ranges."),
        ("terminated-pod-gc-threshold", "How many ended pods may stay."),
        ("use-service-account-credentials", "Give each controller a service account of its own."),
        ("unhealthy-zone-threshold", "Share of nodes not ready from which a zone counts as unhealthy."),
    ])
}

/// What controllers need of the flags.
pub fn settings(flags: &Flags) -> anyhow::Result<Settings> {
    let gates = Gates::from_flags(flags)?;
    let root_ca = match flags.opt("root-ca-file") {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(path).with_context(|| format!("error reading root-ca-file at {path}"))?,
        ),
    };
    Ok(Settings {
        workers: workers(flags),
        root_ca,
        service_account_key: flags.opt("service-account-private-key-file").map(PathBuf::from),
        cluster_name: flags.str("cluster-name").to_owned(),
        signing: signing(flags),
        nodes: Nodes {
            grace: flags.duration("node-monitor-grace-period"),
            startup_grace: flags.duration("node-startup-grace-period"),
            eviction_rate: flags.float("node-eviction-rate"),
            secondary_eviction_rate: flags.float("secondary-node-eviction-rate"),
            unhealthy_zone: flags.float("unhealthy-zone-threshold"),
            large_cluster: usize::try_from(flags.int("large-cluster-size-threshold")).unwrap_or(50),
        },
        ipam: ipam(flags)?,
        hpa: Hpa {
            sync_period: flags.duration("horizontal-pod-autoscaler-sync-period"),
            downscale_stabilization: flags.duration("horizontal-pod-autoscaler-downscale-stabilization"),
            tolerance: flags.float("horizontal-pod-autoscaler-tolerance"),
            cpu_initialization: flags.duration("horizontal-pod-autoscaler-cpu-initialization-period"),
            initial_readiness: flags.duration("horizontal-pod-autoscaler-initial-readiness-delay"),
        },
        collect_garbage: flags.bool("enable-garbage-collector"),
        terminated_pod_threshold: flags.int("terminated-pod-gc-threshold"),
        quota_resync: flags.duration("resource-quota-sync-period"),
        legacy_token_clean_up: flags.duration("legacy-service-account-token-clean-up-period"),
        attach_detach_sync: flags.duration("attach-detach-reconcile-sync-period"),
        no_force_detach: flags.bool("disable-force-detach-on-timeout"),
        pv_sync: flags.duration("pvclaimbinder-sync-period"),
        gates: gates.all().into_iter().map(|(name, _, on)| (name.to_owned(), on)).collect(),
    })
}

fn workers(flags: &Flags) -> BTreeMap<String, usize> {
    let mut workers = BTreeMap::new();
    for (name, value) in flags.all() {
        let middle = name.strip_prefix("concurrent-").and_then(|n| n.strip_suffix("-syncs"));
        let mirroring = (name == "mirroring-concurrent-service-endpoint-syncs").then_some("mirroring");
        if let (Some(what), Ok(count)) = (middle.or(mirroring), value.parse()) {
            workers.insert(what.to_owned(), count);
        }
    }
    workers
}

fn signing(flags: &Flags) -> Signing {
    let signers = [
        ("", ""),
        ("kube-apiserver-client-", "kubernetes.io/kube-apiserver-client"),
        ("kubelet-client-", "kubernetes.io/kube-apiserver-client-kubelet"),
        ("kubelet-serving-", "kubernetes.io/kubelet-serving"),
        ("legacy-unknown-", "kubernetes.io/legacy-unknown"),
    ];
    let mut files = BTreeMap::new();
    for (flag, signer) in signers {
        let cert = flags.opt(&format!("cluster-signing-{flag}cert-file"));
        let key = flags.opt(&format!("cluster-signing-{flag}key-file"));
        if let (Some(cert), Some(key)) = (cert, key) {
            files.insert(signer.to_owned(), (PathBuf::from(cert), PathBuf::from(key)));
        }
    }
    Signing { duration: flags.duration("cluster-signing-duration"), files }
}

fn ipam(flags: &Flags) -> anyhow::Result<Ipam> {
    let list = |name: &str| -> Vec<String> {
        flags.str(name).split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
    };
    let both = flags.int("node-cidr-mask-size");
    let mask = |name: &str, default: u8, longest: i64| -> anyhow::Result<u8> {
        let own = flags.int(name);
        let size = if own != 0 { own } else { both };
        anyhow::ensure!((0..=longest).contains(&size), "--{name} must be between 1 and {longest}");
        Ok(if size == 0 { default } else { u8::try_from(size)? })
    };
    let mask_v4 = mask("node-cidr-mask-size-ipv4", 24, 128)?.min(32);
    let mask_v6 = mask("node-cidr-mask-size-ipv6", 64, 128)?;
    Ok(Ipam {
        allocate: flags.bool("allocate-node-cidrs"),
        cluster_cidrs: list("cluster-cidr"),
        service_cidrs: list("service-cluster-ip-range"),
        mask_v4,
        mask_v6,
    })
}
