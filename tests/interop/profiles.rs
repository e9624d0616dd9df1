//! What profiles may say, beside what the real programs take.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use ovpn_client::profile::{NoFiles, Profile};

use crate::client::CONNECTED;
use crate::lab::{Lab, plain};
use crate::server::{ServerConfig, Transport, Version, Wrapping};

/// Names of options in what `openvpn --help` prints.
fn option_names(lab: &Lab, version: Version) -> BTreeSet<String> {
    let output = version.command(&lab.client_ns).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<_> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|line| line.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).next())
        // "--reneg-* " and the like stand for several.
        .filter(|name| !name.ends_with('-'))
        .map(str::to_owned)
        .collect();
    assert!(names.len() > 200, "{names:?}");
    names
}

/// The next release shows here what is new in it.
#[test]
fn every_option_of_the_real_programs_is_known() {
    let lab = Lab::new();
    for version in Version::ALL {
        let unknown: Vec<_> = option_names(&lab, version)
            .into_iter()
            .filter(|name| {
                let text = format!("client\nremote a\n{name} 1\n");
                let errors = Profile::parse(&text, "names.ovpn", &NoFiles).unwrap_err();
                errors.errors.iter().any(|error| error.reason.starts_with("unknown directive"))
            })
            .collect();
        assert!(unknown.is_empty(), "{version:?}: {unknown:?}");
    }
    let made_up = "client\nremote a\nno-such-option 1\n";
    let errors = Profile::parse(made_up, "names.ovpn", &NoFiles).unwrap_err().to_string();
    assert!(errors.contains("unknown directive"), "{errors}");
}

/// Each server of a profile may expect another wrapping. Nobody is at the first one.
#[test]
fn a_connection_block_has_its_own_wrapping() {
    let lab = Lab::new();
    let nobody = Wrapping::TlsCryptV2.client_options(&lab.keys);
    for wrapping in [Wrapping::TlsAuth("SHA1"), Wrapping::TlsCrypt, Wrapping::None] {
        let config = ServerConfig { wrapping, ..plain(Version::V27, Transport::Udp4) };
        let server = lab.start_server(&config);
        let address = config.transport.address();
        let own = wrapping.client_options(&lab.keys).replace("auth SHA1\n", "");
        let blocks = format!(
            "<connection>\nremote {address} 1195 udp\n{nobody}</connection>\n\
             <connection>\nremote {address} openvpn udp\n{own}</connection>\n\
             connect-timeout 2\n"
        );
        let bare = ServerConfig { wrapping: Wrapping::None, ..config };
        let profile = lab.profile(&bare, &blocks);
        let profile = profile.replacen(&format!("remote {address} 1194 udp4\n"), "", 1);
        let mut client = lab.start_client(&profile, &[]);
        client
            .wait(CONNECTED, Duration::from_secs(20))
            .unwrap_or_else(|error| panic!("{wrapping:?}: {error}\n{}", server.log()));
        lab.ping("10.8.0.1").unwrap();
        assert_eq!(client.stop(Signal::SIGTERM).code, Some(0));
    }
}
