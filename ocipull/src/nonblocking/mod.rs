//! The asynchronous interface: blocking calls on their own threads, as futures for any executor.
//! Nothing here depends on a runtime.

mod stream;
mod unblock;

pub use stream::LayerStream;
pub use unblock::{Unblock, unblock};

use crate::{Error, Image, LayerReader, Options, Reference};

impl Image {
    /// As [`open`](Self::open), in asynchronous code.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), ocipull::Error> {
    /// use ocipull::{Image, Options};
    ///
    /// let image = Image::open_async(&"debian:12".parse()?, &Options::default()).await?;
    /// println!("{}", image.manifest_digest());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open), and [`Error::Thread`].
    pub fn open_async(reference: &Reference, options: &Options) -> Unblock<Self, Error> {
        let (reference, options) = (reference.clone(), options.clone());
        unblock(move || Self::open(&reference, &options))
    }

    /// As [`read_layer`](Self::read_layer), in asynchronous code. `read` runs on a thread of its
    /// own, where it may block.
    ///
    /// ```no_run
    /// # async fn example(image: ocipull::Image) -> std::io::Result<()> {
    /// let file = std::fs::File::create("layer.tar")?;
    /// image.read_layer_async(0, |tar| std::io::copy(tar, &mut { file })).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`read_layer`](Self::read_layer), and [`Error::Thread`].
    pub fn read_layer_async<T, E>(
        &self,
        index: usize,
        read: impl FnOnce(&mut LayerReader) -> Result<T, E> + Send + 'static,
    ) -> Unblock<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let layer = self.unopened(index);
        unblock(move || layer?.open()?.read_all(read))
    }

    /// Starts to fetch the layer `index`, counted from the lowest, and returns its tar piece by
    /// piece in asynchronous code.
    ///
    /// ```no_run
    /// # async fn example(image: ocipull::Image) -> Result<(), ocipull::Error> {
    /// let mut layer = image.stream_layer(0)?;
    /// let mut bytes = 0;
    /// while let Some(piece) = layer.next().await? {
    ///     bytes += piece.len();
    /// }
    /// // The layer is verified.
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::NoLayer`] and [`Error::Thread`]. Later errors are reported by
    /// [`LayerStream::next`].
    pub fn stream_layer(&self, index: usize) -> Result<LayerStream, Error> {
        self.unopened(index).and_then(LayerStream::start)
    }
}
