//! `comp-lzo` and `compress`: which framing they mean, and whether they ask for compression.

use ovpn_dco::Framing;

use super::values::one_of;
use super::verdict::Problem;

/// What a compression option asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Compression {
    /// How an uncompressed packet is marked.
    pub framing: Framing,
    /// Packets may come compressed, which this client cannot read.
    pub real: bool,
}

/// `comp-lzo [no|yes|adaptive]`; nothing means adaptive.
pub(super) fn comp_lzo(argument: Option<&str>) -> Result<Compression, Problem> {
    let real = match argument {
        Some("no") => false,
        None | Some("yes" | "adaptive") => true,
        Some(other) => return Err(one_of(other, "no, yes, adaptive")),
    };
    Ok(Compression { framing: Framing::LzoStub, real })
}

/// `compress [algorithm]`; nothing means the stub. `None`: `migrate`, which sets no framing on a
/// client.
pub(super) fn compress(argument: Option<&str>) -> Result<Option<Compression>, Problem> {
    let (framing, real) = match argument {
        None | Some("stub") => (Framing::Swap, false),
        Some("lz4") => (Framing::Swap, true),
        Some("lzo") => (Framing::LzoStub, true),
        Some("stub-v2") => (Framing::StubV2, false),
        Some("lz4-v2") => (Framing::StubV2, true),
        Some("migrate") => return Ok(None),
        Some(other) => return Err(one_of(other, "stub, stub-v2, lz4, lz4-v2, lzo, migrate")),
    };
    Ok(Some(Compression { framing, real }))
}
