//! Operations on `OsStr` that std has for `str` only.

use std::ffi::OsStr;

/// The parts before and after the first `=`. They need not be UTF-8.
pub(crate) fn split_at_equals(text: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = text.as_encoded_bytes();
    let equals = bytes.iter().position(|byte| *byte == b'=')?;
    let (before, after) = (&bytes[..equals], &bytes[equals + 1..]);
    // SAFETY: the bytes are those of an `OsStr`, split immediately before and after `=`, which is valid
    // UTF-8 and not empty.
    unsafe { Some((OsStr::from_encoded_bytes_unchecked(before), OsStr::from_encoded_bytes_unchecked(after))) }
}
