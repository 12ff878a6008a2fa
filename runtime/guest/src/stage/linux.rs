//! The start of a program, and Linux's system calls, without a library of them: none of those works
//! on a target without an operating system.

#![allow(unsafe_code)]

use core::arch::{asm, global_asm};
use core::ffi::CStr;

use super::become_init::begin;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const WRITE: usize = 1;
    pub(super) const MMAP: usize = 9;
    pub(super) const EXIT: usize = 60;
    pub(super) const MEMFD_CREATE: usize = 319;
    pub(super) const EXECVEAT: usize = 322;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const WRITE: usize = 64;
    pub(super) const EXIT: usize = 93;
    pub(super) const MMAP: usize = 222;
    pub(super) const MEMFD_CREATE: usize = 279;
    pub(super) const EXECVEAT: usize = 281;
}

const STDERR: usize = 2;

/// `PROT_READ | PROT_WRITE`, and `MAP_PRIVATE | MAP_ANONYMOUS`.
const READ_WRITE: usize = 0x1 | 0x2;
const ANONYMOUS: usize = 0x02 | 0x20;

/// `MFD_CLOEXEC`.
const CLOSE_ON_EXEC: usize = 1;

/// `AT_EMPTY_PATH`.
const EMPTY_PATH: usize = 0x1000;

// The kernel starts a program with nothing but the address of its arguments, in the stack pointer.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {begin}",
    "ud2",
    begin = sym begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "bl {begin}",
    "brk 1",
    begin = sym begin,
);

/// What the kernel put on the stack: the number of arguments, their addresses, a null, the
/// addresses of the environment's variables, a null.
#[repr(transparent)]
pub(super) struct Stack(*const usize);

/// A file without a name, in memory.
pub(super) struct File(usize);

/// Makes a system call. Returns a negative `errno` if it fails.
///
/// # Safety
///
/// The call must be sound with these arguments.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel changes no registers but these, and the caller answers for the call.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e, in("r9") 0_usize,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// Makes a system call. Returns a negative `errno` if it fails.
///
/// # Safety
///
/// The call must be sound with these arguments.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> isize {
    let result;
    // SAFETY: the kernel changes no registers but these, and the caller answers for the call.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") 0_usize,
            options(nostack),
        );
    }
    result
}

/// Allocates memory for the rest of the process's life.
pub(super) fn allocate(bytes: usize) -> Option<&'static mut [u8]> {
    // SAFETY: a new private mapping; the descriptor -1 is none.
    let address = unsafe { call(number::MMAP, [0, bytes, READ_WRITE, ANONYMOUS, usize::MAX]) };
    let address = usize::try_from(address).ok()?;
    // SAFETY: the kernel has mapped so many bytes there, zeroed, and they are used here alone.
    Some(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, bytes) })
}

/// Makes a file with these contents.
pub(super) fn file_in_memory(name: &CStr, contents: &[u8]) -> Option<File> {
    let name = name.as_ptr() as usize;
    // SAFETY: the name ends with a null byte.
    let file = unsafe { call(number::MEMFD_CREATE, [name, CLOSE_ON_EXEC, 0, 0, 0]) };
    let file = usize::try_from(file).ok()?;
    let mut rest = contents;
    while !rest.is_empty() {
        let count = write(file, rest)?;
        rest = rest.get(count..)?;
    }
    Some(File(file))
}

impl File {
    /// Executes the file with the arguments and the environment of this program. Returns if that
    /// fails.
    pub(super) fn execute(&self, stack: Stack) {
        // SAFETY: the kernel's stack begins with the number of arguments; behind their addresses
        // and a null are those of the environment. The path is empty and ends with a null byte.
        unsafe {
            let arguments = stack.0.add(1);
            let environment = arguments.add(*stack.0 + 1);
            let (path, lists) = (c"".as_ptr(), [arguments as usize, environment as usize]);
            call(
                number::EXECVEAT,
                [self.0, path as usize, lists[0], lists[1], EMPTY_PATH],
            );
        }
    }
}

fn write(file: usize, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the kernel reads these bytes alone.
    let count = unsafe {
        call(
            number::WRITE,
            [file, bytes.as_ptr() as usize, bytes.len(), 0, 0],
        )
    };
    usize::try_from(count).ok().filter(|count| *count > 0)
}

/// Ends the process with a message: the kernel then stops the machine.
pub(super) fn fail(why: &str) -> ! {
    for part in ["blockbox-stage: init ", why, "\n"] {
        // There is nobody to report to that it cannot be printed.
        let _ = write(STDERR, part.as_bytes());
    }
    loop {
        // SAFETY: it does not return.
        unsafe { call(number::EXIT, [1, 0, 0, 0, 0]) };
    }
}
