//! What opening a private key may cost. Its file says so itself, and it may be somebody else's.

use pkcs8::pkcs5::pbes2::{Kdf, ScryptParams};

/// Rounds of a hash: what RFC 8018 (4.2) names for especially critical keys.
const MAX_ROUNDS: u32 = 10_000_000;
/// OpenSSL opens keys of 32 MiB.
const MAX_SCRYPT_MEMORY: u64 = 64 << 20;
const MAX_SCRYPT_PARALLEL: u16 = 16;

/// What a key asks for that it does not get.
#[derive(Debug, thiserror::Error)]
pub(in crate::tls) enum Cost {
    #[error("{0} rounds, and 1 to {MAX_ROUNDS} are possible")]
    Rounds(i64),
    #[error(
        "scrypt with N = {cost}, r = {block_size}, p = {parallelization}; N must be a power of two, \
         {} MiB of memory and p = {MAX_SCRYPT_PARALLEL} are possible", MAX_SCRYPT_MEMORY >> 20
    )]
    Scrypt { cost: u64, block_size: u16, parallelization: u16 },
}

/// Whether a key derivation of PBES2 is within limits, and its parameters mean something.
pub(super) fn check(kdf: &Kdf) -> Result<(), Cost> {
    match kdf {
        Kdf::Pbkdf2(parameters) => check_rounds(i64::from(parameters.iteration_count)),
        Kdf::Scrypt(parameters) => check_scrypt(parameters),
        // Refused where it is used, if it is unknown there too.
        _ => Ok(()),
    }
}

/// Whether a number of rounds is at least one, and within limits.
pub(super) fn check_rounds(rounds: i64) -> Result<(), Cost> {
    if (1..=i64::from(MAX_ROUNDS)).contains(&rounds) {
        return Ok(());
    }
    Err(Cost::Rounds(rounds))
}

fn check_scrypt(parameters: &ScryptParams) -> Result<(), Cost> {
    let ScryptParams { cost_parameter: cost, block_size, parallelization, .. } = *parameters;
    let memory = cost.checked_mul(128 * u64::from(block_size));
    let sound = cost.is_power_of_two() && cost > 1 && block_size > 0 && parallelization > 0;
    if sound
        && memory.is_some_and(|bytes| bytes <= MAX_SCRYPT_MEMORY)
        && parallelization <= MAX_SCRYPT_PARALLEL
    {
        return Ok(());
    }
    Err(Cost::Scrypt { cost, block_size, parallelization })
}
