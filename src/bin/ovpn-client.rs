//! Headless front end.

use ovpn_client::privileges::WipingAllocator;

#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

fn main() -> std::process::ExitCode {
    ovpn_client::cli::run()
}
