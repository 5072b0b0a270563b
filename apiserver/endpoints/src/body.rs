//! Response bodies: one value, a lazily written sequence, or a live stream.
//!
//! A list of ten thousand objects is never one allocation: [`Body::pieces`] pulls the next piece only when
//! the connection has taken the one before, and pieces are joined up to [`CHUNK`] so that a write to the
//! socket is worth its system call.

use bytes::{Bytes, BytesMut};
use futures::Stream;
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Size to which pieces are joined before they are handed to the connection.
pub const CHUNK: usize = 64 * 1024;

type Pieces = Box<dyn Iterator<Item = Bytes> + Send>;
type Live = Pin<Box<dyn Stream<Item = Bytes> + Send>>;
type Foreign = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BoxError> + Send>>;

/// Why a body ended early; the connection is then closed without a proper end.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What goes back to a client.
pub enum Body {
    Full(Bytes),
    /// Written piece by piece, as fast as the client reads.
    Pieces(Pieces),
    /// Written as things happen; each item is one write.
    Live(Live),
    /// Passed on from elsewhere (proxies, log streams), trailers included.
    Foreign(Foreign),
}

impl Body {
    pub fn empty() -> Self {
        Body::Full(Bytes::new())
    }
    pub fn pieces(pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Self {
        Body::Pieces(Box::new(pieces))
    }
    /// Tells how many bytes it had once it is written; at once if that is known before.
    pub fn measured(self, told: impl FnOnce(usize) + Send + 'static) -> Self {
        match self {
            Body::Pieces(pieces) => Body::Pieces(Box::new(Measured { pieces, bytes: 0, told: Some(told) })),
            other => {
                if let Some(size) = http_body::Body::size_hint(&other).exact() {
                    told(usize::try_from(size).unwrap_or(usize::MAX));
                }
                other
            }
        }
    }
    pub fn live(stream: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Body::Live(Box::pin(stream))
    }
    pub fn foreign<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        use http_body_util::BodyExt;
        Body::Foreign(Box::pin(body.map_err(Into::into)))
    }
}

/// Pieces that are counted as they go.
struct Measured<F: FnOnce(usize)> {
    pieces: Pieces,
    bytes: usize,
    told: Option<F>,
}

impl<F: FnOnce(usize)> Iterator for Measured<F> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let piece = self.pieces.next();
        match (&piece, self.told.take()) {
            (Some(piece), told) => {
                self.bytes += piece.len();
                self.told = told;
            }
            (None, Some(told)) => told(self.bytes),
            (None, None) => {}
        }
        piece
    }
}

impl From<Bytes> for Body {
    fn from(b: Bytes) -> Self {
        Body::Full(b)
    }
}

impl From<Vec<u8>> for Body {
    fn from(b: Vec<u8>) -> Self {
        Body::Full(b.into())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Body::Full(b) if b.is_empty() => Poll::Ready(None),
            Body::Full(b) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(b))))),
            Body::Pieces(pieces) => Poll::Ready(joined(pieces).map(|b| Ok(Frame::data(b)))),
            Body::Live(s) => s.as_mut().poll_next(cx).map(|o| o.map(|b| Ok(Frame::data(b)))),
            Body::Foreign(b) => b.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Body::Full(b) => b.is_empty(),
            Body::Foreign(b) => b.is_end_stream(),
            _ => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Full(b) => SizeHint::with_exact(b.len() as u64),
            Body::Foreign(b) => b.size_hint(),
            _ => SizeHint::default(),
        }
    }
}

/// The next chunk: small pieces joined, a large piece passed on as it is.
fn joined(pieces: &mut Pieces) -> Option<Bytes> {
    let first = pieces.next()?;
    if first.len() >= CHUNK {
        return Some(first);
    }
    let mut out = BytesMut::with_capacity(CHUNK + 8192);
    out.extend_from_slice(&first);
    while out.len() < CHUNK
        && let Some(next) = pieces.next()
    {
        out.extend_from_slice(&next);
    }
    Some(out.freeze())
}

/// An infallible stream of bytes out of one future, for bodies that are made late.
pub fn once(make: impl Future<Output = Bytes> + Send + 'static) -> Body {
    use futures::StreamExt;
    Body::live(futures::stream::once(make).map(Ok::<_, Infallible>).filter_map(|r| async move { r.ok() }))
}
