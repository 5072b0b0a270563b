use super::*;

#[test]
fn endpoints() {
    for (endpoint, path) in [
        ("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock")),
        ("unix:/run/x.sock", Some("/run/x.sock")),
        ("/run/x.sock", Some("/run/x.sock")),
        ("tcp://127.0.0.1:1", None),
        ("run/x.sock", None),
        ("", None),
    ] {
        assert_eq!(socket_path(endpoint).ok(), path.map(PathBuf::from), "{endpoint}");
    }
}

#[tokio::test]
async fn a_runtime_that_is_away_is_unavailable() {
    let runtime = Runtime::new("/nonexistent/x.sock", None, Duration::from_secs(2)).unwrap();
    let error = runtime.version().await.unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.method, "Version");
    assert!(error.to_string().contains("No such file"), "{error}");
}
