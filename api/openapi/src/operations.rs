//! The operations of each resource and subresource.

use crate::paths::{self, Content, Item, Operation, PROTOBUF, Parameter, Place};
use crate::{Source, names};
use api::json;
use api::resources::{Origin, Resource, Subresource};
use api::schema::{self, Kind};

/// Resources whose deletion answers with the object instead of a status.
const RETURNS_OBJECT: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "persistentvolumeclaims",
            "persistentvolumes",
            "pods",
            "podtemplates",
            "resourcequotas",
            "serviceaccounts",
            "services",
        ],
    ),
    (
        "resource.k8s.io",
        &[
            "deviceclasses",
            "devicetaintrules",
            "resourceclaims",
            "resourceclaimtemplates",
            "resourcepoolstatusrequests",
            "resourceslices",
        ],
    ),
    (
        "storage.k8s.io",
        &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"],
    ),
];

const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";
const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
const WATCH_EVENT: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.WatchEvent";

/// Everything below `/apis/{group}/{version}/`; empty if it is not served.
pub fn group_version(source: &Source<'_>, group: &str, version: &str) -> Vec<Item> {
    let rows = source.table.in_group_version(group, version);
    if rows.is_empty() {
        return Vec::new();
    }
    let mut types = vec!["application/json", "application/yaml", PROTOBUF];
    if source.options.cbor {
        types.push("application/cbor");
    }
    let mut out = vec![paths::resources(group, version, &types)];
    for r in rows {
        out.extend(Room::new(source, r).items());
    }
    out
}

/// One resource while its operations are listed.
struct Room<'a> {
    r: &'a Resource,
    base: String,
    words: String,
    tag: String,
    types: Vec<&'static str>,
    cbor: bool,
}

impl<'a> Room<'a> {
    fn new(source: &Source<'_>, r: &'a Resource) -> Self {
        let base = if r.group.is_empty() {
            format!("/api/{}", r.version)
        } else {
            format!("/apis/{}/{}", r.group, r.version)
        };
        let mut types = vec!["application/json", "application/yaml"];
        if r.origin == Origin::Builtin {
            types.push(PROTOBUF);
        }
        if source.options.cbor {
            types.push("application/cbor");
        }
        Room {
            r,
            base,
            words: names::group_version_words(&r.group, &r.version),
            tag: format!("{}_{}", names::group_word(&r.group), r.version),
            types,
            cbor: source.options.cbor,
        }
    }

    fn items(&self) -> Vec<Item> {
        let r = self.r;
        let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{}{scope}/{}", self.base, r.resource);
        let single = format!("{collection}/{{name}}");
        let mut out =
            vec![Item::new(collection, self.collection()), Item::new(single.clone(), self.single())];
        if r.namespaced && r.has_verb("list") {
            out.push(Item::new(format!("{}/{}", self.base, r.resource), vec![self.list_everywhere()]));
        }
        for s in &r.subresources {
            let path = format!("{single}/{}", s.name);
            if s.name != "log" && is_connect(r, s) {
                out.push(Item::new(path.clone(), self.connect(s, false)));
                if s.name == "proxy" {
                    out.push(Item::new(format!("{path}/{{path}}"), self.connect(s, true)));
                }
            } else {
                out.push(Item::new(path, self.subresource(s)));
            }
        }
        if r.has_verb("watch") {
            out.extend(self.watches(scope));
        }
        out.retain(|i| !i.operations.is_empty());
        out
    }

    fn scope_word(&self) -> &'static str {
        if self.r.namespaced { "Namespaced" } else { "" }
    }

    fn own(&self) -> String {
        names::of_kind(self.r, &self.r.group, &self.r.version, &self.r.kind)
    }

    fn list_kind(&self) -> String {
        names::of_kind(self.r, &self.r.group, &self.r.version, &self.r.list_kind())
    }

    fn operation(&self, method: &'static str, id: String, action: &'static str) -> Operation {
        let r = self.r;
        let mut parameters = vec![Parameter::query("pretty", "string")];
        if r.namespaced {
            parameters.push(Parameter::path("namespace"));
        }
        Operation {
            method,
            id,
            parameters,
            body: None,
            consumes: vec!["*/*"],
            produces: self.types.clone(),
            responses: vec![(401, Content::Nothing)],
            tag: self.tag.clone(),
            action,
            gvk: Some(json!({"group": r.group, "version": r.version, "kind": r.kind})),
        }
    }

    fn named(&self, method: &'static str, id: String, action: &'static str) -> Operation {
        let mut o = self.operation(method, id, action);
        o.parameters.push(Parameter::path("name"));
        o
    }

    fn list_parameters(&self, watch: bool) -> Vec<Parameter> {
        let mut out = vec![
            Parameter::query("continue", "string"),
            Parameter::query("fieldSelector", "string"),
            Parameter::query("labelSelector", "string"),
            Parameter::query("limit", "integer"),
            Parameter::query("resourceVersion", "string"),
            Parameter::query("resourceVersionMatch", "string"),
            Parameter::query("sendInitialEvents", "boolean"),
            Parameter::query("shardSelector", "string"),
            Parameter::query("timeoutSeconds", "integer"),
        ];
        if watch {
            out.push(Parameter::query("allowWatchBookmarks", "boolean"));
            out.push(Parameter::query("watch", "boolean"));
        }
        out
    }

    fn streams(&self, o: &mut Operation) {
        o.produces.push("application/json;stream=watch");
        if self.r.origin == Origin::Builtin {
            o.produces.push("application/vnd.kubernetes.protobuf;stream=watch");
        }
        if self.cbor {
            o.produces.push("application/cbor-seq");
        }
    }

    fn collection(&self) -> Vec<Operation> {
        let r = self.r;
        let (words, scope, kind) = (&self.words, self.scope_word(), &r.kind);
        let mut out = Vec::new();
        if r.has_verb("list") {
            let mut o = self.operation("get", format!("list{words}{scope}{kind}"), "list");
            o.parameters.extend(self.list_parameters(true));
            self.streams(&mut o);
            o.responses.insert(0, (200, Content::Definition(self.list_kind())));
            out.push(o);
        }
        if r.has_verb("create") {
            let o = self.operation("post", format!("create{words}{scope}{kind}"), "post");
            out.push(writes(o, self.own(), &[200, 201, 202]));
        }
        if r.has_verb("deletecollection") {
            let id = format!("delete{words}Collection{scope}{kind}");
            let mut o = self.operation("delete", id, "deletecollection");
            o.parameters.extend(self.list_parameters(false));
            deletes(&mut o);
            o.responses.insert(0, (200, Content::Definition(STATUS.into())));
            out.push(o);
        }
        out
    }

    fn single(&self) -> Vec<Operation> {
        let r = self.r;
        let (words, scope, kind) = (&self.words, self.scope_word(), &r.kind);
        let mut out = Vec::new();
        if r.has_verb("get") {
            let mut o = self.named("get", format!("read{words}{scope}{kind}"), "get");
            o.responses.insert(0, (200, Content::Definition(self.own())));
            out.push(o);
        }
        if r.has_verb("update") {
            let o = self.named("put", format!("replace{words}{scope}{kind}"), "put");
            out.push(writes(o, self.own(), &[200, 201]));
        }
        if r.has_verb("patch") {
            let o = self.named("patch", format!("patch{words}{scope}{kind}"), "patch");
            out.push(self.patches(o, self.own()));
        }
        if r.has_verb("delete") {
            let mut o = self.named("delete", format!("delete{words}{scope}{kind}"), "delete");
            deletes(&mut o);
            let listed = |(g, names): &(&str, &[&str])| *g == r.group && names.contains(&r.resource.as_str());
            let answer = if RETURNS_OBJECT.iter().any(listed) { self.own() } else { STATUS.into() };
            o.responses.insert(0, (202, Content::Definition(answer.clone())));
            o.responses.insert(0, (200, Content::Definition(answer)));
            out.push(o);
        }
        out
    }

    fn patches(&self, o: Operation, kind: String) -> Operation {
        let mut o = writes(o, kind, &[200, 201]);
        o.parameters.push(Parameter::query("force", "boolean"));
        o.body = Some((PATCH.into(), true));
        o.consumes = vec!["application/json-patch+json", "application/merge-patch+json"];
        if self.r.origin == Origin::Builtin {
            o.consumes.push("application/strategic-merge-patch+json");
        }
        o.consumes.push("application/apply-patch+yaml");
        if self.cbor {
            o.consumes.push("application/apply-patch+cbor");
        }
        o
    }

    fn list_everywhere(&self) -> Operation {
        let id = format!("list{}{}ForAllNamespaces", self.words, self.r.kind);
        let mut o = self.operation("get", id, "list");
        o.parameters.retain(|p| p.place == Place::Query);
        o.parameters.extend(self.list_parameters(true));
        self.streams(&mut o);
        o.responses.insert(0, (200, Content::Definition(self.list_kind())));
        o
    }

    fn subresource(&self, s: &Subresource) -> Vec<Operation> {
        let r = self.r;
        let name = format!("{}{}{}{}", self.words, self.scope_word(), r.kind, names::title(&s.name));
        let kind = names::of_kind(r, &s.kind_group, &s.kind_version, &s.kind);
        let gvk = Some(json!({"group": s.kind_group, "version": s.kind_version, "kind": s.kind}));
        let mut out = Vec::new();
        for verb in &s.verbs {
            let mut o = match verb.as_str() {
                "get" => {
                    let mut o = self.named("get", format!("read{name}"), "get");
                    let content =
                        if s.name == "log" { Content::Text } else { Content::Definition(kind.clone()) };
                    o.responses.insert(0, (200, content));
                    o
                }
                "update" => {
                    writes(self.named("put", format!("replace{name}"), "put"), kind.clone(), &[200, 201])
                }
                "patch" => self.patches(self.named("patch", format!("patch{name}"), "patch"), kind.clone()),
                "create" => writes(
                    self.named("post", format!("create{name}"), "post"),
                    kind.clone(),
                    &[200, 201, 202],
                ),
                _ => continue,
            };
            if s.name == "log" {
                o.parameters.extend(options_of("", "v1", "PodLogOptions"));
                o.produces.insert(0, "text/plain");
            }
            o.gvk.clone_from(&gvk);
            out.push(o);
        }
        out
    }

    fn connect(&self, s: &Subresource, with_path: bool) -> Vec<Operation> {
        let r = self.r;
        let methods: &[&'static str] = if s.name == "proxy" {
            &["delete", "get", "head", "options", "patch", "post", "put"]
        } else {
            &["get", "post"]
        };
        let tail = if with_path { "WithPath" } else { "" };
        let name = format!("{}{}{}{tail}", self.scope_word(), r.kind, names::title(&s.name));
        methods
            .iter()
            .map(|method| {
                let id = format!("connect{}{}{name}", self.words, names::title(method));
                let mut o = self.named(method, id, "connect");
                o.parameters.retain(|p| p.name != "pretty");
                o.parameters.extend(options_of(&s.kind_group, &s.kind_version, &s.kind));
                if with_path {
                    o.parameters.push(Parameter::path("path"));
                }
                o.produces = vec!["*/*"];
                o.responses.insert(0, (200, Content::Text));
                o.gvk = Some(json!({"group": s.kind_group, "version": s.kind_version, "kind": s.kind}));
                o
            })
            .collect()
    }

    /// The old paths of watches.
    fn watches(&self, scope: &str) -> Vec<Item> {
        let r = self.r;
        let (words, word, kind) = (&self.words, self.scope_word(), &r.kind);
        let watch = |id: String, action| {
            let mut o = self.operation("get", id, action);
            o.parameters.extend(self.list_parameters(true));
            self.streams(&mut o);
            o.responses.insert(0, (200, Content::Definition(WATCH_EVENT.into())));
            o
        };
        let base = format!("{}/watch", self.base);
        let list = watch(format!("watch{words}{word}{kind}List"), "watchlist");
        let mut one = watch(format!("watch{words}{word}{kind}"), "watch");
        one.parameters.push(Parameter::path("name"));
        let mut out = vec![
            Item::new(format!("{base}{scope}/{}", r.resource), vec![list]),
            Item::new(format!("{base}{scope}/{}/{{name}}", r.resource), vec![one]),
        ];
        if r.namespaced {
            let mut all = watch(format!("watch{words}{kind}ListForAllNamespaces"), "watchlist");
            all.parameters.retain(|p| p.place == Place::Query);
            out.push(Item::new(format!("{base}/{}", r.resource), vec![all]));
        }
        // Custom resources have never had these paths.
        if r.origin == Origin::Builtin { out } else { Vec::new() }
    }
}

/// Whether a subresource is a connection: its kind is a set of options.
fn is_connect(r: &Resource, s: &Subresource) -> bool {
    r.origin == Origin::Builtin && s.kind.ends_with("Options")
}

/// The body of a write and what it answers.
fn writes(mut o: Operation, kind: String, codes: &[u16]) -> Operation {
    for name in ["dryRun", "fieldManager", "fieldValidation"] {
        o.parameters.push(Parameter::query(name, "string"));
    }
    let answers = codes.iter().map(|c| (*c, Content::Definition(kind.clone())));
    o.responses.splice(0..0, answers);
    o.body = Some((kind, true));
    o
}

fn deletes(o: &mut Operation) {
    o.parameters.extend([
        Parameter::query("dryRun", "string"),
        Parameter::query("gracePeriodSeconds", "integer"),
        Parameter::query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
        Parameter::query("orphanDependents", "boolean"),
        Parameter::query("propagationPolicy", "string"),
    ]);
    o.body = Some((DELETE_OPTIONS.into(), false));
}

/// The fields of an options kind as query parameters.
fn options_of(group: &str, version: &str, kind: &str) -> Vec<Parameter> {
    let Some(m) = schema::for_kind_parts(group, version, kind) else { return Vec::new() };
    let parameter = |f: &'static schema::Field| {
        let r#type = match f.kind {
            Kind::String => "string",
            Kind::Bool => "boolean",
            Kind::Int32 | Kind::Int64 => "integer",
            _ => return None,
        };
        Some(Parameter::query(f.json, r#type))
    };
    m.fields.iter().filter_map(parameter).collect()
}
