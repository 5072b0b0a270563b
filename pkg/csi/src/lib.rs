//! The Container Storage Interface, v1, as far as it concerns a node.
//!
//! [`Driver`] is a cheap-to-clone client of a driver's socket. Each call has a deadline of its own. An [`Error`] knows
//! whether the driver may still be at it ([`Error::is_final`]), which decides what may be cleaned up afterwards.

mod driver;

use std::borrow::Cow;

pub use driver::{Driver, TIMEOUT, channel};

/// The messages of CSI v1, generated from `proto/csi.proto`.
#[allow(clippy::all, missing_docs)]
pub mod v1 {
    tonic::include_proto!("csi.v1");
}

/// A call that failed, in the words of the gRPC libraries that people know the texts of.
#[derive(Debug, Clone, thiserror::Error)]
#[error("rpc error: code = {name} desc = {message}", name = code_name(*code))]
pub struct Error {
    /// The gRPC code.
    pub code: tonic::Code,
    /// What the driver said.
    pub message: String,
}

impl Error {
    /// Whether the operation is over: the driver does not go on with it in the background.
    pub fn is_final(&self) -> bool {
        use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, ResourceExhausted, Unavailable};
        !matches!(self.code, Cancelled | DeadlineExceeded | Unavailable | ResourceExhausted | Aborted)
    }

    /// Whether trying again cannot help.
    pub fn is_infeasible(&self) -> bool {
        use tonic::Code::{InvalidArgument, NotFound, OutOfRange};
        matches!(self.code, InvalidArgument | OutOfRange | NotFound)
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self { code: status.code(), message: status.message().to_string() }
    }
}

/// The code as gRPC's Go library spells it, because people grep for it.
fn code_name(code: tonic::Code) -> Cow<'static, str> {
    match code {
        tonic::Code::Ok => "OK".into(),
        tonic::Code::Cancelled => "Canceled".into(),
        other => format!("{other:?}").into(),
    }
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;
