//! This process's terminal.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use blockbox::guest::WindowSize;
use rustix::termios::{self, OptionalActions, Termios};

/// Returns the size of this process's terminal.
pub(super) fn window_size() -> Option<WindowSize> {
    let size = termios::tcgetwinsize(io::stdout()).or_else(|_| termios::tcgetwinsize(io::stdin()));
    size.ok().map(|size| WindowSize {
        rows: size.ws_row,
        cols: size.ws_col,
    })
}

/// Returns whether input and output are terminals.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Standard input's terminal in raw mode, until dropped: every key is passed to the guest, whose
/// own terminal handles it.
#[derive(Clone, Debug)]
pub(super) struct RawTerminal(Arc<Mutex<Option<Termios>>>);

impl RawTerminal {
    /// Puts the terminal into raw mode; has no effect if standard input is not a terminal.
    pub(super) fn enter() -> anyhow::Result<Self> {
        let raw = Self(Arc::default());
        if io::stdin().is_terminal() {
            let before =
                termios::tcgetattr(io::stdin()).context("cannot read the terminal's mode")?;
            *raw.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
            raw.apply()
                .context("cannot put the terminal into raw mode")?;
        }
        Ok(raw)
    }

    /// Puts the terminal into raw mode again, after a shell has changed it while this process was
    /// suspended.
    pub(super) fn apply(&self) -> io::Result<()> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &*state {
            let mut raw = before.clone();
            raw.make_raw();
            termios::tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        }
        Ok(())
    }

    /// Restores the previous mode.
    pub(super) fn restore(&self) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(before) = state {
            // The terminal may be gone.
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &before);
        }
    }
}

/// Keys that close the connection and leave the command running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    /// Ctrl-P, Ctrl-Q, as docker's.
    fn default() -> Self {
        Self(vec![16, 17])
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = String;

    /// Parses keys separated by commas: a character, or `ctrl-` and one of `a` to `z`, `@`, `[`,
    /// `\`, `]`, `^`, `_`. An empty list turns detaching off.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |name: &str| -> Option<u8> {
            let one = |text: &str| match text.as_bytes() {
                [byte] if byte.is_ascii() => Some(*byte),
                _ => None,
            };
            match name.strip_prefix("ctrl-") {
                Some(letter) => one(&letter.to_ascii_uppercase())
                    .filter(|byte| (b'@'..=b'_').contains(byte))
                    .map(|byte| byte - b'@'),
                None => one(name),
            }
        };
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',')
            .map(|name| {
                key(name).ok_or_else(|| format!("{name:?} is neither a character nor ctrl-…"))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl DetachKeys {
    /// Starts watching the input for the keys.
    pub(super) fn watch(self) -> KeyWatch {
        KeyWatch {
            keys: self.0,
            seen: 0,
        }
    }
}

/// Finds detach keys in input that arrives in pieces.
#[derive(Debug)]
pub(super) struct KeyWatch {
    keys: Vec<u8>,
    seen: usize,
}

impl KeyWatch {
    /// Returns the part of `input` to pass to the command, and whether the keys were typed. The
    /// first keys of the sequence are held back until the next key shows whether it continues.
    pub(super) fn pass(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut out = Vec::with_capacity(input.len());
        for &byte in input {
            if self.keys.get(self.seen) == Some(&byte) {
                self.seen += 1;
                if self.seen == self.keys.len() {
                    return (out, true);
                }
                continue;
            }
            out.extend_from_slice(self.keys.get(..self.seen).unwrap_or_default());
            self.seen = 0;
            if self.keys.first() == Some(&byte) {
                self.seen = 1;
            } else {
                out.push(byte);
            }
        }
        (out, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_as_docker_names_them() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(DetachKeys::default()));
        assert_eq!("a,ctrl-@,ctrl-[".parse(), Ok(DetachKeys(vec![b'a', 0, 27])));
        assert_eq!("".parse(), Ok(DetachKeys(vec![])));
        for text in ["ctrl-", "ctrl-1", "ab", "ctrl-p,", "ä"] {
            assert!(text.parse::<DetachKeys>().is_err(), "{text}");
        }
    }

    #[test]
    fn keys_are_found_across_reads_and_their_beginning_is_not_lost() {
        let mut watch = DetachKeys::default().watch();
        assert_eq!(watch.pass(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(watch.pass(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(watch.pass(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(watch.pass(b"\x11rest"), (vec![], true));
        let mut none = "".parse::<DetachKeys>().unwrap().watch();
        assert_eq!(none.pass(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }
}
