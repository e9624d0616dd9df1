//! Gets a profile from the configuration manager and makes it ready to connect with.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::{debug, error, trace, warn};
use zbus::{Connection, OwnedVariant, Variant};

use super::{CONFIGURATION, PROPERTIES, residue};
use crate::backend::UnusableProfile;
use crate::profile::{
    DnsScope, NoFiles, Options, OverrideError, OverrideValue, Overrides, Profile, ProfileErrors,
    VerdictKind, restore_blocks,
};
use crate::secret::Secret;
use crate::text::excerpt;
use crate::tls::{key_needs_passphrase, open_key};

/// Longest name of a profile, and longest text of an override in the log, in bytes.
const MAX_NAME: usize = 256;
/// Most unusable overrides that are told of one by one.
const MAX_TOLD: usize = 20;

/// The profile of a front end in this process. It is handed over as it is: its secrets are in no
/// message.
#[derive(Clone, Debug)]
pub struct OwnProfile {
    /// For people.
    pub name: String,
    /// Kernel offload wished for.
    pub dco: bool,
    /// What it says.
    pub profile: Profile,
}

impl From<OwnProfile> for Fetched {
    fn from(own: OwnProfile) -> Self {
        Self::new(own.name, own.dco, Overrides::default(), Vec::new(), Ok(own.profile))
    }
}

/// A profile and what the configuration manager says about it.
pub(super) struct Fetched {
    pub(super) name: String,
    pub(super) dco: bool,
    pub(super) auth_fail_retry: bool,
    pub(super) dns_scope: DnsScope,
    /// Verbosity that the profile or its overrides ask for.
    pub(super) log_level: Option<u32>,
    pub(super) passphrase_needed: bool,
    pub(super) profile: Result<Arc<Options>, UnusableProfile>,
}

/// Reads name, `dco` and overrides, and the profile itself last: a single-use profile is gone
/// after it.
pub(super) async fn fetch(connection: &Connection, path: &str) -> zbus::Result<Fetched> {
    let source = Source { connection, path };
    let name: String = source.property("name").await?;
    let dco: bool = source.property("dco").await?;
    let overrides: HashMap<String, OwnedVariant> = source.property("overrides").await?;
    trace!("Retrieving configuration from {path}");
    let reply = connection
        .call_method(Some(CONFIGURATION), path, Some(CONFIGURATION), "Fetch", &())
        .await?;
    let text = Secret::new(reply.body().deserialize::<String>()?);
    drop(reply);
    residue::overwrite(connection).await;
    Ok(evaluate(name, dco, overrides, &text))
}

fn evaluate(
    name: String,
    dco: bool,
    overrides: HashMap<String, OwnedVariant>,
    text: &Secret<String>,
) -> Fetched {
    let (usable, unusable) = Overrides::collect(overrides.into_iter().map(|(name, value)| {
        let value = override_value(value);
        let shown = match &value {
            _ if name.ends_with("password") => "(hidden)".to_owned(),
            OverrideValue::Text(text) => format!("'{}'", excerpt(text, MAX_NAME)),
            OverrideValue::Flag(flag) => format!("{flag}"),
            OverrideValue::Other(signature) => format!("a value of type {signature}"),
        };
        debug!("Configuration override '{}' set to {shown}", excerpt(&name, MAX_NAME));
        (name, value)
    }));
    let name = excerpt(&name, MAX_NAME).into_owned();
    let parsed = parse_without_comments(text, &name);
    Fetched::new(name, dco, usable, unusable, parsed)
}

impl Fetched {
    fn new(
        name: String,
        dco: bool,
        overrides: Overrides,
        mut unusable: Vec<OverrideError>,
        parsed: Result<Profile, ProfileErrors>,
    ) -> Self {
        let mut fetched = Self {
            dco,
            auth_fail_retry: overrides.auth_fail_retry,
            dns_scope: overrides.dns_scope,
            log_level: overrides.log_level.map(u32::from),
            passphrase_needed: false,
            profile: Err(UnusableProfile::Overrides(Vec::new())),
            name,
        };
        fetched.profile = match parsed {
            Ok(Profile { mut options, verdicts }) => {
                for verdict in verdicts {
                    match verdict.kind {
                        VerdictKind::Ignored { reason, warning: true } => {
                            warn!("Line {}: {}: {reason}", verdict.line, verdict.directive);
                        }
                        VerdictKind::Ignored { reason, warning: false } => {
                            trace!(
                                "Line {}: {} ignored: {reason}",
                                verdict.line, verdict.directive
                            );
                        }
                        _ => {}
                    }
                }
                let verb = options.verb.map(u32::from);
                fetched.log_level = fetched.log_level.or(verb);
                unusable.extend(overrides.apply(&mut options));
                open_key(&mut options.tls);
                fetched.passphrase_needed = key_needs_passphrase(&options.tls);
                Ok(Arc::new(options))
            }
            Err(errors) => Err(UnusableProfile::Profile(errors)),
        };
        for error in unusable.iter().take(MAX_TOLD) {
            error!("{error}");
        }
        if unusable.len() > MAX_TOLD {
            error!("and {} more of this kind", unusable.len() - MAX_TOLD);
        }
        if let (Some(reason), Ok(_)) = (misdirection(&unusable), &fetched.profile) {
            fetched.passphrase_needed = false;
            fetched.profile = Err(reason);
        }
        fetched
    }
}

/// Why no connection may be made although the profile itself is fine.
fn misdirection(unusable: &[OverrideError]) -> Option<UnusableProfile> {
    let reasons: Vec<_> = unusable.iter().filter(|error| error.misdirects).cloned().collect();
    (!reasons.is_empty()).then_some(UnusableProfile::Overrides(reasons))
}

/// A configuration manager drops comments, and with them the note that the private key is
/// external. So a certificate that only lacks its key means just that, as in OpenVPN 3.
fn parse_without_comments(text: &Secret<String>, name: &str) -> Result<Profile, ProfileErrors> {
    let text = &restore_blocks(text.expose());
    // It holds everything itself.
    Profile::parse(text.expose(), name, &NoFiles).or_else(|errors| {
        let external =
            Secret::new(format!("{}\n# OVPN_ACCESS_SERVER_EXTERNAL_PKI=1\n", text.expose()));
        Profile::parse(external.expose(), name, &NoFiles).map_err(|_| errors)
    })
}

fn override_value(value: OwnedVariant) -> OverrideValue {
    match Variant::from(value) {
        Variant::Str(text) => OverrideValue::Text(text.to_string()),
        Variant::Bool(flag) => OverrideValue::Flag(flag),
        other => OverrideValue::Other(other.value_signature().to_string()),
    }
}

struct Source<'a> {
    connection: &'a Connection,
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
            .call_method(Some(CONFIGURATION), self.path, Some(PROPERTIES), "Get", &body)
            .await?;
        let value: OwnedVariant = reply.body().deserialize()?;
        T::try_from(Variant::from(value)).map_err(Into::into)
    }
}
