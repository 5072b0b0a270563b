//! The documents of one moment, made when first asked for and kept compressed.

use crate::{Foreign, Options, Source, gnostic, merge};
use api::resources::{Resource, Table};
use api::{Value, json};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha512};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

/// One document, gzip'd, with the hash that names this state of it.
#[derive(Clone, Debug)]
pub struct Document {
    /// Upper-case hexadecimal; quote it for an `ETag`.
    pub hash: String,
    pub gzip: Bytes,
}

impl Document {
    fn new(content: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory does not fail.
        let _ = encoder.write_all(content);
        Document { hash: hash(content), gzip: encoder.finish().unwrap_or_default().into() }
    }

    /// The document itself.
    pub fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let _ = flate2::read::GzDecoder::new(&self.gzip[..]).read_to_end(&mut out);
        out
    }
}

fn hash(content: &[u8]) -> String {
    hex::encode_upper(Sha512::digest(content))
}

type SchemaOf = Box<dyn Fn(&Resource) -> Option<Value> + Send + Sync>;

/// All documents for one state of the table. Make a new one when the table changes.
pub struct Documents {
    table: Table,
    options: Options,
    schema_of: SchemaOf,
    foreign: Foreign,
    v2_json: OnceLock<Document>,
    v2_protobuf: OnceLock<Document>,
    root: OnceLock<Document>,
    v3: Mutex<BTreeMap<(String, Form), Document>>,
}

/// How a document is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    Json,
    Protobuf,
}

impl Documents {
    /// `schema_of` gives the structural schema of a custom resource.
    pub fn new(
        table: Table,
        options: Options,
        schema_of: impl Fn(&Resource) -> Option<Value> + Send + Sync + 'static,
    ) -> Self {
        Documents {
            table,
            options,
            schema_of: Box::new(schema_of),
            foreign: Foreign::default(),
            v2_json: OnceLock::new(),
            v2_protobuf: OnceLock::new(),
            root: OnceLock::new(),
            v3: Mutex::default(),
        }
    }

    /// These and the documents of other servers.
    pub fn and(mut self, foreign: Foreign) -> Self {
        self.foreign = foreign;
        self
    }

    fn v2(&self) -> Value {
        let mut document = crate::v2(&self.source());
        for part in &self.foreign.v2 {
            merge::add_to_v2(&mut document, part);
        }
        document
    }

    fn source(&self) -> Source<'_> {
        Source { table: &self.table, options: &self.options, schema_of: &self.schema_of }
    }

    /// `/openapi/v2` as JSON.
    pub fn v2_json(&self) -> &Document {
        self.v2_json.get_or_init(|| Document::new(&text(&self.v2())))
    }

    /// `/openapi/v2` as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
    pub fn v2_protobuf(&self) -> &Document {
        self.v2_protobuf.get_or_init(|| Document::new(&gnostic::encode(&self.v2())))
    }

    /// `/openapi/v3`: where the other documents are. Their hashes are of what they are made from, so
    /// that asking for the list makes none of them.
    pub fn v3_root(&self) -> &Document {
        self.root.get_or_init(|| {
            let source = self.source();
            let mut paths = serde_map();
            for path in crate::v3_paths(&source) {
                let url = format!("/openapi/v3/{path}?hash={}", self.v3_hash(&path));
                paths.insert(path, json!({"serverRelativeURL": url}));
            }
            for (path, url) in &self.foreign.v3 {
                paths.entry(path.clone()).or_insert_with(|| json!({"serverRelativeURL": url}));
            }
            Document::new(&text(&json!({"paths": paths})))
        })
    }

    /// The hash of one document of v3.
    pub fn v3_hash(&self, path: &str) -> String {
        let mut basis = format!("{path} {:?} {}", self.options, env!("CARGO_PKG_VERSION"));
        let gv = path
            .strip_prefix("apis/")
            .or_else(|| path.strip_prefix("api/").filter(|_| path.starts_with("api/")));
        let (group, version) = match gv {
            Some(gv) if path.starts_with("apis/") => gv.split_once('/').unwrap_or((gv, "")),
            Some(version) => ("", version),
            None => ("", ""),
        };
        for r in self.table.rows().iter().filter(|r| r.group == group && r.version == version) {
            basis.push_str(&format!("{r:?}"));
            if let Some(schema) = (self.schema_of)(r) {
                basis.push_str(&schema.to_string());
            }
        }
        if version.is_empty() {
            basis.push_str(&format!("{:?}", self.table.group_versions()));
        }
        hash(basis.as_bytes())
    }

    /// `/openapi/v3/{path}`; `None` for a path that is not served. Both forms have one hash.
    pub fn v3(&self, path: &str, form: Form) -> Option<Document> {
        let key = (path.to_owned(), form);
        let held = self.v3.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if held.is_some() {
            return held;
        }
        let value = crate::v3(&self.source(), path)?;
        let mut document = Document::new(&match form {
            Form::Json => text(&value),
            Form::Protobuf => gnostic::v3::encode(&value),
        });
        document.hash = self.v3_hash(path);
        self.v3.lock().unwrap_or_else(PoisonError::into_inner).insert(key, document.clone());
        Some(document)
    }
}

fn serde_map() -> api::Map<String, Value> {
    api::Map::new()
}

fn text(v: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    api::json::write(v, &mut out);
    out
}
