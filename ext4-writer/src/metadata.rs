//! What an inode says about itself.

/// A point in time.
///
/// ext4 stores times from 1901-12-13 to 2446-05-10 (`EXT4_TIMESTAMP_MIN`, `EXT4_EXTRA_TIMESTAMP_MAX`). A time outside is
/// stored as the nearest one inside, as the kernel does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01, rounded down.
    pub secs: i64,
    /// Nanoseconds behind `secs`, less than 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    const MIN_SECS: i64 = i32::MIN as i64;
    const MAX_SECS: i64 = 0x3_7fff_ffff;

    /// The low 32 bits of the seconds, and the extra field: two more bits of seconds below 30 of nanoseconds.
    pub(crate) fn encode(self) -> (u32, u32) {
        let (secs, nanos) = if self.secs < Self::MIN_SECS {
            (Self::MIN_SECS, 0)
        } else if self.secs > Self::MAX_SECS {
            (Self::MAX_SECS, 0)
        } else {
            (self.secs, self.nanos.min(999_999_999))
        };
        let low = secs as i32;
        let epoch = ((secs - i64::from(low)) >> 32) as u32 & 3;
        (low as u32, nanos << 2 | epoch)
    }

    /// Seconds as the superblock stores them: unsigned, 40 bits.
    pub(crate) fn encode_superblock(self) -> (u32, u8) {
        let secs = self.secs.clamp(0, (1 << 40) - 1) as u64;
        (secs as u32, (secs >> 32) as u8)
    }
}

/// The attributes of an inode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Permission bits with set-user-ID, set-group-ID and sticky (`0o7777`). Bits of the file type are ignored: the
    /// method that adds the node decides the type.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When the contents changed last; stored as access, change and creation time too.
    pub mtime: Timestamp,
    /// Extended attributes: full names (`user.comment`) and values as `getxattr` gives them. POSIX ACLs
    /// (`system.posix_acl_access`, `system.posix_acl_default`) are converted to ext4's form.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Metadata {
    /// Root's, with these permission bits, from 1970-01-01, without extended attributes.
    pub fn new(mode: u16) -> Self {
        Self {
            mode,
            ..Self::default()
        }
    }
}

/// A device special file's type and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Device {
    /// A character device.
    Char { major: u32, minor: u32 },
    /// A block device.
    Block { major: u32, minor: u32 },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(secs: i64, nanos: u32) -> (u32, u32) {
        Timestamp { secs, nanos }.encode()
    }

    #[test]
    fn times_round_down_and_carry_their_epoch() {
        assert_eq!(encode(-1, 999_999_999), (0xffff_ffff, 999_999_999 << 2));
        assert_eq!(encode(0x7fff_ffff, 0), (0x7fff_ffff, 0));
        assert_eq!(encode(0x8000_0000, 1), (0x8000_0000, 1 << 2 | 1));
        assert_eq!(encode(0x1_8000_0000, 0), (0x8000_0000, 2));
    }

    #[test]
    fn times_out_of_range_become_the_nearest_in_range() {
        assert_eq!(encode(i64::MIN, 5), (0x8000_0000, 0));
        assert_eq!(encode(i64::MAX, 5), (0x7fff_ffff, 3));
    }
}
