//! Lists an image on a web server without downloading it: `http_ranges HOST:PORT /PATH`. Plain
//! HTTP, and the server must answer requests for ranges.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use erofs_reader::{Buffered, Image, ReadAt, ReadAtError};

/// A file on a server.
struct Remote {
    host: String,
    path: String,
    size: u64,
}

impl Remote {
    /// Requests bytes, and returns the size of the whole file and the bytes.
    fn get(&self, start: u64, length: usize) -> Result<(u64, Vec<u8>), ReadAtError> {
        let (host, path) = (&self.host, &self.path);
        let last = start.saturating_add(length as u64).saturating_sub(1);
        let mut stream = TcpStream::connect(host)?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nRange: bytes={start}-{last}\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = BufReader::new(stream);
        let mut status = String::new();
        answer.read_line(&mut status)?;
        if status.split(' ').nth(1) != Some("206") {
            return Err(format!("no range: {}", status.trim()).into());
        }
        let mut size = None;
        loop {
            let mut line = String::new();
            answer.read_line(&mut line)?;
            match line.trim().split_once(": ") {
                Some((name, range)) if name.eq_ignore_ascii_case("content-range") => {
                    size = range.rsplit('/').next().and_then(|size| size.parse().ok());
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut bytes = Vec::new();
        answer.take(length as u64).read_to_end(&mut bytes)?;
        Ok((size.ok_or("no size in the answer")?, bytes))
    }
}

impl ReadAt for Remote {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, ReadAtError> {
        let left = self.size.saturating_sub(offset);
        let length = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let (_, bytes) = self.get(offset, length)?;
        buf[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn size(&self) -> Result<u64, ReadAtError> {
        Ok(self.size)
    }
}

fn main() -> Result<(), ReadAtError> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [host, path] = &arguments[..] else {
        return Err("http_ranges HOST:PORT /PATH".into());
    };
    let mut remote = Remote {
        host: host.clone(),
        path: path.clone(),
        size: 0,
    };
    remote.size = remote.get(0, 1)?.0;
    let image = Image::open(Buffered::new(remote))?;
    for step in image.walk() {
        let (path, inode) = step?;
        let kind = inode.file_type().letter();
        println!("{kind}{:04o} {:>10} /{path}", inode.mode(), inode.size());
    }
    Ok(())
}
