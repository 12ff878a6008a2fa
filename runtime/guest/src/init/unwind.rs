//! An unwinder that unwinds nothing, instead of the one that comes with `std`.
//!
//! Init aborts where it panics, and its program has no names for a backtrace to show. But `std` has
//! the code for both: a third of the program, and a copy of the program is on every sandbox's disk.
//! With these functions in the place of the real ones, the linker leaves that code out.
//!
//! SAFETY of the names: they are those of `unwind.h` with its argument and result types, and `std` is
//! all that calls them. That they replace others is their purpose: the linker takes a library's only
//! for names that the program does not have.

use std::ffi::{c_int, c_void};

/// `_URC_END_OF_STACK` of `unwind.h`.
const END_OF_STACK: c_int = 5;

/// Calls `_trace` for no frame at all.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_trace: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Goes on with the unwinding of a panic, which was never begun.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume(_exception: *mut c_void) -> ! {
    std::process::abort()
}

/// Defines functions that read a frame, of which there is none.
macro_rules! of_no_frame {
    ($($name:ident),*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $name(_context: *mut c_void) -> usize {
            0
        }
    )*};
}

of_no_frame!(
    _Unwind_GetDataRelBase,
    _Unwind_GetIP,
    _Unwind_GetLanguageSpecificData,
    _Unwind_GetRegionStart,
    _Unwind_GetTextRelBase
);

#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetIPInfo(_context: *mut c_void, _before: *mut c_int) -> usize {
    0
}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_SetGR(_context: *mut c_void, _register: c_int, _value: usize) {}

#[unsafe(no_mangle)]
extern "C" fn _Unwind_SetIP(_context: *mut c_void, _value: usize) {}
