//! The flags, and what the server makes of them.

use anyhow::{Context, bail};
use component::{Command, Flags};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

/// The command with the flags that have an effect.
pub fn command() -> Command {
    Command::new(
        "kube-apiserver",
        "Serves the Kubernetes API: the one door to the cluster's state in etcd.",
        include_str!("../flags.json"),
    )
    .implements(component::serve::FLAGS)
    .implements(component::delegated::FRONT_PROXY_FLAGS)
    .implements(&[
        ("admission-control-config-file", "File with an AdmissionConfiguration."),
        (
            "advertise-address",
            "Address that the cluster reaches this server by; found from the routes when unset.",
        ),
        ("aggregator-reject-forwarding-redirect", "Keeps aggregated servers from redirecting clients."),
        ("allow-privileged", "Whether privileged containers may be created."),
        ("anonymous-auth", "Lets requests without credentials in as system:anonymous."),
        ("api-audiences", "Audiences of tokens for this server; the issuers when unset."),
        ("apiserver-count", "Number of apiservers (used by the master-count reconciler)."),
        ("audit-log-batch-buffer-size", "Audit records that may wait in mode batch."),
        ("audit-log-compress", "Compresses audit logs that were turned over."),
        ("audit-log-format", "Form of audit records: json or legacy."),
        ("audit-log-maxage", "Days that old audit logs are kept; 0 for no limit."),
        ("audit-log-maxbackup", "Old audit logs that are kept; 0 for no limit."),
        ("audit-log-maxsize", "Megabytes at which an audit log is turned over; 0 for never."),
        ("audit-log-mode", "blocking, blocking-strict or batch."),
        ("audit-log-path", "File of audit records; - for standard output."),
        ("audit-policy-file", "File with the audit Policy."),
        ("audit-webhook-batch-buffer-size", "Audit records that may wait for the webhook."),
        ("audit-webhook-batch-max-size", "Records of one list to the webhook."),
        ("audit-webhook-batch-max-wait", "How long a list waits for more records."),
        ("audit-webhook-batch-throttle-burst", "Lists at once after a pause."),
        ("audit-webhook-batch-throttle-enable", "Whether lists to the webhook are held back."),
        ("audit-webhook-batch-throttle-qps", "Lists a second."),
        ("audit-webhook-config-file", "Kubeconfig of the server that audit records go to."),
        ("audit-webhook-initial-backoff", "Pause before a list is sent again."),
        ("audit-webhook-mode", "batch, the only one."),
        ("authentication-config", "File with an AuthenticationConfiguration."),
        ("authentication-token-webhook-cache-ttl", "How long a token's user is remembered."),
        ("authentication-token-webhook-config-file", "Kubeconfig of a server that knows tokens."),
        ("authentication-token-webhook-version", "Version of TokenReview to ask it with."),
        ("authorization-config", "File with an AuthorizationConfiguration, in place of modes."),
        ("authorization-mode", "Authorizers in order: AlwaysAllow, AlwaysDeny, ABAC, Webhook, RBAC, Node."),
        ("authorization-policy-file", "File with the policy of mode ABAC."),
        ("authorization-webhook-cache-authorized-ttl", "How long a permission is remembered."),
        ("authorization-webhook-cache-unauthorized-ttl", "How long a refusal is remembered."),
        ("authorization-webhook-config-file", "Kubeconfig of the server that mode Webhook asks."),
        ("authorization-webhook-version", "Version of SubjectAccessReview to ask it with."),
        ("client-ca-file", "Authorities of client certificates."),
        ("cors-allowed-origins", "Expressions for origins whose pages may read answers (CORS)."),
        ("default-not-ready-toleration-seconds", "Seconds that pods tolerate a node that is not ready."),
        ("default-unreachable-toleration-seconds", "Seconds that pods tolerate a node that is unreachable."),
        ("disable-admission-plugins", "Admission plugins to turn off."),
        ("enable-admission-plugins", "Admission plugins to turn on beside the default ones."),
        ("enable-aggregator-routing", "Sends requests for aggregated servers to endpoints, not to cluster IPs."),
        ("enable-bootstrap-token-auth", "Lets bootstrap tokens in."),
        ("enable-priority-and-fairness", "Queues requests by FlowSchemas and priority levels."),
        ("encryption-provider-config", "File that says how resources are encrypted in etcd."),
        ("encryption-provider-config-automatic-reload", "Follows changes of that file."),
        ("endpoint-reconciler-type", "How the kubernetes Service gets its endpoints: lease or none."),
        ("etcd-cafile", "Authority of etcd's certificate."),
        ("etcd-certfile", "Certificate to show to etcd."),
        ("etcd-compaction-interval", "Time between compactions of etcd; 0 for none."),
        ("etcd-db-metric-poll-interval", "Time between questions for the size of etcd's database; 0 for none."),
        ("etcd-healthcheck-timeout", "Time that etcd has to answer a health check."),
        ("etcd-keyfile", "Key of the certificate to show to etcd."),
        ("etcd-prefix", "Prefix of all keys in etcd."),
        ("etcd-readycheck-timeout", "Time that etcd has to answer a readiness check."),
        ("etcd-servers", "etcd servers, scheme://host:port."),
        (
            "etcd-servers-overrides",
            "Servers of single resources: group/resource#servers, servers separated by semicolons.",
        ),
        ("event-ttl", "How long events are kept."),
        ("external-hostname", "Host name to use in external URLs."),
        ("feature-gates", "Features to turn on or off."),
        ("goaway-chance", "How likely a request ends its HTTP/2 connection softly; at most 0.02."),
        ("http2-max-streams-per-connection", "Streams at a time of one HTTP/2 connection."),
        ("kubelet-certificate-authority", "Authority of the kubelets' certificates."),
        ("kubelet-client-certificate", "Certificate to show to kubelets."),
        ("kubelet-client-key", "Key of the certificate to show to kubelets."),
        (
            "kubelet-preferred-address-types",
            "Which of a node's addresses to use for its kubelet, best first.",
        ),
        ("kubelet-timeout", "Time for calls of kubelets."),
        ("kubernetes-service-node-port", "Node port of the kubernetes Service; 0 for a cluster IP only."),
        ("lease-reuse-duration-seconds", "How long events that expire share a lease."),
        ("livez-grace-period", "How long after the start /livez takes for done what is not yet."),
        ("max-mutating-requests-inflight", "Writes at a time; 0 for no limit."),
        ("max-requests-inflight", "Reads at a time; 0 for no limit."),
        ("min-request-timeout", "Least seconds that a watch lives."),
        ("oidc-ca-file", "Authorities of the issuer; the system's when unset."),
        ("oidc-client-id", "Audience that tokens of the issuer must have."),
        ("oidc-groups-claim", "Claim with a user's groups."),
        ("oidc-groups-prefix", "What is put in front of groups."),
        ("oidc-issuer-url", "Issuer of OpenID Connect tokens."),
        ("oidc-required-claim", "Claims that a token must have, key=value."),
        ("oidc-signing-algs", "Algorithms that tokens may be signed with."),
        ("oidc-username-claim", "Claim with the user's name."),
        ("oidc-username-prefix", "What is put in front of names; - for nothing."),
        ("permit-address-sharing", "Listens although a wildcard of the same port does (SO_REUSEADDR)."),
        ("permit-port-sharing", "Lets several processes listen on the port (SO_REUSEPORT)."),
        ("profiling", "Accepted for compatibility."),
        ("proxy-client-cert-file", "Certificate to show to aggregated servers."),
        ("proxy-client-key-file", "Key of the certificate to show to aggregated servers."),
        ("request-timeout", "Time that a request may take."),
        (
            "runtime-config",
            "APIs to turn on or off: group/version or group/version/resource, api/all, api/beta.",
        ),
        ("service-account-extend-token-expiration", "Lets injected tokens live longer than asked for."),
        ("service-account-issuer", "Issuer of service account tokens; the first signs."),
        ("service-account-jwks-uri", "Where others find the keys."),
        ("service-account-key-file", "Keys that verify service account tokens."),
        ("service-account-lookup", "Refuses tokens of accounts that are gone."),
        ("service-account-max-token-expiration", "Longest life of a token that is asked for."),
        ("service-account-signing-key-file", "Key that signs service account tokens."),
        ("service-cluster-ip-range", "Ranges that Services get their addresses from."),
        ("service-node-port-range", "Ports that Services may have on nodes."),
        ("shutdown-delay-duration", "Time to go on serving after the signal to end."),
        ("shutdown-send-retry-after", "Tells new requests to come back while the last ones are finished."),
        (
            "shutdown-watch-termination-grace-period",
            "Time over which watches end after the last request is done.",
        ),
        ("storage-backend", "etcd3, the only one."),
        (
            "storage-media-type",
            "How built-in objects are stored: application/vnd.kubernetes.protobuf, application/json or application/yaml.",
        ),
        ("strict-transport-security-directives", "Directives of HSTS: max-age=SECONDS, includeSubDomains, preload."),
        ("token-auth-file", "File of static tokens."),
        ("tracing-config-file", "File with a TracingConfiguration."),
    ])
}

/// What the flags mean, checked.
pub struct Options {
    pub flags: Flags,
    pub bind: IpAddr,
    pub port: u16,
    pub advertise: IpAddr,
    pub service_ranges: Vec<IpNet>,
    pub node_ports: (u16, u16),
    pub event_ttl: Duration,
    pub goaway_chance: f64,
}

/// A path flag, if it is set.
pub fn path(flags: &Flags, name: &str) -> Option<PathBuf> {
    flags.opt(name).map(PathBuf::from)
}

impl Options {
    pub fn from_flags(flags: Flags) -> anyhow::Result<Self> {
        if flags.list("etcd-servers").is_empty() {
            bail!("--etcd-servers must be specified");
        }
        let bind: IpAddr =
            flags.str("bind-address").parse().context("--bind-address is not an IP address")?;
        let port = u16::try_from(flags.int("secure-port")).ok().filter(|p| *p != 0);
        let port = port.context("--secure-port must be between 1 and 65535, inclusive")?;
        let advertise = advertise_address(&flags, bind)?;
        let service_ranges = service_ranges(&flags)?;
        let event_ttl = flags.duration("event-ttl");
        let node_ports = node_ports(flags.str("service-node-port-range"))?;
        let goaway_chance =
            flags.str("goaway-chance").parse::<f64>().context("--goaway-chance is no number")?;
        if !(0.0..=0.02).contains(&goaway_chance) {
            bail!("--goaway-chance can not be less than 0 or greater than 0.02");
        }
        if flags.int("max-requests-inflight") < 0 {
            bail!("--max-requests-inflight can not be negative value");
        }
        if flags.int("max-mutating-requests-inflight") < 0 {
            bail!("--max-mutating-requests-inflight can not be negative value");
        }
        Ok(Options { bind, port, advertise, service_ranges, node_ports, event_ttl, goaway_chance, flags })
    }

    /// The address of the `kubernetes` Service: the first of the range.
    pub fn kubernetes_service_ip(&self) -> Option<IpAddr> {
        self.service_ranges.first().and_then(|r| r.hosts().next())
    }
}

fn advertise_address(flags: &Flags, bind: IpAddr) -> anyhow::Result<IpAddr> {
    if let Some(text) = flags.opt("advertise-address").filter(|t| *t != "<nil>") {
        return text.parse().context("--advertise-address is not an IP address");
    }
    if !bind.is_unspecified() {
        return Ok(bind);
    }
    // The source address of the default route. A connected datagram socket sends nothing.
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|s| {
        s.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        s.local_addr()
    });
    Ok(found.map(|a| a.ip()).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

fn service_ranges(flags: &Flags) -> anyhow::Result<Vec<IpNet>> {
    let mut list = flags.list("service-cluster-ip-range");
    list.retain(|s| !s.is_empty());
    if list.is_empty() {
        list.push("10.0.0.0/24".to_owned());
    }
    if list.len() > 2 {
        bail!("--service-cluster-ip-range must not contain more than two entries");
    }
    list.iter()
        .map(|s| {
            s.parse::<IpNet>()
                .map(|n| n.trunc())
                .with_context(|| format!("service-cluster-ip-range {s:?} is not a valid cidr"))
        })
        .collect()
}

fn node_ports(text: &str) -> anyhow::Result<(u16, u16)> {
    let wrong = || format!("unable to parse port range: {text:?}");
    let (low, size) = match (text.split_once('-'), text.split_once('+')) {
        (Some((low, high)), _) => {
            let (low, high): (u16, u16) =
                (low.parse().with_context(wrong)?, high.parse().with_context(wrong)?);
            if high < low {
                bail!("end port {high} must not be less than the start port {low}");
            }
            (low, high - low + 1)
        }
        (None, Some((low, size))) => (low.parse().with_context(wrong)?, size.parse().with_context(wrong)?),
        (None, None) => (text.parse().with_context(wrong)?, 1),
    };
    Ok((low, size))
}
