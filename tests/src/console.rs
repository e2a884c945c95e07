//! Stopping a program as a user at a Windows console does.

use std::io;
use std::os::windows::process::CommandExt;
use std::process::Command;

use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;

/// Has the process that the command starts be one that events can be sent to, alone.
pub(crate) fn separate(command: &mut Command) {
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// Presses Ctrl-Break for the process, and for no other. Ctrl-C cannot be sent to one alone.
#[allow(unsafe_code)] // nothing offers this in safe form
pub(crate) fn interrupt(process: u32) -> io::Result<()> {
    // SAFETY: the call takes two numbers, and fails if the second is no process group of this console.
    if unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, process) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
