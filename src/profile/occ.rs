//! The OCC options string: what a client tells the server about its data channel settings.

use ovpn_dco::format::aead;
use ovpn_dco::{DataHeader, Framing};

use super::ciphers::{self, KnownCipher};
use super::options::{KeyDirection, Options, Protocol, WrapOptions};

/// The options string for key method 2 (protocol reference 6.2).
///
/// Servers only compare it, but old ones take the data cipher from it.
pub fn occ_string(options: &Options, wrap: &WrapOptions, protocol: Protocol) -> String {
    let data = &options.data;
    let cipher = occ_cipher(options);
    let mut occ = format!(
        "V4,dev-type tun,link-mtu {},tun-mtu {},proto {}",
        link_mtu(options, protocol),
        data.tun_mtu,
        match protocol {
            Protocol::Udp => "UDPv4",
            Protocol::Tcp => "TCPv4_CLIENT",
        }
    );
    if framed(options) {
        occ.push_str(",comp-lzo");
    }
    if let WrapOptions::TlsAuth { direction: Some(direction), .. } = wrap {
        occ.push_str(match direction {
            KeyDirection::Normal => ",keydir 0",
            KeyDirection::Inverse => ",keydir 1",
        });
    }
    let mut item = |text: String| {
        occ.push(',');
        occ.push_str(&text);
    };
    if data.ciphers.iter().any(|c| c.name() == cipher.name) {
        item(format!("cipher {}", cipher.name));
    }
    item(format!("auth {}", if cipher.aead { "[null-digest]" } else { data.digest.name() }));
    item(format!("keysize {}", cipher.key_bits));
    if matches!(wrap, WrapOptions::TlsAuth { .. }) {
        item("tls-auth".to_owned());
    }
    item("key-method 2".to_owned());
    item("tls-client".to_owned());
    occ
}

/// `cipher`, else the fallback, else OpenVPN's old default.
fn occ_cipher(options: &Options) -> KnownCipher {
    let name = options.data.occ_cipher.as_deref();
    let name = name.or_else(|| options.data.fallback.map(|c| c.name())).unwrap_or("BF-CBC");
    ciphers::known(name).unwrap_or_else(KnownCipher::none)
}

fn framed(options: &Options) -> bool {
    options.data.framing.is_some_and(|f| f != Framing::None)
}

/// Largest packet on the wire as OCC counts it (not what is really sent).
fn link_mtu(options: &Options, protocol: Protocol) -> usize {
    let data = &options.data;
    let cipher = occ_cipher(options);
    let (block, digest) = (usize::from(cipher.block), data.digest.len());
    const STREAM_LENGTH: usize = 2;
    let mut mtu = usize::from(data.tun_mtu) + DataHeader::V1_LEN + aead::PACKET_ID;
    mtu += match () {
        () if cipher.aead => aead::TAG + aead::NONCE + block,
        // No cipher is only ever configured together with no digest.
        () if cipher.block == 0 => 0,
        // IV, padding, HMAC.
        () => block + block + digest,
    };
    mtu += data.framing.map_or(0, Framing::overhead);
    if protocol == Protocol::Tcp {
        mtu += STREAM_LENGTH;
    }
    mtu
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn options(extra: &str) -> Options {
        let text = format!("client\nremote a\nauth-user-pass\n{CA}{extra}\n");
        Profile::parse(&text, "test", &NoFiles).unwrap().options
    }

    const CA: &str = "<peer-fingerprint>\n00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:\
                      33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\n</peer-fingerprint>\n";

    // Known vectors of the protocol reference, 6.2 and 16.10.

    #[test]
    fn link_mtus() {
        for (extra, expected) in [
            ("tun-mtu 1400\ncipher AES-128-CBC", 1457),
            ("tun-mtu 1400\ncipher none", 1405),
            ("tun-mtu 1400\ncipher AES-256-GCM", 1449),
            ("tun-mtu 1400\ncipher AES-256-GCM\ncomp-lzo no", 1450),
            ("", 1541),
            ("cipher AES-128-GCM", 1549),
            ("cipher AES-256-CBC", 1557),
            ("cipher AES-256-CBC\nauth SHA256", 1569),
        ] {
            let options = options(extra);
            assert_eq!(link_mtu(&options, Protocol::Udp), expected, "{extra}");
            assert_eq!(link_mtu(&options, Protocol::Tcp), expected + 2, "{extra}");
        }
    }

    fn occ(extra: &str, protocol: Protocol) -> String {
        let options = options(extra);
        occ_string(&options, &options.wrap, protocol)
    }

    #[test]
    fn whole_strings() {
        assert_eq!(
            occ("", Protocol::Udp),
            "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,auth SHA1,keysize 128,\
             key-method 2,tls-client"
        );
        assert_eq!(
            occ("cipher AES-256-GCM", Protocol::Udp),
            "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,\
             auth [null-digest],keysize 256,key-method 2,tls-client"
        );
        let key = "ab".repeat(256);
        let tls_auth = format!(
            "cipher AES-256-CBC\nkey-direction 1\n<tls-auth>\n-----BEGIN OpenVPN Static key V1-----\n\
             {key}\n-----END OpenVPN Static key V1-----\n</tls-auth>"
        );
        // What is not in data-ciphers is not named.
        assert_eq!(
            occ(&tls_auth, Protocol::Tcp),
            "V4,dev-type tun,link-mtu 1559,tun-mtu 1500,proto TCPv4_CLIENT,keydir 1,auth SHA1,\
             keysize 256,tls-auth,key-method 2,tls-client"
        );
        assert_eq!(
            occ("cipher AES-256-CBC\nauth SHA256\ndata-ciphers AES-256-CBC", Protocol::Udp),
            "V4,dev-type tun,link-mtu 1569,tun-mtu 1500,proto UDPv4,cipher AES-256-CBC,auth SHA256,\
             keysize 256,key-method 2,tls-client"
        );
        assert!(occ("comp-lzo no", Protocol::Udp).contains("UDPv4,comp-lzo,auth"));
    }
}
