//! Exec and attach: WebSocket clients on one side, a runtime's SPDY streams on the other.
//!
//! A WebSocket message starts with the number of its channel. Version 5 adds a message that closes one channel, so that
//! the end of standard input can be told (KEP-4006).

use crate::{Result, spdy};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode};

/// What runtimes are offered: with this version the error stream carries a Status.
pub const SPDY_PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;
const WAITING: usize = 32;
/// A client's message may be this long.
const MAX_MESSAGE: usize = 4 << 20;

/// How a WebSocket client wants its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    V5,
    V4,
    V4Base64,
    V1,
    V1Base64,
}

impl Protocol {
    const ALL: [(&str, Protocol); 5] = [
        ("v5.channel.k8s.io", Protocol::V5),
        ("v4.channel.k8s.io", Protocol::V4),
        ("v4.base64.channel.k8s.io", Protocol::V4Base64),
        ("channel.k8s.io", Protocol::V1),
        ("base64.channel.k8s.io", Protocol::V1Base64),
    ];

    /// The client's first choice that is known; a client that names none gets the first version. `None` when it names
    /// only unknown ones.
    pub fn choose(offered: &str) -> Option<(Option<&'static str>, Protocol)> {
        let names: Vec<&str> = offered.split(',').map(str::trim).filter(|n| !n.is_empty()).collect();
        if names.is_empty() {
            return Some((None, Protocol::V1));
        }
        let known = |n: &&str| Protocol::ALL.iter().find(|(name, _)| name == n);
        names.iter().find_map(known).map(|(name, p)| (Some(*name), *p))
    }

    /// Whether the error channel carries a Status; before version 4 it was a plain text, and only of a failure.
    fn tells_status(self) -> bool {
        !matches!(self, Protocol::V1 | Protocol::V1Base64)
    }

    fn is_base64(self) -> bool {
        matches!(self, Protocol::V4Base64 | Protocol::V1Base64)
    }

    fn pack(self, channel: u8, data: &[u8]) -> Message {
        if self.is_base64() {
            return Message::text(format!("{channel}{}", BASE64.encode(data)));
        }
        let mut out = BytesMut::with_capacity(data.len() + 1);
        out.put_u8(channel);
        out.put_slice(data);
        Message::binary(out.freeze())
    }

    /// Channel and content of a client's message; `None` for what is not one.
    fn unpack(self, message: Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(mut data) if !data.is_empty() => {
                let channel = data.split_to(1)[0];
                Some((channel, data))
            }
            Message::Text(text) if self.is_base64() => {
                let (channel, data) = text.as_str().split_at_checked(1)?;
                Some((channel.parse().ok()?, BASE64.decode(data).ok()?.into()))
            }
            _ => None,
        }
    }
}

/// Which streams the client asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// The server's end of a WebSocket on a connection that has been upgraded.
pub async fn websocket<S>(io: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// What goes to the standard input side of the runtime.
struct Inputs {
    stdin: Option<spdy::Sender>,
    resize: Option<spdy::Sender>,
}

/// Translates until the command has ended (the runtime closes its error stream) or the client has gone.
pub async fn bridge<S>(
    socket: WebSocketStream<S>,
    protocol: Protocol,
    wants: Wants,
    mut runtime: spdy::Connection,
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (to_client, mut outgoing) = mpsc::channel::<Message>(WAITING);
    let mut outputs = tokio::task::JoinSet::new();
    let (_, error) = open(&mut runtime, "error").await?;
    if protocol.tells_status() {
        outputs.spawn(pump(error, ERROR, protocol, to_client.clone()));
    } else {
        outputs.spawn(tell_failure(error, protocol, to_client.clone()));
    }
    let mut inputs = Inputs { stdin: None, resize: None };
    if wants.stdin {
        inputs.stdin = Some(open(&mut runtime, "stdin").await?.0);
    }
    if wants.stdout {
        let stdout = open(&mut runtime, "stdout").await?.1;
        outputs.spawn(pump(stdout, STDOUT, protocol, to_client.clone()));
    }
    if wants.stderr && !wants.tty {
        let stderr = open(&mut runtime, "stderr").await?.1;
        outputs.spawn(pump(stderr, STDERR, protocol, to_client.clone()));
    }
    if wants.tty {
        inputs.resize = Some(open(&mut runtime, "resize").await?.0);
    }
    // An empty message on the first channel to be read shows the client that the connection stands.
    let first = [(wants.stdout, STDOUT), (wants.stderr && !wants.tty, STDERR), (true, ERROR)];
    if let Some((_, channel)) = first.into_iter().find(|(wanted, _)| *wanted) {
        let _ = to_client.try_send(protocol.pack(channel, b""));
    }
    drop(to_client);
    let (mut sink, mut source) = socket.split();
    let mut client_ended = false;
    loop {
        tokio::select! {
            message = outgoing.recv() => match message {
                Some(m) => sink.send(m).await?,
                // Every output has ended: the command is over.
                None => break,
            },
            message = source.next(), if !client_ended => match message {
                Some(Ok(Message::Close(_))) | None => client_ended = true,
                Some(Ok(m)) => take(&mut inputs, protocol, m).await?,
                Some(Err(e)) => return Err(e.into()),
            },
        }
        if client_ended {
            // Nobody is left to read: dropping the connection tells the runtime.
            return Ok(());
        }
    }
    sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await?;
    // The client answers the close or goes away.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), source.next()).await;
    Ok(())
}

/// Tells a client on its error channel why there is no runtime behind its WebSocket, and closes.
pub async fn refuse<S>(mut socket: WebSocketStream<S>, protocol: Protocol, status: &[u8]) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    socket.send(protocol.pack(ERROR, status)).await?;
    let end = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    socket.send(Message::Close(Some(end))).await?;
    // The client answers the close or goes away.
    let _ = tokio::time::timeout(std::time::Duration::from_secs(1), socket.next()).await;
    Ok(())
}

async fn open(runtime: &mut spdy::Connection, kind: &str) -> Result<(spdy::Sender, mpsc::Receiver<Bytes>)> {
    Ok(runtime.open(&[("streamType", kind)]).await?.split())
}

async fn pump(mut from: mpsc::Receiver<Bytes>, channel: u8, protocol: Protocol, to: mpsc::Sender<Message>) {
    while let Some(data) = from.recv().await {
        if to.send(protocol.pack(channel, &data)).await.is_err() {
            return;
        }
    }
}

/// For clients that know no Status: its message if it is a failure, else nothing.
async fn tell_failure(mut from: mpsc::Receiver<Bytes>, protocol: Protocol, to: mpsc::Sender<Message>) {
    let mut told = BytesMut::new();
    while let Some(data) = from.recv().await {
        told.extend_from_slice(&data);
        if told.len() > MAX_MESSAGE {
            return;
        }
    }
    if let Some(text) = failure_text(&told) {
        let _ = to.send(protocol.pack(ERROR, &text)).await;
    }
}

fn failure_text(told: &[u8]) -> Option<Bytes> {
    if told.is_empty() {
        return None;
    }
    let Ok(status) = serde_json::from_slice::<serde_json::Value>(told) else {
        return Some(Bytes::copy_from_slice(told));
    };
    if status["status"] == "Success" {
        return None;
    }
    Some(Bytes::from(status["message"].as_str().unwrap_or_default().to_owned()))
}

async fn take(inputs: &mut Inputs, protocol: Protocol, message: Message) -> Result<()> {
    let Some((channel, data)) = protocol.unpack(message) else { return Ok(()) };
    match channel {
        STDIN => write(&inputs.stdin, data).await,
        RESIZE => write(&inputs.resize, data).await,
        CLOSE if protocol == Protocol::V5 && data.first() == Some(&STDIN) => match inputs.stdin.take() {
            Some(stdin) => stdin.finish().await,
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

async fn write(to: &Option<spdy::Sender>, data: Bytes) -> Result<()> {
    match to {
        Some(sender) => sender.write(data).await,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_protocol_is_chosen() {
        assert_eq!(
            Protocol::choose("v9.x, v5.channel.k8s.io"),
            Some((Some("v5.channel.k8s.io"), Protocol::V5))
        );
        assert_eq!(Protocol::choose(""), Some((None, Protocol::V1)));
        assert_eq!(Protocol::choose("v9.x"), None);
    }

    #[test]
    fn old_clients_are_told_of_failures_only() {
        let failed = br#"{"status":"Failure","message":"command terminated with exit code 1"}"#;
        let cases: [(&[u8], Option<&str>); 4] = [
            (b"", None),
            (br#"{"metadata":{},"status":"Success"}"#, None),
            (failed, Some("command terminated with exit code 1")),
            (b"plain text", Some("plain text")),
        ];
        for (told, expected) in cases {
            assert_eq!(failure_text(told).as_deref(), expected.map(str::as_bytes));
        }
        assert!(Protocol::V4.tells_status() && !Protocol::V1Base64.tells_status());
    }

    #[test]
    fn messages_are_packed_as_the_protocol_says() {
        for (p, packed) in
            [(Protocol::V5, Message::binary(&b"\x01hi"[..])), (Protocol::V4Base64, Message::text("1aGk="))]
        {
            assert_eq!(p.pack(STDOUT, b"hi"), packed);
            assert_eq!(p.unpack(packed), Some((1, Bytes::from_static(b"hi"))));
        }
        assert_eq!(Protocol::V5.unpack(Message::binary(Bytes::new())), None);
        assert_eq!(Protocol::V4Base64.unpack(Message::text("é")), None);
    }
}
