//! Peer info: what a client tells the server about itself.

use ovpn_dco::Cipher;

use super::options::Options;
use super::{app_control, compression};

/// What this client can do, as `IV_PROTO` bits. A server relies on every bit, so only what works is
/// here (protocol reference 7); [`EPOCH`] and [`PUSH_UPDATE`] where they do.
const IV_PROTO: u32 = DATA_V2
    | REQUEST_PUSH
    | TLS_KEY_EXPORT
    | AUTH_PENDING_KW
    | CC_EXIT_NOTIFY
    | AUTH_FAIL_TEMP
    | DYN_TLS_CRYPT
    | DNS_OPTION_V2;

const DATA_V2: u32 = 1 << 1;
const REQUEST_PUSH: u32 = 1 << 2;
const TLS_KEY_EXPORT: u32 = 1 << 3;
const AUTH_PENDING_KW: u32 = 1 << 4;
const CC_EXIT_NOTIFY: u32 = 1 << 7;
const AUTH_FAIL_TEMP: u32 = 1 << 8;
const DYN_TLS_CRYPT: u32 = 1 << 9;
const EPOCH: u32 = 1 << 10;
const DNS_OPTION_V2: u32 = 1 << 11;
const PUSH_UPDATE: u32 = 1 << 12;

/// Longest peer info in bytes: the buffer of OpenVPN 2 servers, with room for the key method 2
/// fields around it in one TLS record of 2048 bytes.
const MAX_LEN: usize = 1400;

/// What the profile does not know.
#[derive(Clone, Debug, Default)]
pub struct PeerInfoExtra {
    /// `IV_GUI_VER`: front end and version; empty: none.
    pub gui_version: String,
    /// `IV_SSO`: comma list of `webauth`, `openurl`, `crtext`, `proxy`; empty: none.
    pub sso: String,
    /// `IV_ACC`: applications whose messages are answered, `a:b`; empty: none.
    pub app_protocols: String,
    /// `IV_HWADDR`: `aa:bb:cc:dd:ee:ff`, sent with push-peer-info only.
    pub hardware_address: Option<String>,
    /// `IV_SSL`, sent with push-peer-info only.
    pub tls_library: Option<String>,
    /// `IV_PLAT_VER`, sent with push-peer-info only.
    pub platform_version: Option<String>,
    /// The userspace data path serves the connection: what only it has can be had (framings of
    /// compression, epoch keys).
    pub userspace: bool,
    /// PUSH_UPDATE is followed.
    pub push_update: bool,
}

/// The peer info for key method 2: lines `KEY=VALUE`, each ending in `\n` (protocol reference 7).
///
/// What a user adds by `setenv UV_...` is left out where it would make the whole too long.
pub fn peer_info(options: &Options, extra: &PeerInfoExtra) -> String {
    let mut info = PeerInfo(String::new());
    let ciphers = &options.data.ciphers;
    info.line("IV_VER", env!("CARGO_PKG_VERSION"));
    info.line("IV_PLAT", "linux");
    info.line("IV_TCPNL", "1");
    info.line("IV_MTU", &options.data.tun_mtu_max.to_string());
    if ciphers.contains(&Cipher::Aes128Gcm) && ciphers.contains(&Cipher::Aes256Gcm) {
        info.line("IV_NCP", "2");
    }
    let names: Vec<_> = ciphers.iter().map(|c| c.name()).collect();
    info.line("IV_CIPHERS", &names.join(":"));
    let update = if extra.push_update { PUSH_UPDATE } else { 0 };
    let epoch = if extra.userspace { EPOCH } else { 0 };
    info.line("IV_PROTO", &(IV_PROTO | epoch | update).to_string());
    if extra.userspace {
        if compression::is_read(&options.data) {
            info.line("IV_LZ4", "1");
            info.line("IV_LZ4v2", "1");
            info.line("IV_LZO", "1");
        } else {
            info.line("IV_LZO_STUB", "1");
        }
        info.line("IV_COMP_STUB", "1");
        info.line("IV_COMP_STUBv2", "1");
    }
    let configured = |name: &str| {
        options.peer_info.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
    };
    if options.push_peer_info {
        let address = configured("IV_HWADDR").or_else(|| extra.hardware_address.clone());
        info.optional("IV_HWADDR", address.as_deref());
        info.optional("IV_SSL", extra.tls_library.as_deref());
        info.optional("IV_PLAT_VER", extra.platform_version.as_deref());
    }
    // What the front end says about itself is truer than what the profile says about it.
    for (name, own) in [("IV_GUI_VER", &extra.gui_version), ("IV_SSO", &extra.sso)] {
        let value = Some(own.clone()).filter(|v| !v.is_empty()).or_else(|| configured(name));
        info.optional(name, value.as_deref());
    }
    if !extra.app_protocols.is_empty() {
        info.line("IV_ACC", &format!("{},{}", app_control::OFFER, extra.app_protocols));
    }
    if options.push_peer_info {
        for (name, value) in options.peer_info.iter().filter(|(name, _)| name.starts_with("UV_")) {
            info.line(name, value);
        }
    }
    info.0
}

struct PeerInfo(String);

impl PeerInfo {
    fn line(&mut self, name: &str, value: &str) {
        let fits = self.0.len() + name.len() + value.len() + 2 <= MAX_LEN;
        if fits && !value.chars().any(char::is_control) {
            self.0.push_str(name);
            self.0.push('=');
            self.0.push_str(value);
            self.0.push('\n');
        }
    }

    fn optional(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.line(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{NoFiles, Profile};

    fn options(extra: &str) -> Options {
        let fingerprint = ["00"; 32].join(":");
        let text =
            format!("client\nremote a\nauth-user-pass\npeer-fingerprint {fingerprint}\n{extra}\n");
        Profile::parse(&text, "test", &NoFiles).unwrap().options
    }

    #[test]
    fn only_what_works_is_claimed() {
        assert_eq!(IV_PROTO, 2 + 4 + 8 + 16 + 128 + 256 + 512 + 2048);
        assert_eq!(
            peer_info(&options("setenv UV_ID 7"), &PeerInfoExtra::default()),
            format!(
                "IV_VER={}\nIV_PLAT=linux\nIV_TCPNL=1\nIV_MTU=1600\nIV_NCP=2\n\
                 IV_CIPHERS=AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305:AES-192-GCM\nIV_PROTO=2974\n",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn ncp_needs_both_aes_ciphers() {
        let info = peer_info(&options("data-ciphers AES-256-GCM"), &PeerInfoExtra::default());
        assert!(!info.contains("IV_NCP"));
        assert!(info.contains("IV_CIPHERS=AES-256-GCM\n"));
    }

    #[test]
    fn push_peer_info_adds_details() {
        let extra = PeerInfoExtra {
            gui_version: "test 1".to_owned(),
            sso: "crtext".to_owned(),
            app_protocols: "cxa1:dpc1".to_owned(),
            hardware_address: Some("02:00:00:00:00:01".to_owned()),
            tls_library: Some("lib".to_owned()),
            platform_version: Some("6.18".to_owned()),
            userspace: true,
            push_update: true,
        };
        let o = options("push-peer-info\nsetenv UV_ID 7\nsetenv IV_SSO webauth\nsetenv IV_PROTO 1");
        let info = peer_info(&o, &extra);
        assert!(info.ends_with(
            "IV_LZO_STUB=1\nIV_COMP_STUB=1\nIV_COMP_STUBv2=1\nIV_HWADDR=02:00:00:00:00:01\n\
             IV_SSL=lib\nIV_PLAT_VER=6.18\nIV_GUI_VER=test 1\nIV_SSO=crtext\n\
             IV_ACC=2048,6:A,cxa1:dpc1\nUV_ID=7\n"
        ));
        assert_eq!(info.matches("IV_PROTO=").count(), 1);
        assert!(info.contains("IV_PROTO=8094\n"));
        let info = peer_info(&options("allow-compression asym"), &extra);
        assert!(
            info.contains("IV_LZ4=1\nIV_LZ4v2=1\nIV_LZO=1\nIV_COMP_STUB=1\nIV_COMP_STUBv2=1\n")
        );
        assert!(!info.contains("IV_LZO_STUB"));
        assert!(peer_info(&o, &PeerInfoExtra::default()).contains("IV_SSO=webauth\n"));
    }

    #[test]
    fn it_never_grows_too_long() {
        let many: String =
            (0..20).map(|n| format!("setenv UV_{n} {}\n", "x".repeat(200))).collect();
        let info =
            peer_info(&options(&format!("push-peer-info\n{many}")), &PeerInfoExtra::default());
        assert!(info.len() <= MAX_LEN && info.ends_with('\n'));
    }
}
