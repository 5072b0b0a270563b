//! `/logs`: the files below the node's `/var/log`, and nothing outside of it.

use crate::query::Query;
use axum::body::Body;
use axum::extract::{Path, RawQuery};
use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use std::path::{Path as FilePath, PathBuf};
use tokio::io::AsyncReadExt;

mod query;

const ROOT: &str = "/var/log";

pub async fn root(RawQuery(query): RawQuery, queries: bool) -> Response {
    let query = Query::parse(query.as_deref());
    if queries && !query.all("query").is_empty() {
        return query::answer(&query).await;
    }
    answer(FilePath::new(ROOT), "").await
}

pub async fn file(Path(path): Path<String>) -> Response {
    answer(FilePath::new(ROOT), &path).await
}

pub(super) async fn answer(root: &FilePath, relative: &str) -> Response {
    let Some(path) = inside(root, relative) else {
        return no_page();
    };
    if path.is_dir() {
        if !relative.is_empty() && !relative.ends_with('/') {
            let name = relative.rsplit('/').next().unwrap_or_default();
            let to = [(http::header::LOCATION, format!("{name}/"))];
            return (StatusCode::MOVED_PERMANENTLY, to).into_response();
        }
        return listing(&path);
    }
    match tokio::fs::metadata(&path).await {
        Ok(m) if m.is_file() => match tokio::fs::File::open(&path).await {
            // As much as there is now: a log may grow faster than it is read.
            Ok(file) => {
                let stream = tokio_util::io::ReaderStream::new(file.take(m.len()));
                let headers = [(http::header::CONTENT_TYPE, "text/plain; charset=utf-8")];
                (headers, Body::from_stream(stream)).into_response()
            }
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
        },
        Ok(_) => (StatusCode::FORBIDDEN, "not a file that can be served\n").into_response(),
        Err(_) => no_page(),
    }
}

fn no_page() -> Response {
    let headers = [(http::header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (StatusCode::NOT_FOUND, headers, "404 page not found\n").into_response()
}

/// The real path, if after all links it still lies below the root.
fn inside(root: &FilePath, relative: &str) -> Option<PathBuf> {
    let root = root.canonicalize().ok()?;
    let path = root.join(relative.trim_start_matches('/')).canonicalize().ok()?;
    path.starts_with(&root).then_some(path)
}

fn listing(dir: &FilePath) -> Response {
    let mut names: Vec<String> = match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .flatten()
            .map(|e| {
                let slash = if e.path().is_dir() { "/" } else { "" };
                format!("{}{slash}", e.file_name().to_string_lossy())
            })
            .collect(),
        Err(e) => return (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    };
    names.sort();
    let escape = |s: &str| s.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&#34;");
    let lines: String = names.iter().map(|n| format!("<a href=\"{0}\">{0}</a>\n", escape(n))).collect();
    Html(format!(
        "<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n{lines}</pre>\n"
    ))
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_the_root_is_found() {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().join("log");
        std::fs::create_dir(&root).expect("root");
        std::fs::write(root.join("a"), "x").expect("file");
        std::fs::write(dir.path().join("secret"), "x").expect("file");
        std::os::unix::fs::symlink("../secret", root.join("link")).expect("link");
        assert!(inside(&root, "a").is_some());
        for path in ["../secret", "link", "a/../../secret", "/../secret", "missing"] {
            assert_eq!(inside(&root, path), None, "{path}");
        }
    }
}
