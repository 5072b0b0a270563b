//! A gRPC channel over a unix socket.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long a socket may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the socket now; later calls connect again by themselves when the connection was lost.
pub async fn connect(socket: &Path) -> Result<Channel, String> {
    let path = socket.to_path_buf();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(&path).await.map(TokioIo::new) }
    });
    // The address is only the `:authority` of the requests.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT_TIMEOUT);
    endpoint.connect_with_connector(connector).await.map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    })
}
