//! A program in place of QEMU whose guest is hostile. Its own name determines how; the test
//! compiles and copies it.

use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::process::CommandExt;
use std::time::Duration;

/// The number of bytes in one write.
const CHUNK: usize = 1 << 16;

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    if !std::env::args().any(|word| word.contains("id=control")) {
        // It answers questions about its capabilities as QEMU does.
        let words = std::env::args_os().skip(1);
        panic!("{}", std::process::Command::new("qemu-system-x86_64").args(words).exec());
    }
    // SAFETY: standard input is the channel to the host, and nothing else in this program uses it.
    let mut channel = unsafe { std::fs::File::from_raw_fd(0) };
    match name.rsplit('/').next().unwrap_or_default() {
        "noise" => {
            let mut seed = 1_u64;
            let chunk: Vec<u8> = (0..CHUNK)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            while channel.write_all(&chunk).is_ok() {}
        }
        "zeros" => while channel.write_all(&[0; CHUNK]).is_ok() {},
        "ones" => while channel.write_all(&[255; CHUNK]).is_ok() {},
        "console" => while std::io::stdout().write_all(&[b'c'; CHUNK]).is_ok() {},
        "deaf" => {}
        _ => while channel.read(&mut [0; CHUNK]).is_ok_and(|count| count > 0) {},
    }
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}
