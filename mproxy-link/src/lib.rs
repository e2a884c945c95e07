//! What the build scripts of the MPROXY programs share.
//!
//! The release profile aborts on a panic, so nothing ever unwinds; but the standard library brings its
//! unwind tables along, and with link-time optimisation every other function gets them too. They are a
//! tenth of such a small binary, and in a stripped one not even good for a backtrace.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // this is how a build script speaks

use std::env;
use std::path::Path;

const SCRIPT: &str = "\
SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame_hdr) *(.gcc_except_table .gcc_except_table.*) } }
INSERT AFTER .text;
";

/// Has the linker leave out the unwind tables of a release build for Linux with glibc. Where another
/// linker than the default was chosen, it does nothing: not each knows linker scripts.
///
/// # Errors
/// If the linker script cannot be written.
pub fn without_unwind_tables() -> std::io::Result<()> {
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|v| v == value);
    let own_linker = env::var_os("RUSTC_LINKER").is_some()
        || env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    let linux = is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu");
    if !linux || !is("PROFILE", "release") || own_linker {
        return Ok(());
    }
    let Some(directory) = env::var_os("OUT_DIR") else { return Ok(()) };
    let script = Path::new(&directory).join("no-unwind-tables.ld");
    std::fs::write(&script, SCRIPT)?;
    println!("cargo::rustc-link-arg-bins=-Wl,--no-eh-frame-hdr");
    println!("cargo::rustc-link-arg-bins=-Wl,-T,{}", script.display());
    Ok(())
}
