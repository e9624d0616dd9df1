//! What a server says as an application, up to the question that goes to the posture service: only a
//! JSON object with a request in it goes there, as it came.

use ovpn_client::control::app_control::Assembly;
use ovpn_client::control::messages::{ServerMessage, clean};
use ovpn_client::session::posture_request;

/// Longest message that is put together.
const MAX: usize = 64 * 1024;

/// Input: messages of the server, a NUL behind each; and all of it as one payload.
pub fn run(data: &[u8]) {
    question(data.to_vec());
    let mut assembly = Assembly::default();
    for text in data.split(|byte| *byte == 0).filter_map(clean) {
        let ServerMessage::AppControl(part) = ServerMessage::parse(&text) else { continue };
        if let Ok(Some(message)) = assembly.add(&part) {
            assert!(message.payload.len() <= MAX);
            question(message.payload);
        }
    }
}

fn question(payload: Vec<u8>) {
    let Some(text) = posture_request(payload.clone()) else { return };
    assert_eq!(text.as_bytes(), payload);
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(value.as_object().is_some_and(|object| object.contains_key("dpc_request")));
}
