//! Errors of the store in the words of the API.

use api::status::{Cause, Details, Status};
use storage::Error;

/// What a client is told when the store could not do it.
pub fn storage(e: Error, group: &str, resource: &str, name: &str) -> Status {
    match e {
        Error::AlreadyExists { .. } => Status::already_exists(group, resource, name),
        Error::Conflict { current: None } => Status::not_found(group, resource, name),
        Error::Conflict { current: Some(_) } => Status::modified(group, resource, name),
        Error::Expired { message, .. } => Status::expired(message),
        e @ Error::ResourceVersionTooLarge { .. } => too_large_version(&e),
        Error::InvalidContinue(text) => Status::bad_request(text),
        Error::Unavailable(text) => Status::unavailable(text),
        Error::Timeout(text) => Status::timeout(text, 0),
        e @ Error::NotReady => Status::too_many_requests(e.to_string(), 1),
        e @ Error::TooLarge => Status::too_large(e.to_string()),
        e @ (Error::Corrupt { .. } | Error::Internal(_)) => Status::internal(e),
    }
}

/// A version from the future: clients know the cause and ask again.
fn too_large_version(e: &Error) -> Status {
    let mut s = Status::timeout(format!("Timeout: {e}"), 1);
    s.details = Some(Box::new(Details {
        causes: vec![Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        }],
        retry_after_seconds: 1,
        ..Default::default()
    }));
    s
}
