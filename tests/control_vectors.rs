//! Known vectors of tls-crypt-v2 against the test server's half, which the simulated servers use.
//! The client's own vectors are next to its code.

use ovpn_test_support::sim;
use ovpn_test_support::sim::server_key;

/// OpenVPN 2 `test_tls_crypt.c`: server key 00..7f, client key 00..ff.
const TIMESTAMP: &str = "177da5c074a94619b16be4acb71f1a6ccf24f33c6bbaf498459d5f06c369d4952c78396efd93c2598f4771e068cafca3\
    d2d387d87151392b1f74b43df29137072ca3ceae6bf741153c97b0cf6d8386b0ddd4baa201fd024693fa44510e035c29\
    691009bc2624ad8995f9171c1c1b02d9a7efc02436e868e90085a8276a19a6f7ce1daf85e16a18c3dd1a9ba46c5ad3de\
    b70edd52f151e1be45dcd788c4c2a494a8bc504fd650e46306093e7cfa75a1218f44f3277055aeef56dc2a68b5d36dee\
    ed3d927c407e90b18edacfdec7a6b037b0fe04c1b5c7d0fcea131721479cde64459faad7b482e276dadcfa7cfc5b34fa\
    149bbf6b49a33a03f1212516aed221626c7224d887cabc7f9c90c6376de16c6efd9e70b4f080674b4ece3e08b5323bed\
    f04e6114df11acb31e012b";

const USER: &str = "69eda75582aa170b8c9418fe28248cdb7761bea2d277aa1647eb3a9d94083733e91489b4f2d96ef38e2941e4daac313d\
    852c1429f3fc8595ebf6622d1ada6f35294bca123751d2e8feeaa8076b1ca81f8554c76ac7527f651d3133c2ec70609c\
    ff4b97416128dd21eef4b36dbb7b40cef01fd9abd5e71cfccb744985b6969c0068939b6064f293a8538169b483f30baf\
    0a2b2eb7b34ea507059cd5b2ef8b0f2a8b58ad65cc935deba32e34eb060386057db0ac0e1f27dc7f82c3593960d0590d\
    86093ad55480159785e3babe0a0e9aa0dd234740437855a3d0c4f9290216381f978158db22c487d655659ae5d5e0f53b\
    087f5f5efc0a41eb049625f4b3504b24042a50c65b004b43fa58deab6372daf7a55eb630f41d068fb595cb230c225540\
    0e9753296d6ace0129";

fn client_key() -> [u8; 256] {
    std::array::from_fn(|i| i as u8)
}

#[test]
fn wrapped_keys() {
    let timestamp = [1, 0, 0, 0, 0, 0, 0, 0, 0];
    let user = [0, 0, 0, 0x41, 0x08, 0x20, 0xc3];
    for (metadata, expected) in [(&timestamp[..], TIMESTAMP), (&user, USER)] {
        let wrapped = server_key().wrap(&client_key(), metadata).unwrap();
        assert_eq!(hex::encode(&wrapped), expected);
        let packet = [b"packet", &wrapped[..]].concat();
        assert_eq!(server_key().unwrap_from(&packet), Some((client_key(), 6)));
        assert_eq!(sim::wkc::ServerKey::new(&[0; 128]).unwrap_from(&packet), None);
        for index in wrapped.len() - 20..wrapped.len() {
            let mut bad = wrapped.clone();
            bad[index] ^= 1;
            assert_eq!(server_key().unwrap_from(&bad), None, "{index}");
        }
    }
    assert!(server_key().wrap(&client_key(), &[0; 734]).is_some());
    assert!(server_key().wrap(&client_key(), &[0; 735]).is_none());
}

#[test]
fn impossible_lengths() {
    for length in [60_000_u16, 4] {
        let mut packet = vec![0x58; 200];
        packet[198..].copy_from_slice(&length.to_be_bytes());
        assert_eq!(server_key().unwrap_from(&packet), None);
    }
}
