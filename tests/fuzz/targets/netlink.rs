//! Any bytes as a datagram from the kernel, for every decoder that sees one.

/// Runs one input.
pub fn run(data: &[u8]) {
    ovpn_dco::kernel::decode_anything(data);
}
