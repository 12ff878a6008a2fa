//! The choice of the virtual machine monitor.

use blockbox_store::spec::{Machine, VmmChoice};
use blockbox_vmm::Choice;

/// Returns the choice that the specification names.
pub(crate) fn named(choice: VmmChoice) -> Choice {
    match choice {
        VmmChoice::Libkrun => Choice::Libkrun,
        VmmChoice::Qemu => Choice::Qemu,
        _ => Choice::Auto,
    }
}

/// Returns the monitor to choose for a machine.
pub(crate) fn of(machine: &Machine) -> Choice {
    match named(machine.vmm) {
        // Only QEMU can keep memory in a file.
        Choice::Auto if machine.forkable => Choice::Qemu,
        choice => choice,
    }
}
