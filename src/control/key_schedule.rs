//! From secrets to data keys: the TLS 1.0 PRF over both sides' randoms, and the slicing of the
//! resulting 256 bytes. (OpenVPN 2 `ssl.c`, `crypto.c`.)

use aws_lc_rs::hmac as lc_hmac;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use ovpn_dco::{Cipher, DirectionKey, KeyConfig, KeyId};
use zeroize::{Zeroize, Zeroizing};

use super::key_method::{ClientRandoms, Randoms};
use super::packet::SessionId;
use super::wrap::{KeySlices, Side};

/// TLS exporter label of data keys (no context).
pub const DATA_KEY_LABEL: &str = "EXPORTER-OpenVPN-datakeys";

/// TLS exporter label of the renegotiations' tls-crypt key.
pub const DYNAMIC_TLS_CRYPT_LABEL: &str = "EXPORTER-OpenVPN-dynamic-tls-crypt";

/// Both directions' keys: four slices of 64 bytes.
pub const KEY_BLOCK_LEN: usize = 256;

/// The 256 bytes from which data keys are cut.
pub type KeyBlock = Zeroizing<[u8; KEY_BLOCK_LEN]>;

/// No usable data key came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the derived data key is unusable")]
pub struct KeyScheduleError;

/// The key block of key method 2 without TLS exporter, made where it is to be: a value that is
/// returned leaves copies behind.
pub fn expand(
    client: &ClientRandoms,
    server: &Randoms,
    client_session: SessionId,
    server_session: SessionId,
    block: &mut KeyBlock,
) -> Result<(), KeyScheduleError> {
    let mut master = Zeroizing::new([0; 48]);
    prf(
        &client.pre_master,
        &[b"OpenVPN master secret", &client.randoms.random1, &server.random1],
        &mut master[..],
    )?;
    prf(
        &master[..],
        &[
            b"OpenVPN key expansion",
            &client.randoms.random2,
            &server.random2,
            client_session.bytes(),
            server_session.bytes(),
        ],
        &mut block[..],
    )
}

/// Cuts the data keys of one side. The client sends with key 0.
pub fn data_keys(
    block: &KeyBlock,
    side: Side,
    key_id: KeyId,
    cipher: Cipher,
) -> Result<KeyConfig, KeyScheduleError> {
    let slices = KeySlices::new(&block[..]);
    let direction = |number| {
        let key = slices.cipher(number).map_err(|_| KeyScheduleError)?;
        if key.iter().take(cipher.key_len()).all(|b| *b == 0) {
            return Err(KeyScheduleError);
        }
        let second = slices.hmac(number).map_err(|_| KeyScheduleError)?;
        DirectionKey::new(cipher, key, second).ok_or(KeyScheduleError)
    };
    let (zero, one) = (direction(0)?, direction(1)?);
    let (encrypt, decrypt) = match side {
        Side::Client => (zero, one),
        Side::Server => (one, zero),
    };
    Ok(KeyConfig { key_id, cipher, encrypt, decrypt })
}

/// TLS 1.0 PRF (RFC 2246, section 5); `seed` is the concatenation of label and seed.
pub fn prf(secret: &[u8], seed: &[&[u8]], out: &mut [u8]) -> Result<(), KeyScheduleError> {
    let half = secret.len().div_ceil(2);
    let first = secret.get(..half).ok_or(KeyScheduleError)?;
    let second = secret.get(secret.len() - half..).ok_or(KeyScheduleError)?;
    let seed = Zeroizing::new(seed.concat());
    out.fill(0);
    // A fixed-size MD5 key block cannot be refused, but the type says it could.
    let md5 = Hmac::<Md5>::new_from_slice(first).map_err(|_| KeyScheduleError)?;
    xor_p_hash(out, &seed, |parts, digest: &mut [u8; 16]| {
        let mut mac = md5.clone();
        parts.iter().for_each(|p| mac.update(p));
        digest.copy_from_slice(&mac.finalize().into_bytes());
    });
    let sha1 = lc_hmac::Key::new(lc_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, second);
    xor_p_hash(out, &seed, |parts, digest: &mut [u8; 20]| {
        let mut mac = lc_hmac::Context::with_key(&sha1);
        parts.iter().for_each(|p| mac.update(p));
        digest.copy_from_slice(mac.sign().as_ref());
    });
    Ok(())
}

/// `P_hash` of RFC 2246, XORed onto `out`.
fn xor_p_hash<const N: usize>(out: &mut [u8], seed: &[u8], mac: impl Fn(&[&[u8]], &mut [u8; N])) {
    let mut a = [0; N];
    let mut block = [0; N];
    mac(&[seed], &mut a);
    for chunk in out.chunks_mut(N) {
        mac(&[&a, seed], &mut block);
        for (byte, key) in chunk.iter_mut().zip(block) {
            *byte ^= key;
        }
        let previous = Zeroizing::new(a);
        mac(&[&previous[..]], &mut a);
    }
    a.zeroize();
    block.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOREM: &[u8] = b"Lorem ipsum dolor sit amet, consectetur adipisici elit, sed eiusmod \
        tempor incidunt ut labore et dolore magna aliqua.";

    /// OpenVPN 2 `test_crypto.c`.
    #[test]
    fn prf_vectors() {
        let mut out = [0; 8];
        prf(b"tls1-prf-test-secret", &[b"tls1-prf-", b"test"], &mut out).unwrap();
        assert_eq!(hex::encode(out), "7144fe2540737595");
        let mut out = [0; 32];
        assert_eq!(LOREM.len(), 117);
        let seed = b"Quis aute iure reprehenderit in voluptate velit esse cillum dolore";
        prf(LOREM, &[seed], &mut out).unwrap();
        assert_eq!(
            hex::encode(out),
            "d98c8518c85e946927916acfc2d592fbb1567e4b4b1459e6a904ac2ddab72d67"
        );
    }

    fn vector() -> KeyBlock {
        let client = ClientRandoms {
            pre_master: std::array::from_fn(|i| i as u8),
            randoms: Randoms { random1: [0x11; 32], random2: [0x22; 32] },
        };
        let server = Randoms { random1: [0x33; 32], random2: [0x44; 32] };
        let id = |bytes| SessionId::new(bytes).unwrap();
        let mut block = Zeroizing::new([0; KEY_BLOCK_LEN]);
        expand(
            &client,
            &server,
            id([1, 2, 3, 4, 5, 6, 7, 8]),
            id([0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8]),
            &mut block,
        )
        .unwrap();
        block
    }

    #[test]
    fn key_expansion_vector() {
        assert_eq!(
            hex::encode(&vector()[..]),
            "e209e0f20dccfec99c6245c57f6c82e14fa12bfa1fb82ce6257e3969e4f7716c\
             21a490fee24e29f3e829e326be4a06407db14afaf89d70b5698a6215815d9c8e\
             1b2fef4997aee38e5d7513dbd22b869e210d39bba5b3d6f921e7c449b1ef81aa\
             cbcf552304c83295343757ac40083831db52fd5f1c3fe7da65c5d2dcda7fd5c7\
             43f27392aa6924bbacc41a978b03d65b43fb646d13f943fd41a0be9dc67b7622\
             207d82f21197be15077f2ffca097384bbf2d19dd186895db1e87dc541ed7e049\
             993a878c52de10ad427af585c0b98cc354b9172f690a41b2dcd56067600390ff\
             c278f78f5cb24de3106c09c532a4ca8d1c2cfc615ee49c888d665f1966d9c652"
        );
    }

    #[test]
    fn slices() {
        let block = vector();
        let client = data_keys(&block, Side::Client, KeyId::FIRST, Cipher::Aes256Gcm).unwrap();
        let server = data_keys(&block, Side::Server, KeyId::FIRST, Cipher::Aes256Gcm).unwrap();
        assert_eq!(client.encrypt.cipher_key(), &block[..32]);
        assert_eq!(client.encrypt.second_key(), &block[64..72]);
        assert_eq!(client.decrypt.cipher_key(), &block[128..160]);
        assert_eq!(client.decrypt.second_key(), &block[192..200]);
        assert_eq!(server.encrypt.cipher_key(), client.decrypt.cipher_key());
        assert_eq!(server.decrypt.second_key(), client.encrypt.second_key());
        let zero = Zeroizing::new([0; KEY_BLOCK_LEN]);
        assert!(data_keys(&zero, Side::Client, KeyId::FIRST, Cipher::Aes128Gcm).is_err());
    }
}
