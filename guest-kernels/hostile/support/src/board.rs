//! A channel's region as numbered words, which outlive either VM: they stay when one is built again.

use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::event::Event;
use guest_sdk::protocol::flags::EventSource;
use guest_sdk::start::text;
use guest_sdk::{Nanos, StartInfo, Status, VmId, time};

/// Words of the board between attacker and neighbour.
pub mod word {
    /// Counts up while the neighbour lives. Written by it.
    pub const HEARTBEAT: usize = 0;
    /// Where in its list the attacker is. Written by the attacker.
    pub const PROGRESS: usize = 1;
    /// How often the attacker asked for a check.
    pub const ASKED: usize = 2;
    /// Which of these the neighbour answered last.
    pub const ANSWERED: usize = 3;
    /// Words that the neighbour found changed so far.
    pub const CHANGED: usize = 4;
    /// Not 0 when the attacker is through.
    pub const DONE: usize = 5;
    /// Lives of the attacker so far.
    pub const LIVES: usize = 6;
    /// Free for attacks: what one life tells the next.
    pub const NOTES: usize = 16;
}

/// Words of the board between attacker and accomplice.
pub mod order {
    /// Number of the order. Written by the attacker, last.
    pub const ASKED: usize = 0;
    /// The order that was done last. Written by the accomplice, last.
    pub const ANSWERED: usize = 1;
    /// What is to be done: one of the kinds.
    pub const KIND: usize = 2;
    /// Call number or address, then arguments or value.
    pub const FIRST: usize = 3;
    /// rax of the call, or the value read.
    pub const RESULT: usize = 10;
    /// rdx of the call, or the error code of the fault plus one.
    pub const SECOND: usize = 11;
    /// Lives of the accomplice so far.
    pub const LIVES: usize = 12;

    /// Make a call.
    pub const CALL: u64 = 1;
    /// Read a word.
    pub const READ: u64 = 2;
    /// Write a word.
    pub const WRITE: u64 = 3;
    /// Die.
    pub const DIE: u64 = 4;
    /// End well.
    pub const END: u64 = 5;
    /// Write a word again and again in the background, until the next order.
    pub const KEEP_WRITING: u64 = 6;
}

/// The region and the event of a channel.
#[derive(Debug)]
pub struct Board {
    words: &'static [AtomicU64],
    event: Event,
    /// The VM at the other end.
    pub peer: VmId,
    /// Index of the channel.
    pub channel: u64,
}

impl Board {
    /// Opens the board on a channel.
    ///
    /// # Errors
    /// [`Status::NotFound`] without such a channel, or those of `event_bind`.
    pub fn open(name: &str) -> Result<Board, Status> {
        let mut ends = StartInfo::of_this_vm().channels().iter().zip(0..);
        let (end, channel) = ends.find(|(end, _)| text(&end.name) == name).ok_or(Status::NotFound)?;
        let event = Event::bound(EventSource::Channel, channel)?;
        let start = core::ptr::with_exposed_provenance::<AtomicU64>(end.address as usize);
        let words = end.frames as usize * 512;
        // SAFETY: the hypervisor maps the region for the whole life of the VM, and it is used as
        // atomics only, at both ends.
        let words = unsafe { core::slice::from_raw_parts(start, words) };
        Ok(Board { words, event, peer: VmId(end.peer), channel })
    }

    /// A word's value.
    #[must_use]
    pub fn get(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    /// Changes a word.
    pub fn set(&self, word: usize, value: u64) {
        if let Some(word) = self.words.get(word) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// Adds one to a word; returns its new value.
    pub fn count(&self, word: usize) -> u64 {
        self.words.get(word).map_or(0, |word| word.fetch_add(1, Ordering::SeqCst).wrapping_add(1))
    }

    /// Has the other end look.
    pub fn ring(&self) {
        // An end that is not there at the moment looks when it comes back.
        let _ = self.event.send();
    }

    /// Sleeps until the other end rings, at most so long.
    pub fn wait(&self, span: Nanos) {
        self.event.wait_deadline(Nanos(time::now().0.saturating_add(span.0)));
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }
}
