//! A command in the guest and the clients that share its streams.
//!
//! Output is written to the log first, then to every attached client. A slow client blocks the
//! command once its window is full; a client that leaves is forgotten. A command without clients
//! continues, and its output is read and discarded. So a hub holds at most one window of output for
//! itself and one for each client.

use std::fmt::Debug;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use blockbox_protocol::{Reply, Request, Stream, WINDOW, WindowSize};

use crate::background;
use crate::log;
use blockbox_store::spec::Signal;
use blockbox_vmm::guest::{
    Event, Exec, ExecControl, ExitStatus, GuestError, RunningCommand, Stdin,
};

/// A client as a command sees it.
pub(super) trait Recipient: Debug + Send + Sync {
    /// Queues a message.
    fn reply(&self, reply: &Reply);

    /// Queues the last message of a command.
    fn finish(&self, id: u32, reply: &Reply);
}

/// A command that clients are attached to.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    input: Sender<Input>,
    options: Options,
}

/// Options of a command's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// Whether it has a terminal.
    pub(super) tty: bool,
    /// Whether its input ends, and its outputs close, with those of the client that started it.
    pub(super) owned: bool,
    /// Whether to kill the command when that client disconnects.
    pub(super) transient: bool,
}

#[derive(Debug, Default)]
struct State {
    attached: Vec<Arc<Attachment>>,
    /// The command, once it runs.
    running: Option<(ExecControl, u32)>,
    over: Option<ExitStatus>,
}

#[derive(Debug)]
enum Input {
    Data(Arc<Attachment>, Vec<u8>),
    End,
}

/// The queue of the hub's input, for the thread that feeds the command.
pub(super) struct Feed(Receiver<Input>);

impl Hub {
    pub(super) fn new(options: Options) -> (Arc<Self>, Feed) {
        let (input, feed) = mpsc::channel();
        let hub = Self {
            state: Mutex::default(),
            input,
            options,
        };
        (Arc::new(hub), Feed(feed))
    }

    /// Attaches a client to the streams under the id of its request; `None` if the command has
    /// ended, which the client is told.
    pub(super) fn attach(
        self: &Arc<Self>,
        client: Arc<dyn Recipient>,
        id: u32,
        input: bool,
    ) -> Option<Arc<Attachment>> {
        let attachment = Arc::new(Attachment {
            hub: Arc::clone(self),
            client: Arc::clone(&client),
            id,
            input,
            flow: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut state = self.lock();
        if let Some((_, pid)) = state.running {
            client.reply(&Reply::Started { id, pid });
        }
        if let Some(status) = state.over {
            client.reply(&Reply::Exited { id, status });
            return None;
        }
        state.attached.push(Arc::clone(&attachment));
        Some(attachment)
    }

    /// Reports to every client that the command runs, once.
    pub(super) fn begin(&self, exec: &Exec) {
        let pid = exec.pid();
        let mut state = self.lock();
        if state.running.is_none() {
            state.running = Some((exec.control(), pid));
            for one in &state.attached {
                one.client.reply(&Reply::Started { id: one.id, pid });
            }
        }
    }

    /// Reports to every client that the command runs, copies its output until its end, and returns
    /// its exit status.
    pub(super) fn run(
        self: &Arc<Self>,
        mut exec: Exec,
        feed: Feed,
        mut log: Option<Log>,
    ) -> Result<ExitStatus, GuestError> {
        self.begin(&exec);
        if let Some(stdin) = exec.take_stdin() {
            let hub = Arc::clone(self);
            background::thread("input", move || hub.feed(stdin, &feed));
        }
        let result = loop {
            match exec.next_event() {
                Ok(Event::Output { stream, data }) => {
                    if let Some(log) = &mut log {
                        log.append(stream, &data);
                    }
                    let attached = self.lock().attached.clone();
                    for one in attached {
                        one.deliver(stream, &data);
                    }
                }
                Ok(Event::Exited(status)) => break Ok(status),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        // If the machine went down, clients see the command as killed.
        let status = result.as_ref().copied().unwrap_or(ExitStatus::Signal(9));
        let attached = {
            let mut state = self.lock();
            state.over = Some(status);
            std::mem::take(&mut state.attached)
        };
        for one in attached {
            one.client
                .finish(one.id, &Reply::Exited { id: one.id, status });
        }
        // Ends the thread that feeds the command.
        let _ = self.input.send(Input::End);
        result
    }

    /// Reports that the command could not be started.
    pub(super) fn failed(&self, code: u8, message: &str) {
        let attached = std::mem::take(&mut self.lock().attached);
        for one in attached {
            let reply = Reply::SpawnFailed {
                id: one.id,
                code,
                message: message.to_owned(),
            };
            one.client.finish(one.id, &reply);
        }
    }

    /// Passes input on in the order of its arrival.
    fn feed(&self, stdin: Stdin, feed: &Feed) {
        use std::io::Write;

        let mut stdin = Some(stdin);
        while let Ok(input) = feed.0.recv() {
            match input {
                Input::Data(from, data) => {
                    if let Some(to) = &mut stdin
                        && to.write_all(&data).is_err()
                    {
                        stdin = None;
                    }
                    // The data was written, or never will be.
                    from.input_taken(data.len());
                }
                Input::End => {
                    stdin = None;
                    if self.lock().over.is_some() {
                        return;
                    }
                }
            }
        }
    }

    /// Returns the control of the command, once it runs.
    pub(super) fn control(&self) -> Option<ExecControl> {
        self.lock()
            .running
            .as_ref()
            .map(|(control, _)| control.clone())
    }

    /// Returns the command, once it runs, with its input closed.
    pub(super) fn command(&self) -> Option<RunningCommand> {
        let state = self.lock();
        let (control, pid) = state.running.as_ref().filter(|_| state.over.is_none())?;
        Some(RunningCommand {
            id: control.id(),
            pid: *pid,
            tty: self.options.tty,
            stdin: false,
        })
    }

    /// Removes a client from the streams.
    fn detach(&self, attachment: &Attachment) {
        let mut state = self.lock();
        state
            .attached
            .retain(|one| !std::ptr::eq(Arc::as_ptr(one), attachment));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's attachment to a command's streams.
#[derive(Debug)]
pub(super) struct Attachment {
    hub: Arc<Hub>,
    client: Arc<dyn Recipient>,
    id: u32,
    /// Whether the client may send input.
    input: bool,
    flow: Mutex<Flow>,
    changed: Condvar,
}

#[derive(Debug)]
struct Flow {
    /// How many bytes of each output the client accepts.
    credit: [usize; 2],
    open: [bool; 2],
    /// How many bytes of input the client may send.
    input: usize,
    left: bool,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            credit: [WINDOW; 2],
            open: [true; 2],
            input: WINDOW,
            left: false,
        }
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Attachment {
    /// Sends output, once the client has room for it.
    fn deliver(&self, stream: Stream, data: &[u8]) {
        let at = index(stream);
        let mut flow = self.lock();
        while !flow.left && flow.open[at] && flow.credit[at] < data.len() {
            flow = self
                .changed
                .wait(flow)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if flow.left || !flow.open[at] {
            return;
        }
        flow.credit[at] -= data.len();
        drop(flow);
        self.client.reply(&Reply::Output {
            id: self.id,
            stream,
            data: data.to_vec(),
        });
    }

    /// Returns whether this is an attachment to the command of `hub`.
    pub(super) fn is_of(&self, hub: &Arc<Hub>) -> bool {
        Arc::ptr_eq(&self.hub, hub)
    }

    fn input_taken(&self, bytes: usize) {
        self.lock().input += bytes;
        self.client.reply(&Reply::StdinCredit {
            id: self.id,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        });
    }

    /// Handles a client's request about the streams. `Err` if it sends more than its window.
    pub(super) fn request(self: &Arc<Self>, request: Request) -> Result<(), ()> {
        match request {
            Request::Stdin { data, .. } => {
                let mut flow = self.lock();
                flow.input = flow.input.checked_sub(data.len()).ok_or(())?;
                drop(flow);
                if self.input {
                    // The receiver is gone when the command has ended.
                    let _ = self.hub.input.send(Input::Data(Arc::clone(self), data));
                } else {
                    self.input_taken(data.len());
                }
            }
            Request::StdinEof { .. } if self.input && self.hub.options.owned => {
                let _ = self.hub.input.send(Input::End);
            }
            Request::Credit { stream, bytes, .. } => {
                let mut flow = self.lock();
                let credit = &mut flow.credit[index(stream)];
                *credit = credit.saturating_add(bytes as usize).min(WINDOW);
                self.changed.notify_all();
            }
            Request::CloseOutput { stream, .. } => {
                self.lock().open[index(stream)] = false;
                self.changed.notify_all();
                // As in a pipeline of the client's shell: when its only reader is gone, the command
                // gets SIGPIPE.
                let alone = self.hub.lock().attached.len() <= 1;
                if self.hub.options.owned
                    && alone
                    && let Some(control) = self.hub.control()
                {
                    // The guest may be gone.
                    let _ = control.close_output(stream);
                }
            }
            Request::Resize { size, .. } => self.resize(size),
            Request::Signal { signal, .. } => {
                if let Some(control) = self.hub.control() {
                    // The guest may be gone.
                    let _ = control.signal(signal);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn resize(&self, size: WindowSize) {
        if self.hub.options.tty
            && let Some(control) = self.hub.control()
        {
            // The guest may be gone.
            let _ = control.resize(size);
        }
    }

    /// Detaches a client that has disconnected.
    pub(super) fn leave(&self) {
        self.lock().left = true;
        self.changed.notify_all();
        self.hub.detach(self);
        if self.hub.options.transient
            && let Some(control) = self.hub.control()
        {
            // The command may have ended, or its guest may be gone.
            let _ = control.signal(Signal::KILL.number());
        }
        // A terminal's input does not end with a client, because another one may attach.
        if self.input && self.hub.options.owned && !self.hub.options.tty {
            let _ = self.hub.input.send(Input::End);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The log of a command's output.
#[derive(Clone, Debug)]
pub(super) struct Log {
    writer: Arc<Mutex<log::Writer>>,
    failed: bool,
}

impl Log {
    pub(super) fn new(writer: Arc<Mutex<log::Writer>>) -> Self {
        Self {
            writer,
            failed: false,
        }
    }

    /// Appends output. A log that cannot be written must not block the command: the output is then
    /// missing in the log.
    fn append(&mut self, stream: Stream, data: &[u8]) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let result = writer.append(stream, data);
        if let Err(error) = &result
            && !self.failed
        {
            background::complain(format_args!("the sandbox's log cannot be written: {error}"));
        }
        self.failed = result.is_err();
    }
}
