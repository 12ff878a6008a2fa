//! The front for asynchronous code, polled by an executor of a few lines: no runtime is needed.

use std::future::Future;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use ocipull::{Digest, Error, Image, Options, Progress, unblock};

use crate::support::{GZIP, Layer, Layout, TAR, tar};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

async fn open(layout: &Layout, options: &Options) -> Image {
    let reference = format!("oci:{}", layout.path().display());
    let reference = reference.parse().expect("a reference");
    let image = Image::open_async(&reference, options).await;
    image.expect("a sound image")
}

async fn collect(image: &Image, index: usize) -> Result<Vec<u8>, Error> {
    let mut stream = image.stream_layer(index)?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await? {
        bytes.extend(piece);
    }
    Ok(bytes)
}

#[test]
fn layers_arrive_whole_as_a_stream_and_through_a_closure() {
    let tars = [tar("a", 3_000_000), tar("b", 10), Vec::new()];
    let layers = [
        Layer::new(&tars[0], GZIP),
        Layer::new(&tars[1], TAR),
        Layer::new(&tars[2], TAR),
    ];
    let layout = Layout::of(&layers);
    block_on(async {
        let image = open(&layout, &Options::default()).await;
        for (index, tar) in tars.iter().enumerate() {
            assert!(collect(&image, index).await.expect("sound") == *tar);
            let read = image.read_layer_async(index, |reader| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes)
            });
            assert!(read.await.expect("sound") == *tar);
        }
        assert!(matches!(
            image.stream_layer(3),
            Err(Error::NoLayer {
                index: 3,
                layers: 3
            })
        ));
        let missing = image.read_layer_async(3, |_| Ok::<_, Error>(()));
        assert!(matches!(missing.await, Err(Error::NoLayer { .. })));
    });
}

#[test]
fn a_wrong_layer_is_an_error_in_the_place_of_the_end() {
    let wrong = Layer {
        diff_id: Digest::sha256(b"other").to_string(),
        ..Layer::new(&tar("a", 3_000_000), GZIP)
    };
    let layout = Layout::of(&[wrong]);
    block_on(async {
        let image = open(&layout, &Options::default()).await;
        let mut stream = image.stream_layer(0).expect("started");
        let error = loop {
            match stream.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a wrong layer was accepted"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::DiffIdMismatch { .. }), "{error:?}");
        assert!(matches!(stream.next().await, Err(Error::Failed)));
        // A caller that reads nothing gets the error, too.
        let read = image.read_layer_async(0, |_| Ok::<_, Error>(()));
        assert!(matches!(read.await, Err(Error::DiffIdMismatch { .. })));
    });
}

#[test]
fn a_dropped_stream_ends_the_download() {
    let size = 40_000_000;
    let layout = Layout::of(&[Layer::new(&tar("a", size), TAR)]);
    let fetched = Arc::new(AtomicU64::new(0));
    let alive = Arc::new(());
    let mut options = Options::default();
    options.progress = Some(Progress::new({
        let (fetched, alive) = (fetched.clone(), alive.clone());
        move |done| {
            let _ = &alive;
            fetched.fetch_max(done.bytes, Ordering::Relaxed);
        }
    }));
    block_on(async {
        let image = open(&layout, &options).await;
        let mut stream = image.stream_layer(0).expect("started");
        stream.next().await.expect("a piece");
        drop(stream);
        assert!(matches!(image.verified(), Err(Error::Unverified { .. })));
        let again = image.stream_layer(0).expect("this layer may be read again");
        again.abandon();
    });
    drop(options);
    // The threads own the progress callback until they end.
    let start = Instant::now();
    while Arc::strong_count(&alive) > 1 {
        assert!(start.elapsed() < Duration::from_secs(60), "still running");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(fetched.load(Ordering::Relaxed) < size as u64);
}

#[test]
fn a_panic_of_the_call_reaches_the_caller() {
    let call = unblock(|| -> Result<(), Error> { panic!("of the call") });
    let panic = catch_unwind(AssertUnwindSafe(|| block_on(call))).expect_err("a panic");
    assert_eq!(panic.downcast_ref(), Some(&"of the call"));
}

#[test]
fn futures_can_be_moved_between_threads() {
    fn is_send<T: Send + 'static>(future: T) -> T {
        future
    }
    let reference = "oci:/nonexistent".parse().expect("a reference");
    let options = Options::default();
    let opened = thread::spawn(move || {
        block_on(is_send(async move {
            Image::open_async(&reference, &options).await
        }))
    });
    assert!(opened.join().expect("no panic").is_err());
}
