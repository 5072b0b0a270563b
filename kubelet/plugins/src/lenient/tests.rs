use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// `%2Frun` as Huffman's code: `%` 010101, `2` 00010, `F` 1100001, `r` 101100, `u` 101101, `n` 101010.
fn huffman(first: u32) -> Vec<u8> {
    let codes = [(first, 6), (2, 5), (0b110_0001, 7), (0b10_1100, 6), (0b10_1101, 6), (0b10_1010, 6)];
    let mut text: String = codes.iter().map(|(code, n)| format!("{code:0n$b}")).collect();
    while !text.len().is_multiple_of(8) {
        text.push('1');
    }
    text.as_bytes().chunks(8).map(|c| u8::from_str_radix(str::from_utf8(c).unwrap(), 2).unwrap()).collect()
}

fn field(huffman: bool, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).unwrap();
    [&[0x41, length | if huffman { 0x80 } else { 0 }], value].concat()
}

#[test]
fn only_the_authority_is_amended() {
    // :method POST, a new name with a percent sign, then the authority.
    let before = [&[0x83][..], &[0x40, 1, b'x', 2, b'%', b'/']].concat();
    for (huff, given, wanted) in [
        (true, huffman(PERCENT), huffman(DASH)),
        (true, huffman(SLASH), huffman(DASH)),
        (false, b"%2Frun/x.sock".to_vec(), b"-2Frun-x.sock".to_vec()),
        (false, b"localhost".to_vec(), b"localhost".to_vec()),
    ] {
        let mut block = [before.clone(), field(huff, &given)].concat();
        assert_eq!(amend_block(&mut block), Some(()));
        assert_eq!(block, [before.clone(), field(huff, &wanted)].concat());
        // Cut anywhere it is no worse than it was.
        for end in 0..block.len() {
            let _ = amend_block(&mut block.clone()[..end]);
        }
    }
    let mut padded = [&[2u8, 0, 0, 0, 0, 9][..], &field(false, b"%a"), b"%%"].concat();
    amend_headers(&mut padded, 0x28);
    assert_eq!(padded, [&[2u8, 0, 0, 0, 0, 9][..], &field(false, b"-a"), b"%%"].concat());
}

#[tokio::test]
async fn a_client_that_names_the_socket_by_its_path_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let changed = std::sync::Arc::new(tokio::sync::Notify::new());
    let manager = crate::DeviceManager::new(dir.path(), vec![0], changed, shutdown.clone()).unwrap();
    let server = tokio::spawn(manager.run());
    let path = dir.path().join("kubelet.sock");
    let connected = async {
        loop {
            match UnixStream::connect(&path).await {
                Ok(client) => return client,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let mut client = tokio::time::timeout(Duration::from_secs(20), connected).await.expect("a server");
    let fields = [
        vec![0x83, 0x86, 0x44, 2, b'/', b'x'],
        field(false, b"%2Frun%2Fs.sock"),
        vec![0x5f, 16],
        b"application/grpc".to_vec(),
    ]
    .concat();
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    sent.extend([0, 0, u8::try_from(fields.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    sent.extend(fields);
    // In two pieces, as a frame may come.
    let (one, two) = sent.split_at(sent.len() - 7);
    client.write_all(one).await.unwrap();
    client.write_all(two).await.unwrap();
    let answered = async {
        loop {
            let mut header = [0u8; 9];
            client.read_exact(&mut header).await.unwrap();
            let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
            client.read_exact(&mut payload).await.unwrap();
            // An answer (1), or the stream's (3) or the connection's (7) end.
            if [1, 3, 7].contains(&header[3]) {
                return header[3];
            }
        }
    };
    let kind = tokio::time::timeout(Duration::from_secs(20), answered).await.expect("an answer in time");
    assert_eq!(kind, 1, "the request was refused");
    drop(client);
    shutdown.cancel();
    server.await.unwrap();
}
