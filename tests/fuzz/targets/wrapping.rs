//! Every wrapping: foreign packets are refused without harm, our own come through unchanged and
//! only once.

use std::time::{Duration, Instant};

use ovpn_client::control::packet::{HEADER_LEN, Opcode};
use ovpn_client::control::wrap::{Side, UnwrapError, Wrapper, wants_wrapped_key};
use ovpn_client::profile::{Digest, KeyDirection, WrapOptions};
use ovpn_client::secret::Secret;
use ovpn_dco::replay::Refused;

const WINDOW: (usize, Duration) = (64, Duration::from_secs(15));

/// Input: wrapping, position of a flipped bit (two bytes), then header and body.
pub fn run(data: &[u8]) {
    let _ = wants_wrapped_key(data);
    let Some((&[kind, high, low], packet)) = data.split_first_chunk() else {
        return;
    };
    let now = Instant::now();
    let mut receiver = make(kind, Side::Server);
    let mut foreign = packet.to_vec();
    let accepted = receiver.unwrap(&mut foreign, now).is_ok();
    assert!(!accepted || receiver.is_none(), "forged");

    let Some((header, body)) = packet.split_first_chunk::<HEADER_LEN>() else {
        return;
    };
    let mut wrapped = Vec::new();
    let opcode = Opcode::ControlV1;
    let mut sender = make(kind, Side::Client);
    sender.wrap(opcode, header, body, 1, &mut wrapped).expect("ids are left");
    assert_eq!(wrapped.len(), packet.len() + sender.overhead(opcode));

    let mut flipped = wrapped.clone();
    let bit = usize::from(u16::from_be_bytes([high, low])) % (8 * flipped.len());
    flipped[bit / 8] ^= 1 << (bit % 8);
    if !receiver.is_none() {
        assert_eq!(receiver.unwrap(&mut flipped, now), Err(UnwrapError::Authentication));
    }
    assert_eq!(receiver.unwrap(&mut wrapped.clone(), now), Ok(body));
    if !receiver.is_none() {
        let again = receiver.unwrap(&mut wrapped, now);
        assert_eq!(again, Err(UnwrapError::Replay(Refused::Replay.into())));
    }
}

fn make(kind: u8, side: Side) -> Wrapper {
    let key = Secret::new((0..=255).collect());
    let direction = match side {
        Side::Client => KeyDirection::Inverse,
        Side::Server => KeyDirection::Normal,
    };
    let auth = |digest| WrapOptions::TlsAuth {
        key: Secret::new((0..=255).collect()),
        direction: Some(direction),
        digest,
    };
    let options = match kind % 8 {
        0 => WrapOptions::None,
        1 => auth(Digest::Sha1),
        2 => auth(Digest::Sha224),
        3 => auth(Digest::Sha256),
        4 => auth(Digest::Sha384),
        5 => auth(Digest::Sha512),
        6 => WrapOptions::TlsCrypt { key },
        _ => WrapOptions::TlsCryptV2 { key, wrapped: vec![1; 300] },
    };
    Wrapper::new(&options, side, WINDOW).expect("the key is long enough")
}
