//! The environments of admission: what match conditions, policies and their messages may name, and how their
//! expressions are compiled where they are written, type-checked and used.

use crate::types::Fields;
use crate::{Env, Program, Type};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// How the complaint about an expression begins that is well but cannot be made ready to run.
pub const INSTANTIATION: &str = "program instantiation failed: ";

/// A type with declared fields.
pub struct Declared {
    name: String,
    fields: BTreeMap<String, Type>,
}

impl Declared {
    pub fn of(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Type {
        Type::Struct(Arc::new(Declared { name: name.to_owned(), fields: fields.into_iter().collect() }))
    }
}

impl Fields for Declared {
    fn name(&self) -> &str {
        &self.name
    }
    fn field(&self, name: &str) -> Option<Type> {
        self.fields.get(name).cloned()
    }
}

fn declared(name: &str, fields: &[(&str, Type)]) -> Type {
    Declared::of(name, fields.iter().map(|(k, v)| ((*k).to_owned(), v.clone())))
}

fn strings() -> Type {
    Type::list(Type::String)
}

/// The type of `request`.
pub fn request_type() -> Type {
    static TYPE: OnceLock<Type> = OnceLock::new();
    let make = || {
        let s = Type::String;
        let kind = declared(
            "kubernetes.GroupVersionKind",
            &[("group", s.clone()), ("version", s.clone()), ("kind", s.clone())],
        );
        let resource = declared(
            "kubernetes.GroupVersionResource",
            &[("group", s.clone()), ("version", s.clone()), ("resource", s.clone())],
        );
        let user = declared(
            "kubernetes.UserInfo",
            &[
                ("username", s.clone()),
                ("uid", s.clone()),
                ("groups", strings()),
                ("extra", Type::map(Type::String, strings())),
            ],
        );
        declared(
            "kubernetes.AdmissionRequest",
            &[
                ("kind", kind.clone()),
                ("resource", resource.clone()),
                ("subResource", s.clone()),
                ("requestKind", kind),
                ("requestResource", resource),
                ("requestSubResource", s.clone()),
                ("name", s.clone()),
                ("namespace", s.clone()),
                ("operation", s),
                ("userInfo", user),
                ("dryRun", Type::Bool),
                ("options", Type::Dyn),
            ],
        )
    };
    TYPE.get_or_init(make).clone()
}

/// The type of `namespaceObject`.
pub fn namespace_type() -> Type {
    static TYPE: OnceLock<Type> = OnceLock::new();
    let make = || {
        let (s, texts) = (Type::String, Type::map(Type::String, Type::String));
        let condition = declared(
            "kubernetes.NamespaceCondition",
            &[
                ("status", s.clone()),
                ("type", s.clone()),
                ("lastTransitionTime", Type::Timestamp),
                ("message", s.clone()),
                ("reason", s.clone()),
            ],
        );
        let metadata = declared(
            "kubernetes.NamespaceMetadata",
            &[
                ("name", s.clone()),
                ("generateName", s.clone()),
                ("namespace", s.clone()),
                ("labels", texts.clone()),
                ("annotations", texts),
                ("UID", s.clone()),
                ("creationTimestamp", Type::Timestamp),
                ("deletionGracePeriodSeconds", Type::Int),
                ("deletionTimestamp", Type::Timestamp),
                ("generation", Type::Int),
                ("resourceVersion", s.clone()),
                ("finalizers", strings()),
            ],
        );
        let spec = declared("kubernetes.NamespaceSpec", &[("finalizers", strings())]);
        let status =
            declared("kubernetes.NamespaceStatus", &[("conditions", Type::list(condition)), ("phase", s)]);
        declared("kubernetes.Namespace", &[("metadata", metadata), ("spec", spec), ("status", status)])
    };
    TYPE.get_or_init(make).clone()
}

/// Any part of an object that an apply configuration makes: all its fields are dynamic.
struct Dynamic(String);

impl Fields for Dynamic {
    fn name(&self) -> &str {
        &self.0
    }
    fn field(&self, _: &str) -> Option<Type> {
        Some(Type::Dyn)
    }
}

/// The type of the whole of an apply configuration.
pub fn object_type() -> Type {
    Type::Struct(Arc::new(Dynamic("Object".to_owned())))
}

/// The type of one operation of a JSON patch.
pub fn json_patch_type() -> Type {
    declared(
        "JSONPatch",
        &[("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)],
    )
}

fn patch_types(name: &str) -> Option<Type> {
    match name {
        "JSONPatch" => Some(json_patch_type()),
        "Object" => Some(object_type()),
        _ if name.starts_with("Object.") => Some(Type::Struct(Arc::new(Dynamic(name.to_owned())))),
        _ => None,
    }
}

/// The type of a variable as later expressions see it: what has fields is dynamic.
fn plain(of: &Type) -> Type {
    match of {
        Type::List(item) => Type::list(plain(item)),
        Type::Map(key, value) => Type::map(plain(key), plain(value)),
        Type::Struct(_) | Type::Opaque(..) | Type::Type(_) | Type::Param(_) | Type::Error => Type::Dyn,
        simple => simple.clone(),
    }
}

/// Which optional names there are.
#[derive(Clone, Copy, Default)]
pub struct Names {
    pub params: bool,
    pub authorizer: bool,
    pub patch: bool,
}

/// The environment of admission expressions, which grows by the variables of a policy.
pub struct Compiler {
    object: Type,
    params: Type,
    variables: BTreeMap<String, Type>,
    composed: bool,
}

impl Compiler {
    /// For match conditions, which have no `variables`.
    pub fn plain() -> Compiler {
        Compiler { object: Type::Dyn, params: Type::Dyn, variables: BTreeMap::new(), composed: false }
    }

    /// For policies.
    pub fn composed() -> Compiler {
        Compiler { composed: true, ..Compiler::plain() }
    }

    /// With known types of `object` and `oldObject`, and of `params`.
    pub fn typed(object: Type, params: Type) -> Compiler {
        Compiler { object, params, ..Compiler::composed() }
    }

    fn env(&self, names: Names) -> Env {
        let mut env = Env::new()
            .with("object", self.object.clone())
            .with("oldObject", self.object.clone())
            .with("namespaceObject", namespace_type())
            .with("request", request_type());
        if names.params {
            env = env.with("params", self.params.clone());
        }
        if names.authorizer {
            env = env
                .with("authorizer", Type::opaque("kubernetes.authorization.Authorizer"))
                .with("authorizer.requestResource", Type::opaque("kubernetes.authorization.ResourceCheck"));
        }
        if self.composed && !self.variables.is_empty() {
            env = env.with("variables", Declared::of("kubernetes.variables", self.variables.clone()));
        }
        if names.patch {
            env = env.with_types(Arc::new(patch_types));
        }
        env
    }

    /// Compiles an expression that must give one of some types; any if none is named.
    pub fn compile(&self, text: &str, names: Names, wanted: &[Type]) -> Result<Program, String> {
        let program = Program::compile(text, &self.env(names)).map_err(|e| {
            let text = e.to_string();
            if e.problems.is_empty() { format!("compilation failed: {text}") } else { text }
        })?;
        let found = program.result();
        if wanted.is_empty() || wanted.contains(found) {
            return match program.constants() {
                Ok(()) => Ok(program),
                Err(why) => Err(format!("{INSTANTIATION}{why}")),
            };
        }
        let said = |t: &Type| match t {
            Type::Null => "null_type".to_owned(),
            other => other.to_string(),
        };
        match wanted {
            [one] => Err(format!("must evaluate to {} but got {}", said(one), said(found))),
            several => {
                let several: Vec<String> = several.iter().map(said).collect();
                Err(format!("must evaluate to one of [{}] but got {}", several.join(" "), said(found)))
            }
        }
    }

    /// Compiles a variable, which later expressions may then use.
    pub fn variable(&mut self, name: &str, text: &str, names: Names) -> Result<Program, String> {
        let program = self.compile(text, names, &[]);
        let of = program.as_ref().map_or(Type::Dyn, |p| plain(p.result()));
        self.variables.insert(name.to_owned(), of);
        program
    }
}
