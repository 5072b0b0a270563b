//! What an error from the API server means to a controller.

use kube::Error;

fn status(error: &Error) -> Option<&kube::core::Status> {
    match error {
        Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The object does not exist (any more).
pub fn not_found(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 404)
}

/// Someone else wrote first, or a precondition did not hold.
pub fn conflict(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 409 && s.reason != "AlreadyExists")
}

/// A create found its name taken.
pub fn already_exists(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 409 && s.reason == "AlreadyExists")
}

/// The object was refused by validation.
pub fn invalid(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 422)
}

/// The server refused for now: too many requests, as an eviction is when a budget is spent.
pub fn too_many(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 429)
}

/// The server has no such method on this resource.
pub fn method_not_supported(error: &Error) -> bool {
    status(error).is_some_and(|s| s.code == 405)
}

/// The namespace is being deleted: no create can succeed in it any more.
pub fn namespace_terminating(error: &Error) -> bool {
    let Some(status) = status(error) else { return false };
    let caused =
        status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"));
    caused || (status.code == 403 && status.message.contains("because it is being terminated"))
}

/// The text of the error as upstream's events carry it: the server's own message.
pub fn text(error: &Error) -> String {
    status(error).map_or_else(|| error.to_string(), |s| s.message.clone())
}

/// Turns "not found" into `None`.
pub fn optional<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
