//! What the build scripts of the MPROXY programs share.
//!
//! The release profile aborts on a panic, so nothing ever unwinds; but the standard library brings its
//! unwind tables along, and with link-time optimisation every other function gets them too. They are a
//! tenth of such a small binary, and in a stripped one not even good for a backtrace.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // this is how a build script speaks

use std::env;
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = "\
SECTIONS { /DISCARD/ : { *(.eh_frame .eh_frame_hdr) *(.gcc_except_table .gcc_except_table.*) *(.comment)
    *(.text.rust_eh_personality .rodata.rust_eh_personality .data.DW.ref.rust_eh_personality) } }
INSERT AFTER .text;
";

/// Functions of the same code become one, and so do strings with the same end. Not every linker knows how;
/// rustc's own does.
const FOLD: &str = "-Wl,--icf=all,-O2,--build-id=none";

/// Has the linker leave out the unwind tables of a release build for Linux with glibc, and pack its
/// relocations where this machine's glibc can read them. Where another linker than the default was chosen, it
/// does nothing: not each knows linker scripts.
///
/// # Errors
/// If the linker script cannot be written.
pub fn shrink() -> std::io::Result<()> {
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
    if links_with(Path::new(&directory), FOLD) {
        println!("cargo::rustc-link-arg-bins={FOLD}");
    }
    if env::var("HOST").is_ok_and(|host| is("TARGET", &host)) && glibc().is_some_and(|v| v >= (2, 36)) {
        // A relocation takes a bit or two instead of 24 bytes: another 14 KB. An older glibc would refuse
        // the program, so this is for the machine that it is built on.
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    Ok(())
}

/// Whether a program can be linked with that.
fn links_with(directory: &Path, argument: &str) -> bool {
    let (source, program) = (directory.join("probe.rs"), directory.join("probe"));
    let (Some(rustc), Some(target)) = (env::var_os("RUSTC"), env::var_os("TARGET")) else { return false };
    let mut compile = Command::new(rustc);
    compile.arg(&source).arg("-o").arg(program).arg("--target").arg(target);
    compile.arg(format!("-Clink-arg={argument}"));
    std::fs::write(&source, "fn main() {}").is_ok()
        && compile.output().is_ok_and(|done| done.status.success())
}

/// The version of this machine's glibc.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
