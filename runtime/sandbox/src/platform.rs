//! The platforms whose images run in virtual machines, and the machines for them.

use blockbox_store::spec::{self, ImageSource, Machine};
use blockbox_vmm::Arch;
use ocipull::Platform;

use crate::error::{Error, Result};

/// Returns the architecture that a machine must emulate to run images for `platform`: `None` if the
/// host's own processor runs them. A 64-bit processor also runs images of its 32-bit mode.
///
/// # Errors
///
/// [`Error::Platform`] with the name `image` if there is no machine for them.
///
/// ```
/// use blockbox::check_platform;
/// use ocipull::Platform;
///
/// assert!(check_platform("alpine", &Platform::host())?.is_none());
/// let error = check_platform("alpine", &"linux/s390x".parse()?).unwrap_err();
/// assert!(error.to_string().starts_with("image \"alpine\" is for linux/s390x"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_platform(image: &str, platform: &Platform) -> Result<Option<spec::Arch>> {
    match arch_of(platform) {
        Some(arch) => Ok((!arch.is_host()).then(|| specified(arch))),
        None => Err(refused(image, platform, Arch::HOST)),
    }
}

/// Returns the architecture of the machines for images of `platform`; `None` if there are none.
pub fn arch_of(platform: &Platform) -> Option<Arch> {
    match (&*platform.os, &*platform.architecture) {
        ("linux", "amd64" | "386") => Some(Arch::X86_64),
        ("linux", "arm64" | "arm") => Some(Arch::Aarch64),
        _ => None,
    }
}

/// Returns the architecture of `machine`.
pub(crate) fn arch(machine: &Machine) -> Arch {
    machine.arch.map_or(Arch::HOST, emulated)
}

/// Returns the architecture that a specification means.
pub(crate) fn emulated(arch: spec::Arch) -> Arch {
    match arch {
        spec::Arch::Arm64 => Arch::Aarch64,
        _ => Arch::X86_64,
    }
}

/// Returns what a specification says for an architecture.
pub(crate) fn specified(arch: Arch) -> spec::Arch {
    match arch {
        Arch::X86_64 => spec::Arch::Amd64,
        Arch::Aarch64 => spec::Arch::Arm64,
    }
}

/// Checks that `machine` runs the image of a sandbox. An image that names no valid platform passes.
///
/// # Errors
///
/// [`Error::Platform`].
pub(crate) fn check(image: &ImageSource, machine: &Machine) -> Result<()> {
    let platform = image.platform.as_deref().map(str::parse::<Platform>);
    let machine = arch(machine);
    match platform.and_then(|platform| platform.ok()) {
        Some(platform) if arch_of(&platform) != Some(machine) => {
            Err(refused(&image.asked, &platform, machine))
        }
        _ => Ok(()),
    }
}

fn refused(image: &str, platform: &Platform, machine: Arch) -> Error {
    Error::Platform {
        image: image.to_owned(),
        platform: platform.clone().into(),
        machine: Box::new(platform_of(machine)),
    }
}

/// Returns the platform of machines of `arch`.
pub fn platform_of(arch: Arch) -> Platform {
    Platform::new(
        "linux",
        match arch {
            Arch::X86_64 => "amd64",
            Arch::Aarch64 => "arm64",
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(platform: Option<&str>) -> ImageSource {
        let mut image = ImageSource::new("app", String::new());
        image.platform = platform.map(str::to_owned);
        image
    }

    #[test]
    fn an_image_for_another_processor_or_system_is_refused() {
        for other in [
            "linux/s390x",
            "linux/riscv64",
            "windows/amd64",
            "darwin/arm64",
        ] {
            let checked = check(&image(Some(other)), &Machine::default());
            let error = checked.map_err(|error| error.to_string());
            let expected = format!("image \"app\" is for {other}");
            assert!(
                error.is_err_and(|text| text.starts_with(&expected)),
                "{other}"
            );
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_name_and_variant_of_this_processor_and_its_32_bit_mode_are_accepted() {
        for own in [
            "linux/amd64",
            "linux/amd64/v2",
            "linux/x86_64",
            "linux/386",
            "linux/i386",
        ] {
            assert!(
                check(&image(Some(own)), &Machine::default()).is_ok(),
                "{own}"
            );
        }
    }

    #[test]
    fn an_image_for_another_processor_runs_only_in_a_machine_that_was_made_for_it() {
        for foreign in Arch::foreign() {
            let platform = platform_of(foreign);
            let text = platform.to_string();
            let app = image(Some(&text));
            assert!(check(&app, &Machine::default()).is_err());
            let mut machine = Machine::default();
            machine.arch = check_platform("app", &platform).unwrap();
            assert_eq!(arch(&machine), foreign);
            assert!(check(&app, &machine).is_ok());
            let own = Platform::host().to_string();
            assert!(check(&image(Some(&own)), &machine).is_err());
        }
    }

    #[test]
    fn an_image_without_a_platform_is_accepted() {
        for unknown in [None, Some("/"), Some("linux/")] {
            assert!(
                check(&image(unknown), &Machine::default()).is_ok(),
                "{unknown:?}"
            );
        }
    }
}
