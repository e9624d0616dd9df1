//! Data channel: ciphers, digest, compression framing, packet sizes.

use ovpn_dco::{Cipher, Framing};

use super::connection::for_all;
use super::{Call, Entry};
use crate::profile::ciphers;
use crate::profile::compression::{self, AllowCompression};
use crate::profile::draft::Draft;
use crate::profile::options::{Digest, MssFix};
use crate::profile::values::{number, one_of};
use crate::profile::verdict::{Done, Outcome, Problem};

/// Smallest `tun-mtu` and `mssfix` (OpenVPN 2).
const MIN_MTU: u16 = 100;

pub(super) const TABLE: &[Entry] = &[
    Entry::apply("data-ciphers", 1, 1, data_ciphers),
    Entry::apply("ncp-ciphers", 1, 1, data_ciphers),
    Entry::apply("data-ciphers-fallback", 1, 1, |d, c| {
        let name = c.word(0)?;
        if ciphers::known(name).is_none() {
            return Err(unknown_cipher(name));
        }
        d.options.data.fallback = Cipher::from_name(name);
        Ok(match d.options.data.fallback {
            Some(_) => Done::Taken,
            None => Done::Warned(format!(
                "{name} is not available here; a server that negotiates none of data-ciphers cannot be \
                 used unless it is given AES-256-CBC, or better AES-256-GCM"
            )),
        })
    }),
    Entry::apply("cipher", 1, 1, |d, c| {
        let name = c.word(0)?;
        let known = ciphers::known(name).ok_or_else(|| unknown_cipher(name))?;
        d.options.data.occ_cipher = Some(known.name);
        d.cipher = Some(c.line);
        Ok(match Cipher::from_name(name) {
            Some(_) => Done::Taken,
            None => Done::Noted(
                "only told to the server; the data cipher is negotiated among data-ciphers"
                    .to_owned(),
            ),
        })
    }),
    Entry::apply("auth", 1, 1, auth),
    Entry::apply("comp-lzo", 0, 1, |d, c| {
        let framing = compression::comp_lzo(c.get(0))?;
        Ok(set_framing(d, c, framing))
    }),
    Entry::apply("compress", 0, 1, |d, c| {
        Ok(match compression::compress(c.get(0))? {
            Some(framing) => set_framing(d, c, framing),
            None => Done::Ignored("'migrate' is for servers".to_owned()),
        })
    }),
    Entry::apply("allow-compression", 1, 1, |d, c| {
        let word = c.word(0)?;
        d.options.data.allow_compression = AllowCompression::parse(word)?;
        Ok(match word {
            "yes" => Done::Noted("as asym: packets are sent uncompressed".to_owned()),
            _ => Done::Taken,
        })
    }),
    Entry::apply("tun-mtu", 1, 2, |d, c| {
        d.options.data.tun_mtu = number(c.word(0)?, MIN_MTU, u16::MAX)?;
        // The second word is an occ-only MTU for interoperation with old point-to-point peers.
        Ok(for_all(c))
    })
    .in_connection(),
    Entry::apply("tun-mtu-max", 1, 1, tun_mtu_max).in_connection(),
    // As the manual of OpenVPN 2.6 has it.
    Entry::apply("tun-max-mtu", 1, 1, tun_mtu_max).in_connection(),
    Entry::apply("mssfix", 0, 2, |d, c| {
        d.options.data.mssfix = mssfix(c)?;
        Ok(for_all(c))
    })
    .in_connection(),
    Entry::apply("fragment", 0, 2, |_, c| match c.get(0) {
        Some("0") => Ok(Done::Ignored("0 means none".to_owned())),
        _ => Err(Problem::with_hint(
            "fragmenting packets inside of the tunnel is not supported, and the server would \
             expect it",
            "remove it here and on the server; mssfix and tun-mtu keep packets small",
        )),
    })
    .in_connection(),
    Entry::apply("disable-dco", 0, 0, |d, _| {
        d.options.data.disable_dco = true;
        Ok(Done::Taken)
    }),
];

fn tun_mtu_max(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    draft.options.data.tun_mtu_max = number(call.word(0)?, MIN_MTU, u16::MAX)?;
    Ok(for_all(call))
}

fn unknown_cipher(name: &str) -> Problem {
    Problem::new(format!("unknown cipher '{name}'"))
}

fn data_ciphers(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let list = ciphers::parse_list(call.word(0)?)?;
    let only_cbc = !list.ciphers.iter().any(|cipher| cipher.is_aead());
    draft.options.data.ciphers = list.ciphers;
    draft.lists_ciphers = true;
    let dropped = list.dropped.join(", ");
    let dropped = format!("not offered to the server, not available here: {dropped}");
    let slow = "only CBC, which no kernel offloads; AES-256-GCM is faster if the server has it";
    Ok(match (only_cbc, list.dropped.is_empty()) {
        (false, true) => Done::Taken,
        (false, false) => Done::Noted(dropped),
        (true, true) => Done::Noted(slow.to_owned()),
        (true, false) => Done::Noted(format!("{slow}; {dropped}")),
    })
}

fn auth(draft: &mut Draft, call: &Call<'_>) -> Outcome {
    let name = call.word(0)?;
    draft.digest = Some((name.to_owned(), call.line));
    match digest(name) {
        Some(digest) => {
            draft.options.data.digest = digest;
            Ok(Done::Taken)
        }
        // Whether that matters shows only once it is known if tls-auth is used.
        None => Ok(Done::Warned(format!(
            "the digest '{name}' is not known: CBC ciphers and tls-auth cannot be used"
        ))),
    }
}

/// A digest by one of the names that OpenSSL has for it.
pub(in crate::profile) fn digest(name: &str) -> Option<Digest> {
    let upper = name.to_ascii_uppercase();
    let name = upper.strip_prefix("RSA-").unwrap_or(&upper);
    Some(match name {
        "SHA1" | "SHA" | "SHA-1" => Digest::Sha1,
        "SHA224" | "SHA-224" | "SHA2-224" => Digest::Sha224,
        "SHA256" | "SHA-256" | "SHA2-256" => Digest::Sha256,
        "SHA384" | "SHA-384" | "SHA2-384" => Digest::Sha384,
        "SHA512" | "SHA-512" | "SHA2-512" => Digest::Sha512,
        _ => return None,
    })
}

fn set_framing(draft: &mut Draft, call: &Call<'_>, framing: Framing) -> Done {
    draft.options.data.framing = Some(framing);
    draft.compression = Some((call.name.to_owned(), call.line));
    if framing.compresses() {
        Done::Noted("packets are sent uncompressed; what the server compresses is read".into())
    } else {
        Done::Taken
    }
}

fn mssfix(call: &Call<'_>) -> Result<MssFix, Problem> {
    let Some(text) = call.get(0) else { return Ok(MssFix::Default) };
    if text == "0" {
        return Ok(MssFix::Off);
    }
    let size = number(text, MIN_MTU, u16::MAX)?;
    Ok(match call.get(1) {
        None => MssFix::Payload(size),
        Some("mtu") => MssFix::Mtu(size),
        Some("fixed") => MssFix::Fixed(size),
        Some(other) => return Err(one_of(other, "mtu, fixed")),
    })
}
