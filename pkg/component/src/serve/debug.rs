//! `/debug/flags/v` and `/version`.

use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::StatusCode;

use crate::{logging, version};

pub(super) fn routes() -> Router {
    Router::new()
        .route("/debug/flags/v", put(set_verbosity))
        .route("/version", get(async || Json(version_info())))
}

/// Takes the verbosity of the log from the body.
pub async fn set_verbosity(body: String) -> Response {
    match body.trim().parse() {
        Ok(v) => {
            logging::set_verbosity(v);
            text(StatusCode::OK, format!("successfully set klog.logging.verbosity to {v}\n"))
        }
        Err(_) => {
            let body: String = body.chars().take(64).collect();
            text(StatusCode::BAD_REQUEST, format!("strconv.ParseUint: parsing {body:?}: invalid syntax\n"))
        }
    }
}

fn text(status: StatusCode, text: String) -> Response {
    let headers =
        [(http::header::CONTENT_TYPE, "text/plain"), (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (status, headers, text).into_response()
}

/// The body of `/version`.
pub fn version_info() -> serde_json::Value {
    serde_json::json!({
        "major": version::MAJOR,
        "minor": version::MINOR,
        "emulationMajor": version::MAJOR,
        "emulationMinor": version::MINOR,
        "minCompatibilityMajor": version::MAJOR,
        "minCompatibilityMinor": "35",
        "gitVersion": version::GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": version::platform(),
    })
}
