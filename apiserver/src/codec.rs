//! The form of stored values: what others may have written, and what `--storage-media-type` asks for.
//!
//! The server works on protobuf of the storage version. A value that another server stored as JSON, or
//! in another version of its kind, is brought into that form when it enters memory, and counts as stale:
//! the next write of the object puts it right in etcd.

use api::decode::{Format, decode};
use api::schema::Message;
use api::{GroupVersionKind, Value};
use bytes::Bytes;
use endpoints::envelope;
use storage::Codec;

/// In which encoding objects are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    Protobuf,
    Json,
    Yaml,
}

impl Media {
    /// `--storage-media-type`.
    pub fn parse(text: &str) -> anyhow::Result<Media> {
        Ok(match text {
            "" | "application/vnd.kubernetes.protobuf" => Media::Protobuf,
            "application/json" => Media::Json,
            "application/yaml" => Media::Yaml,
            _ => anyhow::bail!(
                "--storage-media-type {text:?} invalid, must be one of: application/json, application/yaml, application/vnd.kubernetes.protobuf"
            ),
        })
    }
}

/// The codec of one built-in kind.
pub struct Builtin {
    message: &'static Message,
    gvk: GroupVersionKind,
    media: Media,
    /// The version that is stored, where it is not the one that the server works on.
    other: Option<(&'static Message, GroupVersionKind)>,
    /// How an enveloped value of this version begins.
    head: Vec<u8>,
    /// What a value may lack in etcd and has for every reader.
    defaults: Option<&'static dyn kinds::Room>,
}

/// Kinds whose objects others store before their own defaults have taken effect: a Job without the labels of its
/// template, a claim without a phase.
const INCOMPLETE: [(&str, &str); 2] = [("batch", "Job"), ("", "PersistentVolumeClaim")];

impl Builtin {
    pub fn new(message: &'static Message, gvk: &GroupVersionKind, media: Media) -> Builtin {
        let whole = api::protobuf::envelope(gvk, &[]);
        // Magic, then the type as a field of its own length.
        let len = 4 + 2 + usize::from(whole.get(5).copied().unwrap_or(0));
        let head = whole.get(..len).unwrap_or_default().to_vec();
        let incomplete = INCOMPLETE.contains(&(&gvk.group, &gvk.kind));
        let room = kinds::room(&gvk.group, &gvk.version, &gvk.kind);
        let defaults = incomplete.then_some(room);
        Builtin { message, gvk: gvk.clone(), media, head, defaults, other: None }
    }

    /// Stores another version than the one that the server works on.
    pub fn stored_as(mut self, gvk: &GroupVersionKind) -> Builtin {
        if *gvk != self.gvk {
            self.other = api::schema::for_kind(gvk).map(|m| (m, gvk.clone()));
        }
        self
    }

    /// The value in the version that is stored.
    fn to_stored(&self, value: Bytes) -> Result<Bytes, String> {
        let Some((message, gvk)) = &self.other else { return Ok(value) };
        let mut tree = self.tree(&value)?;
        kinds::convert(&mut tree, &self.gvk, gvk);
        let raw = api::protobuf::encode(message, &tree).map_err(|e| e.to_string())?;
        Ok(envelope::wrap(&gvk.api_version(), &gvk.kind, raw.len(), |o| o.extend_from_slice(&raw)))
    }

    /// The tree of a value in whichever form it is, in the storage version.
    fn tree(&self, stored: &Bytes) -> Result<Value, String> {
        let (gvk, mut value) = if stored.starts_with(b"k8s\0") {
            let unwrapped = api::protobuf::unenvelope(stored).map_err(|e| e.to_string())?;
            let gvk = unwrapped.gvk();
            let message = api::schema::for_kind(&gvk).ok_or_else(|| {
                format!("no kind {:?} is registered for version {:?}", gvk.kind, gvk.api_version())
            })?;
            let value = api::protobuf::to_value(message, Some(&gvk), unwrapped.raw);
            (gvk, value.map_err(|e| e.to_string())?)
        } else {
            let first = stored.iter().find(|b| !b.is_ascii_whitespace());
            let format = if first == Some(&b'{') { Format::Json } else { Format::Yaml };
            let decoded =
                decode(format, stored, Some(&self.gvk)).map_err(|e| e.message(&self.gvk.kind, stored))?;
            (decoded.gvk, decoded.value)
        };
        if gvk != self.gvk {
            kinds::convert(&mut value, &gvk, &self.gvk);
        }
        Ok(value)
    }

    fn protobuf(&self, value: &Value) -> Result<Bytes, String> {
        let raw = api::protobuf::encode(self.message, value).map_err(|e| e.to_string())?;
        let api_version = self.gvk.api_version();
        Ok(envelope::wrap(&api_version, &self.gvk.kind, raw.len(), |o| o.extend_from_slice(&raw)))
    }
}

impl Builtin {
    /// The value in the form that the server works on, and whether it stood in another one.
    fn readable(&self, stored: Bytes) -> Result<(Bytes, bool), String> {
        if stored.starts_with(&self.head) {
            return Ok((stored, self.media != Media::Protobuf));
        }
        let wanted = match self.media {
            Media::Protobuf => false,
            Media::Json => stored.starts_with(b"{"),
            Media::Yaml => !stored.starts_with(b"k8s\0") && !stored.starts_with(b"{"),
        };
        Ok((self.protobuf(&self.tree(&stored)?)?, !wanted))
    }
}

impl Codec for Builtin {
    fn read(&self, stored: Bytes) -> Result<(Bytes, bool), String> {
        let (value, stale) = self.readable(stored)?;
        let Some(room) = self.defaults else { return Ok((value, stale)) };
        let mut tree = self.tree(&value)?;
        room.defaults(&mut tree);
        Ok((self.protobuf(&tree)?, stale))
    }

    fn write(&self, value: Bytes) -> Result<Bytes, String> {
        let value = self.to_stored(value)?;
        if self.media == Media::Protobuf {
            return Ok(value);
        }
        let (message, gvk) = self.other.as_ref().map_or((self.message, &self.gvk), |(m, g)| (*m, g));
        let raw = envelope::message(&value).ok_or("the value has no envelope")?;
        let mut out = Vec::with_capacity(raw.len() * 3);
        api::protobuf::to_json(message, Some(gvk), None, &raw, &mut out).map_err(|e| e.to_string())?;
        if self.media == Media::Yaml {
            let tree: Value = serde_json::from_slice(&out).map_err(|e| e.to_string())?;
            return serde_saphyr::to_string(&tree).map(Bytes::from).map_err(|e| e.to_string());
        }
        out.push(b'\n');
        Ok(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::json;

    fn hpa(media: Media) -> Builtin {
        let gvk = GroupVersionKind::new("autoscaling", "v2", "HorizontalPodAutoscaler");
        Builtin::new(api::schema::for_kind(&gvk).unwrap(), &gvk, media)
    }

    #[test]
    fn whatever_is_stored_is_read_and_brought_up_to_date() {
        let codec = hpa(Media::Protobuf);
        let old = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "targetCPUUtilizationPercentage": 50},
        });
        let gvk = GroupVersionKind::new("autoscaling", "v1", "HorizontalPodAutoscaler");
        let raw = api::protobuf::encode(api::schema::for_kind(&gvk).unwrap(), &old).unwrap();
        let yaml = serde_saphyr::to_string(&old).unwrap();
        for stored in [api::protobuf::envelope(&gvk, &raw), old.to_string().into_bytes(), yaml.into_bytes()] {
            let (bytes, stale) = codec.read(stored.into()).unwrap();
            assert!(stale);
            let again = codec.read(bytes.clone()).unwrap();
            assert_eq!((again.0, again.1), (bytes.clone(), false), "now it is in the form we write");
            let value = codec.tree(&bytes).unwrap();
            assert_eq!(value["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
        }
        assert!(codec.read(Bytes::from_static(b"k8s\0\xff")).is_err());
        assert!(codec.read(Bytes::from_static(b"{\"kind\":")).is_err());
    }

    #[test]
    fn every_media_type_round_trips() {
        let value = json!({"metadata": {"name": "a"}, "spec": {"maxReplicas": 3}});
        for media in [Media::Protobuf, Media::Json, Media::Yaml] {
            let codec = hpa(media);
            let protobuf = codec.protobuf(&value).unwrap();
            let stored = codec.write(protobuf.clone()).unwrap();
            assert_eq!(codec.read(stored).unwrap(), (protobuf, false), "{media:?}");
        }
        assert!(Media::parse("text/plain").is_err());
    }
}
