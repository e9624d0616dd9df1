//! Distinguished names in the form OpenVPN shows and compares:
//! `C=US, ST=CA, O=x, CN=y, emailAddress=z`.

use std::fmt::Write;

use x509_parser::der_parser::asn1_rs::{Any, Oid, Tag};
use x509_parser::x509::X509Name;

/// OpenSSL's short names. Attributes not listed appear as dotted object identifiers.
const SHORT_NAMES: [(&str, &str); 28] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.16", "postalAddress"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.18", "postOfficeBox"),
    ("2.5.4.20", "telephoneNumber"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.45", "x500UniqueIdentifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.2.840.113549.1.9.2", "unstructuredName"),
];

/// The whole name in order, RDNs joined by `", "`, values of one RDN by `" + "`, control
/// characters as `\XX`.
pub(super) fn distinguished_name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for (position, rdn) in name.iter_rdn().enumerate() {
        if position > 0 {
            text.push_str(", ");
        }
        for (position, attribute) in rdn.iter().enumerate() {
            if position > 0 {
                text.push_str(" + ");
            }
            text.push_str(&short_name(attribute.attr_type()));
            text.push('=');
            for character in value(attribute.attr_value()).chars() {
                if character.is_ascii_control() {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\\{:02X}", u32::from(character));
                } else {
                    text.push(character);
                }
            }
        }
    }
    text
}

/// The last common name, as OpenVPN takes it.
pub(super) fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().last().map(|attribute| value(attribute.attr_value()))
}

/// OpenVPN's remapping before a comparison: what is not printable becomes `_`, and so does a
/// leading `-`.
pub(super) fn remapped(text: &str) -> String {
    text.char_indices()
        .map(|(position, character)| match character {
            '-' if position == 0 => '_',
            character if character.is_ascii_control() => '_',
            character => character,
        })
        .collect()
}

fn short_name(oid: &Oid<'_>) -> String {
    let dotted = oid.to_id_string();
    SHORT_NAMES
        .iter()
        .find(|(known, _)| *known == dotted)
        .map_or(dotted, |(_, short)| (*short).to_owned())
}

/// A directory string as text, whatever its type. T61 is read as Latin-1, as everybody does.
fn value(any: &Any<'_>) -> String {
    match any.tag() {
        Tag::BmpString => {
            let units = any.data.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
            char::decode_utf16(units).map(|unit| unit.unwrap_or('\u{FFFD}')).collect()
        }
        Tag::UniversalString => any
            .data
            .chunks_exact(4)
            .map(|quad| u32::from_be_bytes([quad[0], quad[1], quad[2], quad[3]]))
            .map(|code| char::from_u32(code).unwrap_or('\u{FFFD}'))
            .collect(),
        Tag::Utf8String => String::from_utf8_lossy(any.data).into_owned(),
        _ => any.data.iter().map(|byte| char::from(*byte)).collect(),
    }
}
