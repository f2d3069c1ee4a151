//! Entry into ring 0 and exit from it: interrupt descriptors, the stubs of all vectors, the system
//! call entry, and what may happen inside ring 0 itself.

pub(crate) mod descriptors;
mod entry;
mod ring0;

pub(crate) use entry::{load, system_call_entries};
#[cfg(feature = "xen")]
pub(crate) use entry::{native_gates, xen_gates};

/// Exports the two functions that entry code calls: `on_system_call` and `on_trap` get the guest's
/// registers, and what they leave in them is what the guest goes on with; `on_interrupt` gets the
/// vector of an interrupt that arrived while this CPU waited for one.
#[macro_export]
macro_rules! handlers {
    ($on_system_call:path, $on_trap:path, $on_interrupt:path) => {
        #[unsafe(export_name = "hv_on_system_call")]
        extern "C" fn __on_system_call(registers: &mut $crate::guest::Registers) {
            $on_system_call(registers);
        }
        #[unsafe(export_name = "hv_on_trap")]
        extern "C" fn __on_trap(registers: &mut $crate::guest::Registers) {
            $on_trap(registers);
        }
        #[unsafe(export_name = "hv_on_interrupt")]
        extern "Rust" fn __on_interrupt(vector: u8) {
            $on_interrupt(vector);
        }
    };
}

/// Implements defmt's logger for a unit struct with three safe functions: one that waits until the
/// caller may write a frame, one that takes its bytes, one that ends it. They must do the locking:
/// between the first and the last nobody else's bytes may come.
#[macro_export]
macro_rules! logger {
    ($Logger:ty, $acquire:path, $write:path, $release:path) => {
        unsafe impl ::defmt::Logger for $Logger {
            fn acquire() {
                $acquire();
            }
            unsafe fn flush() {}
            unsafe fn release() {
                $release();
            }
            unsafe fn write(bytes: &[u8]) {
                $write(bytes);
            }
        }
    };
}
