//! Which bytes of the console's rings can be taken and filled.
//!
//! The indices lie in guest memory and count without end; a guest can write anything there. Two that
//! lie further apart than the ring is long are corrupt: the ring then has neither bytes nor room.

use core::ops::Range;

use crate::addr::convert::index;

/// One of the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Bytes, a power of two.
    pub size: u32,
}

impl Ring {
    /// From the hypervisor to the guest.
    pub const INPUT: Ring = Ring { size: 1024 };
    /// From the guest to the hypervisor.
    pub const OUTPUT: Ring = Ring { size: 2048 };

    /// The first piece that can be taken. Its length is to be added to `consumed`, wrapping; what lies
    /// behind the ring's end is the next piece.
    #[must_use]
    pub fn filled(self, consumed: u32, produced: u32) -> Range<usize> {
        self.piece(consumed, self.distance(consumed, produced).unwrap_or(0))
    }

    /// The first piece that can be filled. As many bytes as are filled are to be added to `produced`.
    #[must_use]
    pub fn room(self, consumed: u32, produced: u32) -> Range<usize> {
        let used = self.distance(consumed, produced).unwrap_or(self.size);
        self.piece(produced, self.size.wrapping_sub(used))
    }

    /// Bytes in the ring; nothing when the indices are corrupt.
    fn distance(self, consumed: u32, produced: u32) -> Option<u32> {
        Some(produced.wrapping_sub(consumed)).filter(|used| *used <= self.size)
    }

    /// As much of `count` bytes from an index on as lies before the ring's end.
    fn piece(self, from: u32, count: u32) -> Range<usize> {
        let start = from & self.size.wrapping_sub(1);
        let end = start.saturating_add(count).min(self.size);
        index(u64::from(start))..index(u64::from(end))
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests {
    use super::Ring;
    use proptest::prelude::*;
    use protocol::xen::structure::ConsoleRing;

    const RINGS: [Ring; 2] = [Ring::INPUT, Ring::OUTPUT];

    #[test]
    fn rings_are_as_long_as_their_memory() {
        let page = ConsoleRing::default();
        assert_eq!(page.input.len(), Ring::INPUT.size as usize);
        assert_eq!(page.output.len(), Ring::OUTPUT.size as usize);
    }

    #[test]
    fn corrupt_indices_give_nothing() {
        for ring in RINGS {
            for distance in [ring.size + 1, 1 << 31, u32::MAX] {
                for consumed in [0, 7, u32::MAX] {
                    let produced = consumed.wrapping_add(distance);
                    assert!(ring.filled(consumed, produced).is_empty());
                    assert!(ring.room(consumed, produced).is_empty());
                }
            }
        }
    }

    /// The places of `count` bytes from an index on, one by one.
    fn places(ring: Ring, from: u32, count: u32) -> Vec<usize> {
        (0..count).map(|offset| (from.wrapping_add(offset) % ring.size) as usize).collect()
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
        fn two_pieces_are_all_bytes_in_order(start in prop_oneof![any::<u32>(), u32::MAX - 3000..], used in 0..=2048_u32) {
            for ring in RINGS {
                let used = used.min(ring.size);
                let produced = start.wrapping_add(used);
                let first = ring.filled(start, produced);
                let second = ring.filled(start.wrapping_add(first.len() as u32), produced);
                prop_assert_eq!(first.chain(second).collect::<Vec<_>>(), places(ring, start, used));
                let first = ring.room(start, produced);
                let second = ring.room(start, produced.wrapping_add(first.len() as u32));
                prop_assert_eq!(first.chain(second).collect::<Vec<_>>(), places(ring, produced, ring.size - used));
            }
        }

        #[test]
        #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
        fn no_indices_lead_out_of_the_ring(consumed: u32, produced: u32) {
            for ring in RINGS {
                prop_assert!(ring.filled(consumed, produced).end <= ring.size as usize);
                prop_assert!(ring.room(consumed, produced).end <= ring.size as usize);
            }
        }
    }
}
