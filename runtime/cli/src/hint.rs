//! Hints for the errors of the libraries, which know nothing of commands: what to type next.

use std::ffi::OsStr;
use std::path::Path;

use blockbox::vmm::hypervisor::Verdict;
use blockbox::vmm::{Arch, Emulation, HostReport, VmmError};
use blockbox::{Error, ImageUser, NoMemory, convert, kernel, platform_of, store};

use super::mask;

/// Prints an error and a hint.
pub(super) fn print(error: &anyhow::Error) {
    eprintln!("blockbox: {}", text(error));
}

/// Returns an error with its causes, and a hint.
pub(super) fn text(error: &anyhow::Error) -> String {
    let hint = hint(error).map_or_else(String::new, |hint| format!(": {hint}"));
    mask::masked(format!("{error:#}{hint}"))
}

/// Returns an error of the store with its causes, and a hint.
pub(super) fn with_causes(error: &store::Error) -> String {
    let hint = of_store(error).map_or_else(String::new, |hint| format!(": {hint}"));
    mask::masked(format!("{}{hint}", blockbox::vmm::with_causes(error)))
}

/// Returns a hint for an error, if a command or a setting solves it.
fn hint(error: &anyhow::Error) -> Option<String> {
    error.chain().find_map(|cause| {
        let converted = cause.downcast_ref().and_then(of_conversion);
        // An I/O error may wrap the error of a layer's reader.
        let read = || cause.downcast_ref().and_then(ocipull::Error::of);
        converted
            .or_else(|| cause.downcast_ref().and_then(of_store))
            .or_else(|| cause.downcast_ref().and_then(of_sandbox))
            .or_else(|| cause.downcast_ref().and_then(of_vmm))
            .or_else(|| cause.downcast_ref().and_then(of_kernel))
            .or_else(|| cause.downcast_ref().or_else(read).and_then(of_pull))
    })
}

fn of_pull(error: &ocipull::Error) -> Option<String> {
    use ocipull::{ConnectHint, CredentialSource};
    Some(match error {
        ocipull::Error::Connect {
            proxy: Some(proxy),
            hint: ConnectHint::Refused | ConnectHint::HostName | ConnectHint::None,
            ..
        } => format!(
            "check the proxy's address in ${}, or name hosts to reach without it in $NO_PROXY",
            proxy.variable
        ),
        ocipull::Error::Connect {
            hint,
            certificate_folder,
            ..
        } => match (hint, certificate_folder) {
            (ConnectHint::PlainHttp, _) => {
                "the server speaks HTTP, not HTTPS: if you trust the network, use --plain-http"
                    .into()
            }
            (ConnectHint::Certificate, Some(folder)) => format!(
                "if its certificate is from a private authority, put that one's certificate into {}",
                folder.join("ca.crt").display()
            ),
            (ConnectHint::Certificate, None) => {
                "add the certificate's issuer to the certificates this host trusts".into()
            }
            (ConnectHint::HostName, _) => {
                "check the name, and that this host can resolve names".into()
            }
            (ConnectHint::Refused, _) => "check the port, and that the server is running".into(),
            _ => return None,
        },
        ocipull::Error::NoPlatform { available, .. } => match &available[..] {
            [] => return None,
            [first, ..] => format!("`--platform {first}` takes that one"),
        },
        ocipull::Error::ForeignLayer { .. } => {
            "--allow-nondistributable-artifacts fetches it from where the image says".into()
        }
        ocipull::Error::Unauthorized {
            host, credentials, ..
        } => match credentials {
            CredentialSource::None => format!(
                "`blockbox login {host}` keeps credentials for it; or check that the name is right"
            ),
            _ => format!("check the name, or log in again: `blockbox login {host}`"),
        },
        _ => return None,
    })
}

fn of_store(error: &store::Error) -> Option<String> {
    Some(match error {
        store::Error::NoVersion { path, current, .. } => format!(
            "unless a later blockbox has used this store, `echo {current} > {}` puts it back",
            path.display()
        ),
        store::Error::SandboxRecord { path, .. } | store::Error::RecordVersion { path, .. }
            if folder_of(path, 2) == Some("sandboxes".as_ref()) =>
        {
            let name = folder_of(path, 1)?.display();
            format!("`blockbox rm -f {name}` removes the sandbox")
        }
        store::Error::SnapshotRecord { path, .. } | store::Error::RecordVersion { path, .. }
            if folder_of(path, 2) == Some("snapshots".as_ref()) =>
        {
            let name = folder_of(path, 1)?.display();
            format!("`blockbox snapshot rm -f {name}` removes the snapshot")
        }
        store::Error::NotAStore { .. } => {
            "name an empty folder, or one that does not exist, with --home or $BLOCKBOX_HOME".into()
        }
        store::Error::Owner { uid, .. } => {
            let user = user_name(*uid).unwrap_or_else(|| format!("'#{uid}'"));
            format!("run it as `sudo -u {user} blockbox …`, or with another folder in --home")
        }
        store::Error::References { .. } => {
            "`blockbox image verify --repair` writes it again of what can be read of it; the images are there".into()
        }
        _ => return None,
    })
}

/// Returns the name of a folder that a file is in; 1 is the nearest.
fn folder_of(path: &Path, level: usize) -> Option<&OsStr> {
    path.ancestors().nth(level)?.file_name()
}

/// Returns the name of a user of this host.
fn user_name(uid: u32) -> Option<String> {
    let user = nix::unistd::User::from_uid(uid.into()).ok()??;
    // The name becomes part of a command line.
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    user.name.chars().all(is_plain).then_some(user.name)
}

fn of_conversion(error: &convert::Error) -> Option<String> {
    Some(match error {
        convert::Error::Pull(error) => return of_pull(error),
        convert::Error::Store(store::Error::Record { .. }) => {
            "remove it, and pull the image again".into()
        }
        convert::Error::Store(error) => return of_store(error),
        convert::Error::NoImage(name) => format!("`blockbox pull {name}` gets it"),
        convert::Error::Damaged { .. } => {
            "`blockbox pull` of a name that leads to this image puts it back".into()
        }
        convert::Error::Detached { .. } => {
            "`vmdk create` makes a disk of the merged image, each index and its tar behind it"
                .into()
        }
        _ => return None,
    })
}

fn of_sandbox(error: &Error) -> Option<String> {
    Some(match error {
        Error::Convert(error) => return of_conversion(error),
        Error::Store(error) => return of_store(error),
        Error::Vmm(error) => return of_vmm(error),
        Error::ImageInUse { user, .. } => match user {
            ImageUser::Sandbox(name) => format!("`blockbox rm {name}` first"),
            ImageUser::Snapshot(name) => format!("`blockbox snapshot rm {name}` first"),
            _ => return None,
        },
        Error::ImageDamaged { image, .. } => {
            format!(
                "`blockbox image verify --repair {image}` or `blockbox pull {image}` puts it back"
            )
        }
        Error::UseUnknown { user, .. } => match user {
            ImageUser::Sandbox(name) => format!("`blockbox rm -f {name}` removes it"),
            ImageUser::Snapshot(name) => format!("`blockbox snapshot rm -f {name}` removes it"),
            _ => return None,
        },
        Error::Platform {
            platform, machine, ..
        } => {
            let other = format!("`--platform {machine}` gets one for it, if there is one");
            match blockbox::arch_of(platform) {
                Some(arch) if !arch.is_host() => {
                    format!("`--platform {platform}` runs it, emulated; {other}")
                }
                _ => other,
            }
        }
        Error::NoSnapshot(_) => "`blockbox snapshot ls` lists them".into(),
        Error::NoMemory {
            reason: NoMemory::NotForkable,
            ..
        } => "sandboxes are made for it with `--forkable`".into(),
        Error::SnapshotExists(name) => format!("`blockbox snapshot rm {name}` removes it"),
        Error::NoSandbox(_) => "`blockbox ps -a` lists them".into(),
        Error::SandboxRunning(name) => format!("`blockbox stop {name}` stops it"),
        Error::NotRunning(name) => format!("`blockbox start {name}` starts it"),
        Error::SandboxExists(name) => format!("`blockbox rm {name}` removes it"),
        Error::NoVolume(_) => "`blockbox volume ls` lists them".into(),
        Error::VolumeExists(name) => format!("`blockbox volume rm {name}` removes it"),
        Error::VolumeInUse { sandbox, .. } => format!("`blockbox rm {sandbox}` first"),
        Error::VolumeBusy {
            sandbox: Some(sandbox),
            ..
        } => format!("`blockbox stop {sandbox}` stops it"),
        Error::NoCommand => "name the command after `--`".into(),
        _ => return None,
    })
}

fn of_vmm(error: &VmmError) -> Option<String> {
    Some(match error {
        VmmError::KernelNotFound { arch, .. } => get_kernel(*arch),
        VmmError::QemuNotFound { arch } => get_qemu(*arch).to_owned(),
        VmmError::ForeignArch { .. } => "leave out `--vmm`, or use `--vmm qemu`".to_owned(),
        VmmError::NoInit { arch } => get_init(*arch),
        VmmError::NoShareServer => GET_VIRTIOFSD.to_owned(),
        VmmError::NoHypervisor { .. } => "try `--vmm qemu`".to_owned(),
        _ => return None,
    })
}

fn of_kernel(error: &kernel::Error) -> Option<String> {
    Some(match error {
        kernel::Error::NotConfirmed { digest, .. } => {
            format!("if that is the right one, give `--digest {digest}`")
        }
        kernel::Error::NotListed { .. } => {
            "give the file of a libkrunfw from elsewhere, or another index in $PIP_INDEX_URL"
                .to_owned()
        }
        kernel::Error::NoPackage { arch } if arch.is_host() => GET_KERNEL.to_owned(),
        kernel::Error::NoPackage { .. } => "give the file of a libkrunfw built for it".to_owned(),
        kernel::Error::Pull(error) => return of_pull(error),
        kernel::Error::Vmm(error) => return of_vmm(error),
        _ => return None,
    })
}

/// How to install a guest kernel on this kind of host.
const GET_KERNEL: &str = if cfg!(target_os = "macos") {
    "install it with `brew install slp/krun/libkrunfw`, or name a kernel with --kernel"
} else {
    "`blockbox kernel install` gets one; or install the package libkrunfw (Fedora, Debian 13 and later), or name a kernel \
     with --kernel or $BLOCKBOX_KERNEL"
};

/// How to install a guest kernel for machines of `arch` on this kind of host.
fn get_kernel(arch: Arch) -> String {
    match arch.is_host() {
        true => GET_KERNEL.to_owned(),
        false => {
            let platform = platform_of(arch);
            format!("`blockbox kernel install --platform {platform}` gets one")
        }
    }
}

/// How to install QEMU for machines of `arch` on this kind of host.
fn get_qemu(arch: Arch) -> &'static str {
    match arch {
        _ if cfg!(target_os = "macos") => "install it with `brew install qemu`",
        Arch::Aarch64 => {
            "install the package qemu-system-arm (Debian) or qemu-system-aarch64 (Fedora)"
        }
        Arch::X86_64 => "install the package qemu-system-x86 (Debian, Fedora)",
    }
}

/// How to get a blockbox with an init for guests of `arch`.
fn get_init(arch: Arch) -> String {
    format!("build it again after `rustup target add {arch}-unknown-linux-musl`")
}

/// Returns what to do about the first missing part of an emulation, to be put after the problem.
pub(super) fn emulation(emulation: &Emulation) -> Option<String> {
    let arch = emulation.arch;
    let hint = match emulation {
        Emulation { qemu: None, .. } => get_qemu(arch).to_owned(),
        Emulation { kernel: None, .. } => get_kernel(arch),
        Emulation { init: false, .. } => get_init(arch),
        _ => return None,
    };
    Some(format!(": {hint}"))
}

/// How to install virtiofsd on this kind of host.
const GET_VIRTIOFSD: &str = "install the package virtiofsd (Debian 13 and later, Fedora) or qemu-system-common (Debian 12, \
     Ubuntu 22.04)";

/// Returns advice on what a host lacks, one sentence each.
pub(super) fn advice(report: &HostReport) -> Vec<String> {
    let mut advice = Vec::new();
    if report.kernel.is_none() {
        advice.push(format!("No guest kernel: {GET_KERNEL}."));
    }
    if report.qemu.is_none() && report.hypervisor != Verdict::Works {
        let qemu = get_qemu(Arch::HOST);
        advice.push(format!("No QEMU to fall back to: {qemu}."));
    }
    let qemu = report.capabilities.get("qemu");
    if qemu.is_some_and(|qemu| !qemu.shares) {
        advice.push(format!(
            "No virtiofsd to share folders under QEMU: {GET_VIRTIOFSD}."
        ));
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_a_command_solves_name_that_command() {
        let missing = convert::Error::NoImage("debian".into());
        let hinted = |error: anyhow::Error| hint(&error.context("cannot start"));
        let pull = Some("`blockbox pull debian` gets it".to_owned());
        assert_eq!(hinted(Error::from(missing).into()), pull);
        let missing = convert::Error::NoImage("debian".into());
        assert_eq!(hinted(missing.into()), pull);
        let command = hinted(Error::NoCommand.into());
        assert!(command.is_some_and(|hint| hint.contains("after `--`")));
        assert_eq!(hinted(Error::Memory(1).into()), None);
    }

    #[test]
    fn a_refused_login_hints_at_the_login_command() {
        let refused = |credentials| ocipull::Error::Unauthorized {
            host: "x.y".into(),
            repository: "app".into(),
            credentials,
            message: String::new(),
        };
        let hinted = |error: ocipull::Error| {
            hint(&Error::from(convert::Error::from(error)).into()).unwrap_or_default()
        };
        let none = hinted(refused(ocipull::CredentialSource::None));
        let wrong = hinted(refused(ocipull::CredentialSource::Options));
        assert!(
            none.contains("`blockbox login x.y`") && none != wrong,
            "{none} {wrong}"
        );
    }
}
