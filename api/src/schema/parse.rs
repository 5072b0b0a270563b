//! Reads the text form of the field table. The text is compiled in, so a malformed line is a bug
//! of the build and is found by the tests; at run time such a line is skipped.

use super::*;

pub(super) fn parse(text: &'static str) -> Table {
    let mut builder = Builder::default();
    let mut enums = FxHashMap::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        match words.next() {
            None | Some("" | "#") => {}
            Some("p") => builder.package(words),
            Some("m") => builder.message(words),
            Some("e") => {
                if let Some((name, values)) = line[2..].split_once(' ') {
                    enums.insert(name, values);
                }
            }
            Some(number) => builder.field(number, words, line),
        }
    }
    builder.finish_message();
    Table { by_name: builder.by_name, by_kind: builder.by_kind, enums, packages: builder.packages }
}

#[derive(Default)]
struct Builder {
    by_name: FxHashMap<&'static str, Ref>,
    by_kind: FxHashMap<(&'static str, &'static str, &'static str), Ref>,
    packages: FxHashMap<&'static str, (&'static str, &'static str)>,
    package: &'static str,
    current: Option<Head>,
    fields: Vec<Field>,
}

struct Head {
    slot: Ref,
    name: &'static str,
    short: &'static str,
    type_meta: bool,
    atomic: bool,
    special: Option<Special>,
}

type Words = std::str::Split<'static, char>;

impl Builder {
    fn slot(&mut self, name: &'static str) -> Ref {
        *self
            .by_name
            .entry(name)
            .or_insert_with(|| Ref(Box::leak(Box::new(Slot { name, message: OnceLock::new() }))))
    }

    /// `.X` is X of the current package.
    fn resolve(&mut self, name: &'static str) -> Ref {
        match name.strip_prefix('.') {
            None => self.slot(name),
            Some(short) => {
                let full = format!("{}.{short}", self.package);
                match self.by_name.get(full.as_str()) {
                    Some(r) => *r,
                    None => self.slot(String::leak(full)),
                }
            }
        }
    }

    fn package(&mut self, mut words: Words) {
        self.finish_message();
        self.package = words.next().unwrap_or_default();
        if let (Some(group), Some(version)) = (words.next(), words.next()) {
            let group = if group == "core" { "" } else { group };
            self.packages.insert(self.package, (group, version));
        }
    }

    fn message(&mut self, mut words: Words) {
        self.finish_message();
        let short = words.next().unwrap_or_default();
        let slot = match self.by_name.get(format!("{}.{short}", self.package).as_str()) {
            Some(r) => *r,
            None => self.slot(String::leak(format!("{}.{short}", self.package))),
        };
        let mut head =
            Head { slot, name: slot.0.name, short, type_meta: false, atomic: false, special: None };
        for flag in words {
            match flag {
                "t" => head.type_meta = true,
                "a" => head.atomic = true,
                "s" => head.special = special(short),
                _ => {}
            }
        }
        if let Some((group, version)) = self.packages.get(self.package) {
            self.by_kind.insert((group, version, short), slot);
        }
        self.current = Some(head);
    }

    fn field(&mut self, number: &'static str, mut words: Words, line: &'static str) {
        let (Ok(number), Some(proto), Some(json), Some(kind)) =
            (number.parse(), words.next(), words.next(), words.next())
        else {
            return;
        };
        let json = match json {
            "=" => proto,
            "-" => "",
            other => other,
        };
        let (label, kind) = match (kind.strip_prefix("[]"), kind.strip_prefix("{}")) {
            (Some(k), _) => (Label::List, k),
            (_, Some(k)) => (Label::Map, k),
            _ => (Label::One, kind),
        };
        let kind = match kind {
            "string" => Kind::String,
            "bytes" => Kind::Bytes,
            "bool" => Kind::Bool,
            "int32" => Kind::Int32,
            "int64" => Kind::Int64,
            "double" => Kind::Double,
            name => Kind::Message(self.resolve(name)),
        };
        let mut field = Field {
            number,
            proto,
            json,
            json_key: String::leak(format!("\"{json}\":")),
            path_key: String::leak(format!("f:{json}")),
            kind,
            label,
            omitempty: false,
            omitzero: false,
            nullable: false,
            inline: false,
            required: false,
            list_type: None,
            list_map_keys: Box::default(),
            map_type: None,
            struct_type: None,
            patch_strategy: PatchStrategy::default(),
            patch_merge_key: None,
            string_type: None,
            feature_gates: Box::default(),
            default: line.split_once(" d:").map(|(_, d)| d),
        };
        for flag in words {
            if flag.starts_with("d:") {
                break;
            }
            self.flag(&mut field, flag);
        }
        self.fields.push(field);
    }

    fn flag(&mut self, field: &mut Field, flag: &'static str) {
        match flag.split_once(':') {
            None => match flag {
                "o" => field.omitempty = true,
                "z" => field.omitzero = true,
                "n" => field.nullable = true,
                "i" => field.inline = true,
                "r" => field.required = true,
                _ => {}
            },
            Some(("l", "atomic")) => field.list_type = Some(ListType::Atomic),
            Some(("l", "set")) => field.list_type = Some(ListType::Set),
            Some(("l", "map")) => field.list_type = Some(ListType::Map),
            Some(("k", keys)) => field.list_map_keys = keys.split(',').collect(),
            Some(("M", t)) => field.map_type = Some(t),
            Some(("S", t)) => field.struct_type = Some(t),
            Some(("p", strategies)) => {
                field.patch_strategy = PatchStrategy {
                    merge: strategies.split(',').any(|s| s == "merge"),
                    replace: strategies.split(',').any(|s| s == "replace"),
                    retain_keys: strategies.split(',').any(|s| s == "retainKeys"),
                }
            }
            Some(("q", key)) => field.patch_merge_key = Some(key),
            Some(("t", name)) => {
                field.string_type = Some(match name.strip_prefix('.') {
                    Some(short) => String::leak(format!("{}.{short}", self.package)),
                    None => name,
                })
            }
            Some(("g", gates)) => field.feature_gates = gates.split(',').collect(),
            Some(_) => {}
        }
    }

    fn finish_message(&mut self) {
        let Some(head) = self.current.take() else { return };
        let fields: Box<[Field]> = std::mem::take(&mut self.fields).into();
        let mut wire_order: Vec<u8> = (0..fields.len() as u8).collect();
        wire_order.sort_by_key(|&i| fields[i as usize].number);
        let highest = fields.iter().map(|f| f.number).max().unwrap_or(0);
        let mut by_number = vec![NONE; highest as usize + 1];
        for (i, f) in fields.iter().enumerate() {
            by_number[f.number as usize] = i as u8;
        }
        let _ = head.slot.0.message.set(Message {
            name: head.name,
            short: head.short,
            type_meta: head.type_meta,
            atomic: head.atomic,
            special: head.special,
            fields,
            wire_order: wire_order.into(),
            by_number: by_number.into(),
            flat: OnceLock::new(),
        });
    }
}

fn special(short: &str) -> Option<Special> {
    Some(match short {
        "Quantity" | "QuantityValue" => Special::Quantity,
        "IntOrString" => Special::IntOrString,
        "Time" => Special::Time,
        "MicroTime" => Special::MicroTime,
        "Timestamp" => Special::Timestamp,
        "Duration" => Special::Duration,
        "RawExtension" | "FieldsV1" | "JSON" => Special::Raw,
        "Verbs" | "ExtraValue" => Special::Strings,
        "GroupVersion" => Special::GroupVersion,
        "JSONSchemaPropsOrBool" => Special::SchemaOrBool,
        "JSONSchemaPropsOrArray" => Special::SchemaOrArray,
        "JSONSchemaPropsOrStringArray" => Special::SchemaOrStrings,
        "Unknown" => Special::Unknown,
        _ => return None,
    })
}
