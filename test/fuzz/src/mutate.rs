//! Spoiling valid inputs.

use rand::rngs::StdRng;
use rand::{Rng, RngExt};

/// Longest input; servers refuse bodies over 3 MB, and long inputs are slow without finding more.
const LONGEST: usize = 64 << 10;
/// Bytes and words that decoders take for something.
const WORDS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b":",
    b",",
    b"null",
    b"-",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"---\n",
    b"!!binary ",
    b"|2\n",
    b"\t",
    b"\n",
    b"\0",
    b"\xff\xff\xff\xff\x0f",
    b"\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"1e999",
    b"9223372036854775808",
    b"\\ud800",
    b"\xc3\x28",
    b"$patch",
    b"$retainKeys",
    b"$setElementOrder/",
    b"f:",
    b"k:{",
    b"v:",
    b"/-",
    b"~1",
    b"~0",
    b"E",
    b"Ki",
    b"n",
    b"!=",
    b" in (",
    b" notin (",
    b"==",
    b"\x9f\xff",
    b"\xbf",
    b"\x5f",
    b"\xd9\xd9\xf7",
    b"kind",
    b"apiVersion",
    b"metadata",
    b"managedFields",
    b"op",
    b"copy",
    b"move",
    b"path",
    b"from",
];

/// A new input: a seed with a few spoilt places, sometimes none of a seed at all.
pub fn input(rng: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut out = match rng.random_range(0..16) {
        0 => noise(rng),
        1 => nested(rng),
        _ => pick(rng, seeds).to_vec(),
    };
    for _ in 0..rng.random_range(1..6) {
        spoil(rng, &mut out, seeds);
    }
    out.truncate(LONGEST);
    out
}

fn pick<'a>(rng: &mut StdRng, seeds: &'a [Vec<u8>]) -> &'a [u8] {
    if seeds.is_empty() { &[] } else { &seeds[rng.random_range(0..seeds.len())] }
}

fn noise(rng: &mut StdRng) -> Vec<u8> {
    let mut out = vec![0; rng.random_range(0..256)];
    rng.fill_bytes(&mut out);
    out
}

/// One opening thing many times over.
fn nested(rng: &mut StdRng) -> Vec<u8> {
    let openings: [&[u8]; 7] = [b"[", b"{\"a\":", b"- ", b"a: {", b"\x0a\x7f", b"\x9f", b"("];
    openings[rng.random_range(0..openings.len())].repeat(rng.random_range(1..8000))
}

fn place(rng: &mut StdRng, out: &[u8]) -> usize {
    rng.random_range(0..=out.len())
}

/// A stretch of the input.
fn stretch(rng: &mut StdRng, out: &[u8]) -> std::ops::Range<usize> {
    let (a, b) = (place(rng, out), place(rng, out));
    a.min(b)..a.max(b).min(a.min(b) + 512)
}

fn spoil(rng: &mut StdRng, out: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = place(rng, out);
    match rng.random_range(0..8) {
        0 => out.truncate(at),
        1 if at < out.len() => out[at] ^= 1 << rng.random_range(0..8),
        2 if at < out.len() => out[at] = rng.random(),
        3 => {
            let gone = stretch(rng, out);
            out.drain(gone);
        }
        4 => {
            let again = stretch(rng, out);
            let copy = out[again].to_vec();
            out.splice(at..at, copy);
        }
        5 => {
            let other = pick(rng, seeds);
            let part = other[stretch(rng, other)].to_vec();
            out.splice(at..at, part);
        }
        _ => {
            let word = WORDS[rng.random_range(0..WORDS.len())];
            out.splice(at..at, word.iter().copied());
        }
    }
}
