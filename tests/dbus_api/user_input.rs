//! The user-input queue, as a front end sees it.

use crate::bus::*;

const READY: &str = "net.openvpn.v3.error.ready";
const QUEUE: &str = "net.openvpn.gdbuspp.request";

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_asked_for_question_by_question() {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("auth-user-pass\nstatic-challenge \"Your\u{7f} PIN\" 1");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    let needed = "Username/password credentials needed";
    manager
        .expect(&[
            &format!("S 2,2 config_path={CONFIG_PATH}"),
            &format!("A 1,1 {needed}"),
            &format!("S 2,4 {needed}"),
        ])
        .await;

    let missing = glib(READY, "Missing user credentials");
    assert_eq!(error(backend.call(&manager, "Ready", &()).await), missing);
    assert_eq!(
        error(backend.call(&manager, "Connect", &()).await),
        glib("net.openvpn.v3.error.client", "Required user input not provided")
    );

    let pairs = backend.call(&manager, "UserInputQueueGetTypeGroup", &()).await.unwrap();
    assert_eq!(pairs.body().deserialize::<Vec<(u32, u32)>>().unwrap(), [(1, 1), (1, 4)]);
    let check = async |group: u32| -> Vec<u32> {
        let ids = backend.call(&manager, "UserInputQueueCheck", &(1_u32, group)).await.unwrap();
        ids.body().deserialize().unwrap()
    };
    assert_eq!(check(1).await, [0, 1]);
    assert_eq!(check(4).await, [0]);
    assert!(check(9).await.is_empty());

    let fetch = async |group: u32, id: u32| {
        backend.call(&manager, "UserInputQueueFetch", &(1_u32, group, id)).await
    };
    let slots = [
        (1, 0, "username", "Auth User name", false),
        (1, 1, "password", "Auth Password", true),
        (4, 0, "static_challenge", "Your PIN", false),
    ];
    for (group, id, name, description, hidden) in slots {
        let reply = fetch(group, id).await.unwrap();
        let slot: (u32, u32, u32, String, String, bool) = reply.body().deserialize().unwrap();
        assert_eq!(slot, (1, group, id, name.to_owned(), description.to_owned(), hidden));
    }
    let not_found = "net.openvpn.v3.element-not-found: No requires queue element found";
    assert_eq!(error(fetch(1, 7).await), glib(QUEUE, not_found));

    let provide = async |group: u32, id: u32, value: &str| {
        backend.call(&manager, "UserInputProvide", &(1_u32, group, id, value)).await
    };
    assert_eq!(
        error(provide(1, 0, "").await),
        glib(QUEUE, "net.openvpn.v3.error.invalid-input: No value provided for RequiresSlot ID 0")
    );
    assert_eq!(error(provide(9, 0, "x").await), glib(QUEUE, "User input not required"));
    assert_eq!(
        error(provide(1, 5, "x").await),
        glib(QUEUE, "net.openvpn.v3.invalid-input: No matching entry found in the request queue")
    );
    provide(1, 0, "joe").await.unwrap();
    assert_eq!(
        error(provide(1, 0, "joe").await),
        glib(
            QUEUE,
            "net.openvpn.v3.error.input-already-provided: Request ID 0 has already been provided"
        )
    );
    assert_eq!(
        error(fetch(1, 0).await),
        glib(QUEUE, "net.openvpn.v3.already-provided: User input already provided")
    );
    assert_eq!(check(1).await, [1]);
    provide(1, 1, "secret").await.unwrap();
    assert_eq!(error(backend.call(&manager, "Ready", &()).await), missing);
    provide(4, 0, "1234").await.unwrap();
    backend.call(&manager, "Ready", &()).await.unwrap();
    let pairs = backend.call(&manager, "UserInputQueueGetTypeGroup", &()).await.unwrap();
    assert!(pairs.body().deserialize::<Vec<(u32, u32)>>().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_long_is_refused_and_the_question_stays() {
    const MAX: usize = 4096;
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let (_server, profile) = silent_server("auth-user-pass");
    let _configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    backend.register(&manager).await.unwrap();
    let provide = async |id: u32, length: usize| {
        let value = "x".repeat(length);
        backend.call(&manager, "UserInputProvide", &(1_u32, 1_u32, id, value)).await
    };
    for (id, length) in [(0, MAX + 1), (1, 8 << 20)] {
        let text = format!(
            "net.openvpn.v3.error.invalid-input: The value for RequiresSlot ID {id} has {length} \
             bytes, at most {MAX} are taken"
        );
        assert_eq!(error(provide(id, length).await), glib(QUEUE, &text));
        provide(id, MAX).await.unwrap();
    }
    backend.call(&manager, "Ready", &()).await.unwrap();
}
