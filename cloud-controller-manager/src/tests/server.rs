//! As much of an API server as the controllers need: objects by path, versions, merge patches, watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type AnswerBody = UnsyncBoxBody<Bytes, std::convert::Infallible>;

struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    events: Vec<String>,
    changes: broadcast::Sender<(String, &'static str, Value)>,
}

#[derive(Clone)]
pub struct Server(Arc<Mutex<State>>);

impl Default for Server {
    fn default() -> Server {
        let state = State {
            objects: BTreeMap::new(),
            version: 0,
            events: vec![],
            changes: broadcast::channel(1000).0,
        };
        Server(Arc::new(Mutex::new(state)))
    }
}

impl State {
    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.to_owned(), object.clone());
        let _ = self.changes.send((path.to_owned(), kind, object.clone()));
        object
    }

    fn under(&self, collection: &str) -> Vec<Value> {
        let fits = |path: &str| in_collection(path, collection);
        self.objects.iter().filter(|(p, _)| fits(p)).map(|(_, o)| o.clone()).collect()
    }
}

/// Whether an object's path belongs to a collection, all namespaces included.
fn in_collection(path: &str, collection: &str) -> bool {
    let plural = collection.rsplit('/').next().unwrap_or_default();
    path.contains(&format!("/{plural}/"))
}

impl Server {
    pub fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }
    pub fn put(&self, path: &str, object: Value) {
        self.0.lock().store(path, object);
    }
    pub fn edit(&self, path: &str, edit: impl Fn(&mut Value)) {
        let mut state = self.0.lock();
        let mut object = state.objects[path].clone();
        edit(&mut object);
        state.store(path, object);
    }
    pub fn event_reasons(&self) -> Vec<String> {
        self.0.lock().events.clone()
    }

    pub fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, tower::BoxError>(server.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    async fn answer(&self, request: Request<Body>) -> Response<AnswerBody> {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await.unwrap();
        let path = parts.uri.path().trim_end_matches('?').to_owned();
        if parts.uri.query().unwrap_or_default().contains("watch=true") {
            return self.watch(&path);
        }
        let mut state = self.0.lock();
        let object_path = path.trim_end_matches("/status").to_owned();
        match parts.method {
            Method::POST => {
                let object: Value = serde_json::from_slice(&body).unwrap();
                state.events.push(object["reason"].as_str().unwrap_or_default().to_owned());
                whole(StatusCode::CREATED, &object)
            }
            Method::PATCH => {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let Some(mut object) = state.objects.get(&object_path).cloned() else { return gone() };
                let version = &patch["metadata"]["resourceVersion"];
                if !version.is_null() && *version != object["metadata"]["resourceVersion"] {
                    return whole(StatusCode::CONFLICT, &status(409));
                }
                merge(&mut object, patch);
                whole(StatusCode::OK, &state.store(&object_path, object))
            }
            Method::DELETE => {
                let Some(object) = state.objects.remove(&object_path) else { return gone() };
                let _ = state.changes.send((object_path, "DELETED", object.clone()));
                whole(StatusCode::OK, &object)
            }
            _ => match state.objects.get(&object_path) {
                Some(object) => whole(StatusCode::OK, object),
                None => gone(),
            },
        }
    }

    fn watch(&self, collection: &str) -> Response<AnswerBody> {
        let state = self.0.lock();
        let receiver = state.changes.subscribe();
        let mut first: Vec<Value> =
            state.under(collection).into_iter().map(|o| json!({"type": "ADDED", "object": o})).collect();
        first.push(json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "X", "metadata": {
            "resourceVersion": state.version.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}}}));
        let collection = collection.to_owned();
        let live =
            futures::stream::unfold(receiver, |mut r| async move { r.recv().await.ok().map(|c| (c, r)) });
        let live = live.filter_map(move |(path, kind, object)| {
            let fits = in_collection(&path, &collection);
            std::future::ready(fits.then(|| json!({"type": kind, "object": object})))
        });
        let frames = futures::stream::iter(first).chain(live).map(|event| {
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(Bytes::from(format!("{event}\n"))))
        });
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "", "reason": "", "code": code})
}

fn gone() -> Response<AnswerBody> {
    whole(StatusCode::NOT_FOUND, &status(404))
}

fn whole(code: StatusCode, body: &Value) -> Response<AnswerBody> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync());
    *response.status_mut() = code;
    response
}

fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(fields) => {
            if !target.is_object() {
                *target = json!({});
            }
            for (name, value) in fields {
                match value {
                    Value::Null => drop(target.as_object_mut().unwrap().remove(&name)),
                    value => merge(&mut target[name.as_str()], value),
                }
            }
        }
        Value::Array(items)
            if !items.is_empty()
                && items.iter().all(|i| i["lastHeartbeatTime"].is_string())
                && target.is_array() =>
        {
            // Conditions merge by type, as a strategic patch does.
            let list = target.as_array_mut().unwrap();
            list.retain(|c| items.iter().all(|i| i["type"] != c["type"]));
            list.extend(items);
        }
        other => *target = other,
    }
}
