//! Distributed tracing: spans of served requests, exported by OTLP when a `TracingConfiguration` asks for it.
//!
//! Without one, a request costs one load of a static.

use std::sync::OnceLock;

use anyhow::{Context as _, bail};
use http::HeaderMap;
use opentelemetry::KeyValue;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanKind, Status, Tracer, TracerProvider};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// `TracingConfiguration`, also as kubelet's configuration embeds it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
pub struct Config {
    /// Where the collector listens, `localhost:4317` if unset.
    pub endpoint: Option<String>,
    /// How many of a million requests begin a trace; requests that belong to a sampled trace always count.
    pub sampling_rate_per_million: Option<i32>,
}

/// Reads a `TracingConfiguration` file.
pub fn load(path: &str) -> anyhow::Result<Config> {
    let text = crate::config::read(path)?;
    let stated = crate::config::yaml(&text)?["apiVersion"].as_str().unwrap_or_default().to_owned();
    let version =
        VERSIONS.iter().find(|v| stated == format!("apiserver.config.k8s.io/{v}")).unwrap_or(&VERSIONS[0]);
    crate::config::parse(&text, &format!("apiserver.config.k8s.io/{version}"), "TracingConfiguration")
        .with_context(|| format!("tracing configuration {path}"))
}

/// Starts exporting; call it inside the runtime, once.
pub fn start(config: &Config, service: &'static str) -> anyhow::Result<()> {
    let rate = config.sampling_rate_per_million.unwrap_or(0);
    if !(0..=1_000_000).contains(&rate) {
        bail!("samplingRatePerMillion: Invalid value: {rate}: sampling rate must be between 0 and 1000000");
    }
    let endpoint = config.endpoint.as_deref().unwrap_or("localhost:4317");
    let url = if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(url).build()?;
    let base = if rate == 0 { Sampler::AlwaysOff } else { Sampler::TraceIdRatioBased(f64::from(rate) / 1e6) };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(base)))
        .with_resource(Resource::builder().with_service_name(service).build())
        .build();
    if PROVIDER.set(provider).is_err() {
        bail!("tracing has been started already");
    }
    tracing::info!(endpoint, rate, "Exporting traces");
    Ok(())
}

/// Exports what is left; blocks until that is done or a few seconds have passed.
pub fn stop() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown()
    {
        tracing::warn!(%error, "Cannot export the last traces");
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The span of a request that is being served.
pub struct ServerSpan(opentelemetry_sdk::trace::Span);

/// Begins a request's span, if traces are exported; `route` is a bounded name of what was asked for, never the raw path.
pub fn begin(method: &http::Method, route: &str, headers: &HeaderMap) -> Option<ServerSpan> {
    let provider = PROVIDER.get()?;
    let parent = TraceContextPropagator::new().extract(&Headers(headers));
    let tracer = provider.tracer("binnacle");
    let span = tracer
        .span_builder(format!("{method} {route}"))
        .with_kind(SpanKind::Server)
        .with_attributes([
            KeyValue::new("http.request.method", method.to_string()),
            KeyValue::new("http.route", route.to_owned()),
        ])
        .start_with_context(&tracer, &parent);
    Some(ServerSpan(span))
}

impl ServerSpan {
    /// Ends the span with the answer's status.
    pub fn finish(mut self, status: http::StatusCode) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        if status.is_server_error() {
            self.0.set_status(Status::error(status.to_string()));
        }
        self.0.end();
    }
}

#[cfg(test)]
mod tests;
