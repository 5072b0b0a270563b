//! SPDY/3.1 frames on the wire (draft-mbelshe-httpbis-spdy-00, section 2).

use crate::{Error, Result};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
/// Frames carry a length of 24 bits; nothing that a runtime sends comes near this.
const MAX_FRAME: usize = 4 << 20;
/// Adler-32 of the dictionary that SPDY/3 prescribes for header blocks.
const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    SynStream {
        id: u32,
        headers: Vec<(String, String)>,
    },
    SynReply {
        id: u32,
        fin: bool,
    },
    Reset {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    Data {
        id: u32,
        data: Bytes,
        fin: bool,
    },
    /// Settings, window updates and the like, which need no answer.
    Other,
}

/// Header blocks form one compressed stream a connection, so encoding has state.
///
/// The stream is written with stored blocks only: it names the prescribed dictionary but never refers into it. Header
/// blocks of this use are a few dozen bytes, once a stream.
#[derive(Default)]
pub struct Encoder {
    started: bool,
}

impl Encoder {
    pub fn encode(&mut self, frame: &Frame) -> Bytes {
        let mut out = BytesMut::new();
        match frame {
            Frame::SynStream { id, headers } => {
                let block = self.headers(headers);
                control(&mut out, 1, 0, 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, fin } => {
                let block = self.headers(&[]);
                control(&mut out, 2, u8::from(*fin), 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(&mut out, 3, 0, 8);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(&mut out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::GoAway => {
                control(&mut out, 7, 0, 8);
                out.put_u64(0);
            }
            Frame::Data { id, data, fin } => {
                out.put_u32(*id & 0x7fff_ffff);
                put_flags_and_length(&mut out, u8::from(*fin) * FLAG_FIN, data.len());
                out.put_slice(data);
            }
            Frame::Other => {}
        }
        out.freeze()
    }

    fn headers(&mut self, headers: &[(String, String)]) -> Bytes {
        let mut plain = BytesMut::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(k, v)| [k, v]) {
            plain.put_u32(text.len() as u32);
            plain.put_slice(text.as_bytes());
        }
        let mut out = BytesMut::new();
        if !self.started {
            self.started = true;
            // Deflate with a 32 KiB window, a preset dictionary, and the check bits that make this divisible by 31.
            out.put_u16(0x78bb);
            out.put_u32(DICTIONARY_ID);
        }
        for block in plain.chunks(u16::MAX as usize) {
            out.put_u8(0);
            out.put_u16_le(block.len() as u16);
            out.put_u16_le(!(block.len() as u16));
            out.put_slice(block);
        }
        // An empty block is the flush that makes a reader hand out what it has.
        out.put_slice(&[0, 0, 0, 0xff, 0xff]);
        out.freeze()
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_flags_and_length(out, flags, length);
}

fn put_flags_and_length(out: &mut BytesMut, flags: u8, length: usize) {
    out.put_u32(u32::from(flags) << 24 | length as u32 & 0x00ff_ffff);
}

/// The next frame; `None` at the end of the connection between two frames.
pub async fn read<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Option<Frame>> {
    let first = match reader.read_u32().await {
        Ok(first) => first,
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let second = reader.read_u32().await?;
    let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
    if length > MAX_FRAME {
        return Err(Error::Protocol(format!("SPDY frame of {length} bytes")));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await?;
    let fin = flags & FLAG_FIN != 0;
    if first & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data { id: first, data: body.into(), fin }));
    }
    let version = (first >> 16 & 0x7fff) as u16;
    if version != VERSION {
        return Err(Error::Protocol(format!("SPDY version {version}")));
    }
    let word = |at: usize| -> Result<u32> {
        let bytes = body.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or_else(|| Error::Protocol("SPDY frame cut short".into()))
    };
    let id = |at| word(at).map(|w| w & 0x7fff_ffff);
    Ok(Some(match first & 0xffff {
        2 => Frame::SynReply { id: id(0)?, fin },
        3 => Frame::Reset { id: id(0)?, status: word(4)? },
        6 => Frame::Ping { id: word(0)? },
        7 => Frame::GoAway,
        _ => Frame::Other,
    }))
}
