//! The platforms whose images run in the virtual machines of this host.

use blockbox_store::spec::ImageSource;
use ocipull::Platform;

use crate::error::{Error, Result};

/// Checks that the virtual machines of this host run images for `platform`: those for the host's
/// own architecture, and for the 32-bit one that its processors also execute.
///
/// # Errors
///
/// [`Error::Platform`] with the name `image`.
///
/// ```
/// use blockbox::check_platform;
/// use ocipull::Platform;
///
/// assert!(check_platform("alpine", &Platform::host()).is_ok());
/// let error = check_platform("alpine", &"linux/s390x".parse()?).unwrap_err();
/// assert!(error.to_string().starts_with("image \"alpine\" is for linux/s390x"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn check_platform(image: &str, platform: &Platform) -> Result<()> {
    let host = Platform::host();
    let runs = |machine: &str| platform.os == host.os && platform.architecture == machine;
    if runs(&host.architecture) || narrow(&host.architecture).is_some_and(runs) {
        return Ok(());
    }
    Err(Error::Platform {
        image: image.to_owned(),
        platform: platform.to_string(),
        host: Box::new(host),
    })
}

/// As [`check_platform`], for the image of a sandbox. An image that names no valid platform passes.
pub(crate) fn check(image: &ImageSource) -> Result<()> {
    let platform = image.platform.as_deref().map(str::parse::<Platform>);
    match platform.and_then(|platform| platform.ok()) {
        Some(platform) => check_platform(&image.asked, &platform),
        None => Ok(()),
    }
}

/// Returns the 32-bit architecture that processors of this one execute as well, at least some of
/// them.
fn narrow(architecture: &str) -> Option<&'static str> {
    match architecture {
        "amd64" => Some("386"),
        "arm64" => Some("arm"),
        _ => None,
    }
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
            let error = check(&image(Some(other))).map_err(|error| error.to_string());
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
            assert!(check(&image(Some(own))).is_ok(), "{own}");
        }
        assert!(check(&image(Some("linux/arm64"))).is_err());
    }

    #[test]
    fn an_image_without_a_platform_is_accepted() {
        for unknown in [None, Some("/"), Some("linux/")] {
            assert!(check(&image(unknown)).is_ok(), "{unknown:?}");
        }
    }
}
