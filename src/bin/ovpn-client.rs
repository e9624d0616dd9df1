//! Headless front end.

fn main() -> std::process::ExitCode {
    ovpn_client::cli::run()
}
