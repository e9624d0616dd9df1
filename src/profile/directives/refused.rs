//! Directives a profile must not have: without them the connection would be weaker, or another one
//! than meant, or none.

use super::Entry;

const SERVER: &str = "a setting for servers";
const SERVER_HINT: &str = "this is a client; use the client profile that belongs to the server";
const PUSHED: &str = "only a server may say this, in its push";
const PUSHED_HINT: &str = "remove the line";
const COMMAND: &str = "an operation of OpenVPN's command line, not a setting";
const COMMAND_HINT: &str = "remove the line; run 'openvpn' for it";
const TOKEN: &str = "keys on tokens and in key stores are not supported";
const TOKEN_HINT: &str = "use a key file ('key', 'pkcs12')";
const WEAKER: &str = "it would weaken the connection and no longer exists";
const WEAKER_HINT: &str = "remove the line, here and on the server";

pub(super) const TABLE: &[Entry] = &[
    // No TLS, or less of it.
    Entry::refuse(
        "secret",
        "static key mode has no TLS and no forward secrecy, and is not supported",
        "set the server up with certificates, or with peer-fingerprint for a small set-up",
    ),
    Entry::refuse("no-replay", WEAKER, WEAKER_HINT),
    Entry::refuse("no-iv", WEAKER, WEAKER_HINT),
    Entry::refuse(
        "tls-verify",
        "a script that checks the server's certificate cannot be run, and without it the \
         connection would be weaker",
        "use verify-x509-name, peer-fingerprint or remote-cert-tls; or 'setenv opt tls-verify' to \
         do without",
    ),
    Entry::refuse(
        "tls-remote",
        "it was replaced long ago",
        "write 'verify-x509-name NAME name' (common name) or 'verify-x509-name \"C=.., CN=..\"' \
         (whole subject)",
    ),
    Entry::refuse(
        "x509-username-field",
        "only the common name is used as the server's name",
        "remove the line, and check the server with verify-x509-name",
    ),
    Entry::refuse(
        "capath",
        "a directory of CA certificates is not supported",
        "put the CA certificates into one file and use 'ca'",
    ),
    // Another connection than meant.
    Entry::refuse("client-nat", "address translation in the tunnel is not supported", "remove it"),
    Entry::refuse(
        "route-table",
        "routes go to the main table only",
        "remove the line, or use route-nopull and set routes to the table by a script",
    ),
    Entry::refuse("mtu-dynamic", "fragmenting inside of the tunnel is not supported", "remove it"),
    Entry::refuse(
        "config",
        "profiles do not include other files",
        "put everything into one profile",
    ),
    // Keys elsewhere.
    Entry::refuse("cryptoapicert", "the Windows certificate store is not there", TOKEN_HINT),
    Entry::refuse("pkcs11-providers", TOKEN, TOKEN_HINT),
    Entry::refuse("pkcs11-id", TOKEN, TOKEN_HINT),
    Entry::refuse("pkcs11-id-management", TOKEN, TOKEN_HINT),
    Entry::refuse("management-external-key", TOKEN, TOKEN_HINT),
    Entry::refuse("management-external-cert", TOKEN, TOKEN_HINT),
    // Pushed only.
    Entry::refuse("key-derivation", PUSHED, PUSHED_HINT),
    Entry::refuse("parameter", PUSHED, PUSHED_HINT),
    Entry::refuse("peer-id", PUSHED, PUSHED_HINT),
    Entry::refuse("protocol-flags", PUSHED, PUSHED_HINT),
    Entry::refuse("push-continuation", PUSHED, PUSHED_HINT),
    // Servers.
    Entry::refuse("tls-server", SERVER, SERVER_HINT),
    Entry::refuse("server", SERVER, SERVER_HINT),
    Entry::refuse("server-ipv6", SERVER, SERVER_HINT),
    Entry::refuse("server-bridge", SERVER, SERVER_HINT),
    Entry::refuse("override-username", SERVER, SERVER_HINT),
    Entry::refuse("push-remove", SERVER, SERVER_HINT),
    Entry::refuse("push-reset", SERVER, SERVER_HINT),
    Entry::refuse("auth-user-pass-optional", SERVER, SERVER_HINT),
    Entry::refuse("auth-user-pass-verify", SERVER, SERVER_HINT),
    Entry::refuse("bcast-buffers", SERVER, SERVER_HINT),
    Entry::refuse("ccd-exclusive", SERVER, SERVER_HINT),
    Entry::refuse("client-config-dir", SERVER, SERVER_HINT),
    Entry::refuse("client-connect", SERVER, SERVER_HINT),
    Entry::refuse("client-disconnect", SERVER, SERVER_HINT),
    Entry::refuse("client-to-client", SERVER, SERVER_HINT),
    Entry::refuse("connect-freq", SERVER, SERVER_HINT),
    Entry::refuse("connect-freq-initial", SERVER, SERVER_HINT),
    Entry::refuse("disable", SERVER, SERVER_HINT),
    Entry::refuse("duplicate-cn", SERVER, SERVER_HINT),
    Entry::refuse("hash-size", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-ipv6-pool", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-ipv6-push", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-pool", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-pool-linear", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-pool-persist", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-push", SERVER, SERVER_HINT),
    Entry::refuse("ifconfig-push-constraint", SERVER, SERVER_HINT),
    Entry::refuse("iroute", SERVER, SERVER_HINT),
    Entry::refuse("iroute-ipv6", SERVER, SERVER_HINT),
    Entry::refuse("learn-address", SERVER, SERVER_HINT),
    Entry::refuse("max-routes-per-client", SERVER, SERVER_HINT),
    Entry::refuse("stale-routes-check", SERVER, SERVER_HINT),
    Entry::refuse("tls-crypt-v2-verify", SERVER, SERVER_HINT),
    Entry::refuse("tls-crypt-v2-max-age", SERVER, SERVER_HINT),
    Entry::refuse("username-as-common-name", SERVER, SERVER_HINT),
    Entry::refuse("verify-client-cert", SERVER, SERVER_HINT),
    Entry::refuse("vlan-accept", SERVER, SERVER_HINT),
    Entry::refuse("vlan-pvid", SERVER, SERVER_HINT),
    Entry::refuse("vlan-tagging", SERVER, SERVER_HINT),
    // Operations.
    Entry::refuse("genkey", COMMAND, COMMAND_HINT),
    Entry::refuse("help", COMMAND, COMMAND_HINT),
    Entry::refuse("mktun", COMMAND, COMMAND_HINT),
    Entry::refuse("rmtun", COMMAND, COMMAND_HINT),
    Entry::refuse("show-adapters", COMMAND, COMMAND_HINT),
    Entry::refuse("show-ciphers", COMMAND, COMMAND_HINT),
    Entry::refuse("show-curves", COMMAND, COMMAND_HINT),
    Entry::refuse("show-digests", COMMAND, COMMAND_HINT),
    Entry::refuse("show-engines", COMMAND, COMMAND_HINT),
    Entry::refuse("show-gateway", COMMAND, COMMAND_HINT),
    Entry::refuse("show-groups", COMMAND, COMMAND_HINT),
    Entry::refuse("show-net", COMMAND, COMMAND_HINT),
    Entry::refuse("show-pkcs11-ids", COMMAND, COMMAND_HINT),
    Entry::refuse("show-tls", COMMAND, COMMAND_HINT),
    Entry::refuse("show-valid-subnets", COMMAND, COMMAND_HINT),
    Entry::refuse("test-crypto", COMMAND, COMMAND_HINT),
    Entry::refuse("version", COMMAND, COMMAND_HINT),
];
