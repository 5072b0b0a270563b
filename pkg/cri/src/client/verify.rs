//! Answers that lack what nobody can do without are errors: what is half known would be taken for gone, and made anew.

use tonic::Code;

use crate::v1::{ContainerStatusResponse, ImageStatusResponse, PodSandboxStatusResponse, VersionResponse};
use crate::{Error, Result};

fn lacking(method: &'static str, why: String) -> Error {
    Error::new(method, Code::Internal, why)
}

/// The state of a sandbox says which it is, whose and since when.
pub(super) fn sandbox(id: &str, reply: PodSandboxStatusResponse) -> Result<PodSandboxStatusResponse> {
    let failed = |why: &str| Err(lacking("PodSandboxStatus", format!("sandbox {id:?}: {why}")));
    let Some(status) = &reply.status else { return failed("status is not set") };
    let whole = |m: &crate::v1::PodSandboxMetadata| {
        !m.name.is_empty() && !m.namespace.is_empty() && !m.uid.is_empty()
    };
    match status {
        s if s.id.is_empty() => failed("status.Id is not set"),
        s if !s.metadata.as_ref().is_some_and(whole) => {
            failed("metadata.Name, metadata.Namespace or metadata.Uid is not in metadata")
        }
        s if s.created_at == 0 => failed("status.CreatedAt is not set"),
        _ => Ok(reply),
    }
}

/// The state of a container says which it is, what it is called and since when.
pub(super) fn container(id: &str, reply: ContainerStatusResponse) -> Result<ContainerStatusResponse> {
    let failed = |why: &str| Err(lacking("ContainerStatus", format!("container {id:?}: {why}")));
    let Some(status) = &reply.status else { return failed("status is not set") };
    match status {
        s if s.id.is_empty() => failed("status.Id is not set"),
        s if s.metadata.as_ref().is_none_or(|m| m.name.is_empty()) => {
            failed("metadata.Name is not in metadata")
        }
        s if s.created_at == 0 => failed("status.CreatedAt is not set"),
        _ => Ok(reply),
    }
}

/// An image that is there has an id.
pub(super) fn image(name: &str, reply: ImageStatusResponse) -> Result<ImageStatusResponse> {
    match &reply.image {
        Some(image) if image.id.is_empty() => {
            Err(lacking("ImageStatus", format!("id or size of image {name:?} is not set")))
        }
        _ => Ok(reply),
    }
}

/// A runtime knows its name and version.
pub(super) fn version(reply: VersionResponse) -> Result<VersionResponse> {
    let fields = [&reply.version, &reply.runtime_name, &reply.runtime_api_version, &reply.runtime_version];
    match fields.iter().any(|field| field.is_empty()) {
        true => Err(lacking("Version", format!("not all fields are set in VersionResponse ({reply:?})"))),
        false => Ok(reply),
    }
}

/// Something that was made has an id.
pub(super) fn id(method: &'static str, what: &str, id: String) -> Result<String> {
    match id.is_empty() {
        true => Err(lacking(method, format!("{what} is not set"))),
        false => Ok(id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{ContainerMetadata, ContainerStatus, Image, PodSandboxMetadata, PodSandboxStatus};

    #[test]
    fn half_an_answer_is_an_error() {
        let metadata =
            PodSandboxMetadata { name: "n".into(), namespace: "ns".into(), uid: "u".into(), attempt: 0 };
        let good = PodSandboxStatus {
            id: "s".into(),
            metadata: Some(metadata.clone()),
            created_at: 1,
            ..Default::default()
        };
        let nameless = PodSandboxMetadata { uid: String::new(), ..metadata };
        for (status, fine) in [
            (None, false),
            (Some(PodSandboxStatus { id: String::new(), ..good.clone() }), false),
            (Some(PodSandboxStatus { metadata: None, ..good.clone() }), false),
            (Some(PodSandboxStatus { metadata: Some(nameless), ..good.clone() }), false),
            (Some(PodSandboxStatus { created_at: 0, ..good.clone() }), false),
            (Some(good), true),
        ] {
            let reply = PodSandboxStatusResponse { status, ..Default::default() };
            assert_eq!(sandbox("s", reply.clone()).is_ok(), fine, "{reply:?}");
        }
        let good = ContainerStatus {
            id: "c".into(),
            metadata: Some(ContainerMetadata { name: "n".into(), attempt: 0 }),
            created_at: 1,
            ..Default::default()
        };
        for (status, fine) in [
            (None, false),
            (Some(ContainerStatus { metadata: None, ..good.clone() }), false),
            (Some(ContainerStatus { created_at: 0, ..good.clone() }), false),
            (Some(good), true),
        ] {
            let reply = ContainerStatusResponse { status, ..Default::default() };
            assert_eq!(container("c", reply.clone()).is_ok(), fine, "{reply:?}");
        }
        let reply = |image| ImageStatusResponse { image, ..Default::default() };
        assert!(image("i", reply(None)).is_ok());
        assert!(image("i", reply(Some(Image::default()))).is_err());
        assert!(version(VersionResponse::default()).is_err());
        assert_eq!(id("Exec", "URL", String::new()).unwrap_err().message, "URL is not set");
    }
}
