# shellcheck shell=bash
# A machine with a server on it, for what runs inside a root. To be sourced.

set -euo pipefail

here=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
chmod 755 "$here"
cd "$here"

fail() {
    echo "$*" >&2
    exit 1
}

# appears TEXT FILE: waits for it.
appears() {
    for _ in {1..300}; do
        ! grep -qs "$1" "$2" || return 0
        sleep 0.1
    done
    return 1
}

# prepare LINES: a server with these further lines of configuration, a network with a way out, and
# client.ovpn, a profile that leads to the server.
prepare() {
    local one fingerprints=()
    ip link set lo up
    ip link add wire0 type bridge
    ip address add 192.0.2.10/24 dev wire0
    ip link set wire0 up
    ip route add default via 192.0.2.1
    for one in server client; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj "/CN=$one" -keyout $one.key -out $one.crt 2>/dev/null
        fingerprints+=("$(openssl x509 -in $one.crt -noout -fingerprint -sha256 | cut -d= -f2)")
    done
    chmod 644 client.key
    cat >server.conf <<CONF
dev server0
dev-type tun
server 10.8.0.0 255.255.255.0
topology subnet
local 127.0.0.1
proto udp4
dh none
cert server.crt
key server.key
peer-fingerprint ${fingerprints[1]}
duplicate-cn
disable-dco
push "dhcp-option DNS 10.8.0.1"
$1
CONF
    cat >client.ovpn <<CONF
client
dev tun
remote 127.0.0.1 1194 udp4
nobind
cert client.crt
key client.key
peer-fingerprint ${fingerprints[0]}
CONF
    openvpn --config server.conf >server.log 2>&1 &
    appears 'Initialization Sequence Completed' server.log || fail "$(cat server.log)"
}

redirected() { grep -q 'nameserver 10\.8\.0\.1' /etc/resolv.conf; }
