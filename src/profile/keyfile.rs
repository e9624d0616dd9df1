//! Files and inline blocks that hold keys: static keys, tls-crypt-v2 keys, fingerprints.

use zeroize::Zeroize;

use super::options::StaticKey;
use super::values::pem_damage;
use super::verdict::Problem;
use crate::secret::Secret;

const STATIC_BEGIN: &str = "-----BEGIN OpenVPN Static key V1-----";
const STATIC_END: &str = "-----END OpenVPN Static key V1-----";
const V2_CLIENT: &str = "OpenVPN tls-crypt-v2 client key";
const V2_SERVER: &str = "OpenVPN tls-crypt-v2 server key";
/// A whole static key: two cipher and two HMAC keys of 64 bytes.
pub(super) const STATIC_KEY_LEN: usize = 256;
/// Half of it: enough for `tls-auth` without direction.
pub(super) const HALF_KEY_LEN: usize = 128;
/// Smallest wrapped key: tag and length without any content would not authenticate anything.
const MIN_WRAPPED: usize = 32;
/// Largest wrapped key.
const MAX_WRAPPED: usize = 1024;

/// An OpenVPN static key file: hex digits between its two marker lines, 128 or 256 bytes.
pub(super) fn static_key(text: &str) -> Result<StaticKey, Problem> {
    let no_key = || {
        Problem::with_hint(
            format!("no '{STATIC_BEGIN}' line was found"),
            "the content must be an OpenVPN static key, as 'openvpn --genkey tls-auth' writes it",
        )
    };
    let body = text.split_once(STATIC_BEGIN).ok_or_else(no_key)?.1;
    let body = body
        .split_once(STATIC_END)
        .ok_or_else(|| Problem::new(format!("the static key has no '{STATIC_END}' line")))?
        .0;
    let mut key = Secret::new(Vec::with_capacity(STATIC_KEY_LEN));
    let mut bytes = [0u8; STATIC_KEY_LEN];
    let mut digits = 0;
    let mut failure = None;
    for c in body.chars().filter(|c| !c.is_whitespace()) {
        match (c.to_digit(16), bytes.get_mut(digits / 2)) {
            (Some(digit), Some(byte)) => *byte = *byte << 4 | digit as u8,
            (None, _) => {
                failure = Some("the static key holds something that is not a hex digit".to_owned());
                break;
            }
            (_, None) => {
                failure = Some(format!("the static key is longer than {STATIC_KEY_LEN} bytes"));
                break;
            }
        }
        digits += 1;
    }
    if failure.is_none() && digits != 2 * STATIC_KEY_LEN && digits != 2 * HALF_KEY_LEN {
        failure = Some(format!(
            "the static key has {digits} hex digits instead of {}",
            2 * STATIC_KEY_LEN
        ));
    }
    if failure.is_none() {
        let mut whole = Vec::with_capacity(STATIC_KEY_LEN);
        whole.extend_from_slice(bytes.get(..digits / 2).unwrap_or_default());
        key = Secret::new(whole);
    }
    bytes.zeroize();
    failure.map_or(Ok(key), |reason| Err(Problem::new(reason)))
}

/// A tls-crypt-v2 client key: the key Kc and the wrapped key, opaque.
pub(super) fn tls_crypt_v2(text: &str) -> Result<(StaticKey, Vec<u8>), Problem> {
    let blocks = pem::parse_many(text).map_err(|e| {
        Problem::new(format!("the tls-crypt-v2 key is damaged: {}", pem_damage(&e)))
    })?;
    let mut server = false;
    for block in blocks {
        if block.tag() != V2_CLIENT {
            server |= block.tag() == V2_SERVER;
            continue;
        }
        let bytes = Secret::new(block.into_contents());
        let bytes = bytes.expose();
        let (Some(key), Some(wrapped)) = (bytes.get(..STATIC_KEY_LEN), bytes.get(STATIC_KEY_LEN..))
        else {
            return Err(Problem::new("the tls-crypt-v2 client key is too short"));
        };
        if !(MIN_WRAPPED..=MAX_WRAPPED).contains(&wrapped.len()) {
            return Err(Problem::new(format!(
                "the wrapped key of the tls-crypt-v2 client key has {} bytes instead of \
                 {MIN_WRAPPED} to {MAX_WRAPPED}",
                wrapped.len()
            )));
        }
        return Ok((Secret::new(key.to_vec()), wrapped.to_vec()));
    }
    Err(if server {
        Problem::with_hint(
            "this is a tls-crypt-v2 server key",
            "a client needs a client key ('openvpn --tls-crypt-v2 SERVERKEY --genkey \
             tls-crypt-v2-client FILE'); the server key must stay on the server",
        )
    } else {
        Problem::new(format!("no '-----BEGIN {V2_CLIENT}-----' block was found"))
    })
}

/// Colon-separated hex pairs, exactly `N` of them, blanks behind them allowed.
pub(super) fn fingerprint<const N: usize>(text: &str) -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    let mut pairs = text.trim_end().split(':');
    for byte in &mut bytes {
        let pair = pairs
            .next()
            .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
            .ok_or_else(|| bad_fingerprint(N))?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| bad_fingerprint(N))?;
    }
    if pairs.next().is_some() { Err(bad_fingerprint(N)) } else { Ok(bytes) }
}

fn bad_fingerprint(bytes: usize) -> Problem {
    Problem::new(format!("not a fingerprint of {bytes} hex pairs with ':' between them"))
}

/// One fingerprint a line; empty lines and comments are skipped.
pub(super) fn fingerprints<const N: usize>(block: &str) -> Result<Vec<[u8; N]>, Problem> {
    block
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with(['#', ';']))
        .map(fingerprint)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_text(bytes: usize) -> String {
        let hex: String = (0..bytes).map(|n| format!("{:02X}", n as u8)).collect();
        let lines: Vec<_> =
            hex.as_bytes().chunks(32).map(|c| std::str::from_utf8(c).unwrap()).collect();
        format!(
            "#\n# comment\n#\n{STATIC_BEGIN}\r\n{}\r\n{STATIC_END}\r\n# end\n",
            lines.join("\r\n")
        )
    }

    #[test]
    fn static_keys() {
        let key = static_key(&key_text(256)).unwrap();
        assert_eq!(key.expose().len(), 256);
        assert_eq!(key.expose()[255], 255);
        assert_eq!(static_key(&key_text(128)).unwrap().expose().len(), 128);
        assert!(static_key(&key_text(255)).unwrap_err().reason.contains("510 hex digits"));
        assert!(static_key(&key_text(257)).unwrap_err().reason.contains("longer"));
        assert!(static_key("secret").is_err());
        assert!(static_key(STATIC_BEGIN).unwrap_err().reason.contains("END"));
        assert!(static_key(&key_text(256).replace("FF", "GG")).is_err());
    }

    fn v2(tag: &str, len: usize) -> String {
        pem::encode(&pem::Pem::new(tag, (0..len).map(|n| n as u8).collect::<Vec<_>>()))
    }

    #[test]
    fn tls_crypt_v2_keys() {
        let text = v2(V2_CLIENT, 256 + 299);
        assert!(text.contains("AAECAwQFBgcICQoLDA0ODxAREhMUFRYX"));
        let (key, wrapped) = tls_crypt_v2(&text).unwrap();
        assert_eq!((key.expose().len(), wrapped.len(), wrapped[0]), (256, 299, 0));
        assert!(tls_crypt_v2(&v2(V2_CLIENT, 200)).is_err());
        assert!(tls_crypt_v2(&v2(V2_CLIENT, 256 + 31)).is_err());
        assert!(tls_crypt_v2(&v2(V2_CLIENT, 256 + 1025)).is_err());
        assert!(tls_crypt_v2(&v2(V2_SERVER, 128)).unwrap_err().reason.contains("server key"));
        assert!(tls_crypt_v2("nothing").is_err());
    }

    // Known vectors of the protocol reference, 16.15.
    #[test]
    fn fingerprints_are_exact() {
        let good = "44:F5:A6:4D:4A:CB:65:E1:8A:9F:55:89:7F:77:A0:79:AA:FB:CC:A1:37:2F:D8:B3:47:AA:\
                    9D:E3:D0:76:B1:44";
        let parse = fingerprint::<32>;
        assert_eq!(parse(good).unwrap()[0], 0x44);
        assert!(parse(&format!("{good}  ")).is_ok());
        assert!(parse(&good[3..]).is_err());
        assert!(parse(&format!("{good}:00")).is_err());
        assert!(parse(&good.replacen("44:", "101:", 1)).is_err());
        assert!(parse(&good.replacen("F5:", ":1CB:", 1)).is_err());
        assert!(parse(&good.replacen(':', "-", 1)).is_err());
        assert!(parse(&format!(" {good}")).is_err());
        let block = format!("# one\n\n{good} \n; two\n{}\n", good.to_lowercase());
        assert_eq!(fingerprints::<32>(&block).unwrap().len(), 2);
        assert!(fingerprints::<32>(&format!(" {good}\n")).is_err());
    }
}
