//! Which descriptors a guest may have in its descriptor tables.
//!
//! The processor uses the guest's tables, so a present descriptor must never lead out of ring 3. All
//! 512 entries of a frame are put through [`sanitise`] when it becomes a descriptor frame, and each
//! entry that is changed later.

/// The descriptor can be used.
const PRESENT: u64 = 1 << 47;
/// It describes code or data, not a gate or a system segment.
const CODE_OR_DATA: u64 = 1 << 44;
/// It was used: the processor sets this bit of a segment that it loads.
const ACCESSED: u64 = 1 << 40;
/// The privilege level that may use it.
const LEVEL: u64 = 3 << 45;
/// Its kind.
const KIND: u64 = 15 << 40;

/// The descriptor as it may be stored, or nothing for one that is refused.
///
/// Code and data become level 3, and accessed, so that no processor writes the frame; bases and limits mean
/// nothing to 64-bit ring 0. What is not present, or of the invalid kind 0, cannot be loaded. Every other system descriptor is refused, a call gate too:
/// Xen stores those so that their use faults, and emulates it, which no known 64-bit guest needs.
#[must_use]
pub const fn sanitise(descriptor: u64) -> Option<u64> {
    if descriptor & PRESENT == 0 {
        return Some(descriptor);
    }
    match descriptor & (CODE_OR_DATA | KIND) {
        0 => Some(descriptor),
        kind if kind & CODE_OR_DATA != 0 => Some(descriptor | LEVEL | ACCESSED),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{ACCESSED, CODE_OR_DATA, KIND, LEVEL, PRESENT, sanitise};

    #[test]
    fn every_kind_that_is_stored_is_ring_3_or_cannot_be_loaded() {
        for access in 0..=0xff_u64 {
            for rest in [0, !(0xff << 40), 0x00af_0000_0000_ffff] {
                let descriptor = rest | (access << 40);
                let is_present = descriptor & PRESENT != 0;
                let is_system = descriptor & CODE_OR_DATA == 0;
                match sanitise(descriptor) {
                    Some(stored) if is_present && !is_system => assert_eq!(stored, descriptor | LEVEL | ACCESSED),
                    Some(stored) => {
                        assert_eq!(stored, descriptor);
                        assert!(!is_present || descriptor & KIND == 0);
                    }
                    None => assert!(is_present && is_system && descriptor & KIND != 0, "{descriptor:#x}"),
                }
            }
        }
    }

    #[test]
    fn what_linux_has_in_its_table_is_kept_or_lifted_to_ring_3() {
        let kernel_code = 0x00af_9b00_0000_ffff;
        let user_code = 0x00af_fb00_0000_ffff;
        let cpu_number = 0x0040_f500_0000_0000;
        assert_eq!(sanitise(kernel_code), Some(user_code));
        assert_eq!(sanitise(user_code), Some(user_code));
        assert_eq!(sanitise(user_code & !ACCESSED), Some(user_code));
        assert_eq!(sanitise(cpu_number), Some(cpu_number));
        assert_eq!(sanitise(0), Some(0));
    }

    #[test]
    fn gates_and_task_states_are_refused() {
        for kind in [2, 9, 11, 12, 14, 15_u64] {
            assert_eq!(sanitise(PRESENT | LEVEL | (kind << 40)), None, "{kind}");
        }
    }
}
