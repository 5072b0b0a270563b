//! Paths, operations and parameters before they are written in either version, and the fixed paths.

use crate::{Options, names};
use api::Value;
use api::resources::Table;

pub const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Query,
    Path,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub name: &'static str,
    pub place: Place,
    pub r#type: &'static str,
}

impl Parameter {
    pub fn query(name: &'static str, r#type: &'static str) -> Self {
        Parameter { name, place: Place::Query, r#type }
    }
    pub fn path(name: &'static str) -> Self {
        Parameter { name, place: Place::Path, r#type: "string" }
    }
}

/// What a body or response consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Definition(String),
    Text,
    Nothing,
}

#[derive(Clone, Debug)]
pub struct Operation {
    pub method: &'static str,
    pub id: String,
    pub parameters: Vec<Parameter>,
    /// Definition of the body, and whether it must be there.
    pub body: Option<(String, bool)>,
    pub consumes: Vec<&'static str>,
    pub produces: Vec<&'static str>,
    pub responses: Vec<(u16, Content)>,
    pub tag: String,
    pub action: &'static str,
    /// `x-kubernetes-group-version-kind`.
    pub gvk: Option<Value>,
}

/// A path with its operations; parameters that all of them share stand at the path.
#[derive(Clone, Debug)]
pub struct Item {
    pub path: String,
    pub shared: Vec<Parameter>,
    pub operations: Vec<Operation>,
}

impl Item {
    pub fn new(path: String, mut operations: Vec<Operation>) -> Self {
        let mut shared: Vec<Parameter> = Vec::new();
        if let Some(first) = operations.first() {
            let everywhere = |p: &&Parameter| operations.iter().all(|o| o.parameters.contains(p));
            shared = first.parameters.iter().filter(everywhere).cloned().collect();
        }
        for o in &mut operations {
            o.parameters.retain(|p| !shared.contains(p));
            o.parameters.sort_by_key(|p| p.name);
        }
        // By name; of two of one name the one in the path first.
        shared.sort_by_key(|p| (p.name, p.place == Place::Query));
        Item { path, shared, operations }
    }
}

fn get(path: &str, id: &str, tag: &str, types: &[&'static str], answer: Content) -> Item {
    let mut responses = vec![(401, Content::Nothing)];
    if answer != Content::Nothing {
        responses.insert(0, (200, answer));
    }
    let operation = Operation {
        method: "get",
        id: id.into(),
        parameters: vec![],
        body: None,
        consumes: types.to_vec(),
        produces: types.to_vec(),
        responses,
        tag: tag.into(),
        action: "",
        gvk: None,
    };
    Item::new(path.into(), vec![operation])
}

fn meta(kind: &str) -> Content {
    Content::Definition(format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))
}

const DISCOVERY: [&str; 3] = ["application/json", "application/yaml", PROTOBUF];

/// Paths that every server has.
pub fn fixed(options: &Options) -> Vec<Item> {
    let info = Content::Definition("io.k8s.apimachinery.pkg.version.Info".into());
    let mut configuration = get(
        "/.well-known/openid-configuration/",
        "getServiceAccountIssuerOpenIDConfiguration",
        "WellKnown",
        &["application/json"],
        Content::Text,
    );
    let mut keys = get(
        "/openid/v1/jwks/",
        "getServiceAccountIssuerOpenIDKeyset",
        "openid",
        &["application/jwk-set+json"],
        Content::Text,
    );
    for o in configuration.operations.iter_mut().chain(&mut keys.operations) {
        o.consumes.clear();
    }
    let mut out = vec![
        configuration,
        keys,
        get("/api/", "getCoreAPIVersions", "core", &DISCOVERY, meta("APIVersions")),
        get("/apis/", "getAPIVersions", "apis", &DISCOVERY, meta("APIGroupList")),
        get("/version/", "getCodeVersion", "version", &["application/json"], info),
    ];
    if options.logs {
        let mut file = get("/logs/{logpath}", "logFileHandler", "logs", &[], Content::Nothing);
        file.shared = vec![Parameter::path("logpath")];
        out.push(get("/logs/", "logFileListHandler", "logs", &[], Content::Nothing));
        out.push(file);
    }
    out
}

/// `/apis/{group}/` of every served group.
pub fn groups(table: &Table) -> Vec<Item> {
    let item = |g: &str| {
        let word = names::group_word(g);
        let id = format!("get{}APIGroup", names::title(&word));
        get(&format!("/apis/{g}/"), &id, &word, &DISCOVERY, meta("APIGroup"))
    };
    table.groups().into_iter().map(item).collect()
}

/// `/apis/{group}/{version}/`
pub fn resources(group: &str, version: &str, types: &[&'static str]) -> Item {
    let path =
        if group.is_empty() { format!("/api/{version}/") } else { format!("/apis/{group}/{version}/") };
    let id = format!("get{}APIResources", names::group_version_words(group, version));
    let tag = format!("{}_{version}", names::group_word(group));
    get(&path, &id, &tag, types, meta("APIResourceList"))
}
