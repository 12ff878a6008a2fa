//! `blockbox login` and `logout`

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use clap::Args;
use ocipull::{CredentialSource, Credentials, Options, Secret, credentials};
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

/// The longest password that is read from a pipe, in bytes.
const MAX_PASSWORD: u64 = 64 << 10;

/// Check credentials with a registry, and store them.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// The registry, as HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
    /// The user's name [default: asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input, to its end
    #[arg(long)]
    password_stdin: bool,
    /// Use HTTP, not HTTPS, with the registry: others can read the password
    #[arg(long)]
    plain_http: bool,
    /// The file that stores them [default: $REGISTRY_AUTH_FILE, else docker's or podman's]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

/// Remove the stored credentials for a registry.
#[derive(Debug, Args)]
pub(super) struct Logout {
    /// The registry, as HOST[:PORT]
    #[arg(value_name = "REGISTRY", default_value = "docker.io")]
    registry: String,
    /// The file that stores them [default: $REGISTRY_AUTH_FILE, else docker's or podman's]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl Login {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        let username = match self.username {
            Some(name) => name,
            None if self.password_stdin => bail!("--password-stdin needs --username"),
            None => ask("Username: ")?,
        };
        ensure!(
            !username.is_empty() && !username.contains(':'),
            "a user's name is not empty and has no colon"
        );
        let password = match self.password_stdin {
            true => from_pipe()?,
            false => ask_hidden("Password: ")?.into_bytes(),
        };
        ensure!(!password.is_empty(), "the password is empty");
        let password = Secret::new(password);
        warn_of_variable();
        let mut options = Options::default();
        options.plain_http = self.plain_http;
        options.credentials = Credentials::Basic {
            username: username.clone(),
            password: password.clone(),
        };
        let host = &self.registry;
        if !ocipull::check_login(host, &options)? {
            eprintln!("{host} asks for no credentials, so nothing shows that these are right");
        }
        let kept = credentials::store(self.authfile.as_deref(), host, &username, &password)?;
        match kept {
            CredentialSource::Helper(program) => println!("kept by {program}"),
            CredentialSource::File(path) => println!("kept in {}", path.display()),
            _ => println!("kept"),
        }
        Ok(())
    }
}

impl Logout {
    pub(super) fn execute(self) -> anyhow::Result<()> {
        warn_of_variable();
        let host = &self.registry;
        match credentials::erase(self.authfile.as_deref(), host)? {
            true => println!("removed the credentials for {host}"),
            false => println!("there are no credentials for {host}"),
        }
        Ok(())
    }
}

/// Docker's variable comes before what is stored, for docker too.
fn warn_of_variable() {
    const NAME: &str = "DOCKER_AUTH_CONFIG";
    if std::env::var_os(NAME).is_some_and(|value| !value.is_empty()) {
        eprintln!("blockbox: ${NAME} is set, and its credentials come before stored ones");
    }
}

fn ask(prompt: &str) -> anyhow::Result<String> {
    ensure!(
        io::stdin().is_terminal(),
        "standard input is not a terminal: use --username and --password-stdin"
    );
    eprint!("{prompt}");
    io::stderr().flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn ask_hidden(prompt: &str) -> anyhow::Result<String> {
    let echo = NoEcho::begin()?;
    let password = ask(prompt);
    drop(echo);
    eprintln!();
    password
}

/// Turns off the terminal's echo until dropped.
struct NoEcho(Option<Termios>);

impl NoEcho {
    fn begin() -> anyhow::Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self(None));
        }
        let before = termios::tcgetattr(io::stdin()).context("cannot read the terminal's mode")?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(io::stdin(), OptionalActions::Flush, &silent)
            .context("cannot hide what is typed")?;
        Ok(Self(Some(before)))
    }
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // The terminal may be gone.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

fn from_pipe() -> anyhow::Result<Vec<u8>> {
    let mut password = Vec::new();
    let stdin = io::stdin().lock();
    let read = stdin.take(MAX_PASSWORD + 1).read_to_end(&mut password)?;
    ensure!(read as u64 <= MAX_PASSWORD, "the password is too long");
    // `echo` and editors append line ends.
    while password
        .pop_if(|last| matches!(last, b'\r' | b'\n'))
        .is_some()
    {}
    Ok(password)
}
