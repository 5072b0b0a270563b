//! The version every daemon reports.

/// Kubernetes' minor release that is implemented.
pub const MAJOR: &str = "1";
/// Kubernetes' minor release that is implemented.
pub const MINOR: &str = "36";
/// The version with its leading `v`.
pub const GIT_VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// What `--version` prints; `raw` is `--version=raw`.
pub fn text(raw: bool) -> String {
    if !raw {
        return format!("Kubernetes {GIT_VERSION}");
    }
    format!(
        "version.Info{{Major:\"{MAJOR}\", Minor:\"{MINOR}\", GitVersion:\"{GIT_VERSION}\", Compiler:\"rustc\", \
         Platform:\"{}\"}}",
        platform()
    )
}

/// `linux/amd64` in Go's words.
pub fn platform() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", std::env::consts::OS)
}

/// The `User-Agent` of a daemon, in client-go's form.
pub fn user_agent(component: &str) -> String {
    format!("{component}/{GIT_VERSION} ({}) kubernetes/binnacle", platform())
}
