//! Two servers on one etcd: what is written through one is there through the other, to the byte; addresses and ports
//! are given once. `BINNACLE_PEER_APISERVER` puts another program's binary in the place of the second.

use anyhow::{Context, Result, bail, ensure};
use api::Value;
use api::decode::{Format, parse};
use api::resources::{Resource, builtin};
use bytes::Bytes;
use futures::future::try_join;
use futures::{StreamExt, TryStreamExt, stream};
use http::Request;
use http_body_util::BodyExt;
use integration::{LIMIT, Server};
use kube::client::Body;
use serde_json::json;
use std::collections::HashSet;
use std::time::{Duration, Instant};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// Everything that is stored is served.
const ALL: [&str; 2] = ["--runtime-config=api/all=true", "--feature-gates=AllAlpha=true,AllBeta=true"];

/// One of the servers, over one connection.
#[derive(Clone)]
struct Side(kube::Client);

type Said = (u16, Bytes);

impl Side {
    async fn ask(&self, method: &str, path: &str, media: &str, accept: &str, body: Vec<u8>) -> Result<Said> {
        let mut request = Request::builder().method(method).uri(path).header("accept", accept);
        if !media.is_empty() {
            request = request.header("content-type", media);
        }
        let answer =
            self.0.send(request.body(Body::from(body))?).await.with_context(|| format!("{method} {path}"))?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    async fn get(&self, path: &str, accept: &str) -> Result<Said> {
        self.ask("GET", path, "", accept, Vec::new()).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Said> {
        self.ask("POST", path, JSON, JSON, body.to_string().into_bytes()).await
    }

    /// The first event of a watch, as it came.
    async fn first_event(&self, path: &str, accept: &str) -> Result<Vec<u8>> {
        let request = Request::builder().uri(path).header("accept", accept).body(Body::empty())?;
        let answer = self.0.send(request).await?;
        let (mut body, mut seen) = (answer.into_body(), Vec::new());
        loop {
            let end = match seen.first_chunk::<4>() {
                Some(length) if accept != JSON => Some(4 + u32::from_be_bytes(*length) as usize),
                _ => seen.iter().position(|b| *b == b'\n').filter(|_| accept == JSON),
            };
            if let Some(end) = end.filter(|end| seen.len() >= *end) {
                seen.truncate(end);
                return Ok(seen);
            }
            let Some(frame) = body.frame().await else { bail!("{path}: the watch ended: {seen:?}") };
            seen.extend(frame?.into_data().unwrap_or_default());
        }
    }
}

/// An object to write: where, and what.
struct One {
    row: Resource,
    body: Value,
}

impl One {
    fn collection(&self) -> String {
        let Resource { group, version, resource, namespaced, .. } = &self.row;
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let space = if *namespaced { "/namespaces/default" } else { "" };
        format!("{root}/{version}{space}/{resource}")
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.body["metadata"]["name"].as_str().unwrap_or_default())
    }

    /// Custom resources have no protobuf.
    fn encodings(&self) -> &'static [&'static str] {
        if self.row.storage_version_hash.is_empty() { &[JSON] } else { &[JSON, PROTOBUF] }
    }
}

fn documents() -> Result<Vec<Value>> {
    let text = include_str!("../../fixtures/objects.yaml");
    let one =
        |d: &str| parse(Format::Yaml, d.as_bytes()).map(|p| p.value).map_err(|e| anyhow::anyhow!("{e}: {d}"));
    text.split("\n---\n").map(one).collect()
}

/// One object of every kind and version that can be written.
fn one_of_each() -> Result<Vec<One>> {
    let all = documents()?;
    let named = |version: &str, kind: &str| {
        all.iter().find(|d| d["apiVersion"] == version && d["kind"] == kind).cloned()
    };
    let stored = builtin().iter().filter(|r| r.etcd.is_some() && r.has_verb("create"));
    let one = |row: &Resource| {
        let group_version = |version: &str| match row.group.as_str() {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        };
        let own = group_version(&row.version);
        let mut versions = ["v1", "v1beta2", "v1beta1"].iter();
        let body = named(&own, &row.kind).or_else(|| {
            let mut body = versions.find_map(|v| named(&group_version(v), &row.kind))?;
            let name = format!("{}-{}", body["metadata"]["name"].as_str()?, row.version);
            body["metadata"]["name"] = name.into();
            body["apiVersion"] = own.clone().into();
            Some(body)
        });
        Ok(One { row: row.clone(), body: body.with_context(|| format!("no object for {own} {}", row.kind))? })
    };
    stored.map(one).collect()
}

fn shown(said: &Said) -> String {
    format!("{} {}", said.0, String::from_utf8_lossy(&said.1))
}

/// What both sides say of this path, as soon as they say the same: controllers may be at work on it.
async fn agreed(a: &Side, b: &Side, path: &str, accept: &str) -> Result<Said> {
    let end = Instant::now() + LIMIT / 3;
    loop {
        let (one, other) = try_join(a.get(path, accept), b.get(path, accept)).await?;
        if one == other {
            return Ok(one);
        }
        ensure!(Instant::now() < end, "{path} as {accept}:\n{}\n{}", shown(&one), shown(&other));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn same(a: &Side, b: &Side, one: &One) -> Result<Vec<u8>> {
    let mut last = Vec::new();
    for accept in one.encodings() {
        let (status, body) = agreed(a, b, &one.path(), accept).await?;
        ensure!(status == 200, "{}: {status}", one.path());
        last = body.into();
    }
    Ok(last)
}

fn revision(body: &[u8]) -> Result<i64> {
    let object: Value = serde_json::from_slice(body)?;
    Ok(object["metadata"]["resourceVersion"].as_str().context("no resourceVersion")?.parse()?)
}

/// Writes one object through `a` and follows it through `b` until it is gone.
async fn through_both(a: Side, b: Side, one: One) -> Result<()> {
    let path = one.path();
    let made = a.post(&one.collection(), &one.body).await?;
    ensure!(made.0 == 201, "{path}: {}", shown(&made));
    let mut encoded = same(&a, &b, &one).await?;
    let name = one.body["metadata"]["name"].as_str().unwrap_or_default();
    let before = revision(&made.1)? - 1;
    for accept in one.encodings() {
        let watch = format!(
            "{}?watch=1&resourceVersion={before}&timeoutSeconds=20&fieldSelector=metadata.name%3D{name}",
            one.collection()
        );
        let (mine, other) = try_join(a.first_event(&watch, accept), b.first_event(&watch, accept)).await?;
        let text = |e: &[u8]| String::from_utf8_lossy(e).into_owned();
        ensure!(mine == other, "watch of {path} as {accept}:\n{}\n{}", text(&mine), text(&other));
        ensure!(text(&mine).contains("ADDED"), "{path}: {}", text(&mine));
    }
    // What the other has read is what this one stored: writing it back changes nothing.
    let media = one.encodings().last().copied().unwrap_or(JSON);
    let end = Instant::now() + LIMIT / 3;
    loop {
        let now = revision(&a.get(&path, JSON).await?.1)?;
        let back = b.ask("PUT", &path, media, JSON, std::mem::take(&mut encoded)).await?;
        // A controller of either may have added a status meanwhile.
        if back.0 != 409 || Instant::now() > end {
            ensure!(back.0 == 200, "PUT {path}: {}", shown(&back));
            ensure!(revision(&back.1)? == now, "PUT {path} changed something: {}", shown(&back));
            break;
        }
        encoded = same(&a, &b, &one).await?;
    }
    let patch = json!({"metadata": {"labels": {"by": "other"}, "finalizers": null}});
    let patched =
        b.ask("PATCH", &path, "application/merge-patch+json", JSON, patch.to_string().into_bytes()).await?;
    ensure!(patched.0 == 200, "PATCH {path}: {}", shown(&patched));
    same(&a, &b, &one).await?;
    let background = format!("{path}?propagationPolicy=Background");
    let gone = b.ask("DELETE", &background, "", JSON, Vec::new()).await?;
    ensure!(matches!(gone.0, 200 | 202), "DELETE {path}: {}", shown(&gone));
    agreed(&a, &b, &path, JSON).await?;
    Ok(())
}

async fn pair(flags: &[&str]) -> Result<(Server, Server, [Side; 2])> {
    let first = Server::start_with(flags).await?;
    let second = first.beside().await?;
    let sides = [Side(first.admin()?), Side(second.admin()?)];
    Ok((first, second, sides))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_reads_the_same_through_the_other() -> Result<()> {
    let (_first, _second, [a, b]) = pair(&ALL).await?;
    let account = json!({"metadata": {"name": "default"}});
    a.post("/api/v1/namespaces/default/serviceaccounts", &account).await?;
    for (i, (writer, reader)) in [(&a, &b), (&b, &a)].into_iter().enumerate() {
        let mut all = one_of_each()?;
        for one in &mut all {
            // It stays: nobody is there who would empty it.
            if one.row.resource == "namespaces" {
                one.body["metadata"]["name"] = format!("one-{i}").into();
            }
        }
        let count = all.len();
        ensure!(count > 80, "{count}");
        let work = stream::iter(all)
            .map(|one| through_both(writer.clone(), reader.clone(), one))
            .buffer_unordered(8);
        let failed: Vec<String> =
            work.filter_map(async |done| done.err().map(|e| format!("{e:#}"))).collect().await;
        ensure!(
            failed.is_empty(),
            "written through {i}, {} of {count} differ:\n{}",
            failed.len(),
            failed.join("\n\n")
        );
    }
    Ok(())
}

#[tokio::test]
async fn custom_resources_read_the_same_through_the_other() -> Result<()> {
    let (_first, _second, [a, b]) = pair(&[]).await?;
    let crd = documents()?
        .into_iter()
        .find(|d| d["kind"] == "CustomResourceDefinition")
        .context("no definition")?;
    let made = a.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &crd).await?;
    ensure!(made.0 == 201, "{}", shown(&made));
    let row = Resource {
        group: "example.com".into(),
        version: "v1".into(),
        resource: "widgets".into(),
        namespaced: true,
        ..Resource::default()
    };
    let body = json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "one"}, "spec": {
        "size": 7, "mode": "a", "any": {"f": 1.0, "big": 9007199254740993_i64, "list": [1, "a", null]}, "port": "http",
        "list": [{"k": "b"}, {"k": "a"}]}});
    let list = "/apis/example.com/v1/namespaces/default/widgets";
    for side in [&a, &b] {
        let end = Instant::now() + LIMIT;
        while side.get(list, JSON).await?.0 != 200 {
            ensure!(Instant::now() < end, "widgets are not served");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    for (writer, reader) in [(&a, &b), (&b, &a)] {
        let one = One { row: row.clone(), body: body.clone() };
        through_both(writer.clone(), reader.clone(), one).await?;
    }
    Ok(())
}

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, more: Value) -> Value {
    let mut body = json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    for (key, value) in more.as_object().into_iter().flatten() {
        body["spec"][key] = value.clone();
    }
    body
}

/// The ClusterIP and the node port of a service that was made.
fn allocated(said: &Said) -> Result<(String, i64)> {
    ensure!(said.0 == 201, "{}", shown(said));
    let object: Value = serde_json::from_slice(&said.1)?;
    let ip = object["spec"]["clusterIP"].as_str().context("no ClusterIP")?.to_owned();
    Ok((ip, object["spec"]["ports"][0]["nodePort"].as_i64().context("no node port")?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_ports_are_given_once() -> Result<()> {
    let flags = ["--service-cluster-ip-range=10.0.0.0/25", "--service-node-port-range=31000-31099"];
    let (_first, _second, sides) = pair(&flags).await?;
    // Nearly all that there is, taken at the same time through both.
    let many = stream::iter(0..90).map(|i| {
        let side = sides[i % 2].clone();
        async move { allocated(&side.post(SERVICES, &service(&format!("s{i}"), json!({}))).await?) }
    });
    let given: Vec<(String, i64)> = many.buffer_unordered(16).try_collect().await?;
    let addresses: HashSet<_> = given.iter().map(|(a, _)| a).collect();
    let ports: HashSet<_> = given.iter().map(|(_, p)| p).collect();
    assert_eq!((addresses.len(), ports.len()), (90, 90));
    for i in 0..90 {
        let gone =
            sides[(i + 1) % 2].ask("DELETE", &format!("{SERVICES}/s{i}"), "", JSON, Vec::new()).await?;
        ensure!(gone.0 == 200, "{}", shown(&gone));
    }
    // The same one asked of both: one gets it.
    let address = |n: i64| json!({"clusterIP": format!("10.0.0.{}", 40 + n)});
    let port = |n: i64| json!({"ports": [{"port": 80, "nodePort": 31000 + n}]});
    for round in 0..20 {
        for (want, refusal) in [
            (address(round), "provided IP is already allocated"),
            (port(round), "provided port is already allocated"),
        ] {
            let (one, other) = (service("one", want.clone()), service("other", want));
            let both = try_join(sides[0].post(SERVICES, &one), sides[1].post(SERVICES, &other)).await?;
            let (won, lost) = if both.0.0 == 201 { both } else { (both.1, both.0) };
            allocated(&won)?;
            ensure!(lost.0 == 422 && shown(&lost).contains(refusal), "{}", shown(&lost));
            for name in ["one", "other"] {
                sides[0].ask("DELETE", &format!("{SERVICES}/{name}"), "", JSON, Vec::new()).await?;
            }
        }
    }
    Ok(())
}
