//! What is only read, over WebSocket: watches (each event one message, text or binary as its media type is) and logs.

use crate::body::{Body, BoxError};
use crate::call::Call;
use crate::negotiate::Media;
use crate::respond;
use base64::Engine;
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt};
use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

/// What a client may say, which is nothing of interest.
const MAX_MESSAGE: usize = 64 * 1024;

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

/// Subprotocols in the client's order of preference.
pub fn offered(headers: &HeaderMap) -> Vec<&str> {
    let all = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|v| v.split(',')).map(str::trim).filter(|p| !p.is_empty()).collect()
}

/// `Sec-WebSocket-Accept` of a key.
pub fn accept_key(key: &[u8]) -> String {
    use sha1::{Digest, Sha1};
    let mut sha = Sha1::new();
    sha.update(key);
    sha.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha.finalize())
}

/// The answer to a handshake; `None` if it is not one.
pub fn switching(headers: &HeaderMap, protocol: Option<&str>) -> Option<Response<Body>> {
    let key = headers.get("sec-websocket-key")?;
    let mut r = Response::new(Body::empty());
    *r.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    r.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    r.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&accept_key(key.as_bytes())).ok()?;
    r.headers_mut().insert("sec-websocket-accept", accept);
    if let Some(protocol) = protocol {
        r.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).ok()?);
    }
    Some(r)
}

/// Switches protocols and sends what the stream yields, an event an item, until either side is done.
pub fn serve(
    call: &Call,
    media: Media,
    events: impl Stream<Item = Bytes> + Send + 'static,
) -> Response<Body> {
    let protocols = offered(&call.headers);
    let protocol = if let [one] = protocols.as_slice() { Some(*one) } else { None };
    switch(call, protocol, events.map(move |event| message(media, event)))
}

/// Switches protocols and sends bytes as they come, after an empty message that shows that the connection stands.
pub fn serve_bytes(call: &Call, pieces: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let Some((protocol, base64)) = bytes_protocol(&offered(&call.headers)) else {
        return respond::text(403, "no known protocol\n");
    };
    let pack = move |piece: Bytes| {
        Ok(if base64 {
            Message::text(base64::engine::general_purpose::STANDARD.encode(piece))
        } else {
            Message::binary(piece)
        })
    };
    let first = futures::stream::once(std::future::ready(Bytes::new()));
    switch(call, protocol, first.chain(pieces).map(pack))
}

/// The client's first choice that is known, and whether it wants base64; without any, bytes as they are.
fn bytes_protocol<'a>(offered: &[&'a str]) -> Option<(Option<&'a str>, bool)> {
    if offered.is_empty() {
        return Some((None, false));
    }
    let known = |p: &&str| matches!(*p, "binary.k8s.io" | "base64.binary.k8s.io");
    offered.iter().copied().find(known).map(|p| (Some(p), p.starts_with("base64")))
}

fn switch(
    call: &Call,
    protocol: Option<&str>,
    messages: impl Stream<Item = Result<Message, BoxError>> + Send + 'static,
) -> Response<Body> {
    let (Some(answer), Some(upgrade)) = (switching(&call.headers, protocol), call.take_upgrade()) else {
        return respond::text(400, "not a websocket handshake\n");
    };
    let stop = call.server.stopping.clone();
    call.server.tasks.spawn(async move {
        let run = async { send(TokioIo::new(upgrade.await?), messages).await };
        tokio::select! {
            ended = run => if let Err(error) = ended { tracing::debug!(%error, "websocket ended") },
            () = stop.cancelled() => {}
        }
    });
    answer
}

async fn send<I>(io: I, messages: impl Stream<Item = Result<Message, BoxError>>) -> Result<(), BoxError>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let socket = tokio_tungstenite::WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (mut sink, mut source) = socket.split();
    let mut messages = std::pin::pin!(messages);
    loop {
        tokio::select! {
            next = messages.next() => match next {
                Some(message) => sink.send(message?).await?,
                None => {
                    let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
                    return Ok(sink.send(Message::Close(Some(end))).await?);
                }
            },
            // Nothing that the client says matters, but its end does. Pings are answered on the way.
            said = source.next() => match said {
                None | Some(Ok(Message::Close(_))) => return Ok(()),
                Some(said) => drop(said?),
            },
        }
    }
}

fn message(media: Media, event: Bytes) -> Result<Message, BoxError> {
    Ok(match media {
        Media::Json | Media::Yaml => Message::text(String::from_utf8(event.into())?),
        // A message has a length of its own.
        Media::Protobuf => Message::binary(event.slice(event.len().min(4)..)),
        Media::Cbor => Message::binary(event),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_as_the_client_likes() {
        assert_eq!(bytes_protocol(&[]), Some((None, false)));
        assert_eq!(
            bytes_protocol(&["x", "base64.binary.k8s.io"]),
            Some((Some("base64.binary.k8s.io"), true))
        );
        assert_eq!(bytes_protocol(&["binary.k8s.io"]), Some((Some("binary.k8s.io"), false)));
        assert_eq!(bytes_protocol(&["x"]), None);
    }
}
