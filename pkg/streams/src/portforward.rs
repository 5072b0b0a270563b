//! Port-forward: WebSocket clients tunnel SPDY, whose bytes go to the runtime unchanged (KEP-4006).

use crate::Result;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// The stream protocol between client and runtime.
pub const SPDY_PROTOCOL: &str = "portforward.k8s.io";
/// What WebSocket clients that tunnel ask for.
pub const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
const PIECE: usize = 32 << 10;

/// Carries bytes between the messages of a WebSocket and a connection until either has ended.
pub async fn tunnel<S, R>(socket: WebSocketStream<S>, runtime: R) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(runtime);
    let to_runtime = async {
        while let Some(message) = source.next().await {
            match message? {
                Message::Binary(data) => writer.write_all(&data).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        writer.shutdown().await?;
        Result::Ok(())
    };
    let to_client = async {
        let mut piece = vec![0; PIECE];
        loop {
            let n = reader.read(&mut piece).await?;
            if n == 0 {
                break;
            }
            sink.send(Message::binary(bytes::Bytes::copy_from_slice(&piece[..n]))).await?;
        }
        sink.close().await?;
        Result::Ok(())
    };
    tokio::select! {
        ended = to_runtime => ended,
        ended = to_client => ended,
    }
}
