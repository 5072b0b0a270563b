//! Connections of gRPC clients that name the kubelet's socket by its path.
//!
//! Such a client, written in Go, sends the path with its slashes escaped as the request's `:authority`, which is none
//! by the letter of the law: the server's HTTP/2 would end every request with a protocol error. On the way in, the
//! characters that it cannot bear become dashes. Nobody looks at the authority of a socket on the own machine; and as
//! no byte more or less is sent, both ends' tables of headers stay in step.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

/// What a client says before its first frame.
const PREFACE: usize = 24;
const FRAME_HEADER: usize = 9;
/// No frame is larger than what the server allows, by default 16 KiB; a larger one is its business.
const MAX_FRAME: usize = 1 << 20;

/// The connections of a listener, made lenient.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Lenient>> {
    UnixListenerStream::new(listener).map(|stream| stream.map(Lenient::new))
}

/// A connection whose requests may have any authority.
pub struct Lenient {
    inner: UnixStream,
    /// Read, but not a whole frame yet.
    pending: Vec<u8>,
    /// To be handed on, from `given` on.
    ready: Vec<u8>,
    given: usize,
    preface: usize,
    /// Nothing is looked at any more.
    plain: bool,
}

impl Lenient {
    fn new(inner: UnixStream) -> Self {
        Self { inner, pending: Vec::new(), ready: Vec::new(), given: 0, preface: PREFACE, plain: false }
    }

    /// Moves what is whole from `pending` to `ready`.
    fn pass_on(&mut self) {
        let mut at = 0;
        if self.preface > 0 {
            at = self.preface.min(self.pending.len());
            self.preface -= at;
        }
        while let Some(header) = self.pending.get(at..at + FRAME_HEADER) {
            let length = usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2]);
            let (kind, flags) = (header[3], header[4]);
            if length > MAX_FRAME {
                self.plain = true;
                break;
            }
            let end = at + FRAME_HEADER + length;
            let Some(payload) = self.pending.get_mut(at + FRAME_HEADER..end) else { break };
            if kind == 1 {
                amend_headers(payload, flags);
            }
            at = end;
        }
        let at = if self.plain { self.pending.len() } else { at };
        self.ready.extend(self.pending.drain(..at));
    }
}

impl AsyncRead for Lenient {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let left = &this.ready[this.given..];
            if !left.is_empty() {
                let count = left.len().min(buf.remaining());
                buf.put_slice(&left[..count]);
                this.given += count;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.given = 0;
            if this.plain {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut room = [0u8; 4096];
            let mut fresh = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut fresh))?;
            if fresh.filled().is_empty() {
                // The end, perhaps amid a frame.
                this.plain = true;
                this.ready.append(&mut this.pending);
            } else {
                this.pending.extend_from_slice(fresh.filled());
                this.pass_on();
            }
        }
    }
}

impl AsyncWrite for Lenient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl Connected for Lenient {
    type ConnectInfo = <UnixStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

/// Finds the header block in a frame of headers.
fn amend_headers(payload: &mut [u8], flags: u8) {
    let padded = flags & 0x8 != 0;
    let start = usize::from(padded) + if flags & 0x20 != 0 { 5 } else { 0 };
    let padding = if padded { payload.first().copied().map_or(0, usize::from) } else { 0 };
    let Some(end) = payload.len().checked_sub(padding) else { return };
    if let Some(block) = payload.get_mut(start..end) {
        // What cannot be understood is left to the server to complain of.
        let _ = amend_block(block);
    }
}

/// Goes through the fields of a header block (RFC 7541, section 6) up to the authority.
fn amend_block(block: &mut [u8]) -> Option<()> {
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let index = integer(block, &mut at, prefix)?;
        if prefix == 7 || prefix == 5 {
            continue;
        }
        if index == 0 {
            text(block, &mut at)?;
        }
        let (huffman, range) = text(block, &mut at)?;
        if index == 1 {
            let value = block.get_mut(range)?;
            match huffman {
                true => amend_huffman(value),
                false => value.iter_mut().filter(|c| matches!(c, b'%' | b'/')).for_each(|c| *c = b'-'),
            }
            return Some(());
        }
    }
    Some(())
}

/// An integer with a prefix of so many bits (section 5.1).
fn integer(block: &[u8], at: &mut usize, prefix: u32) -> Option<usize> {
    let most = (1usize << prefix) - 1;
    let mut value = usize::from(*block.get(*at)?) & most;
    *at += 1;
    if value < most {
        return Some(value);
    }
    for shift in [0, 7, 14] {
        let byte = usize::from(*block.get(*at)?);
        *at += 1;
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Where a string's bytes are, and whether they are Huffman's (section 5.2).
fn text(block: &[u8], at: &mut usize) -> Option<(bool, std::ops::Range<usize>)> {
    let huffman = *block.get(*at)? & 0x80 != 0;
    let length = integer(block, at, 7)?;
    let range = *at..*at + length;
    *at = range.end;
    (range.end <= block.len()).then_some((huffman, range))
}

/// The code is canonical: where the codes of a length end tells how long a code is. `%`, `/` and `-` have six bits.
const CODES_END: [(usize, u32); 4] = [(5, 10), (6, 46), (7, 124), (8, 254)];
const PERCENT: u32 = 21;
const SLASH: u32 = 24;
const DASH: u32 = 22;

fn amend_huffman(value: &mut [u8]) {
    let mut at = 0;
    loop {
        let Some((length, code)) =
            CODES_END.iter().find_map(|&(n, end)| bits(value, at, n).filter(|c| *c < end).map(|c| (n, c)))
        else {
            // The padding at the end, or a character that no path has.
            return;
        };
        if length == 6 && (code == PERCENT || code == SLASH) {
            for bit in 0..6 {
                let (byte, mask) = ((at + bit) / 8, 0x80 >> ((at + bit) % 8));
                match DASH >> (5 - bit) & 1 {
                    1 => value[byte] |= mask,
                    _ => value[byte] &= !mask,
                }
            }
        }
        at += length;
    }
}

/// So many bits from a place on; `None` where the value ends before.
fn bits(value: &[u8], at: usize, count: usize) -> Option<u32> {
    (at..at + count).try_fold(0, |sum, bit| {
        let byte = *value.get(bit / 8)?;
        Some(sum << 1 | u32::from(byte >> (7 - bit % 8) & 1))
    })
}

#[cfg(test)]
mod tests;
