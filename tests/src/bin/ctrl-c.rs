//! Presses Ctrl-C at the Windows console of a process. A program of its own, since it must leave its own console
//! for that, and is ended by it too.

#[cfg(windows)]
fn main() -> std::io::Result<()> {
    let process = std::env::args().nth(1).and_then(|text| text.parse().ok());
    mproxy_tests::press_ctrl_c(process.ok_or(std::io::ErrorKind::InvalidInput)?)
}

#[cfg(not(windows))]
fn main() {}
