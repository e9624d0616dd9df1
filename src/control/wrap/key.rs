//! The four slices of an OpenVPN static key (OpenVPN 2 `crypto.c`, `struct key2`).

use super::WrapKeyError;

const SLICE: usize = 64;

/// A 256-byte key: cipher and HMAC of key 0, cipher and HMAC of key 1. A 128-byte key has key 0
/// only.
pub(in crate::control) struct KeySlices<'a>(&'a [u8]);

impl<'a> KeySlices<'a> {
    pub(in crate::control) const fn new(key: &'a [u8]) -> Self {
        Self(key)
    }

    pub(in crate::control) fn cipher(&self, number: usize) -> Result<&'a [u8], WrapKeyError> {
        self.slice(2 * number)
    }

    pub(in crate::control) fn hmac(&self, number: usize) -> Result<&'a [u8], WrapKeyError> {
        self.slice(2 * number + 1)
    }

    fn slice(&self, index: usize) -> Result<&'a [u8], WrapKeyError> {
        self.0.get(index * SLICE..(index + 1) * SLICE).ok_or(WrapKeyError)
    }
}
