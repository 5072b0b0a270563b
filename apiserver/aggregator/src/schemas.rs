//! The OpenAPI documents of an aggregated server, as far as they are about its part of the API.

use crate::client::Question;
use crate::service::Service;
use api::Value;
use api::registry::Reader;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

async fn document(reader: &dyn Reader, service: &Service, routing: bool, path: &str) -> Option<Value> {
    let client = service.client.as_ref().as_ref().ok()?;
    let question = Question {
        reader,
        place: &service.place,
        routing,
        path,
        accept: "application/json",
        group: "system:masters",
        limit: LIMIT,
    };
    let said = client.ask(&question).await.ok().filter(|s| s.status == 200)?;
    serde_json::from_slice(&said.body).ok()
}

/// Paths and definitions of version 2.
pub async fn v2(reader: &dyn Reader, service: &Service, routing: bool) -> Option<Arc<Value>> {
    let whole = document(reader, service, routing, "/openapi/v2").await?;
    Some(Arc::new(openapi::part_of_v2(&whole, &service.path())))
}

/// The documents of version 3 that are about this group and version, and where they are.
pub async fn v3(reader: &dyn Reader, service: &Service, routing: bool) -> BTreeMap<String, String> {
    let root = document(reader, service, routing, "/openapi/v3").await.unwrap_or_default();
    let own = service.path();
    let own = own.trim_start_matches('/');
    let group = format!("apis/{}", service.group);
    let paths = root["paths"].as_object().into_iter().flatten();
    paths
        .filter(|(path, _)| *path == own || (!service.group.is_empty() && **path == group))
        .filter_map(|(path, v)| Some((path.clone(), v["serverRelativeURL"].as_str()?.to_owned())))
        .collect()
}
