//! Control channel wrapping: `tls-auth`, `tls-crypt`, `tls-crypt-v2`.

use super::{Call, Entry, INLINE};
use crate::profile::draft::{Draft, RawWrap};
use crate::profile::keyfile::{self, STATIC_KEY_LEN};
use crate::profile::options::KeyDirection;
use crate::profile::values::one_of;
use crate::profile::verdict::{Done, Outcome, Problem};

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("tls-auth", 1, 2, tls_auth).in_connection(),
    Entry::apply("tls-crypt", 1, 2, |d, c| {
        let key = keyfile::static_key(c.text()?.expose())?;
        if key.expose().len() != STATIC_KEY_LEN {
            return Err(Problem::new("tls-crypt needs a key of 256 bytes, this one has 128"));
        }
        set(d, c, RawWrap::Crypt(key))
    })
    .in_connection(),
    Entry::apply("tls-crypt-v2", 1, 2, |d, c| {
        let (key, wrapped) = keyfile::tls_crypt_v2(c.text()?.expose())?;
        set(d, c, RawWrap::CryptV2(key, wrapped))
    })
    .in_connection(),
    Entry::apply("tls-auth-digest", 1, 1, |d, c| {
        let name = c.word(0)?;
        let digest = super::digest(name).ok_or_else(|| unsupported_digest(name))?;
        d.tls_auth_digest = Some(digest);
        Ok(Done::Taken)
    }),
    Entry::apply("key-direction", 1, 1, |d, c| {
        d.endpoint(c).key_direction = Some(direction(c.word(0)?)?);
        Ok(Done::Taken)
    })
    .in_connection(),
];

/// For a digest that is needed and not there.
pub(in crate::profile) fn unsupported_digest(name: &str) -> Problem {
    Problem::with_hint(
        format!("tls-auth cannot use the digest '{name}'"),
        "SHA1, SHA224, SHA256, SHA384 and SHA512 are supported",
    )
}

fn tls_auth(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    if let Some(text) = call.get(1) {
        draft.endpoint(call).key_direction = Some(direction(text)?);
    }
    if call.get(0) == Some(INLINE) {
        return Ok(Done::Noted("the key is in the <tls-auth> block".to_owned()));
    }
    let key = keyfile::static_key(call.text()?.expose())?;
    set(draft, call, RawWrap::Auth(key))
}

fn direction(text: &str) -> Result<KeyDirection, Problem> {
    match text {
        "0" => Ok(KeyDirection::Normal),
        "1" => Ok(KeyDirection::Inverse),
        other => Err(one_of(other, "0, 1")),
    }
}

/// Exactly one kind of wrapping: with two it would be unclear which one the server expects.
fn set(draft: &mut Draft, call: &Call<'_>, wrap: RawWrap) -> Outcome {
    let endpoint = draft.endpoint(call);
    if let Some((name, line)) = &endpoint.wrap_set_by
        && name != call.name
    {
        return Err(Problem::with_hint(
            format!("line {line} has '{name}' already"),
            "keep the one that the server uses",
        ));
    }
    endpoint.wrap_set_by = Some((call.name.to_owned(), call.line));
    endpoint.wrap = Some(wrap);
    Ok(Done::Taken)
}
