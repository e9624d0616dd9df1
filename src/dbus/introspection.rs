//! What `Introspect` answers: the documented interface, and the nodes on the way to the object.

use super::OBJECT;

const DOCTYPE: &str = "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection \
                       1.0//EN\"\n \
                       \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n";

/// Introspection data of a path; `None` if there is nothing at it or below it. `own`: of a tunnel of
/// this process's own.
pub(super) fn introspect(path: &str, own: bool) -> Option<String> {
    if path == OBJECT {
        let tunnel = if own { TUNNEL } else { "" };
        return Some(format!("{DOCTYPE}<node>\n{STANDARD}{BACKEND}{tunnel}</node>\n"));
    }
    let below = match path {
        "/" => &OBJECT[1..],
        path => OBJECT.strip_prefix(path)?.strip_prefix('/')?,
    };
    let child = below.split('/').next()?;
    Some(format!("{DOCTYPE}<node>\n  <node name=\"{child}\"/>\n</node>\n"))
}

const STANDARD: &str = r#"  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="s" name="property_name" direction="in"/>
      <arg type="v" name="value" direction="out"/>
    </method>
    <method name="GetAll">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="a{sv}" name="properties" direction="out"/>
    </method>
    <method name="Set">
      <arg type="s" name="interface_name" direction="in"/>
      <arg type="s" name="property_name" direction="in"/>
      <arg type="v" name="value" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg type="s" name="interface_name"/>
      <arg type="a{sv}" name="changed_properties"/>
      <arg type="as" name="invalidated_properties"/>
    </signal>
  </interface>
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect">
      <arg type="s" name="xml_data" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId">
      <arg type="s" name="machine_uuid" direction="out"/>
    </method>
  </interface>
"#;

const BACKEND: &str = r#"  <interface name="net.openvpn.v3.backends">
    <method name="RegistrationConfirmation">
      <arg type="s" name="token" direction="in"/>
      <arg type="o" name="config_path" direction="in"/>
      <arg type="s" name="config_name" direction="out"/>
    </method>
    <method name="Ping">
      <arg type="b" name="alive" direction="out"/>
    </method>
    <method name="Ready"/>
    <method name="Connect"/>
    <method name="Pause">
      <arg type="s" name="reason" direction="in"/>
    </method>
    <method name="Resume"/>
    <method name="Restart"/>
    <method name="Disconnect"/>
    <method name="ForceShutdown"/>
    <method name="UserInputQueueGetTypeGroup">
      <arg type="a(uu)" name="type_group_list" direction="out"/>
    </method>
    <method name="UserInputQueueFetch">
      <arg type="u" name="type" direction="in"/>
      <arg type="u" name="group" direction="in"/>
      <arg type="u" name="id" direction="in"/>
      <arg type="u" name="type" direction="out"/>
      <arg type="u" name="group" direction="out"/>
      <arg type="u" name="id" direction="out"/>
      <arg type="s" name="name" direction="out"/>
      <arg type="s" name="description" direction="out"/>
      <arg type="b" name="hidden_input" direction="out"/>
    </method>
    <method name="UserInputQueueCheck">
      <arg type="u" name="type" direction="in"/>
      <arg type="u" name="group" direction="in"/>
      <arg type="au" name="indexes" direction="out"/>
    </method>
    <method name="UserInputProvide">
      <arg type="u" name="type" direction="in"/>
      <arg type="u" name="group" direction="in"/>
      <arg type="u" name="id" direction="in"/>
      <arg type="s" name="value" direction="in"/>
    </method>
    <signal name="StatusChange">
      <arg type="u" name="code_major"/>
      <arg type="u" name="code_minor"/>
      <arg type="s" name="message"/>
    </signal>
    <signal name="Log">
      <arg type="u" name="group"/>
      <arg type="u" name="level"/>
      <arg type="s" name="session_token"/>
      <arg type="s" name="message"/>
    </signal>
    <signal name="AttentionRequired">
      <arg type="u" name="type"/>
      <arg type="u" name="group"/>
      <arg type="s" name="message"/>
    </signal>
    <signal name="RegistrationRequest">
      <arg type="s" name="busname"/>
      <arg type="s" name="token"/>
      <arg type="i" name="pid"/>
    </signal>
    <property type="u" name="log_level" access="readwrite"/>
    <property type="s" name="session_name" access="read"/>
    <property type="o" name="session_path" access="read"/>
    <property type="(sssu)" name="connection" access="read"/>
    <property type="a{sx}" name="statistics" access="read"/>
    <property type="(uus)" name="status" access="read"/>
    <property type="a{sv}" name="last_log_line" access="read"/>
    <property type="b" name="dco" access="readwrite"/>
    <property type="o" name="device_path" access="read"/>
    <property type="s" name="device_name" access="read"/>
  </interface>
"#;

const TUNNEL: &str = r#"  <interface name="ovpn_client.Tunnel1">
    <method name="Report">
      <arg type="s" name="json" direction="out"/>
    </method>
  </interface>
"#;

#[cfg(test)]
mod tests {
    use super::super::report::TUNNEL_INTERFACE;
    use super::*;

    #[test]
    fn every_node_on_the_way_leads_to_the_object() {
        let mut path = String::new();
        let parts: Vec<&str> = OBJECT.split('/').skip(1).collect();
        for (depth, part) in parts.iter().enumerate() {
            let at = if depth == 0 { "/" } else { &path };
            let xml = introspect(at, true).unwrap();
            assert!(xml.contains(&format!("<node name=\"{part}\"/>")), "{at}: {xml}");
            path = format!("{path}/{part}");
        }
        let xml = introspect(&path, true).unwrap();
        assert!(
            xml.contains("RegistrationConfirmation") && xml.contains(TUNNEL_INTERFACE),
            "{xml}"
        );
        assert_eq!(introspect("/net/openvpn/v3/back", true), None);
        assert_eq!(introspect("/net/openvpn/v3/backends/session/x", true), None);
    }
}
