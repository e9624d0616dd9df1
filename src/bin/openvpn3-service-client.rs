//! Backend process of OpenVPN 3 Linux.

fn main() {}
