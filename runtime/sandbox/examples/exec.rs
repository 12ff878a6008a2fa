//! Starts a sandbox in the background, runs a command in it, and removes it.
//!
//! ```console
//! $ cargo run -p blockbox --example exec -- debian:bookworm uname -a
//! ```

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use blockbox::image::Image;
use blockbox::store::Store;
use blockbox::{ExecOptions, Sandbox};

fn main() -> ExitCode {
    // Monitors and virtual machines are started through this very program.
    if let Some(code) = blockbox::helper::run_if_asked() {
        return code;
    }
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("exec: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u8, Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let name = words.next().ok_or("which image?")?;
    let root = Store::default_root().ok_or("there is no home folder")?;
    let store = Store::open(root)?;
    let image = Image::find(&store, &name)?;

    let sandbox = Sandbox::builder(&store, &name, &image)
        .command(["sleep", "infinity"])
        .remove_on_exit(true)
        .create()?;
    sandbox.start()?;
    let child = sandbox.exec(&ExecOptions::new(words))?;
    let status = child.stream(&mut io::stdout(), &mut io::stderr())?;
    sandbox.stop(None, Some(Duration::ZERO))?;
    Ok(status.code())
}
