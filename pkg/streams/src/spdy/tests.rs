//! The client against a peer made of frames.

use super::*;
use std::time::Duration;
use tokio::io::DuplexStream;

const LIMIT: Duration = Duration::from_secs(5);

/// Reads raw control frames and answers every new stream.
async fn accept_streams(peer: &mut DuplexStream, count: u32) {
    use tokio::io::AsyncReadExt;
    let mut encoder = frame::Encoder::default();
    for n in 0..count {
        let head = peer.read_u64().await.expect("a frame");
        assert_eq!(head >> 32, 0x8003_0001, "a SYN_STREAM");
        let mut body = vec![0; (head & 0x00ff_ffff) as usize];
        peer.read_exact(&mut body).await.expect("its body");
        assert_eq!(body[..4], (2 * n + 1).to_be_bytes(), "odd numbers in order");
        let reply = encoder.encode(&Frame::SynReply { id: 2 * n + 1, fin: false });
        peer.write_all(&reply).await.expect("replied");
    }
}

#[tokio::test]
async fn streams_open_carry_and_end() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut connection = Connection::client(near);
    let peer = tokio::spawn(async move {
        accept_streams(&mut far, 2).await;
        let mut encoder = frame::Encoder::default();
        for f in [
            Frame::Ping { id: 2 },
            Frame::Data { id: 3, data: Bytes::from_static(b"out"), fin: true },
            Frame::Reset { id: 1, status: 5 },
        ] {
            far.write_all(&encoder.encode(&f)).await.expect("sent");
        }
        far
    });
    let mut first = connection.open(&[("streamType", "error")]).await.expect("open");
    let mut second = connection.open(&[("streamType", "stdout")]).await.expect("open");
    let read = tokio::time::timeout(LIMIT, second.read()).await.expect("in time");
    assert_eq!(read.as_deref(), Some(&b"out"[..]));
    assert_eq!(second.read().await, None, "the peer finished");
    assert_eq!(tokio::time::timeout(LIMIT, first.read()).await.expect("in time"), None, "the peer reset it");
    let mut far = peer.await.expect("peer");
    let pong = frame::read(&mut far).await.expect("a frame");
    assert_eq!(pong, Some(Frame::Ping { id: 2 }));
}

#[tokio::test]
async fn the_end_of_the_connection_is_an_error_for_openers() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut connection = Connection::client(near);
    drop(far);
    let opened = tokio::time::timeout(LIMIT, connection.open(&[("streamType", "error")])).await;
    assert!(opened.expect("in time").is_err());
}

#[tokio::test]
async fn nonsense_from_the_peer_is_refused() {
    for bytes in [
        &[0x80, 9, 0, 2, 0, 0, 0, 0][..],
        &[0x80, 3, 0, 3, 0, 0, 0, 1, 0],
        &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff],
    ] {
        assert!(frame::read(&mut &bytes[..]).await.is_err(), "{bytes:?}");
    }
}
