//! `ovpn-client metrics`: what running tunnels count, for programs that collect it. The text is made of
//! their reports by whoever asks; the tunnels know nothing of it.

mod serve;
mod text;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use self::serve::Address;
use self::text::{Format, Tunnel, text};
use super::tunnels::{Refusal, TunnelName, Where, blocking, failed, finish, print, reports};

/// Arguments of `metrics`.
#[derive(Clone, Debug, clap::Args)]
pub struct MetricsArgs {
    /// Which tunnels; default: all of them
    names: Vec<TunnelName>,
    /// How they are written to standard output
    #[arg(long, value_enum, default_value_t = Format::Openmetrics, conflicts_with_all = ["textfile", "listen"])]
    format: Format,
    /// Write them to this file, for the textfile collector of node_exporter
    #[arg(long, value_name = "FILE", conflicts_with = "listen")]
    textfile: Option<PathBuf>,
    /// Answer HTTP requests for /metrics at this address, or at this port of 127.0.0.1, until it is ended
    #[arg(long, value_name = "[ADDRESS:]PORT")]
    listen: Option<Address>,
    #[command(flatten)]
    place: Where,
}

impl MetricsArgs {
    /// A tunnel that is named and not running is there as one that does not answer.
    async fn gather(&self) -> Result<Vec<Tunnel>, Refusal> {
        let tunnels = reports(&self.place, &self.names).await?;
        Ok(tunnels.into_iter().map(|(name, report)| Tunnel { name, report }).collect())
    }
}

pub(super) fn run(args: &MetricsArgs) -> ExitCode {
    finish(blocking(async {
        if let Some(address) = &args.listen {
            return serve::serve(address, args).await;
        }
        let tunnels = args.gather().await?;
        match &args.textfile {
            Some(path) => {
                let text = text(tunnels, Format::Prometheus).map_err(failed)?;
                replace(path, &text).map_err(|error| failed(format!("{}: {error}", path.display())))
            }
            None => print(&text(tunnels, args.format).map_err(failed)?),
        }
    }))
}

/// Who reads the file finds all of the old text or all of the new one.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    // The collector reads files with the ending `prom` only.
    temporary.push(format!(".{}", std::process::id()));
    let written = File::create_new(&temporary).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())
    });
    let replaced = written.and_then(|()| fs::rename(&temporary, path));
    if replaced.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&temporary);
    }
    replaced
}
