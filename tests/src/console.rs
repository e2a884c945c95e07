//! Stopping a program as a user at a Windows console does.
#![allow(unsafe_code)] // nothing offers this in safe form

use std::io;
use std::os::windows::process::CommandExt;
use std::process::Command;

use windows_sys::Win32::System::Console::{
    AttachConsole, CTRL_C_EVENT, FreeConsole, GenerateConsoleCtrlEvent, SetConsoleCtrlHandler,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::CREATE_NO_WINDOW;
use windows_sys::{s, w};

/// Gives what the command starts a console of its own, without a window: what is pressed there nobody else hears.
pub(crate) fn separate(command: &mut Command) {
    // Some shells have what they start ignore Ctrl-C, which goes on to what that starts. If this fails, nothing has
    // changed.
    // SAFETY: without a function the call takes only a number.
    unsafe { SetConsoleCtrlHandler(None, 0) };
    command.creation_flags(CREATE_NO_WINDOW);
}

/// Presses Ctrl-C at the console of a process. The process that calls this leaves its own console for that, and
/// hears it too.
///
/// # Errors
/// If the process has ended, or has no console.
pub fn press_ctrl_c(process: u32) -> io::Result<()> {
    // SAFETY: the call takes nothing.
    unsafe { FreeConsole() };
    // SAFETY: the calls take numbers, and fail where these are of nothing.
    let done = unsafe { AttachConsole(process) != 0 && GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0) != 0 };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// See [`needs`](crate::is_wine).
pub(crate) fn is_wine() -> bool {
    // SAFETY: the module is in every process, and stays; the names end with NUL.
    unsafe { GetProcAddress(GetModuleHandleW(w!("ntdll.dll")), s!("wine_get_version")).is_some() }
}
