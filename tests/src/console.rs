//! Stopping a program as a user at a Windows console does.

use std::io;
use std::os::windows::io::{FromRawHandle, OwnedHandle};
use std::os::windows::process::CommandExt;
use std::process::Command;
use std::ptr;

use windows_sys::Win32::System::Console::{CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    CREATE_NEW_PROCESS_GROUP, CreateRemoteThread, OpenProcess, PROCESS_ALL_ACCESS,
};
use windows_sys::{s, w};

type Function = unsafe extern "system" fn() -> isize;
type Routine = unsafe extern "system" fn(*mut std::ffi::c_void) -> u32;

/// What a console has run in a program, in a thread of its own, when there is an event for it; none but under
/// Wine, whose consoles have no Ctrl-Break.
#[allow(unsafe_code)] // as below
fn routine() -> Option<Function> {
    // SAFETY: both modules are in every process, and stay; the names end with NUL.
    unsafe {
        GetProcAddress(GetModuleHandleW(w!("ntdll.dll")), s!("wine_get_version"))?;
        GetProcAddress(GetModuleHandleW(w!("kernelbase.dll")), s!("CtrlRoutine"))
    }
}

/// Has the process that the command starts be one that events can be sent to, alone.
pub(crate) fn separate(command: &mut Command) {
    // Wine has a new group hear no event at all.
    if routine().is_none() {
        command.creation_flags(CREATE_NEW_PROCESS_GROUP);
    }
}

/// Presses Ctrl-Break for the process, and for no other. Ctrl-C cannot be sent to one alone.
#[allow(unsafe_code)] // nothing offers this in safe form
pub(crate) fn interrupt(process: u32) -> io::Result<()> {
    if let Some(routine) = routine() {
        return start(process, routine, CTRL_BREAK_EVENT);
    }
    // SAFETY: the call takes two numbers, and fails if the second is no process group of this console.
    if unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, process) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs the system's function in a thread of the process.
#[allow(unsafe_code)] // as above
fn start(process: u32, function: Function, event: u32) -> io::Result<()> {
    // SAFETY: the handles are those that the calls returned, and are closed once. The function is where it is
    // in this process, as those of the system's own modules are, and takes a number in place of a pointer.
    unsafe {
        let process = OpenProcess(PROCESS_ALL_ACCESS, 0, process);
        if process.is_null() {
            return Err(io::Error::last_os_error());
        }
        let process = OwnedHandle::from_raw_handle(process);
        let function = std::mem::transmute::<Function, Routine>(function);
        let argument = ptr::without_provenance(event as usize);
        let thread = CreateRemoteThread(
            std::os::windows::io::AsRawHandle::as_raw_handle(&process),
            ptr::null(),
            0,
            Some(function),
            argument,
            0,
            ptr::null_mut(),
        );
        if thread.is_null() {
            return Err(io::Error::last_os_error());
        }
        drop(OwnedHandle::from_raw_handle(thread));
    }
    Ok(())
}
