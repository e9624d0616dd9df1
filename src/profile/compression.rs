//! `comp-lzo`, `compress` and `allow-compression`: how packets are marked, and whether the server may
//! compress them. Nothing is ever sent compressed.

use ovpn_dco::Framing;

use super::options::DataOptions;
use super::values::one_of;
use super::verdict::Problem;

/// `allow-compression`: whether compressed packets of the server are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AllowCompression {
    /// Not given: where the profile itself asks for an algorithm, as OpenVPN 2.7 does.
    #[default]
    AsConfigured,
    /// `no`: never; the framings that leave packets uncompressed are not concerned.
    No,
    /// `asym`; `yes` too, for nothing is sent compressed.
    Receive,
}

impl AllowCompression {
    /// `no`, `asym` or `yes`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "no" => Ok(Self::No),
            "asym" | "yes" => Ok(Self::Receive),
            other => Err(one_of(other, "no, asym, yes")),
        }
    }
}

/// Whether compressed packets are read with these options.
pub(super) fn is_read(data: &DataOptions) -> bool {
    match data.allow_compression {
        AllowCompression::AsConfigured => data.framing.is_some_and(Framing::compresses),
        AllowCompression::No => false,
        AllowCompression::Receive => true,
    }
}

/// `comp-lzo [no|yes|adaptive]`; nothing means adaptive.
pub(super) fn comp_lzo(argument: Option<&str>) -> Result<Framing, Problem> {
    match argument {
        Some("no") => Ok(Framing::LzoStub),
        None | Some("yes" | "adaptive") => Ok(Framing::Lzo),
        Some(other) => Err(one_of(other, "no, yes, adaptive")),
    }
}

/// `compress [algorithm]`; nothing means the stub. `None`: `migrate`, which sets no framing on a
/// client.
pub(super) fn compress(argument: Option<&str>) -> Result<Option<Framing>, Problem> {
    Ok(Some(match argument {
        None | Some("stub") => Framing::Swap,
        Some("lz4") => Framing::Lz4,
        Some("lzo") => Framing::Lzo,
        Some("stub-v2") => Framing::StubV2,
        Some("lz4-v2") => Framing::Lz4V2,
        Some("migrate") => return Ok(None),
        Some(other) => return Err(one_of(other, "stub, stub-v2, lz4, lz4-v2, lzo, migrate")),
    }))
}
