//! Streams between a client and a container: exec, attach and port-forward.
//!
//! Clients speak SPDY/3.1 or WebSocket; container runtimes speak SPDY/3.1. SPDY clients are joined to the runtime byte
//! by byte ([`upgrade`]); WebSocket clients are translated ([`remotecommand`], [`portforward`]) onto SPDY streams
//! ([`spdy`]). Nothing here knows of pods, and nothing here follows a redirect.

pub mod portforward;
pub mod remotecommand;
pub mod spdy;
pub mod upgrade;

/// Why a stream could not be set up or carried on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("connection to the other side: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("WebSocket: {0}")]
    WebSocket(Box<tokio_tungstenite::tungstenite::Error>),
    /// The other side answered something else than "switching protocols".
    #[error("unable to upgrade connection: {status}: {text}")]
    Refused { status: u16, text: String },
    #[error("{0}")]
    Protocol(String),
}

impl From<tokio_tungstenite::tungstenite::Error> for Error {
    fn from(e: tokio_tungstenite::tungstenite::Error) -> Error {
        Error::WebSocket(Box::new(e))
    }
}

pub type Result<T> = std::result::Result<T, Error>;
