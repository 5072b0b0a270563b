//! HTTP/1.1 upgrades: as a client of a runtime's streaming server, and joining two upgraded connections.

use crate::{Error, Result};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::TcpStream;

pub const SPDY: &str = "SPDY/3.1";
/// Text of a refusal that is passed on.
const MAX_REFUSAL: usize = 4 << 10;

/// An upgraded connection to a streaming server.
pub type Io = TokioIo<Upgraded>;

/// What the request asks to be upgraded to, in lower case, if it is one of the two that are known.
pub fn requested(headers: &HeaderMap) -> Option<&'static str> {
    let tokens = |name| {
        let all = headers.get_all(name).iter().filter_map(|v: &HeaderValue| v.to_str().ok());
        all.flat_map(|v| v.split(',')).map(|t| t.trim().to_ascii_lowercase()).collect::<Vec<_>>()
    };
    if !tokens(CONNECTION).iter().any(|t| t == "upgrade") {
        return None;
    }
    tokens(UPGRADE).iter().find_map(|t| match t.as_str() {
        "spdy/3.1" => Some("spdy/3.1"),
        "websocket" => Some("websocket"),
        _ => None,
    })
}

/// Asks the server at `url` to speak SPDY, offering stream protocols in order of preference. Returns the connection
/// and the server's answer.
pub async fn spdy_client(url: &str, protocols: &[&str]) -> Result<(Io, Response<()>)> {
    let mut headers = HeaderMap::new();
    for p in protocols {
        let value = HeaderValue::from_str(p).map_err(|e| Error::Protocol(e.to_string()))?;
        headers.append("x-stream-protocol-version", value);
    }
    client(url, Method::POST, headers, SPDY).await
}

/// Asks the server at `url` to speak WebSocket, with the headers that a client's handshake had.
pub async fn websocket_client(url: &str, headers: HeaderMap) -> Result<(Io, Response<()>)> {
    client(url, Method::GET, headers, "websocket").await
}

async fn client(
    url: &str,
    method: Method,
    headers: HeaderMap,
    to: &'static str,
) -> Result<(Io, Response<()>)> {
    let uri: Uri = url.parse().map_err(|_| Error::Protocol(format!("bad streaming URL {url:?}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(Error::Protocol(format!("streaming URL {url:?} is not plain HTTP")));
    }
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let address = format!("{}:{}", uri.host().unwrap_or(""), uri.port_u16().unwrap_or(80));
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the upgrade or with the connection, whichever comes first.
    let driver = tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, to)
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::Protocol(e.to_string()))?;
    request.headers_mut().extend(headers);
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let refusal = refusal(response).await;
        driver.abort();
        return Err(refusal);
    }
    let mut answer = Response::new(());
    *answer.status_mut() = response.status();
    *answer.headers_mut() = response.headers().clone();
    Ok((TokioIo::new(hyper::upgrade::on(response).await?), answer))
}

async fn refusal(response: Response<Incoming>) -> Error {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).trim().to_owned()).unwrap_or_default();
    Error::Refused { status, text }
}

/// Joins two connections until either side has ended.
pub async fn join<A, B>(mut a: A, mut b: B)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    if let Err(e) = copy_bidirectional(&mut a, &mut b).await {
        tracing::debug!("streaming connection ended: {e}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_upgrades_with_the_connection_header_count() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(k, v)| (k.parse().expect("name"), HeaderValue::from_static(v))).collect()
        };
        let cases = [
            (vec![("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], Some("websocket")),
            (vec![("connection", "upgrade"), ("upgrade", "SPDY/3.1")], Some("spdy/3.1")),
            (vec![("upgrade", "websocket")], None),
            (vec![("connection", "upgrade"), ("upgrade", "h2c")], None),
        ];
        for (pairs, expected) in cases {
            assert_eq!(requested(&headers(&pairs)), expected, "{pairs:?}");
        }
    }
}
