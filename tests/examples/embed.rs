//! A whole connection inside a program of one's own: profile text in, events out. As root:
//!
//! ```text
//! cargo run --example embed -- site.ovpn [USER PASSWORD]
//! ```

#![allow(clippy::print_stdout, reason = "it is a command line program")]

use std::path::PathBuf;
use std::sync::Arc;

use ovpn_client::profile::{Profile, ProfileFile};
use ovpn_client::secret::Credentials;
use ovpn_client::session::{Running, SessionConfig, SessionEvent, SessionState, Wish};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: embed PROFILE [USER PASSWORD]")?;
    let file = ProfileFile::read(path.as_ref())?;
    let profile = Profile::parse(file.text.expose(), &file.name, &file.files)?;
    // Where to note what has to be undone if this process dies.
    let runtime_dir = PathBuf::from("/run/ovpn-embed");
    let mut config = SessionConfig::new(Arc::new(profile.options), runtime_dir);
    if let (Some(username), Some(password)) = (arguments.next(), arguments.next()) {
        config.credentials = Credentials { username, password: password.into() };
    }
    let mut session = Running::start(config);
    loop {
        tokio::select! {
            event = session.events.recv() => match event {
                Some(SessionEvent::State(SessionState::Connected(tunnel))) => {
                    println!("{:?} on {}: data path {}", tunnel.tunnel, tunnel.device, tunnel.data_path);
                }
                Some(SessionEvent::State(state)) => println!("{state:?}"),
                Some(SessionEvent::Ended(outcome)) => {
                    println!("{outcome}");
                    return Ok(());
                }
                // Questions: `Command::{Respond, LogIn, Sign}` answer them.
                Some(other) => println!("{other:?}"),
                None => return Ok(()),
            },
            // Everything is undone before `Ended` comes.
            _ = tokio::signal::ctrl_c() => session.commands.send(Wish::Disconnect.into()).await?,
        }
    }
}
