//! From flags to a running server, and to its end.

use crate::attributes;
use crate::codec::{Builtin, Media};
use crate::controllers;
use crate::health;
use crate::options::{Options, path};
use crate::service::Door;
use crate::storing;
use anyhow::Context;
use api::registry::Registry;
use api::resources::{Resource, Table};
use arc_swap::ArcSwap;
use auth::{authn, authz, service_account};
use component::{Flags, gates::Gates, serve};
use endpoints::browsers::Browsers;
use endpoints::health::Health;
use endpoints::registry::Objects;
use endpoints::served::{RoomRef, Routes, Served, Stored};
use endpoints::server::{Server, Settings};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use storage::{Spec, Store};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Runs the server until it is told to end.
pub async fn run(flags: Flags, shutdown: CancellationToken) -> anyhow::Result<()> {
    let options = Arc::new(Options::from_flags(flags)?);
    let gates = Arc::new(Gates::from_flags(&options.flags)?);
    let of_rooms = gates.clone();
    kinds::gates::set(move |name| of_rooms.get(name));
    component::metrics::registry().feature_gates(&gates);
    let tls = tls(&options)?;
    let acceptor = tls.acceptor()?;
    let sharing = serve::accept::Sharing {
        port: options.flags.bool("permit-port-sharing"),
        address: options.flags.bool("permit-address-sharing"),
    };
    let address = SocketAddr::new(options.bind, options.port);
    let listener = serve::accept::bind_shared(address, sharing).await?;
    if let Some(path) = options.flags.opt("tracing-config-file") {
        component::traces::start(&component::traces::load(path)?, "apiserver")?;
    }
    let store = Store::open(storing::config(&options)?).await.context("opening etcd")?;
    let server = build(&options, &gates, &store)?;
    let closing = CancellationToken::new();
    let tasks = server.tasks.clone();
    if let Some(audit) = &server.audit {
        audit.start(&tasks, server.stopping.clone());
    }
    controllers::start(&server, &options, &gates, &tasks);
    tasks.spawn(resident::trim(shutdown.clone()));
    let door = Door { server: server.clone(), proven: Arc::default() };
    tracing::info!(address = %options.bind, port = options.port, "Serving securely");
    let serving =
        tokio::spawn(serve::accept::serve(listener, Some(acceptor), door, limits(&options), closing.clone()));
    shutdown.cancelled().await;
    drain(&server, &options, &closing).await;
    let _ = serving.await;
    tasks.close();
    let _ = tokio::time::timeout(Duration::from_secs(5), tasks.wait()).await;
    store.shutdown().await;
    Ok(())
}

fn limits(options: &Options) -> serve::Limits {
    let grace = options.flags.duration("shutdown-watch-termination-grace-period");
    let base = serve::Limits::from_flags(&options.flags);
    serve::Limits { drain: options.flags.duration("request-timeout") + grace, ..base }
}

/// The way out: not ready any more, no new requests, what is under way finished, watches ended, connections closed.
async fn drain(server: &Server, options: &Options, closing: &CancellationToken) {
    let flags = &options.flags;
    server.leaving.store(true, Ordering::Release);
    tracing::info!("Shutting down: not ready any more");
    tokio::time::sleep(flags.duration("shutdown-delay-duration")).await;
    server.draining.store(true, Ordering::Release);
    if !flags.bool("shutdown-send-retry-after") {
        closing.cancel();
    }
    server.requests.close();
    let limit = flags.duration("request-timeout");
    if tokio::time::timeout(limit, server.requests.wait()).await.is_err() {
        tracing::warn!("requests are still under way and are given up");
    }
    let grace = flags.duration("shutdown-watch-termination-grace-period");
    if !grace.is_zero() {
        // Watches end by themselves, spread over the time that they have.
        server.watches_closing.cancel();
        server.watches.close();
        let _ = tokio::time::timeout(grace, server.watches.wait()).await;
    }
    server.stopping.cancel();
    closing.cancel();
}

fn tls(options: &Options) -> anyhow::Result<serve::tls::Options> {
    let mut tls = serve::tls::Options::from_flags(&options.flags, "apiserver")?;
    tls.hostnames = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ]
    .map(str::to_owned)
    .to_vec();
    tls.ips = std::iter::once(options.advertise).chain(options.kubernetes_service_ip()).collect();
    Ok(tls)
}

/// Which built-in rows the flags turn on.
fn table(options: &Options, gates: &Gates) -> Table {
    let config = options.flags.map("runtime-config");
    let asked = |key: &str| config.get(key).map(|v| v != "false");
    Table::builtin(|r| {
        let gv = if r.group.is_empty() {
            format!("api/{}", r.version)
        } else {
            format!("{}/{}", r.group, r.version)
        };
        let stability = match (r.version.contains("alpha"), r.version.contains("beta")) {
            (true, _) => "api/alpha",
            (_, true) => "api/beta",
            _ => "api/ga",
        };
        let on = asked(&format!("{gv}/{}", r.resource))
            .or_else(|| asked(&gv))
            .or_else(|| asked(stability))
            .or_else(|| asked("api/all"))
            .unwrap_or(r.enabled_by_default);
        let gated = r.feature_gate.as_deref().is_none_or(|g| gates.enabled(g)) || r.enabled_by_default;
        on && gated
    })
}

/// The stores of built-in resources, one a prefix, whatever number of versions is served from it.
fn routes(table: &Table, store: &Arc<Store>, options: &Options, gates: &Gates) -> Routes {
    let moved = |p: &str| storing::moved(options, p);
    // The flags have been checked.
    let media = Media::parse(options.flags.str("storage-media-type")).unwrap_or(Media::Protobuf);
    let mut by_prefix: HashMap<String, Vec<&Resource>> = HashMap::new();
    for row in table.rows() {
        if let Some(etcd) = &row.etcd {
            by_prefix.entry(moved(&etcd.prefix)).or_default().push(row);
        }
    }
    let open = |row: &Resource| -> Option<Stored> {
        let etcd = row.etcd.as_ref()?;
        let prefix = moved(&etcd.prefix);
        let stored_gvk = row.stored_gvk()?;
        let rows = by_prefix.get(&prefix).map(Vec::as_slice).unwrap_or_default();
        // A version that is stored but no longer served is met in storage only.
        let served = rows.iter().map(|r| r.gvk());
        let gvk = served.clone().find(|g| *g == stored_gvk).or_else(|| served.clone().next())?;
        let message = api::schema::for_kind(&gvk)?;
        let media = if etcd.json { Media::Json } else { media };
        let mut spec = Spec::new(&prefix, attributes::builtin(message, rows))
            .named(&row.resource, &gvk.group)
            .codec(Arc::new(Builtin::new(message, &gvk, media).stored_as(&stored_gvk)));
        for field in endpoints::select::INDEXED {
            if rows.iter().any(|r| r.selectable_fields.iter().any(|f| f == field)) {
                spec = spec.indexed(field);
            }
        }
        let events = etcd.kind == "Event";
        Some(Stored {
            resource: store.resource(spec),
            room: RoomRef::Static(kinds::room(&gvk.group, &gvk.version, &gvk.kind)),
            message: Some(message),
            gvk,
            ttl: events.then_some(options.event_ttl).filter(|t| !t.is_zero()),
            gated: api::gates::governs(message, &|g| endpoints::write::is_on(gates, g)),
        })
    };
    Routes::new(table.rows().iter().map(|row| Arc::new(Served::builtin(row.clone(), &open))).collect())
}

/// A server of these options; nothing runs yet.
pub fn build(options: &Arc<Options>, gates: &Arc<Gates>, store: &Arc<Store>) -> anyhow::Result<Arc<Server>> {
    let flags = &options.flags;
    let table = table(options, gates);
    let routes = Arc::new(ArcSwap::from_pointee(routes(&table, store, options, gates)));
    let objects: Arc<Objects> = Objects::new(routes.clone());
    let registry: Arc<dyn Registry> = objects.clone();
    let issuer = service_account::Issuer::open(&issuer_options(options))?.map(Arc::new);
    let modes = flags.list("authorization-mode");
    let always_allow =
        flags.opt("authorization-config").is_none() && (modes.is_empty() || modes == ["AlwaysAllow"]);
    let authenticator =
        authn::build(&authn_options(flags, always_allow), issuer.clone(), registry.clone(), None)?;
    let gate = |name: &str| gates.enabled(name);
    let authorization = authz::Options {
        modes,
        policy_file: path(flags, "authorization-policy-file"),
        config_file: path(flags, "authorization-config"),
        webhook: path(flags, "authorization-webhook-config-file").map(|config_file| {
            authz::webhook::Options {
                config_file,
                version: flags.str("authorization-webhook-version").to_owned(),
                authorized_ttl: flags.duration("authorization-webhook-cache-authorized-ttl"),
                unauthorized_ttl: flags.duration("authorization-webhook-cache-unauthorized-ttl"),
                timeout: Duration::from_secs(30),
                fail_closed: false,
                conditions: Vec::new(),
            }
        }),
    };
    let authz::Built { authorizer, rbac } = authz::build(&authorization, objects.clone(), &gate)?;
    let admission = admission(options, gates, &registry, &authorizer)?;
    let host = flags.opt("external-hostname").map_or_else(|| options.advertise.to_string(), str::to_owned);
    let special = endpoints::special::Special {
        zpages: zpages(flags, gates),
        external_address: format!("{host}:{}", options.port),
        issuer,
        rbac,
        pools: Some(endpoints::allocate::Pools {
            ranges: options.service_ranges.clone(),
            node_ports: options.node_ports,
            bitmaps: store.resource(Spec::new(
                storing::moved(options, "/registry/ranges/"),
                Arc::new(|_: &str, _: &[u8]| storage::Attributes::default()),
            )),
            turn: Default::default(),
        }),
        kubelet: Some(Arc::new(endpoints::proxy::Kubelets::open(kubelet_options(flags))?)),
        aggregated: endpoints::proxy::Aggregated {
            routing: flags.bool("enable-aggregator-routing"),
            reject_redirects: flags.bool("aggregator-reject-forwarding-redirect"),
        },
        ..Default::default()
    };
    let server = Server {
        settings: Settings {
            max_read_only: usize::try_from(flags.int("max-requests-inflight")).unwrap_or(0),
            max_mutating: usize::try_from(flags.int("max-mutating-requests-inflight")).unwrap_or(0),
            request_timeout: flags.duration("request-timeout"),
            min_watch: Duration::from_secs(u64::try_from(flags.int("min-request-timeout")).unwrap_or(1800)),
            version: version(),
            profiling: flags.bool("profiling"),
            browsers: Browsers::new(
                &flags.list("cors-allowed-origins"),
                &flags.list("strict-transport-security-directives"),
            )?,
            gates: Gates::clone(gates),
            goaway_chance: options.goaway_chance,
            send_retry_after: flags.bool("shutdown-send-retry-after"),
            watch_grace: flags.duration("shutdown-watch-termination-grace-period"),
        },
        routes,
        table: ArcSwap::from_pointee(table),
        store: store.clone(),
        authenticator: Arc::new(authenticator),
        authorizer,
        admission,
        aggregation: Default::default(),
        registry,
        special,
        discovery: Default::default(),
        openapi: Default::default(),
        metrics: Default::default(),
        health: Health::new(flags.duration("livez-grace-period")),
        fairness: fairness(flags),
        audit: endpoints::audit::Auditor::from_flags(flags)?,
        stopping: CancellationToken::new(),
        tasks: TaskTracker::new(),
        leaving: AtomicBool::new(false),
        draining: AtomicBool::new(false),
        requests: TaskTracker::new(),
        watches: TaskTracker::new(),
        watches_closing: CancellationToken::new(),
        reading: AtomicUsize::new(0),
        writing: AtomicUsize::new(0),
    };
    let server = Arc::new(server);
    health::register(&server, store, flags.opt("proxy-client-cert-file").is_some());
    Ok(server)
}

/// The seats of all priority levels together are what both in-flight limits allow.
fn fairness(flags: &Flags) -> Option<fairness::Fairness> {
    let limit = |flag: &str| usize::try_from(flags.int(flag)).unwrap_or(0);
    let total = limit("max-requests-inflight") + limit("max-mutating-requests-inflight");
    let on = flags.bool("enable-priority-and-fairness") && total > 0;
    on.then(|| fairness::Fairness::new(total, flags.duration("request-timeout") / 4))
}

/// `/statusz` and `/flagz`, as far as their gates are on.
fn zpages(flags: &Flags, gates: &Gates) -> endpoints::special::Zpages {
    let (mut router, mut paths) = (axum::Router::new(), Vec::new());
    if gates.enabled("ComponentStatusz") {
        let listed = ["/flagz", "/healthz", "/livez", "/metrics", "/readyz", "/statusz", "/version"];
        router = router.merge(serve::statusz_routes(SERVER, &listed));
        paths.push("/statusz");
    }
    if gates.enabled("ComponentFlagz") {
        router = router.merge(serve::flagz_routes(SERVER, flags));
        paths.push("/flagz");
    }
    let answer = move |request: endpoints::special::Bodiless| {
        let router = router.clone();
        let answered = async move {
            let response = tower_service::Service::call(&mut router.clone(), request).await;
            let response = response.unwrap_or_else(|never| match never {});
            response.map(endpoints::body::Body::foreign)
        };
        Box::pin(answered) as futures::future::BoxFuture<'static, _>
    };
    endpoints::special::Zpages { paths, answer: Some(Arc::new(answer)) }
}

/// What these pages call this server.
const SERVER: &str = "apiserver";

fn admission(
    options: &Options,
    gates: &Arc<Gates>,
    registry: &Arc<dyn Registry>,
    authorizer: &Arc<dyn auth::Authorizer>,
) -> anyhow::Result<admission::Chain> {
    let flags = &options.flags;
    let chosen = admission::Options {
        enable: flags.list("enable-admission-plugins"),
        disable: flags.list("disable-admission-plugins"),
        config_file: path(flags, "admission-control-config-file"),
    };
    let gates = gates.clone();
    let deps = admission::Deps {
        registry: registry.clone(),
        authorizer: authorizer.clone(),
        gate: Arc::new(move |name: &str| gates.enabled(name)),
        toleration_seconds: (
            flags.int("default-not-ready-toleration-seconds"),
            flags.int("default-unreachable-toleration-seconds"),
        ),
    };
    admission::Chain::new(&chosen, &deps)
}

fn kubelet_options(flags: &Flags) -> endpoints::proxy::Options {
    endpoints::proxy::Options {
        certificate_authority: path(flags, "kubelet-certificate-authority"),
        client_certificate: path(flags, "kubelet-client-certificate"),
        client_key: path(flags, "kubelet-client-key"),
        preferred_address_types: flags.list("kubelet-preferred-address-types"),
        timeout: flags.duration("kubelet-timeout"),
    }
}

fn issuer_options(options: &Options) -> service_account::Options {
    let flags = &options.flags;
    let mut key_files: Vec<_> = flags.list("service-account-key-file").into_iter().map(Into::into).collect();
    if key_files.is_empty() {
        key_files.extend(path(flags, "tls-private-key-file"));
    }
    service_account::Options {
        key_files,
        signing_key_file: path(flags, "service-account-signing-key-file"),
        issuers: flags.list("service-account-issuer"),
        api_audiences: flags.list("api-audiences"),
        max_token_expiration: flags.duration("service-account-max-token-expiration"),
        extend_token_expiration: flags.bool("service-account-extend-token-expiration"),
        jwks_uri: flags.opt("service-account-jwks-uri").map(str::to_owned),
    }
}

fn authn_options(flags: &Flags, always_allow: bool) -> authn::Options {
    let request_header =
        path(flags, "requestheader-client-ca-file").map(|client_ca_file| authn::RequestHeaderOptions {
            client_ca_file,
            allowed_names: flags.list("requestheader-allowed-names"),
            username_headers: flags.list("requestheader-username-headers"),
            uid_headers: flags.list("requestheader-uid-headers"),
            group_headers: flags.list("requestheader-group-headers"),
            extra_headers_prefix: flags.list("requestheader-extra-headers-prefix"),
        });
    // Where everything is allowed, nobody comes in without a name.
    let anonymous = flags.is_set("anonymous-auth").then(|| flags.bool("anonymous-auth"));
    let configured = path(flags, "authentication-config");
    let anonymous = if always_allow && configured.is_none() { Some(false) } else { anonymous };
    authn::Options {
        client_ca_file: path(flags, "client-ca-file"),
        request_header,
        token_auth_file: path(flags, "token-auth-file"),
        bootstrap_token: flags.bool("enable-bootstrap-token-auth"),
        oidc: flags.opt("oidc-issuer-url").map(|url| authn::OidcOptions {
            issuer_url: url.to_owned(),
            client_id: flags.str("oidc-client-id").to_owned(),
            ca_file: path(flags, "oidc-ca-file"),
            username_claim: flags.str("oidc-username-claim").to_owned(),
            username_prefix: flags.str("oidc-username-prefix").to_owned(),
            groups_claim: flags.str("oidc-groups-claim").to_owned(),
            groups_prefix: flags.str("oidc-groups-prefix").to_owned(),
            required_claims: flags.map("oidc-required-claim").into_iter().collect(),
            signing_algorithms: flags.list("oidc-signing-algs"),
        }),
        webhook: path(flags, "authentication-token-webhook-config-file").map(|config_file| {
            authn::WebhookOptions {
                config_file,
                version: flags.str("authentication-token-webhook-version").to_owned(),
                cache_ttl: flags.duration("authentication-token-webhook-cache-ttl"),
            }
        }),
        service_account_lookup: flags.bool("service-account-lookup"),
        anonymous_auth: anonymous,
        authentication_config: configured,
    }
}

/// The body of `/version`.
fn version() -> api::Value {
    use component::version::{GIT_VERSION, MAJOR, MINOR, platform};
    api::json!({
        "major": MAJOR, "minor": MINOR,
        "emulationMajor": MAJOR, "emulationMinor": MINOR,
        "minCompatibilityMajor": MAJOR, "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc", "platform": platform(),
    })
}
