//! The boot message for a guest, and the new identity of a copied guest.

use std::net::IpAddr;

use crate::exec::Ulimit;
use crate::frame::{Payload, ProtocolError};
use crate::wire::{Element, Wire, wire};

/// The longest hostname in bytes (`__NEW_UTS_LEN`).
pub const MAX_HOSTNAME: usize = 64;

/// The guest's settings. They are in the first message on the channel,
/// [`Request::Boot`](crate::Request::Boot).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Boot {
    /// The hostname: 1 to [`MAX_HOSTNAME`] bytes.
    pub hostname: String,
    /// The mounts in the container, in this order.
    pub mounts: Vec<Mount>,
    /// Folders that are created if the image lacks them, for instance an image configuration's
    /// `Volumes`.
    pub folders: Vec<Folder>,
    /// Secrets, which become files in the tmpfs `/run/secrets`.
    pub secrets: Vec<Secret>,
    /// The network; without one there is only the loopback interface.
    pub network: Option<Network>,
    /// Names in `/etc/hosts` besides the guest's own.
    pub hosts: Vec<Host>,
    /// Kernel settings below `/proc/sys`.
    pub sysctls: Vec<Sysctl>,
    /// Resource limits of every command, unless the command's own override them.
    pub ulimits: Vec<Ulimit>,
    /// Whether the container's root is read-only once everything is mounted.
    pub read_only_root: bool,
    /// `/etc/machine-id`: 16 bytes, or empty to keep the image's.
    pub machine_id: Vec<u8>,
    /// Random bytes for the kernel's random number generator, credited as entropy.
    pub entropy: Vec<u8>,
    /// The host's time when it sent this, in nanoseconds since 1970: the guest's clock is set to it
    /// if it is behind. The exact time is sent once the guest is up
    /// ([`Request::SetClock`](crate::Request::SetClock)).
    pub realtime_ns: u64,
}

wire!(Boot {
    hostname,
    mounts,
    folders,
    secrets,
    network,
    hosts,
    sysctls,
    ulimits,
    read_only_root,
    machine_id,
    entropy,
    realtime_ns,
});

impl Boot {
    /// Returns the settings of a guest with this hostname, whose `/tmp` and `/run` are a tmpfs with
    /// the image's contents.
    pub fn new(hostname: impl Into<String>) -> Self {
        let memory = |(folder, mode): (&str, u32)| {
            let source = MountSource::Memory { size: 0, mode };
            Mount::new(folder, source).copy_up(true)
        };
        Boot {
            hostname: hostname.into(),
            mounts: crate::TMPFS_DIRS.map(memory).into(),
            ..Boot::default()
        }
    }

    /// Keeps the folder at `target` on the disk, where [`new`](Self::new) mounts a tmpfs.
    pub fn leave_on_disk(&mut self, target: &str) {
        self.mounts.retain(|mount| {
            let path = &mount.target;
            if let MountSource::Memory { mode, .. } = mount.source
                && path == target.as_bytes()
            {
                let path = path.clone();
                self.folders.push(Folder { path, mode });
                return false;
            }
            true
        });
    }

    /// Returns the bytes that the message takes in a frame, limited by
    /// [`MAX_PAYLOAD`](crate::frame::MAX_PAYLOAD).
    pub fn encoded_len(&self) -> usize {
        let mut payload = Vec::new();
        self.put(&mut payload);
        payload.len()
    }
}

/// A folder that is created if the image lacks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Its absolute path.
    pub path: Vec<u8>,
    /// Its mode if it is created; root owns it.
    pub mode: u32,
}

wire!(Folder { path, mode });
impl Element for Folder {}

/// A mount in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// The mount point: an absolute path, which is created if it is missing.
    pub target: Vec<u8>,
    /// The mounted file system.
    pub source: MountSource,
    /// Whether the mount is read-only.
    pub read_only: bool,
    /// Whether an empty source is first filled with the image's files at the target.
    pub copy_up: bool,
    /// Options of the file system, as for `mount -o`.
    pub options: String,
}

wire!(Mount {
    target,
    source,
    read_only,
    copy_up,
    options,
});
impl Element for Mount {}

impl Mount {
    /// Mounts `source` at `target`, writable.
    pub fn new(target: impl Into<Vec<u8>>, source: MountSource) -> Self {
        Mount {
            target: target.into(),
            source,
            read_only: false,
            copy_up: false,
            options: String::new(),
        }
    }

    /// Sets whether the mount is read-only.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Mount { read_only, ..self }
    }

    /// Sets whether an empty source is first filled with the image's files at the target.
    #[must_use]
    pub fn copy_up(self, copy_up: bool) -> Self {
        Mount { copy_up, ..self }
    }

    /// Sets options of the file system, as for `mount -o`.
    #[must_use]
    pub fn options(self, options: impl Into<String>) -> Self {
        let options = options.into();
        Mount { options, ..self }
    }
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MountSource {
    /// A tmpfs.
    Memory {
        /// Its size in bytes; 0 is half of the guest's memory.
        size: u64,
        /// The mode of its root, unless it is copied from the image's.
        mode: u32,
    },
    /// A virtio-fs device.
    Share {
        /// The device's tag.
        tag: String,
        /// A file or folder in the share, relative to its root; empty is the root.
        path: Vec<u8>,
    },
    /// A virtio-blk device.
    Disk {
        /// The device's serial.
        serial: String,
        /// The type of its file system.
        filesystem: String,
        /// A folder in the file system, relative to its root; empty is the root.
        path: Vec<u8>,
    },
    /// A folder on the sandbox's own ext4 disk, for programs that work neither on an overlay nor on
    /// a tmpfs.
    SandboxDisk,
    /// The first disk, if it does not belong to an image: a file system, or partitions with one. It
    /// is the container's root, so the target is `/`. If the mount is read-only, it is below the
    /// writable disk, otherwise instead of it.
    Root {
        /// The number of the partition; 0 means the root partition of this platform, or the only
        /// one.
        partition: u32,
    },
}

const MEMORY: u32 = 1;
const SHARE: u32 = 2;
const DISK: u32 = 3;
const SANDBOX_DISK: u32 = 4;
const ROOT: u32 = 5;

impl Wire for MountSource {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            MountSource::Memory { size, mode } => {
                MEMORY.put(out);
                size.put(out);
                mode.put(out);
            }
            MountSource::Share { tag, path } => {
                SHARE.put(out);
                tag.put(out);
                path.put(out);
            }
            MountSource::Disk {
                serial,
                filesystem,
                path,
            } => {
                DISK.put(out);
                serial.put(out);
                filesystem.put(out);
                path.put(out);
            }
            MountSource::SandboxDisk => SANDBOX_DISK.put(out),
            MountSource::Root { partition } => {
                ROOT.put(out);
                partition.put(out);
            }
        }
    }

    fn take(payload: &mut Payload<'_>) -> Result<Self, ProtocolError> {
        Ok(match payload.u32()? {
            MEMORY => MountSource::Memory {
                size: Wire::take(payload)?,
                mode: Wire::take(payload)?,
            },
            SHARE => MountSource::Share {
                tag: Wire::take(payload)?,
                path: Wire::take(payload)?,
            },
            DISK => MountSource::Disk {
                serial: Wire::take(payload)?,
                filesystem: Wire::take(payload)?,
                path: Wire::take(payload)?,
            },
            SANDBOX_DISK => MountSource::SandboxDisk,
            ROOT => MountSource::Root {
                partition: Wire::take(payload)?,
            },
            _ => return Err(payload.malformed()),
        })
    }
}

/// A file that is not stored on any disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// Its name in `/run/secrets`.
    pub name: Vec<u8>,
    /// Its contents.
    pub data: Vec<u8>,
    /// Its mode.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

wire!(Secret {
    name,
    data,
    mode,
    uid,
    gid,
});
impl Element for Secret {}

/// Omits the contents, which must not be logged.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("name", &String::from_utf8_lossy(&self.name))
            .finish_non_exhaustive()
    }
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// The name.
    pub name: String,
}

wire!(Host { address, name });
impl Element for Host {}

/// A kernel setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name, as for `sysctl(8)`: `net.ipv4.ip_forward` or `net/ipv4/ip_forward`.
    pub name: String,
    /// Its value.
    pub value: String,
}

wire!(Sysctl { name, value });
impl Element for Sysctl {}

/// The guest's only network interface, `eth0`, and its name resolution.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Network {
    /// The interface's addresses.
    pub addresses: Vec<Address>,
    /// The default routers, at most one for each family.
    pub gateways: Vec<IpAddr>,
    /// The largest packet in bytes; 0 keeps the device's value.
    pub mtu: u32,
    /// The hardware address, 6 bytes; empty keeps the device's.
    pub hardware_address: Vec<u8>,
    /// The name servers of `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
    /// Its search list.
    pub search: Vec<String>,
    /// Its options.
    pub resolver_options: Vec<String>,
    /// A TCP port of the interface where init forwards connections to servers that listen only on
    /// the loopback interface (see [`relay`](crate::relay)); 0 means none.
    pub relay_port: u16,
}

wire!(Network {
    addresses,
    gateways,
    mtu,
    hardware_address,
    nameservers,
    search,
    resolver_options,
    relay_port,
});

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of the network prefix in bits.
    pub prefix: u32,
}

wire!(Address { ip, prefix });
impl Element for Address {}

/// The properties that a copy of a running guest must not share with the original.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Identity {
    /// The hostname; empty keeps it.
    pub hostname: String,
    /// `/etc/machine-id`: 16 bytes, or empty to keep it.
    pub machine_id: Vec<u8>,
    /// The new network; `None` keeps the current one.
    pub network: Option<Network>,
    /// The new names in `/etc/hosts`.
    pub hosts: Vec<Host>,
    /// Random bytes to reseed the kernel's random number generator with.
    pub entropy: Vec<u8>,
    /// The host's time, in nanoseconds since 1970; 0 does not set the guest's clock.
    pub realtime_ns: u64,
    /// Whether to close open TCP connections, except those within the guest.
    pub close_connections: bool,
    /// How long the image's hook `/etc/blockbox/on-fork` may take, in milliseconds; 0 does not
    /// start it.
    pub hook_timeout_ms: u32,
}

wire!(Identity {
    hostname,
    machine_id,
    network,
    hosts,
    entropy,
    realtime_ns,
    close_connections,
    hook_timeout_ms,
});
