//! QEMU's machine protocol (QMP) over a socket pair: commands with timeouts, and events.
//!
//! A thread reads the messages of QEMU, one JSON object per line, and passes each answer to its
//! caller. Commands may be sent from any thread.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{VmmError, handoff};

/// How long QEMU may take to answer a command that only starts something or reports a state.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How often the progress of a long operation is queried.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(1);

/// The longest line that is read, in bytes. Answers to the commands used here are much shorter.
const LONGEST_LINE: u64 = 1 << 20;

/// QEMU's name for a file descriptor passed to it.
const STATE_FILE: &str = "state";

/// Controls a VM under QEMU. Clones share the connection.
#[derive(Debug, Clone)]
pub struct Qmp {
    link: Arc<Link>,
}

#[derive(Debug)]
struct Link {
    writer: Mutex<UnixStream>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    /// The answers of pending commands, once they have arrived.
    answers: HashMap<u64, Option<Answer>>,
    closed: bool,
}

type Answer = Result<Value, String>;

/// A callback with an event's name and data.
type OnEvent = Box<dyn FnMut(&Qmp, &str, &Value) + Send>;

impl Qmp {
    /// Connects to QEMU on `socket`; QEMU may not run yet. `on_event` is called in the reading
    /// thread, which nothing else waits for.
    pub(super) fn connect(socket: UnixStream, on_event: OnEvent) -> Result<Self, VmmError> {
        let what = "cannot set up QEMU's control socket";
        let reader = socket.try_clone().map_err(VmmError::io(what))?;
        let timeout = Some(ANSWER_TIME);
        socket
            .set_write_timeout(timeout)
            .map_err(VmmError::io(what))?;
        let link = Arc::new(Link {
            writer: Mutex::new(socket),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let qmp = Qmp { link };
        let in_thread = qmp.clone();
        thread::Builder::new()
            .name("qmp".to_owned())
            .spawn(move || in_thread.read_from(reader, on_event))
            .map_err(VmmError::io(what))?;
        // There is no need to wait for the answer: QEMU answers in order, and has not started yet.
        qmp.link
            .write(&json!({"execute": "qmp_capabilities"}), None)?;
        Ok(qmp)
    }

    /// Stops the guest's CPUs.
    ///
    /// # Errors
    ///
    /// As for every command: [`VmmError::MonitorRefused`], [`VmmError::MonitorSilent`],
    /// [`VmmError::MonitorGone`].
    pub fn stop(&self) -> Result<(), VmmError> {
        self.command("stop", json!({})).map(drop)
    }

    /// Resumes the guest's CPUs.
    ///
    /// # Errors
    ///
    /// As for [`Qmp::stop`].
    pub fn cont(&self) -> Result<(), VmmError> {
        self.command("cont", json!({})).map(drop)
    }

    /// Returns QEMU's name for the machine's state (`RunState` in its documentation): `running`,
    /// `paused`, `io-error` …
    ///
    /// # Errors
    ///
    /// As for [`Qmp::stop`].
    pub fn status(&self) -> Result<String, VmmError> {
        let answer = self.command("query-status", json!({}))?;
        Ok(text(&answer, "status").to_owned())
    }

    /// Writes the state of the CPUs and devices of a stopped machine to `file`, without its shared
    /// memory.
    pub(super) fn save(&self, file: &File, timeout: Duration) -> Result<(), VmmError> {
        self.leave_memory_out()?;
        self.pass(file)?;
        let uri = format!("fd:{STATE_FILE}");
        self.command("migrate", json!({"uri": uri}))?;
        self.await_migration("migrate", timeout)
    }

    /// Loads the state in `file` into a machine that was started with
    /// [`VmConfig::incoming`](crate::VmConfig::incoming), and resumes it. The machine must have the
    /// same configuration and version of QEMU as the saved one.
    ///
    /// # Errors
    ///
    /// As for [`Vm::save`](crate::Vm::save); if a machine rejects the state, it ends.
    pub fn restore(&self, file: &File, timeout: Duration) -> Result<(), VmmError> {
        self.leave_memory_out()?;
        // There is no switch that must learn the guest's new place, and a resumed guest would have
        // to send these announcements first.
        self.command("migrate-set-parameters", json!({"announce-rounds": 0}))?;
        self.pass(file)?;
        let uri = format!("fd:{STATE_FILE}");
        self.command("migrate-incoming", json!({"uri": uri}))?;
        self.await_migration("migrate-incoming", timeout)?;
        self.cont()
    }

    /// Executes a command and returns its answer.
    ///
    /// # Errors
    ///
    /// [`VmmError::MonitorRefused`] with QEMU's reason, [`VmmError::MonitorSilent`] after
    /// `timeout`, [`VmmError::MonitorGone`] if QEMU has ended.
    pub fn execute(
        &self,
        command: &'static str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<Value, VmmError> {
        self.link.execute(command, arguments, timeout, None)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.link.lock().closed
    }

    fn command(&self, command: &'static str, arguments: Value) -> Result<Value, VmmError> {
        self.execute(command, arguments, ANSWER_TIME)
    }

    fn leave_memory_out(&self) -> Result<(), VmmError> {
        let capability = json!({"capability": "x-ignore-shared", "state": true});
        let arguments = json!({"capabilities": [capability]});
        self.command("migrate-set-capabilities", arguments)
            .map(drop)
    }

    fn pass(&self, file: &File) -> Result<(), VmmError> {
        let arguments = json!({"fdname": STATE_FILE});
        self.link
            .execute("getfd", arguments, ANSWER_TIME, Some(file))
            .map(drop)
    }

    fn await_migration(&self, command: &'static str, timeout: Duration) -> Result<(), VmmError> {
        let started = Instant::now();
        loop {
            let answer = self.command("query-migrate", json!({}))?;
            match text(&answer, "status") {
                "completed" => return Ok(()),
                "failed" | "cancelled" => {
                    return Err(VmmError::MonitorRefused {
                        command,
                        reason: match text(&answer, "error-desc") {
                            "" => "it failed".to_owned(),
                            reason => reason.to_owned(),
                        },
                    });
                }
                _ if started.elapsed() >= timeout => {
                    return Err(VmmError::MonitorSilent {
                        command,
                        waited: timeout,
                    });
                }
                _ => thread::sleep(PROGRESS_INTERVAL),
            }
        }
    }

    fn read_from(self, reader: UnixStream, mut on_event: OnEvent) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut bounded = reader.by_ref().take(LONGEST_LINE);
            match bounded.read_until(b'\n', &mut line) {
                Ok(_) if line.ends_with(b"\n") => {}
                _ => break,
            }
            let Ok(Value::Object(message)) = serde_json::from_slice(&line) else {
                break;
            };
            match message.get("event").and_then(Value::as_str) {
                Some(event) => on_event(&self, event, message.get("data").unwrap_or(&Value::Null)),
                None => self.link.answered(message),
            }
        }
        self.link.lock().closed = true;
        self.link.changed.notify_all();
    }
}

impl Link {
    fn execute(
        &self,
        command: &'static str,
        arguments: Value,
        timeout: Duration,
        file: Option<&File>,
    ) -> Result<Value, VmmError> {
        let id = {
            let mut state = self.lock();
            state.next_id += 1;
            let id = state.next_id;
            state.answers.insert(id, None);
            id
        };
        let message = json!({"execute": command, "arguments": arguments, "id": id});
        let answer = self
            .write(&message, file)
            .and_then(|()| self.wait(id, command, timeout));
        self.lock().answers.remove(&id);
        answer?.map_err(|reason| VmmError::MonitorRefused { command, reason })
    }

    fn write(&self, message: &Value, file: Option<&File>) -> Result<(), VmmError> {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match file {
            Some(file) => handoff::send_with(&*writer, &line, &[file.as_fd()]),
            None => writer.write_all(&line),
        };
        written.map_err(|_| VmmError::MonitorGone)
    }

    fn wait(&self, id: u64, command: &'static str, timeout: Duration) -> Result<Answer, VmmError> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(answer) = state.answers.get_mut(&id).and_then(Option::take) {
                return Ok(answer);
            }
            if state.closed {
                return Err(VmmError::MonitorGone);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(VmmError::MonitorSilent {
                    command,
                    waited: timeout,
                });
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Stores an answer. The greeting, and answers after a timeout, are dropped.
    fn answered(&self, mut message: Map<String, Value>) {
        let Some(id) = message.get("id").and_then(Value::as_u64) else {
            return;
        };
        let answer = match message.remove("return") {
            Some(value) => Ok(value),
            None => {
                let error = message.remove("error").unwrap_or_default();
                Err(text(&error, "desc").to_owned())
            }
        };
        if let Some(place) = self.lock().answers.get_mut(&id) {
            *place = Some(answer);
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a string member of an object; empty if there is none.
pub(super) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value
        .get(member)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::sync::mpsc;

    use super::*;

    /// Starts a fake QEMU that answers each line with the result of `answer`.
    fn qemu(answer: impl Fn(Value) -> String + Send + 'static) -> (Qmp, mpsc::Receiver<String>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut writer = theirs.try_clone().unwrap();
            writer.write_all(b"{\"QMP\": {}}\r\n").unwrap();
            for line in BufReader::new(theirs).lines() {
                let message = serde_json::from_str(&line.unwrap()).unwrap();
                writer.write_all(answer(message).as_bytes()).unwrap();
            }
        });
        let (events, received) = mpsc::channel();
        let on_event = move |_: &Qmp, name: &str, _: &Value| events.send(name.to_owned()).unwrap();
        (Qmp::connect(ours, Box::new(on_event)).unwrap(), received)
    }

    #[test]
    fn answers_reach_their_commands_and_events_the_callback() {
        let (qmp, events) = qemu(|message| match message["execute"].as_str().unwrap() {
            "qmp_capabilities" => "{\"return\": {}}\n".to_owned(),
            "query-status" => format!(
                "{{\"event\": \"RESUME\"}}\n{}\n",
                json!({"return": {"status": "running"}, "id": message["id"]})
            ),
            _ => format!(
                "{}\n",
                json!({"error": {"desc": "no"}, "id": message["id"]})
            ),
        });
        assert_eq!(qmp.status().unwrap(), "running");
        assert_eq!(events.recv().unwrap(), "RESUME");
        match qmp.stop() {
            Err(VmmError::MonitorRefused { command, reason }) => {
                assert_eq!((command, &*reason), ("stop", "no"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_wait_for_a_silent_qemu_is_bounded() {
        let (qmp, _events) = qemu(|_| String::new());
        let silent = qmp.execute("stop", json!({}), Duration::from_millis(50));
        assert!(matches!(silent, Err(VmmError::MonitorSilent { .. })));
    }

    #[test]
    fn a_qemu_that_ends_or_sends_malformed_lines_counts_as_gone() {
        for nonsense in ["[]\n", "garbage\n", "{\"return\""] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(nonsense.as_bytes()).unwrap();
            let qmp = Qmp::connect(ours, Box::new(|_, _, _| ())).unwrap();
            drop(theirs);
            assert!(matches!(qmp.stop(), Err(VmmError::MonitorGone)));
        }
    }
}
