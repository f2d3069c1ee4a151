use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use proptest::prelude::*;

use super::{HEADER, Moved, Receiver, Sender};
use crate::channel::ChannelError;
use crate::raw::region::Region;

/// Words of a ring of 64 bytes, and some that are left over.
const WORDS: usize = (HEADER + 64 + 24) / 8;

/// Memory for a ring, and regions over it for both ends.
struct Memory(Box<UnsafeCell<[u64; WORDS]>>);

impl Memory {
    fn new() -> Memory {
        Memory(Box::new(UnsafeCell::new([0; WORDS])))
    }

    fn base(&self) -> NonNull<u8> {
        NonNull::new(self.0.get().cast::<u8>()).unwrap()
    }

    #[expect(unsafe_code, reason = "a region of test memory")]
    fn region(&self) -> Region {
        // SAFETY: the box outlives the ends of each test, which touch it only through regions.
        unsafe { Region::new(self.base(), WORDS * 8) }
    }

    fn ends(&self) -> (Sender, Receiver) {
        (Sender::new(self.region()).unwrap(), Receiver::new(self.region()).unwrap())
    }
}

fn receive(receiver: &mut Receiver, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    let taken = receiver.receive(&mut bytes).unwrap().bytes;
    bytes.truncate(taken);
    bytes
}

#[test]
fn bytes_come_out_in_order_and_once() {
    let memory = Memory::new();
    let (mut sender, mut receiver) = memory.ends();
    assert_eq!(sender.send(b"abc").unwrap().bytes, 3);
    assert_eq!(receive(&mut receiver, 2), b"ab");
    assert_eq!(receive(&mut receiver, 9), b"c");
    assert_eq!(receive(&mut receiver, 9), b"");
}

#[test]
fn a_full_ring_takes_only_what_fits() {
    let memory = Memory::new();
    let (mut sender, mut receiver) = memory.ends();
    assert_eq!(sender.send(&[7; 100]).unwrap().bytes, 64);
    assert_eq!(sender.send(&[7; 1]).unwrap(), Moved { bytes: 0, peer_waits: false });
    assert_eq!(receive(&mut receiver, 10).len(), 10);
    assert_eq!(sender.send(&[8; 100]).unwrap().bytes, 10);
}

#[test]
fn a_waiting_peer_is_told() {
    let memory = Memory::new();
    let (mut sender, mut receiver) = memory.ends();
    receiver.ring.receiver_waits().unwrap().store(1, Ordering::SeqCst);
    assert!(sender.send(b"x").unwrap().peer_waits);
    sender.ring.sender_waits().unwrap().store(1, Ordering::SeqCst);
    let mut byte = [0];
    assert!(receiver.receive(&mut byte).unwrap().peer_waits);
}

#[test]
fn an_impossible_index_of_the_peer_breaks_the_ring_and_copies_nothing() {
    for lie in [65, 1 << 31, u32::MAX - 64] {
        let memory = Memory::new();
        let (mut sender, mut receiver) = memory.ends();
        sender.ring.produced().unwrap().store(lie, Ordering::SeqCst);
        let mut bytes = [0xaa; 8];
        assert_eq!(receiver.receive(&mut bytes), Err(ChannelError::Broken));
        assert_eq!(bytes, [0xaa; 8]);
        // What lies 65 or more behind the sender, or before it.
        let lie = lie.wrapping_neg();
        receiver.ring.consumed().unwrap().store(lie.wrapping_sub(64), Ordering::SeqCst);
        let sent = sender.send(b"x");
        assert_eq!(sent, Err(ChannelError::Broken), "{lie:#x}");
    }
}

#[test]
fn own_indices_are_never_read_back() {
    let memory = Memory::new();
    let (mut sender, mut receiver) = memory.ends();
    sender.send(b"abcd").unwrap();
    receive(&mut receiver, 2);
    receiver.ring.consumed().unwrap().store(0, Ordering::SeqCst);
    assert_eq!(receive(&mut receiver, 8), b"cd");
}

#[test]
fn a_region_without_room_is_no_ring() {
    let memory = Memory::new();
    #[expect(unsafe_code, reason = "a region of test memory")]
    // SAFETY: within the test's memory.
    let region = unsafe { Region::new(memory.base(), HEADER) };
    assert!(Sender::new(region).is_none());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 8 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Against a queue, across the end of the ring and of the indices.
    #[test]
    fn a_ring_is_a_bounded_queue(
        start in prop_oneof![Just(0_u32), Just(u32::MAX - 40), any::<u32>()],
        steps in prop::collection::vec((any::<bool>(), 0_usize..90), 1..60),
    ) {
        let memory = Memory::new();
        let (sender, _) = memory.ends();
        sender.ring.produced().unwrap().store(start, Ordering::SeqCst);
        sender.ring.consumed().unwrap().store(start, Ordering::SeqCst);
        let (mut sender, mut receiver) = memory.ends();
        let mut model = std::collections::VecDeque::new();
        let mut next = 0_u8;
        for (sends, count) in steps {
            if sends {
                let bytes: Vec<u8> = (0..count).map(|i| next.wrapping_add(i as u8)).collect();
                let sent = sender.send(&bytes).unwrap().bytes;
                prop_assert_eq!(sent, count.min(64 - model.len()));
                model.extend(&bytes[..sent]);
                next = next.wrapping_add(sent as u8);
            } else {
                let taken = receive(&mut receiver, count);
                let expected: Vec<u8> = model.drain(..count.min(model.len())).collect();
                prop_assert_eq!(taken, expected);
            }
        }
    }
}
