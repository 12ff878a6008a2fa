//! Confines a running gateway: it can use IP sockets, and nothing else on the host.
//!
//! A guest that takes over its gateway cannot open files or folders, execute programs, listen on
//! ports, or signal or trace other processes. It can still connect to everything that the host can
//! reach, because that is the gateway's task: the policy is only enforced by the gateway itself.

use std::io;

/// Applies the rules to this thread, and those it starts, irrevocably. On a kernel without Landlock
/// only the rules on system calls apply, which also prevent opening files. On other systems than
/// Linux this has no effect. Returns what is in force, in words: `Landlock, seccomp`.
///
/// # Errors
///
/// If the kernel rejects the rules.
pub fn enforce() -> io::Result<String> {
    #[cfg(target_os = "linux")]
    let confinement = linux::enforce()?;
    #[cfg(not(target_os = "linux"))]
    let confinement = "none";
    Ok(confinement.to_owned())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetError, RulesetStatus, Scope,
    };
    use nix::libc;
    use seccompiler::{
        BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
        SeccompFilter, SeccompRule,
    };

    /// The newest rules used here, from Linux 6.12.
    const NEWEST: ABI = ABI::V6;

    /// The system calls that the gateway uses, besides `socket`: the README has the same list.
    const ALLOWED: &[i64] = &[
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_accept4,
        libc::SYS_shutdown,
        libc::SYS_close,
        libc::SYS_fcntl,
        libc::SYS_setsockopt,
        libc::SYS_getsockopt,
        libc::SYS_getsockname,
        libc::SYS_getpeername,
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_epoll_ctl,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];

    pub(super) fn enforce() -> io::Result<&'static str> {
        let landlock = restrict().map_err(io::Error::other)?;
        let program = filter().map_err(io::Error::other)?;
        seccompiler::apply_filter(&program).map_err(io::Error::other)?;
        Ok(match landlock {
            RulesetStatus::FullyEnforced => "Landlock, seccomp",
            RulesetStatus::PartiallyEnforced => "Landlock in part, seccomp",
            RulesetStatus::NotEnforced => "seccomp",
        })
    }

    /// Denies all access to files, binding TCP ports, and access to other processes.
    fn restrict() -> Result<RulesetStatus, RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::BindTcp)?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .restrict_self()
            .map(|status| status.ruleset)
    }

    fn filter() -> Result<BpfProgram, BackendError> {
        let equal = |argument, value: libc::c_int| {
            // A negative number cannot be passed by a caller.
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
        };
        // The same argument contains the flags of new descriptors. Raw sockets would need root.
        let kind = |value: libc::c_int| {
            let value = u64::try_from(value).unwrap_or(u64::MAX);
            let operator = SeccompCmpOp::MaskedEq(0xf);
            SeccompCondition::new(1, SeccompCmpArgLen::Dword, operator, value)
        };
        let mut sockets = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            for each in [libc::SOCK_STREAM, libc::SOCK_DGRAM] {
                sockets.push(SeccompRule::new(vec![equal(0, family)?, kind(each)?])?);
            }
        }
        let mut allowed: std::collections::BTreeMap<_, _> =
            ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        allowed.insert(libc::SYS_socket, sockets);
        SeccompFilter::new(
            allowed,
            SeccompAction::Errno(libc::EPERM as u32),
            SeccompAction::Allow,
            std::env::consts::ARCH.try_into()?,
        )?
        .try_into()
    }
}
