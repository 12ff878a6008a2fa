//! The architectures of guests.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The processor architecture of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("virtual machines are for hosts with x86-64 and arm64 processors");

impl Arch {
    /// All architectures.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture of this host: its hypervisor runs machines of no other.
    pub const HOST: Self = if cfg!(target_arch = "x86_64") {
        Self::X86_64
    } else {
        Self::Aarch64
    };

    /// Returns the name, in Rust's, QEMU's and the kernel's naming.
    pub const fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Returns whether this is the host's architecture. QEMU emulates others in software.
    pub fn is_host(self) -> bool {
        self == Self::HOST
    }

    /// Returns the architectures that this host emulates.
    pub fn foreign() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|arch| !arch.is_host())
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_architecture_has_rusts_name() {
        assert_eq!(Arch::HOST.name(), std::env::consts::ARCH);
        assert!(Arch::HOST.is_host() && !Arch::foreign().any(Arch::is_host));
    }
}
