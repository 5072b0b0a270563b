//! Watches over WebSocket: each event is one text message.

use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::respond;
use base64::Engine;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// Whether the client asks for a WebSocket.
pub fn wanted(headers: &HeaderMap) -> bool {
    let has = |name, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .any(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// `Sec-WebSocket-Accept` of a key.
pub fn accept_key(key: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    let mut sha = Sha1::new();
    sha.update(key);
    sha.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha.finalize())
}

/// Switches protocols and sends what the stream yields, until either side is done.
pub fn serve(call: &Call, events: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let key = call.headers.get("sec-websocket-key").map(|k| accept_key(k.as_bytes()));
    let (Some(key), Some(upgrade)) = (key, call.take_upgrade()) else {
        return respond::text(400, "not a websocket handshake\n");
    };
    let stop = call.server.stopping.clone();
    call.server.tasks.spawn(async move {
        let run = async {
            let io = TokioIo::new(upgrade.await?);
            send(io, events).await
        };
        tokio::select! {
            ended = run => if let Err(error) = ended { tracing::debug!(%error, "websocket watch ended") },
            () = stop.cancelled() => {}
        }
    });
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    r.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    r.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(v) = HeaderValue::from_str(&key) {
        r.headers_mut().insert("sec-websocket-accept", v);
    }
    r
}

async fn send<I>(io: I, events: impl Stream<Item = Bytes>) -> Result<(), BoxError>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (mut read, mut write) = tokio::io::split(io);
    let mut events = std::pin::pin!(events);
    let mut ignored = [0u8; 512];
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(bytes) => {
                    // One message an event: several may be due at once.
                    for line in bytes.split_inclusive(|b| *b == b'\n') {
                        write.write_all(&frame(TEXT, line)).await?;
                    }
                }
                None => {
                    write.write_all(&frame(CLOSE, &[0x03, 0xe8])).await?;
                    return Ok(());
                }
            },
            // Nothing that the client says matters, but its end does.
            n = read.read(&mut ignored) => if n? == 0 { return Ok(()) },
        }
    }
}

fn frame(kind: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(payload.len() + 10);
    out.put_u8(kind);
    match payload.len() {
        n if n < 126 => out.put_u8(n as u8),
        n if n <= 0xffff => {
            out.put_u8(126);
            out.put_u16(n as u16);
        }
        n => {
            out.put_u8(127);
            out.put_u64(n as u64);
        }
    }
    out.extend_from_slice(payload);
    out.freeze()
}
