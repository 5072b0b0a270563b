//! The few DER structures that keys are made of. Reading never panics: whatever does not fit is `None`.

/// 1.2.840.113549.1.1.1
pub const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1
pub const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.2.840.10045.3.1.7
pub const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34
pub const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const NULL: u8 = 0x05;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;

fn next<'a>(input: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let length = if first < 0x80 {
        usize::from(first)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (digits, after) = rest.split_at(count);
        rest = after;
        digits.iter().fold(0, |n, d| n << 8 | usize::from(*d))
    };
    if rest.len() < length {
        return None;
    }
    let (content, after) = rest.split_at(length);
    *input = after;
    Some((tag, content))
}

fn expect<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, content) = next(input)?;
    (found == tag).then_some(content)
}

fn integer(input: &mut &[u8]) -> Option<Vec<u8>> {
    let bytes = expect(input, INTEGER)?;
    let start = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
    Some(bytes[start..].to_vec())
}

/// Object id, and the object id in the parameters if there is one.
fn algorithm<'a>(input: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let mut fields = expect(input, SEQUENCE)?;
    let id = expect(&mut fields, OID)?;
    let parameters = match next(&mut fields) {
        Some((OID, curve)) => curve,
        _ => &[],
    };
    Some((id, parameters))
}

fn bits<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    match expect(input, BIT_STRING)? {
        [0, content @ ..] => Some(content),
        _ => None,
    }
}

/// Algorithm, curve, key bits.
pub fn read_spki(mut input: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut fields = expect(&mut input, SEQUENCE)?;
    let (id, parameters) = algorithm(&mut fields)?;
    Some((id, parameters, bits(&mut fields)?))
}

/// Modulus and exponent without leading zeros.
pub fn read_rsa_public(mut input: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut fields = expect(&mut input, SEQUENCE)?;
    Some((integer(&mut fields)?, integer(&mut fields)?))
}

/// Algorithm, curve, the inner private key.
pub fn read_pkcs8(mut input: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut fields = expect(&mut input, SEQUENCE)?;
    integer(&mut fields)?;
    let (id, parameters) = algorithm(&mut fields)?;
    Some((id, parameters, expect(&mut fields, OCTET_STRING)?))
}

/// The secret scalar, the curve if it is named, the public point if it is there.
#[expect(clippy::type_complexity, reason = "three optional parts of one structure")]
pub fn read_ec_private(mut input: &[u8]) -> Option<(&[u8], Option<&[u8]>, Option<&[u8]>)> {
    let mut fields = expect(&mut input, SEQUENCE)?;
    integer(&mut fields)?;
    let secret = expect(&mut fields, OCTET_STRING)?;
    let (mut curve, mut point) = (None, None);
    while let Some((tag, mut content)) = next(&mut fields) {
        match tag {
            CONTEXT_0 => curve = expect(&mut content, OID),
            CONTEXT_1 => point = bits(&mut content),
            _ => {}
        }
    }
    Some((secret, curve, point))
}

fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match content.len() {
        n if n < 0x80 => out.push(n as u8),
        n => {
            let digits = n.to_be_bytes();
            let start = digits.iter().position(|b| *b != 0).unwrap_or(digits.len());
            out.push(0x80 | (digits.len() - start) as u8);
            out.extend(&digits[start..]);
        }
    }
    out.extend(content);
    out
}

fn write_integer(bytes: &[u8]) -> Vec<u8> {
    match bytes.first() {
        Some(b) if *b < 0x80 => write(INTEGER, bytes),
        _ => write(INTEGER, &[&[0], bytes].concat()),
    }
}

fn spki(algorithm: &[Vec<u8>], key: &[u8]) -> Vec<u8> {
    let key = write(BIT_STRING, &[&[0], key].concat());
    write(SEQUENCE, &[write(SEQUENCE, &algorithm.concat()), key].concat())
}

pub fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = write(SEQUENCE, &[write_integer(modulus), write_integer(exponent)].concat());
    spki(&[write(OID, OID_RSA), write(NULL, &[])], &key)
}

pub fn ec_spki(curve: &[u8], point: &[u8]) -> Vec<u8> {
    spki(&[write(OID, OID_EC), write(OID, curve)], point)
}
