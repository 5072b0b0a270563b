//! Short stable names for the content of a template: the suffixes of replica sets and revisions.

use serde::Serialize;

/// FNV-1 as upstream's controllers use it, over 32 bits.
pub fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| h.wrapping_mul(0x0100_0193) ^ u32::from(*b))
}

/// FNV-1a over 32 bits.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// Characters that cannot form words.
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Text of characters that cannot form words and are safe in names.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| SAFE[usize::from(b) % SAFE.len()] as char).collect()
}

/// A short name of the content, different for each `collision_count`.
pub fn of(content: &impl Serialize, collision_count: Option<i32>) -> String {
    // Maps are sorted in k8s-openapi's types, so that equal content prints alike.
    let mut bytes = serde_json::to_vec(content).unwrap_or_default();
    if let Some(n) = collision_count {
        bytes.extend_from_slice(&n.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
    }
    safe_encode(&fnv32a(&bytes).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes() {
        assert_eq!(fnv32a(b""), 0x811c_9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c_292c);
        assert_eq!(fnv32(b"a"), 0x050c_5d7e);
        let (a, b) = (of(&"x", None), of(&"x", Some(1)));
        assert_ne!(a, b);
        assert!(a.bytes().all(|c| SAFE.contains(&c)));
        assert_eq!(a, of(&"x", None));
    }
}
