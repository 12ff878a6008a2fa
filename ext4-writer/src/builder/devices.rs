//! Nodes without contents: devices, named pipes and sockets.

use std::io::{Seek, Write};

use super::Builder;
use crate::node::Body;
use crate::{DeviceNumber, Error, Kind, Metadata, NodeId};

impl<W: Write + Seek> Builder<W> {
    /// Adds a character device.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, DeviceNumber, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let null = DeviceNumber { major: 1, minor: 3 };
    /// image.add_char_device(image.root(), b"null", Metadata::new(0o666), null)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::DeviceNumber`].
    pub fn add_char_device(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        number: DeviceNumber,
    ) -> Result<NodeId, Error> {
        self.add_device(parent, name, Kind::CharDevice, metadata, number)
    }

    /// Adds a block device.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options, DeviceNumber};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// let number = DeviceNumber { major: 254, minor: 0 };
    /// image.add_block_device(image.root(), b"vda", Metadata::new(0o660), number)?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir); besides [`Error::DeviceNumber`].
    pub fn add_block_device(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
        number: DeviceNumber,
    ) -> Result<NodeId, Error> {
        self.add_device(parent, name, Kind::BlockDevice, metadata, number)
    }

    /// Adds a named pipe.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// image.add_fifo(image.root(), b"initctl", Metadata::new(0o600))?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir).
    pub fn add_fifo(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<NodeId, Error> {
        let body = Body::inline([0; 60], 0);
        self.add_node(parent, name, Kind::Fifo, metadata, |_, _| Ok(body))
    }

    /// Adds a socket's name.
    ///
    /// ```
    /// # use std::io::Cursor;
    /// use ext4_writer::{Builder, Metadata, Options};
    ///
    /// let mut image = Builder::new(Cursor::new(Vec::new()), Options::new(16 << 20))?;
    /// image.add_socket(image.root(), b"log", Metadata::new(0o666))?;
    /// # Ok::<(), ext4_writer::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`add_dir`](Self::add_dir).
    pub fn add_socket(
        &mut self,
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<NodeId, Error> {
        let body = Body::inline([0; 60], 0);
        self.add_node(parent, name, Kind::Socket, metadata, |_, _| Ok(body))
    }

    fn add_device(
        &mut self,
        parent: NodeId,
        name: &[u8],
        kind: Kind,
        metadata: Metadata,
        number: DeviceNumber,
    ) -> Result<NodeId, Error> {
        let DeviceNumber { major, minor } = number;
        let body = Body::device(number).ok_or(Error::DeviceNumber { major, minor })?;
        self.add_node(parent, name, kind, metadata, |_, _| Ok(body))
    }
}
