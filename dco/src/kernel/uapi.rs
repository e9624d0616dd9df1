//! The numbers of both kernel interfaces, and nothing else. Private: the rest of the crate speaks
//! typed commands.
//!
//! Sources: `include/uapi/linux/ovpn.h` and `Documentation/netlink/specs/ovpn.yaml` (Linux 6.16 and
//! newer), `include/uapi/linux/ovpn_dco.h` of the out-of-tree module.

/// Version both families have, and that requests carry (the kernel does not look at it).
pub(super) const VERSION: u8 = 1;

/// The multicast group of both families.
pub(super) const GROUP_PEERS: &str = "peers";

/// `IFLA_OVPN_MODE` in `IFLA_INFO_DATA` of both link kinds: one byte.
pub(super) const IFLA_MODE: u16 = 1;

/// Cipher numbers, the same in both.
pub(super) const CIPHER_NONE: u8 = 0;
pub(super) const CIPHER_AES_GCM: u8 = 1;
pub(super) const CIPHER_CHACHA20_POLY1305: u8 = 2;

/// Slot numbers, the same in both.
pub(super) const SLOT_PRIMARY: u8 = 0;
pub(super) const SLOT_SECONDARY: u8 = 1;

/// Largest keepalive interval and timeout the in-tree module takes, seconds.
pub(super) const KEEPALIVE_MAX: u32 = 86_400;

/// Generic netlink's own family.
pub(super) mod ctrl {
    pub(crate) const ID: u16 = 16;
    pub(crate) const GETFAMILY: u8 = 3;
    pub(crate) const GETPOLICY: u8 = 10;

    pub(crate) const ATTR_FAMILY_ID: u16 = 1;
    pub(crate) const ATTR_FAMILY_NAME: u16 = 2;
    pub(crate) const ATTR_VERSION: u16 = 3;
    pub(crate) const ATTR_MCAST_GROUPS: u16 = 7;
    pub(crate) const ATTR_POLICY: u16 = 8;
    pub(crate) const ATTR_OP: u16 = 10;

    pub(crate) const GROUP_NAME: u16 = 1;
    pub(crate) const GROUP_ID: u16 = 2;
}

/// Family `ovpn`.
pub(super) mod ovpn {
    pub(crate) const PEER_NEW: u8 = 1;
    pub(crate) const PEER_SET: u8 = 2;
    pub(crate) const PEER_GET: u8 = 3;
    pub(crate) const PEER_DEL: u8 = 4;
    pub(crate) const PEER_DEL_NTF: u8 = 5;
    pub(crate) const KEY_NEW: u8 = 6;
    pub(crate) const KEY_GET: u8 = 7;
    pub(crate) const KEY_SWAP: u8 = 8;
    pub(crate) const KEY_SWAP_NTF: u8 = 9;
    pub(crate) const KEY_DEL: u8 = 10;
    pub(crate) const PEER_FLOAT_NTF: u8 = 11;

    pub(crate) const IFINDEX: u16 = 1;
    pub(crate) const PEER: u16 = 2;
    pub(crate) const KEYCONF: u16 = 3;

    pub(crate) mod peer {
        pub(crate) const ID: u16 = 1;
        pub(crate) const REMOTE_IPV4: u16 = 2;
        pub(crate) const REMOTE_IPV6: u16 = 3;
        pub(crate) const REMOTE_IPV6_SCOPE_ID: u16 = 4;
        pub(crate) const REMOTE_PORT: u16 = 5;
        pub(crate) const SOCKET: u16 = 6;
        pub(crate) const SOCKET_NETNSID: u16 = 7;
        pub(crate) const VPN_IPV4: u16 = 8;
        pub(crate) const VPN_IPV6: u16 = 9;
        pub(crate) const LOCAL_IPV4: u16 = 10;
        pub(crate) const LOCAL_IPV6: u16 = 11;
        pub(crate) const LOCAL_PORT: u16 = 12;
        pub(crate) const KEEPALIVE_INTERVAL: u16 = 13;
        pub(crate) const KEEPALIVE_TIMEOUT: u16 = 14;
        pub(crate) const DEL_REASON: u16 = 15;
        pub(crate) const VPN_RX_BYTES: u16 = 16;
        pub(crate) const VPN_TX_BYTES: u16 = 17;
        pub(crate) const VPN_RX_PACKETS: u16 = 18;
        pub(crate) const VPN_TX_PACKETS: u16 = 19;
        pub(crate) const LINK_RX_BYTES: u16 = 20;
        pub(crate) const LINK_TX_BYTES: u16 = 21;
        pub(crate) const LINK_RX_PACKETS: u16 = 22;
        pub(crate) const LINK_TX_PACKETS: u16 = 23;
        pub(crate) const TX_ID: u16 = 24;
    }

    pub(crate) mod keyconf {
        pub(crate) const PEER_ID: u16 = 1;
        pub(crate) const SLOT: u16 = 2;
        pub(crate) const KEY_ID: u16 = 3;
        pub(crate) const CIPHER_ALG: u16 = 4;
        pub(crate) const ENCRYPT_DIR: u16 = 5;
        pub(crate) const DECRYPT_DIR: u16 = 6;
    }
}

/// In the nests of either family's key directions.
pub(super) mod keydir {
    pub(crate) const CIPHER_KEY: u16 = 1;
    pub(crate) const NONCE_TAIL: u16 = 2;
}

/// Family `ovpn-dco-v2`: every command has its own nest with its own numbers.
pub(super) mod dco_v2 {
    pub(crate) const NEW_PEER: u8 = 1;
    pub(crate) const SET_PEER: u8 = 2;
    pub(crate) const DEL_PEER: u8 = 3;
    pub(crate) const NEW_KEY: u8 = 4;
    pub(crate) const SWAP_KEYS: u8 = 5;
    pub(crate) const DEL_KEY: u8 = 6;
    pub(crate) const GET_PEER: u8 = 7;

    /// Top-level attributes. They do not follow the command numbers.
    pub(crate) mod top {
        pub(crate) const IFINDEX: u16 = 1;
        pub(crate) const NEW_PEER: u16 = 2;
        pub(crate) const SET_PEER: u16 = 3;
        pub(crate) const DEL_PEER: u16 = 4;
        pub(crate) const NEW_KEY: u16 = 5;
        pub(crate) const SWAP_KEYS: u16 = 6;
        pub(crate) const DEL_KEY: u16 = 7;
        pub(crate) const GET_PEER: u16 = 8;
    }

    pub(crate) mod new_peer {
        pub(crate) const PEER_ID: u16 = 1;
        pub(crate) const SOCKADDR_REMOTE: u16 = 2;
        pub(crate) const SOCKET: u16 = 3;
        pub(crate) const IPV4: u16 = 4;
        pub(crate) const IPV6: u16 = 5;
        pub(crate) const LOCAL_IP: u16 = 6;
    }

    pub(crate) mod set_peer {
        pub(crate) const PEER_ID: u16 = 1;
        pub(crate) const KEEPALIVE_INTERVAL: u16 = 2;
        pub(crate) const KEEPALIVE_TIMEOUT: u16 = 3;
    }

    pub(crate) mod del_peer {
        pub(crate) const REASON: u16 = 1;
        pub(crate) const PEER_ID: u16 = 2;
    }

    pub(crate) mod new_key {
        pub(crate) const PEER_ID: u16 = 1;
        pub(crate) const KEY_SLOT: u16 = 2;
        pub(crate) const KEY_ID: u16 = 3;
        pub(crate) const CIPHER_ALG: u16 = 4;
        pub(crate) const ENCRYPT_KEY: u16 = 5;
        pub(crate) const DECRYPT_KEY: u16 = 6;
    }

    pub(crate) mod swap_keys {
        pub(crate) const PEER_ID: u16 = 1;
    }

    pub(crate) mod del_key {
        pub(crate) const PEER_ID: u16 = 1;
        pub(crate) const KEY_SLOT: u16 = 2;
    }

    pub(crate) mod get_peer {
        pub(crate) const PEER_ID: u16 = 1;
        pub(crate) const SOCKADDR_REMOTE: u16 = 2;
        pub(crate) const IPV4: u16 = 3;
        pub(crate) const IPV6: u16 = 4;
        pub(crate) const LOCAL_IP: u16 = 5;
        pub(crate) const LOCAL_PORT: u16 = 6;
        pub(crate) const KEEPALIVE_INTERVAL: u16 = 7;
        pub(crate) const KEEPALIVE_TIMEOUT: u16 = 8;
        pub(crate) const VPN_RX_BYTES: u16 = 9;
        pub(crate) const VPN_TX_BYTES: u16 = 10;
        pub(crate) const VPN_RX_PACKETS: u16 = 11;
        pub(crate) const VPN_TX_PACKETS: u16 = 12;
        pub(crate) const LINK_RX_BYTES: u16 = 13;
        pub(crate) const LINK_TX_BYTES: u16 = 14;
        pub(crate) const LINK_RX_PACKETS: u16 = 15;
        pub(crate) const LINK_TX_PACKETS: u16 = 16;
    }
}
