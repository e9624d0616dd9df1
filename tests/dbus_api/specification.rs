//! The specification's table: every member, its types, and who may use it.

use zbus::Variant;

use crate::bus::*;

/// Methods: name, arguments in, arguments out.
const METHODS: [(&str, &[&str], &[&str]); 13] = [
    ("RegistrationConfirmation", &["s token", "o config_path"], &["s config_name"]),
    ("Ping", &[], &["b alive"]),
    ("Ready", &[], &[]),
    ("Connect", &[], &[]),
    ("Pause", &["s reason"], &[]),
    ("Resume", &[], &[]),
    ("Restart", &[], &[]),
    ("Disconnect", &[], &[]),
    ("ForceShutdown", &[], &[]),
    ("UserInputQueueGetTypeGroup", &[], &["a(uu) type_group_list"]),
    (
        "UserInputQueueFetch",
        &["u type", "u group", "u id"],
        &["u type", "u group", "u id", "s name", "s description", "b hidden_input"],
    ),
    ("UserInputQueueCheck", &["u type", "u group"], &["au indexes"]),
    ("UserInputProvide", &["u type", "u group", "u id", "s value"], &[]),
];

const SIGNALS: [(&str, &[&str]); 4] = [
    ("StatusChange", &["u code_major", "u code_minor", "s message"]),
    ("Log", &["u group", "u level", "s session_token", "s message"]),
    ("AttentionRequired", &["u type", "u group", "s message"]),
    ("RegistrationRequest", &["s busname", "s token", "i pid"]),
];

/// Properties: name, type, access, and whether the session manager alone may read it.
const PROPERTY_TABLE: [(&str, &str, &str, bool); 10] = [
    ("log_level", "u", "readwrite", false),
    ("session_name", "s", "read", true),
    ("session_path", "o", "read", false),
    ("connection", "(sssu)", "read", false),
    ("statistics", "a{sx}", "read", true),
    ("status", "(uus)", "read", false),
    ("last_log_line", "a{sv}", "read", true),
    ("dco", "b", "readwrite", false),
    ("device_path", "o", "read", false),
    ("device_name", "s", "read", true),
];

async fn set_up() -> (Bus, StandIn, StandIn, StandIn, Backend) {
    let bus = Bus::start();
    let mut manager = StandIn::session_manager(&bus).await;
    let stranger = StandIn::start(&bus, "", Box::new(|_| None)).await;
    let (_server, profile) = silent_server("");
    let configuration = StandIn::configuration(&bus, profile).await;
    let backend = Backend::start(&bus, &mut manager).await;
    (bus, manager, stranger, configuration, backend)
}

/// `<arg type="s" name="x" direction="in"/>` of an element, as `s x`.
fn arguments(element: &str, direction: Option<&str>) -> Vec<String> {
    element
        .split("<arg ")
        .skip(1)
        .filter(|arg| direction.is_none_or(|d| arg.contains(&format!("direction=\"{d}\""))))
        .map(|arg| format!("{} {}", attribute(arg, "type"), attribute(arg, "name")))
        .collect()
}

fn attribute<'x>(element: &'x str, name: &str) -> &'x str {
    element.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap()
}

/// Elements of a kind, each up to the next of any kind.
fn elements<'x>(xml: &'x str, kind: &str) -> Vec<&'x str> {
    xml.split(&format!("<{kind} "))
        .skip(1)
        .map(|text| {
            let end =
                ["<method ", "<signal ", "<property "].iter().filter_map(|k| text.find(k)).min();
            &text[..end.unwrap_or(text.len())]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn introspection_shows_the_specification() {
    let (_bus, manager, _, _, backend) = set_up().await;
    let reply = backend
        .call_on(&manager, "org.freedesktop.DBus.Introspectable", "Introspect", &())
        .await
        .unwrap();
    let xml: String = reply.body().deserialize().unwrap();
    let own = xml.split(&format!("<interface name=\"{INTERFACE}\">")).nth(1).unwrap();

    let methods = elements(own, "method");
    assert_eq!(methods.len(), METHODS.len());
    for (element, (name, input, output)) in methods.iter().zip(METHODS) {
        assert_eq!(attribute(element, "name"), name);
        assert_eq!(arguments(element, Some("in")), input, "{name}");
        assert_eq!(arguments(element, Some("out")), output, "{name}");
    }
    let signals = elements(own, "signal");
    assert_eq!(signals.len(), SIGNALS.len());
    for (element, (name, args)) in signals.iter().zip(SIGNALS) {
        assert_eq!(attribute(element, "name"), name);
        assert_eq!(arguments(element, None), args, "{name}");
    }
    let properties = elements(own, "property");
    assert_eq!(properties.len(), PROPERTY_TABLE.len());
    for (element, (name, signature, access, _)) in properties.iter().zip(PROPERTY_TABLE) {
        assert_eq!(attribute(element, "name"), name);
        assert_eq!(attribute(element, "type"), signature, "{name}");
        assert_eq!(attribute(element, "access"), access, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_session_manager_may_call_methods() {
    let (_bus, manager, stranger, _, backend) = set_up().await;
    let caller = stranger.connection.unique_name().unwrap().to_string();
    for (method, input, _) in METHODS {
        let result = match input.len() {
            0 => backend.call(&stranger, method, &()).await,
            1 => backend.call(&stranger, method, &("x",)).await,
            2 if method == "RegistrationConfirmation" => {
                backend.call(&stranger, method, &(TOKEN, path(CONFIG_PATH))).await
            }
            2 => backend.call(&stranger, method, &(1_u32, 1_u32)).await,
            3 => backend.call(&stranger, method, &(1_u32, 1_u32, 0_u32)).await,
            _ => backend.call(&stranger, method, &(1_u32, 1_u32, 0_u32, "x")).await,
        };
        let text = format!(
            "Authorization failed for {caller} performing method call {INTERFACE}.{method} in \
             object {OBJECT}"
        );
        assert_eq!(error(result), glib("net.openvpn.gdbuspp", &text));
    }
    assert!(backend.is_running());
    // Nothing has happened.
    let status: (u32, u32, String) =
        backend.get(&stranger, "status").await.unwrap().try_into().unwrap();
    assert_eq!(status, (0, 0, String::new()));

    // The right to call goes with the name.
    manager.connection.release_name(SESSIONS).await.unwrap();
    drop(backend);
}

#[tokio::test(flavor = "multi_thread")]
async fn property_types_and_readers() {
    let (_bus, manager, stranger, _, backend) = set_up().await;
    let caller = stranger.connection.unique_name().unwrap().to_string();
    for (name, signature, _, restricted) in PROPERTY_TABLE {
        let value = Variant::from(backend.get(&manager, name).await.unwrap());
        assert_eq!(value.value_signature().to_string(), signature, "{name}");
        let foreign = backend.get(&stranger, name).await;
        if restricted {
            let text = format!(
                "Authorization failed for {caller} reading property {INTERFACE}.{name} in object \
                 {OBJECT}"
            );
            let denied = "org.freedesktop.DBus.Error.AccessDenied".to_owned();
            assert_eq!(error(foreign), (denied, text));
        } else {
            assert_eq!(Variant::from(foreign.unwrap()), value);
        }
    }
    let all = async |caller| -> Vec<String> {
        let reply = backend.call_on(caller, PROPERTIES, "GetAll", &(INTERFACE,)).await.unwrap();
        let values: std::collections::BTreeMap<String, zbus::OwnedVariant> =
            reply.body().deserialize().unwrap();
        values.into_keys().collect()
    };
    let mut names: Vec<String> = PROPERTY_TABLE.iter().map(|p| p.0.to_owned()).collect();
    names.sort();
    assert_eq!(all(&manager).await, names);
    names.retain(|name| PROPERTY_TABLE.iter().any(|p| p.0 == name && !p.3));
    assert_eq!(all(&stranger).await, names);
}

#[tokio::test(flavor = "multi_thread")]
async fn values_before_registration() {
    let (_bus, manager, _, _, backend) = set_up().await;
    let get = async |name| Variant::from(backend.get(&manager, name).await.unwrap()).to_string();
    assert_eq!(get("status").await, "(uint32 0, uint32 0, \"\")");
    assert_eq!(get("log_level").await, "uint32 3");
    assert_eq!(get("dco").await, "true");
    assert_eq!(get("connection").await, "(\"\", \"\", \"\", uint32 0)");
    assert_eq!(get("device_path").await, "objectpath \"/\"");
    assert_eq!(get("device_name").await, "\"\"");
    assert_eq!(get("session_name").await, "\"\"");
    assert_eq!(get("statistics").await, "@a{sx} {}");
    let alive: bool =
        backend.call(&manager, "Ping", &()).await.unwrap().body().deserialize().unwrap();
    assert!(alive);
    backend.call(&manager, "Ready", &()).await.unwrap();
    let domain = "net.openvpn.v3.error.client";
    let refused = glib(domain, "Backend service is not initialized");
    for method in ["Connect", "Resume", "Restart"] {
        assert_eq!(error(backend.call(&manager, method, &()).await), refused, "{method}");
    }
    assert_eq!(error(backend.call(&manager, "Pause", &("x",)).await), refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn writable_properties() {
    let (_bus, manager, mut stranger, _, backend) = set_up().await;
    let rule = format!("type='signal',interface='{PROPERTIES}'");
    stranger
        .connection
        .call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "AddMatch",
            &rule.as_str(),
        )
        .await
        .unwrap();
    let invalid = "org.freedesktop.DBus.Error.InvalidArgs";
    let denied = "org.freedesktop.DBus.Error.AccessDenied";
    let name = |result| error(result).0;

    backend.set(&manager, "log_level", Variant::from(6_u32)).await.unwrap();
    assert_eq!(u32::try_from(backend.get(&manager, "log_level").await.unwrap()).unwrap(), 6);
    let changed = stranger.any_signal("PropertiesChanged").await;
    let body = changed.body();
    let (interface, values, gone): (&str, std::collections::HashMap<&str, Variant<'_>>, Vec<&str>) =
        body.deserialize().unwrap();
    assert_eq!(interface, INTERFACE);
    assert_eq!(values["log_level"], Variant::from(6_u32));
    assert!(gone.is_empty());

    assert_eq!(name(backend.set(&manager, "log_level", Variant::from(7_u32)).await), invalid);
    assert_eq!(name(backend.set(&manager, "log_level", Variant::from("3")).await), invalid);
    assert_eq!(name(backend.set(&manager, "dco", Variant::from(1_u32)).await), invalid);
    assert_eq!(name(backend.set(&manager, "status", Variant::from(1_u32)).await), invalid);
    assert_eq!(name(backend.set(&manager, "nothing", Variant::from(1_u32)).await), invalid);
    assert_eq!(name(backend.set(&stranger, "log_level", Variant::from(1_u32)).await), denied);
    assert_eq!(name(backend.set(&stranger, "dco", Variant::from(false)).await), denied);
    assert_eq!(u32::try_from(backend.get(&manager, "log_level").await.unwrap()).unwrap(), 6);

    backend.set(&manager, "dco", Variant::from(false)).await.unwrap();
    assert!(!bool::try_from(backend.get(&manager, "dco").await.unwrap()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_types_and_names_are_refused() {
    let (_bus, manager, _, _, backend) = set_up().await;
    let invalid = "org.freedesktop.DBus.Error.InvalidArgs";
    let unknown = "org.freedesktop.DBus.Error.UnknownMethod";
    assert_eq!(error(backend.call(&manager, "Pause", &()).await).0, invalid);
    assert_eq!(
        error(backend.call(&manager, "UserInputQueueCheck", &("1", "1")).await),
        (
            invalid.to_owned(),
            "Type of message, “(ss)”, does not match expected type “(uu)”".to_owned()
        )
    );
    assert_eq!(error(backend.call(&manager, "Explode", &()).await).0, unknown);
    assert_eq!(error(backend.call_on(&manager, "no.such.interface", "Ping", &()).await).0, unknown);
    assert_eq!(
        error(backend.get(&manager, "nothing").await),
        (invalid.to_owned(), "No such property “nothing”".to_owned())
    );
    backend.call_on(&manager, "org.freedesktop.DBus.Peer", "Ping", &()).await.unwrap();
}
