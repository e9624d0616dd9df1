//! Gets a profile from the configuration manager and makes it ready to connect with.

use std::collections::HashMap;
use std::sync::Arc;

use zbus::{Connection, OwnedVariant, Variant};

use super::{CONFIGURATION, PROPERTIES};
use crate::profile::{DirFiles, FileSource, NoFiles, Options, Profile};
use crate::secret::Secret;
use crate::tls::key_needs_passphrase;

/// Where files come from that a profile names.
pub type Files = Arc<dyn FileSource + Send + Sync>;

/// Files relative to a directory: for a front end in this process.
pub fn files_in(directory: std::path::PathBuf) -> Files {
    Arc::new(DirFiles(directory))
}

/// No files: a configuration manager's profiles hold everything themselves.
pub(super) fn no_files() -> Files {
    Arc::new(NoFiles)
}

/// A profile and what the configuration manager says about it.
pub(super) struct Fetched {
    pub(super) name: String,
    pub(super) dco: bool,
    pub(super) auth_fail_retry: bool,
    /// Verbosity that the profile or its overrides ask for.
    pub(super) log_level: Option<u32>,
    pub(super) passphrase_needed: bool,
    pub(super) profile: Result<Arc<Options>, String>,
}

/// Reads name, `dco` and overrides, and the profile itself last: a single-use profile is gone
/// after it.
pub(super) async fn fetch(
    connection: &Connection,
    private: bool,
    path: &str,
    files: &Files,
) -> zbus::Result<Fetched> {
    let source = Source { connection, destination: (!private).then_some(CONFIGURATION), path };
    let name: String = source.property("name").await?;
    let dco: bool = source.property("dco").await?;
    let overrides: HashMap<String, OwnedVariant> = source.property("overrides").await?;
    tracing::trace!("Retrieving configuration from {path}");
    let reply =
        connection.call_method(source.destination, path, Some(CONFIGURATION), "Fetch", &()).await?;
    let text = Secret::new(reply.body().deserialize::<String>()?);
    Ok(evaluate(name, dco, overrides, &text, files))
}

fn evaluate(
    name: String,
    dco: bool,
    overrides: HashMap<String, OwnedVariant>,
    text: &Secret<String>,
    files: &Files,
) -> Fetched {
    let parsed = Profile::parse(text.expose(), &name, files.as_ref());
    let mut fetched = Fetched {
        name,
        dco,
        auth_fail_retry: false,
        log_level: None,
        passphrase_needed: false,
        profile: Err(String::new()),
    };
    fetched.profile = match parsed {
        Ok(profile) => {
            fetched.log_level = profile.options.verb.map(u32::from);
            for (name, value) in overrides {
                apply(&mut fetched, &name, &value);
            }
            fetched.passphrase_needed = key_needs_passphrase(&profile.options.tls);
            Ok(Arc::new(profile.options))
        }
        Err(errors) => Err(errors.to_string().replace('\n', "; ")),
    };
    fetched
}

/// Overrides that concern the backend itself.
fn apply(fetched: &mut Fetched, name: &str, value: &Variant<'_>) {
    match (name, value) {
        ("log-level", Variant::Str(level)) => match level.parse::<u32>() {
            Ok(level @ 1..=6) => fetched.log_level = Some(level),
            _ => tracing::error!("Unsupported override: log-level: '{level}' is not 1 to 6"),
        },
        ("auth-fail-retry", Variant::Bool(retry)) => fetched.auth_fail_retry = *retry,
        // The session manager acts on it.
        ("automatic-restart", Variant::Str(_)) => {}
        _ => tracing::error!("Unsupported override: {name}"),
    }
}

struct Source<'a> {
    connection: &'a Connection,
    destination: Option<&'static str>,
    path: &'a str,
}

impl Source<'_> {
    async fn property<T>(&self, name: &str) -> zbus::Result<T>
    where
        T: TryFrom<Variant<'static>>,
        T::Error: Into<zbus::Error>,
    {
        let body = (CONFIGURATION, name);
        let reply = self
            .connection
            .call_method(self.destination, self.path, Some(PROPERTIES), "Get", &body)
            .await?;
        let value: OwnedVariant = reply.body().deserialize()?;
        T::try_from(Variant::from(value)).map_err(Into::into)
    }
}
