//! The end of the machine: a broken invariant of the hypervisor's own.

use core::fmt::Write;
use core::panic::PanicInfo;

use protocol::record::exit;

/// Ends the machine because the invariant with an id of `docs/soundness.md` does not hold.
#[cold]
#[expect(clippy::panic, reason = "the one place where an invariant's end is declared")]
pub(super) fn broken(invariant: &str, what: impl core::fmt::Display) -> ! {
    panic!("{invariant}: {what}")
}

#[panic_handler]
fn panicked(info: &PanicInfo<'_>) -> ! {
    if super::machine::is_installed() {
        hv_arch::local::stop_others();
    }
    let mut line = hv_arch::io::EmergencyWriter::start();
    // Nothing is left to do about a line that cannot be written.
    let _ = writeln!(line, "\r\ncloister: panic: {}", info.message());
    if let Some(location) = info.location() {
        let _ = writeln!(line, "cloister:   at {location}");
    }
    if let Some((vm, vcpu)) = super::machine::running() {
        let _ = writeln!(line, "cloister:   running: VM {vm}, vCPU {vcpu}");
    }
    hv_arch::io::machine_exit(exit::PANIC)
}
