//! What a guest is told before anything else, and what a clone of one is told anew.

use std::net::IpAddr;

use crate::exec::Ulimit;
use crate::frame::{Payload, ProtocolError};
use crate::wire::{Element, Wire, wire};

/// The longest hostname in bytes (`__NEW_UTS_LEN`).
pub const MAX_HOSTNAME: usize = 64;

/// How init sets the guest up. The first message on the channel, as
/// [`Request::Boot`](crate::Request::Boot).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Boot {
    /// The hostname: 1 to [`MAX_HOSTNAME`] bytes.
    pub hostname: String,
    /// What is mounted in the container, in this order.
    pub mounts: Vec<Mount>,
    /// Folders that are made where the image lacks them, for instance an image configuration's
    /// `Volumes`.
    pub folders: Vec<Folder>,
    /// Files in the tmpfs `/run/secrets`.
    pub secrets: Vec<Secret>,
    /// The network; without one there is only the loopback interface.
    pub network: Option<Network>,
    /// Names in `/etc/hosts` besides the guest's own.
    pub hosts: Vec<Host>,
    /// Kernel settings below `/proc/sys`.
    pub sysctls: Vec<Sysctl>,
    /// Limits of every command, unless its own say otherwise.
    pub ulimits: Vec<Ulimit>,
    /// Whether the container's root is read-only once everything is mounted.
    pub read_only_root: bool,
    /// `/etc/machine-id`: 16 bytes, or none to leave what the image has.
    pub machine_id: Vec<u8>,
    /// Random bytes for the kernel's generator, credited as entropy.
    pub entropy: Vec<u8>,
    /// The host's time when it sent this, in nanoseconds since 1970: the guest's clock is not left
    /// behind it. The right time comes once the guest is up
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
    /// A guest with this hostname, whose `/tmp` and `/run` are in memory, with what the image has
    /// there.
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

    /// Leaves the folder at `target` on the disk, where [`new`](Self::new) puts it into memory.
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

    /// Bytes the message takes in a frame, which [`MAX_PAYLOAD`](crate::frame::MAX_PAYLOAD) limits.
    pub fn encoded_len(&self) -> usize {
        let mut payload = Vec::new();
        self.put(&mut payload);
        payload.len()
    }
}

/// A folder that is made where the image lacks it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// Its absolute path.
    pub path: Vec<u8>,
    /// Its mode when it is made; root owns it.
    pub mode: u32,
}

wire!(Folder { path, mode });
impl Element for Folder {}

/// Something mounted in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// Where, an absolute path; made where it is missing.
    pub target: Vec<u8>,
    /// What.
    pub source: MountSource,
    /// Whether the container may not write there.
    pub read_only: bool,
    /// Whether an empty source first gets what the image has at the target.
    pub copy_up: bool,
    /// Options of the file system, as `mount -o` takes them.
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
    /// `source` at `target`, writable.
    pub fn new(target: impl Into<Vec<u8>>, source: MountSource) -> Self {
        Mount {
            target: target.into(),
            source,
            read_only: false,
            copy_up: false,
            options: String::new(),
        }
    }

    /// Whether the container may not write there.
    #[must_use]
    pub fn read_only(self, read_only: bool) -> Self {
        Mount { read_only, ..self }
    }

    /// Whether an empty source first gets what the image has at the target.
    #[must_use]
    pub fn copy_up(self, copy_up: bool) -> Self {
        Mount { copy_up, ..self }
    }

    /// Options of the file system, as `mount -o` takes them.
    #[must_use]
    pub fn options(self, options: impl Into<String>) -> Self {
        let options = options.into();
        Mount { options, ..self }
    }
}

/// What is mounted.
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
        /// A file or folder of the share, relative to its root; empty is the root.
        path: Vec<u8>,
    },
    /// A virtio-blk device.
    Disk {
        /// The device's serial.
        serial: String,
        /// The type of its file system.
        filesystem: String,
        /// A folder of the file system, relative to its root; empty is the root.
        path: Vec<u8>,
    },
    /// A folder of the sandbox's own ext4 disk: for programs that work neither on an overlay nor on
    /// a tmpfs.
    SandboxDisk,
    /// The first disk, which is not an image's: a file system, or partitions with one. It is the
    /// container's root, so the target is `/`: below the writable disk where the mount is
    /// read-only, else in its place.
    Root {
        /// The number of the partition; 0 is the root of this platform, or the only one.
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

/// A file that no disk holds.
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

/// Without the contents, which belong in no log.
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
    /// Its name, as `sysctl(8)` takes it: `net.ipv4.ip_forward` or `net/ipv4/ip_forward`.
    pub name: String,
    /// Its value.
    pub value: String,
}

wire!(Sysctl { name, value });
impl Element for Sysctl {}

/// The guest's one network interface, `eth0`, and the names it can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Network {
    /// The interface's addresses.
    pub addresses: Vec<Address>,
    /// The default routers, at most one for each family.
    pub gateways: Vec<IpAddr>,
    /// The largest packet in bytes; 0 leaves what the device says.
    pub mtu: u32,
    /// The hardware address, 6 bytes; none leaves the device's.
    pub hardware_address: Vec<u8>,
    /// The name servers of `/etc/resolv.conf`.
    pub nameservers: Vec<IpAddr>,
    /// Its search list.
    pub search: Vec<String>,
    /// Its options.
    pub resolver_options: Vec<String>,
    /// A TCP port of the interface where init passes connections on to servers that listen on the
    /// loopback interface only (see [`relay`](crate::relay)); 0 is none.
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
    /// How many of its leading bits name the network.
    pub prefix: u32,
}

wire!(Address { ip, prefix });
impl Element for Address {}

/// What a clone of a running guest must not share with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Identity {
    /// The hostname; empty keeps it.
    pub hostname: String,
    /// `/etc/machine-id`: 16 bytes, or none to keep it.
    pub machine_id: Vec<u8>,
    /// The network in place of the one before; `None` keeps it.
    pub network: Option<Network>,
    /// Names in `/etc/hosts` in place of those before.
    pub hosts: Vec<Host>,
    /// Random bytes for the kernel's generator, which then starts anew from them.
    pub entropy: Vec<u8>,
    /// The host's time, in nanoseconds since 1970; 0 leaves the guest's clock alone.
    pub realtime_ns: u64,
    /// Whether open TCP connections end, except those within the guest.
    pub close_connections: bool,
    /// How long the image's `/etc/blockbox/on-fork`, if there is one, may take, in milliseconds; 0
    /// does not start it.
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
