//! As much of DER's writing as certificates and requests need.

/// A tag, a length, the content.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        n @ 0..=127 => out.push(n as u8),
        n => {
            let bytes = n.to_be_bytes();
            let first = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len() - 1);
            out.push(0x80 | (bytes.len() - first) as u8);
            out.extend_from_slice(&bytes[first..]);
        }
    }
    out.extend_from_slice(content);
    out
}

/// SEQUENCE of elements that are DER already.
pub(crate) fn sequence(elements: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, &elements.concat())
}

/// SET of one element.
pub(crate) fn set(element: &[u8]) -> Vec<u8> {
    tlv(0x31, element)
}

/// A positive INTEGER.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let trimmed = &bytes[bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len().saturating_sub(1))..];
    let mut content = Vec::with_capacity(trimmed.len() + 1);
    // A first bit that is set would mean a negative number.
    if trimmed.first().is_none_or(|b| *b >= 0x80) {
        content.push(0);
    }
    content.extend_from_slice(trimmed);
    tlv(0x02, &content)
}

/// OBJECT IDENTIFIER.
pub(crate) fn oid(arcs: &[u64]) -> Vec<u8> {
    let mut content = Vec::new();
    let first = arcs.first().copied().unwrap_or(0) * 40 + arcs.get(1).copied().unwrap_or(0);
    for arc in std::iter::once(first).chain(arcs.iter().skip(2).copied()) {
        let mut groups = vec![(arc & 0x7f) as u8];
        let mut rest = arc >> 7;
        while rest > 0 {
            groups.push((rest & 0x7f) as u8 | 0x80);
            rest >>= 7;
        }
        content.extend(groups.iter().rev());
    }
    tlv(0x06, &content)
}

/// BOOLEAN TRUE.
pub(crate) fn yes() -> Vec<u8> {
    tlv(0x01, &[0xff])
}

/// BIT STRING of whole bytes.
pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    let mut content = vec![0];
    content.extend_from_slice(bytes);
    tlv(0x03, &content)
}

/// BIT STRING of named bits, in the shortest form, as DER has it.
pub(crate) fn named_bits(bits: &[u8]) -> Vec<u8> {
    let Some(last) = bits.iter().max() else { return tlv(0x03, &[0]) };
    let mut content = vec![7 - (last % 8)];
    content.resize(2 + usize::from(last / 8), 0);
    for bit in bits {
        content[1 + usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    tlv(0x03, &content)
}

/// UTF8String, or PrintableString where the text allows it (which is what others' tools write).
pub(crate) fn text(s: &str) -> Vec<u8> {
    let printable = s.chars().all(|c| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c));
    tlv(if printable { 0x13 } else { 0x0c }, s.as_bytes())
}

/// UTCTime until 2049, GeneralizedTime after it.
pub(crate) fn time(seconds: i64) -> Vec<u8> {
    let at = jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::MAX)
        .to_zoned(jiff::tz::TimeZone::UTC);
    match at.year() {
        1950..=2049 => tlv(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes()),
        _ => tlv(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        assert_eq!(oid(&[1, 2, 840, 10045, 2, 1]), [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1]);
        assert_eq!(integer(&[0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0]), [2, 1, 0]);
        assert_eq!(named_bits(&[0, 2]), [3, 2, 5, 0xa0]);
        assert_eq!(named_bits(&[8]), [3, 3, 7, 0, 0x80]);
        assert_eq!(&time(0)[2..], b"700101000000Z");
        assert_eq!(tlv(4, &[1; 200])[..3], [4, 0x81, 200]);
    }
}
