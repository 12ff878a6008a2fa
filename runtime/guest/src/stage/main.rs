//! `blockbox-stage`: the file that the guest's kernel starts as init, which becomes
//! [`blockbox-init`](blockbox_guest).
//!
//! Every sandbox's disk has a copy of this file, so the program in it is compressed: this inflates
//! it into memory and executes it there. It uses neither `std` nor a C library, which are larger
//! than what it saves, and so it is built for a target without an operating system; for others it
//! is empty.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod linux;

#[cfg(target_os = "none")]
mod become_init {
    use core::ffi::CStr;
    use core::panic::PanicInfo;

    use miniz_oxide::inflate::TINFLStatus;
    use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

    use super::linux::{self, Stack};

    /// The program: its length in bytes, a little-endian `u32`, and its bytes, deflated.
    static PACKED: &[u8] = include_bytes!(env!("BLOCKBOX_PACKED_INIT"));

    /// The program's name in lists of processes' mappings.
    const NAME: &CStr = c"blockbox-init";

    pub(super) extern "C" fn begin(stack: Stack) -> ! {
        let Some((length, packed)) = PACKED.split_first_chunk() else {
            linux::fail("has no program");
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some(program) = linux::allocate(length) else {
            linux::fail("has no memory");
        };
        let mut state = DecompressorOxide::new();
        let flags = TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (status, _, inflated) = decompress(&mut state, packed, program, 0, flags);
        if status != TINFLStatus::Done || inflated != length {
            linux::fail("is damaged");
        }
        let Some(file) = linux::file_in_memory(NAME, program) else {
            linux::fail("has no room for its program");
        };
        file.execute(stack);
        linux::fail("cannot execute its program")
    }

    #[panic_handler]
    fn panic(_: &PanicInfo<'_>) -> ! {
        linux::fail("has a fault")
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
