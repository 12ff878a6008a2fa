//! The kernel's RCU grace periods. A freeze of a file system waits for several of them, and every
//! writer waits for the freeze.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// The kernel's switch to end grace periods earlier, at the cost of interrupts. Not every kernel
/// has it.
#[derive(Debug)]
pub(crate) struct Expedite(Option<File>);

impl Expedite {
    /// Opens the switch. Later, a command may have mounted something else there.
    pub(crate) fn open() -> Self {
        let switch = File::options()
            .write(true)
            .open("/sys/kernel/rcu_expedited");
        Self(switch.ok())
    }

    /// Runs `work` with expedited grace periods. They are not expedited all the time because boots
    /// under QEMU's translation failed now and then where the kernel's command line asked for that.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.set("1");
        let result = work();
        self.set("0");
        result
    }

    fn set(&self, value: &str) {
        if let Some(switch) = &self.0 {
            // Without it, a freeze only takes longer.
            let _ = switch.write_all_at(value.as_bytes(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn the_switch_is_on_during_the_work_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switch");
        let expedite = Expedite(Some(File::create(&path).unwrap()));
        let value = || std::fs::read_to_string(&path).unwrap();
        assert_eq!(expedite.during(value), "1");
        assert_eq!(value(), "0");
        assert_eq!(Expedite(None).during(|| 5), 5);
    }
}
