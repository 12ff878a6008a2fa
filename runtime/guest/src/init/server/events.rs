//! What init waits for.

use std::time::Instant;

use blockbox_protocol::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Server, earlier};
use crate::readahead::Metadata;

/// What a descriptor in the poll set belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Control,
    Children,
    Worker,
    Stdin(u32),
    Output(u32, Stream),
}

impl Server {
    /// Waits for events, and returns them.
    pub(super) fn wait(&mut self) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::Control];
        let interest = self.control.interest();
        let mut fds = vec![PollFd::from_borrowed_fd(self.control.port(), interest)];
        if self.suspended {
            return self.wait_suspended(&mut fds);
        }
        sources.push(Source::Children);
        fds.push(PollFd::new(&self.children, PollFlags::IN));
        if let Some(fd) = self.disk.worker_fd() {
            sources.push(Source::Worker);
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        let first = sources.len();
        let lock = self.metadata.as_ref().map(Metadata::due);
        let mut deadline = earlier(self.disk.deadline(), lock);
        deadline = earlier(deadline, self.cgroups.deadline());
        let has_room = self.control.has_room();
        for command in self.commands.values() {
            if let Some(fd) = command.stdin.waiting() {
                sources.push(Source::Stdin(command.id));
                fds.push(PollFd::new(fd, PollFlags::OUT));
            }
            for output in &command.outputs {
                if output.is_sent() && !has_room {
                    continue;
                }
                if let Some(fd) = output.waiting() {
                    sources.push(Source::Output(command.id, output.stream()));
                    fds.push(PollFd::new(fd, PollFlags::IN));
                }
                deadline = earlier(deadline, output.deadline());
            }
        }
        if self.more_children {
            deadline = Some(Instant::now());
        }
        let timeout = deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()))
            .and_then(|left| Timespec::try_from(left).ok());
        let ready = match poll(&mut fds, timeout.as_ref()) {
            Ok(ready) => ready,
            Err(_) => return Vec::new(),
        };
        let timed_out = ready == 0;
        let more_children = self.more_children;
        let mut found: Vec<_> = sources
            .into_iter()
            .zip(fds.iter().map(PollFd::revents))
            .enumerate()
            // On a timeout, the outputs that wait for silence must be checked.
            .filter(|(_, (source, events))| {
                !events.is_empty()
                    || timed_out && matches!(source, Source::Output(..))
                    || more_children && *source == Source::Children
            })
            .collect();
        // Commands are served in a different order each time, so that none is always the last to
        // find space.
        let commands = found.partition_point(|(at, _)| *at < first);
        if let Some(commands) = found.get_mut(commands..).filter(|all| !all.is_empty()) {
            commands.rotate_left(self.turn % commands.len());
        }
        self.turn = self.turn.wrapping_add(1);
        found.into_iter().map(|(_, found)| found).collect()
    }

    /// Waits for a request, or for the end of a freeze, because no other event may cause a message.
    fn wait_suspended(&self, fds: &mut [PollFd<'_>]) -> Vec<(Source, PollFlags)> {
        let left = self
            .disk
            .deadline()
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        if poll(fds, timeout.as_ref()).is_err() {
            return Vec::new();
        }
        let events = fds.iter().map(PollFd::revents);
        events
            .filter(|events| !events.is_empty())
            .map(|events| (Source::Control, events))
            .collect()
    }
}
