//! Errors as a monitor reports them to its clients.

use blockbox_vmm::{VmmError, with_causes};

use super::message::{Failure, FailureKind};
use crate::error::Error;
use crate::platform;

impl Failure {
    /// Returns a failure with the message of an error and its causes.
    pub(crate) fn other(error: &(dyn std::error::Error + 'static)) -> Self {
        let kind = match error.downcast_ref() {
            Some(Error::Vmm(VmmError::QemuNotFound { arch })) => {
                FailureKind::NoQemu(platform::specified(*arch))
            }
            Some(Error::Vmm(VmmError::NoHypervisor { reason })) => {
                FailureKind::NoHypervisor(reason.clone())
            }
            Some(Error::Vmm(VmmError::NoShareServer)) => FailureKind::NoShareServer,
            _ => FailureKind::Other,
        };
        Self::new(kind, with_causes(error))
    }
}
