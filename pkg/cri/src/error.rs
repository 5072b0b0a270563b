//! What a failed CRI call says.

use std::borrow::Cow;

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
    /// Nobody waits for the answer any more: this process ends.
    pub fn cancelled(method: &'static str) -> Self {
        Self::new(method, Code::Cancelled, "context canceled")
    }

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
fn code_name(code: Code) -> Cow<'static, str> {
    match code {
        Code::Ok => "OK".into(),
        Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_as_in_go() {
        let text = |code| Error::new("RunPodSandbox", code, "no").to_string();
        assert_eq!(text(Code::Cancelled), "rpc error: code = Canceled desc = no");
        assert_eq!(text(Code::Ok), "rpc error: code = OK desc = no");
        assert_eq!(text(Code::DeadlineExceeded), "rpc error: code = DeadlineExceeded desc = no");
    }
}
