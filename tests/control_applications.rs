//! Messages of applications (app control) over the control channel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::time::Duration;

use ovpn_client::control::{AppControlError, AppMessage, Event, NegotiatedParameters};
use ovpn_client::profile::AppControl;
use ovpn_test_support::sim::{Mode, Setup, Sim};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn app_messages(sim: &Sim) -> Vec<AppMessage> {
    let messages = sim.events.iter().filter_map(|(_, event)| match event {
        Event::AppControl(message) => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

fn app_message(protocol: &str, payload: &str) -> AppMessage {
    AppMessage { protocol: protocol.to_owned(), payload: payload.as_bytes().to_vec() }
}

#[test]
fn applications_talk_once_the_server_agreed() {
    let mut setup = Setup::new(Mode::TlsCrypt, 8);
    setup.server.push.clear();
    let mut sim = setup.start();
    sim.run_until(secs(5), "request", |sim| !sim.server.texts.is_empty());
    let hello = app_message("dpc1", "hello");
    let refused = Err(AppControlError::NotAgreed("dpc1".to_owned()));
    assert_eq!(sim.client.send_app_message(&hello, sim.now), refused);
    sim.server.send_text("ACC,dpc1,5,A,early");
    sim.run_for(secs(1));
    assert_eq!(app_messages(&sim), [], "not agreed yet");

    sim.server.send_text("INFO_PRE,ACC:40 A:6 dpc1:other");
    sim.server.send_text("ACC,dpc1,4,AF,{\"a\"");
    sim.server.send_text("ACC,dpc1,4,6,OjF9");
    sim.server.send_text("ACC,strange,1,A,x");
    sim.server.send_text("ACC,other,2,A,x");
    sim.server.send_text("ACC,other,4,6,AP8=");
    sim.run_for(secs(1));
    let binary = AppMessage { payload: vec![0, 255], ..app_message("other", "") };
    assert_eq!(app_messages(&sim), [app_message("dpc1", "{\"a\":1}"), binary]);

    let long = app_message("dpc1", "an answer, in two parts: 1, 2");
    sim.client.send_app_message(&long, sim.now).unwrap();
    sim.run_for(secs(1));
    let answers: Vec<_> = sim.server.texts.iter().filter(|t| t.starts_with("ACC")).collect();
    assert_eq!(answers, ["ACC,dpc1,22,AF,an answer, in two part", "ACC,dpc1,7,A,s: 1, 2"]);

    sim.server.send_text("PUSH_REPLY,peer-id 1");
    sim.connect();
    sim.client.send_app_message(&hello, sim.now).unwrap();
    sim.run_for(secs(1));
    assert_eq!(sim.server.texts.last().unwrap(), "ACC,dpc1,5,A,hello");
}

#[test]
fn applications_talk_over_the_key_in_use() {
    let mut setup = Setup::new(Mode::TlsCrypt, 9);
    setup.accept = false;
    let mut sim = setup.start();
    sim.run_until(secs(60), "push", |sim| sim.has(|e| matches!(e, Event::Pushed { .. })));
    let app_control = Some(AppControl::from_info("100 A dpc1").unwrap());
    let reneg = Some(secs(100));
    let parameters = NegotiatedParameters { app_control, reneg, ..sim.parameters() };
    sim.client.accept_push(parameters, sim.now).unwrap();
    sim.run_for(secs(250));
    assert!(sim.has(|e| matches!(e, Event::PromoteKey(_))));
    sim.server.send_text("ACC,dpc1,1,A,?");
    sim.run_for(secs(1));
    assert_eq!(app_messages(&sim), [app_message("dpc1", "?")]);
    sim.client.send_app_message(&app_message("dpc1", "!"), sim.now).unwrap();
    sim.run_for(secs(1));
    assert_eq!(sim.server.texts.last().unwrap(), "ACC,dpc1,1,A,!");
}
