//! Vectored writes until all is written.

use std::io::{self, IoSlice};

/// Writes all of the slices, in as few calls as possible. An error comes with the number of bytes written before it.
pub(crate) fn write_all(
    write: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    mut slices: &mut [IoSlice<'_>],
) -> Result<usize, (usize, io::Error)> {
    let mut written = 0;
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match write(slices) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(n) => {
                written += n;
                IoSlice::advance_slices(&mut slices, n);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(written)
}
