//! Key method 2: the server's message in any pieces, ours with any strings, and the messages that
//! follow.

use ovpn_client::control::app_control::{Assembly, cut};
use ovpn_client::control::key_method::{
    ClientRandoms, PRE_MASTER_LEN, RANDOM_LEN, Randoms, encode_client, parse_server,
};
use ovpn_client::control::messages::{ServerMessage, clean};
use ovpn_client::profile::AppControl;
use ovpn_client::secret::{Credentials, Secret};

/// What a 2.x server reads.
const MAX_MESSAGE: usize = 2048;

pub fn run(data: &[u8]) {
    if let Ok(Some((message, len))) = parse_server(data) {
        assert!(len <= data.len());
        assert!(!message.options.chars().any(char::is_control));
        // Fewer bytes are never an error, and more change nothing.
        assert!(matches!(parse_server(&data[..len - 1]), Ok(None)));
        let (again, again_len) = parse_server(&data[..len]).expect("same").expect("complete");
        assert_eq!((again.options, again_len), (message.options, len));
    }
    messages(data);
    let text = String::from_utf8_lossy(data);
    let mut parts = text.splitn(4, '|').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (options, peer_info) = (next(), next());
    let credentials = Credentials { username: next(), password: Secret::new(next()) };
    let randoms = ClientRandoms {
        pre_master: [1; PRE_MASTER_LEN],
        randoms: Randoms { random1: [2; RANDOM_LEN], random2: [3; RANDOM_LEN] },
    };
    if let Ok(message) = encode_client(&randoms, &options, &credentials, &peer_info) {
        assert!(message.len() < MAX_MESSAGE);
        let strings = &message[5 + PRE_MASTER_LEN + 2 * RANDOM_LEN..];
        let mut rest = strings;
        for string in [&options, &credentials.username, credentials.password.expose(), &peer_info] {
            let (len, tail) = rest.split_first_chunk().expect("a length");
            let (bytes, tail) = tail.split_at(usize::from(u16::from_be_bytes(*len)));
            assert_eq!(bytes.strip_suffix(&[0]).unwrap_or(bytes), string.as_bytes());
            rest = tail;
        }
        assert!(rest.is_empty());
    }
}

/// Text messages of the server. What an application says can be said back in the same way.
fn messages(data: &[u8]) {
    let mut agreed = AppControl::from_info("100 A:6 a").expect("fine");
    let mut assembly = Assembly::default();
    for text in data.split(|b| *b == 0).filter_map(clean) {
        match ServerMessage::parse(&text) {
            ServerMessage::AppControlAgreed(text) => {
                agreed = AppControl::from_info(&text).unwrap_or(agreed);
            }
            ServerMessage::AppControl(part) => {
                let Ok(Some(message)) = assembly.add(&part) else { continue };
                let Ok(parts) = cut(&message, Some(&agreed)) else { continue };
                let mut again = Assembly::default();
                let (last, first) = parts.split_last().expect("at least one");
                for part in first {
                    assert_eq!(again.add(&part["ACC,".len()..]), Ok(None));
                }
                assert_eq!(again.add(&last["ACC,".len()..]), Ok(Some(message)));
                assert!(parts.iter().all(|part| part.len() <= agreed.max_message));
            }
            _ => {}
        }
    }
}
