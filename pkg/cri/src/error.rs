//! What a failed CRI call says.

use tonic::Code;

/// A failed CRI call: which one, the gRPC code and the runtime's own words.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {} desc = {message}", code_name(*.code))]
pub struct Error {
    /// The call that failed, e.g. `RunPodSandbox`.
    pub method: &'static str,
    /// The gRPC code.
    pub code: Code,
    /// The runtime's words.
    pub message: String,
}

impl Error {
    /// An error of this side, e.g. a bad endpoint.
    pub fn new(method: &'static str, code: Code, message: impl Into<String>) -> Self {
        Self { method, code, message: message.into() }
    }

    pub(crate) fn from_status(method: &'static str, status: tonic::Status) -> Self {
        // A transport error hides its cause (no socket, connection refused) behind "transport error".
        let mut message = status.message().to_string();
        let mut source = std::error::Error::source(&status);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            source = cause.source();
        }
        let code = match status.code() {
            Code::Unknown if message.starts_with("transport error") => Code::Unavailable,
            code => code,
        };
        Self { method, code, message }
    }

    /// The container, sandbox or image does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code == Code::NotFound
    }

    /// The runtime does not know the call.
    pub fn is_unimplemented(&self) -> bool {
        self.code == Code::Unimplemented
    }

    /// The runtime is not there at the moment.
    pub fn is_unavailable(&self) -> bool {
        self.code == Code::Unavailable
    }

    /// The call took longer than its deadline.
    pub fn is_timeout(&self) -> bool {
        self.code == Code::DeadlineExceeded
    }
}

/// The code as gRPC's Go library spells it, because people grep for it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}
