//! Data cipher names: what OpenVPN knows, what this client has, `data-ciphers` lists.

use ovpn_dco::Cipher;

use super::verdict::Problem;

/// What `data-ciphers` is when a profile has none.
pub(super) const DEFAULT: [Cipher; 4] =
    [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes192Gcm];
/// What the word `DEFAULT` in a list stands for (OpenVPN 2).
const DEFAULT_WORD: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305];
/// Longest list after normalising (OpenVPN 2).
const MAX_LIST: usize = 127;
const CHOICE: &str = "choose among AES-256-GCM, AES-128-GCM, AES-192-GCM and CHACHA20-POLY1305, on the \
                      server too; an old one that has none of them has AES-256-CBC";

/// A cipher that OpenVPN has a name for. Only its sizes matter here: they are part of the OCC
/// string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KnownCipher {
    /// OpenVPN's spelling.
    pub name: String,
    /// Key size in bits.
    pub key_bits: u16,
    /// Block size in bytes (also the size of the IV); 0 for none.
    pub block: u16,
    /// AEAD mode: no HMAC.
    pub aead: bool,
    /// CBC mode: the packet id is encrypted.
    pub cbc: bool,
}

impl KnownCipher {
    /// No encryption.
    pub(super) fn none() -> Self {
        Self { name: "none".to_owned(), key_bits: 0, block: 0, aead: false, cbc: false }
    }
}

/// Looks a cipher up by OpenVPN's name or an alias, any case.
pub(super) fn known(name: &str) -> Option<KnownCipher> {
    let mut name = name.to_ascii_uppercase();
    if let Some(cipher) = Cipher::from_name(&name) {
        return Some(KnownCipher {
            name: cipher.name().to_owned(),
            key_bits: cipher.key_len() as u16 * 8,
            block: 16,
            aead: cipher.is_aead(),
            cbc: !cipher.is_aead(),
        });
    }
    match name.as_str() {
        "NONE" | "[NULL-CIPHER]" => {
            return Some(KnownCipher::none());
        }
        "BLOWFISH-CBC" | "BLOWFISH" => "BF-CBC".clone_into(&mut name),
        _ => {}
    }
    if let Some(short) = name.strip_suffix("-CFB128") {
        name = format!("{short}-CFB");
    }
    let (base, mode) = name.rsplit_once('-')?;
    if !matches!(mode, "CBC" | "CFB" | "CFB1" | "CFB8" | "OFB") {
        return None;
    }
    let (key_bits, block) = match base {
        "AES-128" | "CAMELLIA-128" | "ARIA-128" | "SEED" | "SM4" => (128, 16),
        "AES-192" | "CAMELLIA-192" | "ARIA-192" => (192, 16),
        "AES-256" | "CAMELLIA-256" | "ARIA-256" => (256, 16),
        "BF" | "CAST5" | "IDEA" | "RC2" | "DES-EDE" => (128, 8),
        "RC2-40" => (40, 8),
        "RC2-64" | "DES" => (64, 8),
        "DES-EDE3" | "DESX" => (192, 8),
        _ => return None,
    };
    let cbc = mode == "CBC";
    Some(KnownCipher { name, key_bits, block, aead: false, cbc })
}

/// A `data-ciphers` list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct CipherList {
    /// Normalised names, `:` between them.
    pub normalised: String,
    /// Those this client has, in order; at least one.
    pub ciphers: Vec<Cipher>,
    /// Ciphers OpenVPN has and this client has not.
    pub dropped: Vec<String>,
}

/// Parses a `data-ciphers` list.
///
/// `?` makes a name optional, `DEFAULT` stands for OpenVPN's default list. A name that OpenVPN
/// itself does not know is an error unless optional. Ciphers of OpenVPN that this client has not
/// (BF-CBC, CFB and so on) are dropped while others remain. Those of CBC have OpenVPN's default digest
/// until `auth` is known, too.
pub(super) fn parse_list(list: &str) -> Result<CipherList, Problem> {
    let mut names: Vec<String> = Vec::new();
    for item in list.split(':') {
        let (item, optional) = item.strip_prefix('?').map_or((item, false), |i| (i, true));
        if item == "DEFAULT" {
            names.extend(DEFAULT_WORD.iter().map(|c| c.name().to_owned()));
            continue;
        }
        match known(item) {
            Some(cipher) => names.push(cipher.name),
            None if optional => {}
            None if item.is_empty() => {
                return Err(Problem::with_hint("the list has an empty entry", CHOICE));
            }
            None => {
                return Err(Problem::with_hint(format!("unknown data cipher '{item}'"), CHOICE));
            }
        }
    }
    let normalised = names.join(":");
    if normalised.len() > MAX_LIST {
        return Err(Problem::new(format!(
            "the list is {} characters long, {MAX_LIST} are allowed",
            normalised.len()
        )));
    }
    let mut ciphers = Vec::new();
    let mut dropped = Vec::new();
    for name in names {
        match Cipher::from_name(&name) {
            Some(cipher) if !ciphers.contains(&cipher) => ciphers.push(cipher),
            Some(_) => {}
            None => dropped.push(name),
        }
    }
    if ciphers.is_empty() {
        let reason = if dropped.is_empty() {
            "no known data cipher is left in the list".to_owned()
        } else {
            format!("{} cannot be used: too weak, or too rare", dropped.join(", "))
        };
        return Err(Problem::with_hint(reason, CHOICE));
    }
    Ok(CipherList { normalised, ciphers, dropped })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Known vectors of the protocol reference, 16.13.

    #[test]
    fn optional_names_may_be_unknown() {
        assert_eq!(
            parse_list("AES-256-GCM:?vollbit:AES-128-GCM").unwrap().normalised,
            "AES-256-GCM:AES-128-GCM"
        );
        assert!(parse_list("AES-256-GCM:?AES-128-CCM:AES-128-GCM").is_ok());
    }

    #[test]
    fn unknown_names_are_errors() {
        for list in [
            "?kugelfisch:?grasshopper",
            "vollbit",
            "",
            "AES-256-GCM:vollbit",
            "AES-256-GCM:AES-128-CCM",
        ] {
            assert!(parse_list(list).is_err(), "{list}");
        }
        let problem = parse_list("AES-256-GCM:vollbit").unwrap_err();
        assert!(problem.reason.contains("'vollbit'"));
        assert!(problem.hint.unwrap().contains("CHACHA20-POLY1305"));
    }

    #[test]
    fn names_are_normalised() {
        let list = parse_list("bf-cbc:AES128:ChaCha20-Poly1305").unwrap();
        assert_eq!(list.normalised, "BF-CBC:AES-128-CBC:CHACHA20-POLY1305");
        assert_eq!(list.ciphers, [Cipher::CBC[0], Cipher::ChaCha20Poly1305]);
        assert_eq!(list.dropped, ["BF-CBC"]);
        for (alias, name) in [
            ("BLOWFISH-CBC", "BF-CBC"),
            ("id-aes256-GCM", "AES-256-GCM"),
            ("CAMELLIA-128-CFB128", "CAMELLIA-128-CFB"),
        ] {
            assert_eq!(known(alias).unwrap().name, name);
        }
    }

    #[test]
    fn default_expands_in_place() {
        let list = parse_list("BF-CBC:DEFAULT:AES-128-CBC:AES-256-CBC").unwrap();
        assert_eq!(
            list.normalised,
            "BF-CBC:AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305:AES-128-CBC:AES-256-CBC"
        );
        assert_eq!((list.ciphers.len(), &*list.dropped), (5, &["BF-CBC".to_owned()][..]));
    }

    #[test]
    fn long_lists_are_errors() {
        assert!(parse_list(&["AES-256-GCM"; 11].join(":")).is_err());
        assert!(parse_list(&["AES-256-GCM"; 10].join(":")).is_ok());
    }

    #[test]
    fn what_is_not_there_is_refused_with_a_way_out() {
        for name in ["BF-CBC", "DES-EDE3-CBC", "RC2-CBC", "none", "AES-256-CFB"] {
            let problem = parse_list(name).unwrap_err();
            assert!(problem.reason.starts_with(name), "{}", problem.reason);
            // The way out is one.
            let hint = problem.hint.unwrap();
            assert!(hint.contains("AES-256-CBC") && parse_list("AES-256-CBC").is_ok());
        }
    }
}
