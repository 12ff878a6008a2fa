use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::Error;

/// Runs `call` on a thread of its own, which starts when the future is polled first.
///
/// Dropping the future does not stop the call, which runs to its end.
///
/// ```no_run
/// # async fn example() -> Result<(), ocipull::Error> {
/// use ocipull::{Options, Repository, unblock};
///
/// let repository = Repository::new("registry.example:5000", "team/app", &Options::default())?;
/// let tags = unblock(move || repository.tags()).await?;
/// # Ok(())
/// # }
/// ```
pub fn unblock<T, E>(call: impl FnOnce() -> Result<T, E> + Send + 'static) -> Unblock<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    Unblock {
        call: Some(Box::new(call)),
        shared: Arc::default(),
    }
}

/// The result of a call that runs on a thread of its own: what [`unblock`] returns.
#[must_use = "the call starts when the future is awaited"]
pub struct Unblock<T, E> {
    /// The call, until it is started.
    call: Option<Call<T, E>>,
    shared: Arc<Mutex<State<T, E>>>,
}

type Call<T, E> = Box<dyn FnOnce() -> Result<T, E> + Send>;

struct State<T, E> {
    /// How the call ended: with its result, or with a panic.
    ended: Option<thread::Result<Result<T, E>>>,
    waker: Option<Waker>,
}

impl<T, E> Default for State<T, E> {
    fn default() -> Self {
        Self {
            ended: None,
            waker: None,
        }
    }
}

impl<T, E> Future for Unblock<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        {
            let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            match state.ended.take() {
                Some(Ok(result)) => return Poll::Ready(result),
                // The panic continues in the caller.
                Some(Err(panic)) => {
                    drop(state);
                    resume_unwind(panic)
                }
                None => state.waker = Some(context.waker().clone()),
            }
        }
        if let Some(call) = self.call.take() {
            let shared = self.shared.clone();
            let run = move || {
                let ended = catch_unwind(AssertUnwindSafe(call));
                let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                state.ended = Some(ended);
                let waker = state.waker.take();
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
            };
            let thread = thread::Builder::new().name("ocipull-call".to_owned());
            if let Err(source) = thread.spawn(run) {
                return Poll::Ready(Err(Error::Thread { source }.into()));
            }
        }
        Poll::Pending
    }
}

// The call is behind a pointer, and nothing here is pinned.
impl<T, E> Unpin for Unblock<T, E> {}

impl<T, E> fmt::Debug for Unblock<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unblock")
            .field("started", &self.call.is_none())
            .finish_non_exhaustive()
    }
}
