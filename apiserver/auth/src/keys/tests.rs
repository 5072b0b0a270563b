use super::*;

const RSA: &[u8] = include_bytes!("../testdata/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../testdata/rsa.pub");
const EC: &[u8] = include_bytes!("../testdata/ec.pem");

#[test]
fn key_ids_are_digests_of_the_pkix_form() {
    // Computed with another tool: sha256 over the DER public key.
    let id = |pem| public_keys_from_pem(pem).unwrap().remove(0).id;
    assert_eq!(id(RSA), "wi4mkn3u4NFbOOZ-1HDiIG908wpmHn0OSOLFyguHDvI");
    assert_eq!(id(RSA_PUBLIC), id(RSA));
    assert_eq!(id(EC), "zgjCoaleNUiSzvfuPBtVNzcOzG8rZPeWU0WTz72gTJE");
    assert_eq!(PrivateKey::from_pem(EC).unwrap().public().id, id(EC));
}

#[test]
fn signatures_verify_only_with_their_key_algorithm_and_message() {
    for (pem, algorithm) in [(RSA, "RS256"), (EC, "ES256")] {
        let key = PrivateKey::from_pem(pem).unwrap();
        let signature = key.sign(b"message").unwrap();
        assert!(key.public().verify(algorithm, b"message", &signature));
        assert!(!key.public().verify(algorithm, b"massage", &signature));
        assert!(!key.public().verify("none", b"message", &signature));
        assert!(!key.public().verify("HS256", b"message", &signature));
    }
    let rsa = PrivateKey::from_pem(RSA).unwrap();
    let ec = PrivateKey::from_pem(EC).unwrap();
    assert!(!ec.public().verify("ES256", b"m", &rsa.sign(b"m").unwrap()));
}

#[test]
fn pkcs8_keys_are_read_too() {
    let pair = pki::Ca::new("x").unwrap();
    let key = PrivateKey::from_pem(pair.key_pem().as_bytes()).unwrap();
    assert!(key.public().verify("ES256", b"m", &key.sign(b"m").unwrap()));
    let from_certificate = public_keys_from_pem(pair.cert_pem().as_bytes()).unwrap();
    assert_eq!(from_certificate, [key.public().clone()]);
}

#[test]
fn broken_files_are_errors() {
    for text in [&b""[..], b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n", b"garbage"] {
        assert!(public_keys_from_pem(text).is_err());
        assert!(PrivateKey::from_pem(text).is_err());
    }
}
