//! One direction of a channel: a ring of bytes with one writer and one reader that do not trust
//! each other.
//!
//! The capacity is the greatest power of two that fits behind the header, so that indices that wrap
//! at 2^32 stay right.
//!
//! Who is about to sleep says so in its own word, then looks once more; who moves an index looks at
//! the other's word afterwards. With a full fence between store and load on both sides, at least one
//! of them sees the other.

use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering, fence};

use protocol::shared::RingHeader;

use crate::channel::ChannelError;
use crate::event::{self, Event};
use crate::raw::region::Region;

const HEADER: usize = size_of::<RingHeader>();

#[derive(Debug)]
struct Ring {
    region: Region,
    capacity: u32,
}

/// What one attempt did.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::channel) struct Moved {
    pub(in crate::channel) bytes: usize,
    /// The peer wants an event.
    pub(in crate::channel) peer_waits: bool,
}

impl Ring {
    fn new(region: Region) -> Option<Ring> {
        let room = region.len().checked_sub(HEADER)?;
        let capacity = u32::try_from(room).ok().filter(|room| *room > 0)?;
        let capacity = 1 << capacity.ilog2();
        let ring = Ring { region, capacity };
        ring.region.word(0)?;
        Some(ring)
    }

    /// A word of the header. The region is larger than the header and aligned, so there is one.
    fn word(&self, offset: usize) -> Result<&AtomicU32, ChannelError> {
        self.region.word(offset).ok_or(ChannelError::TooSmall)
    }

    fn produced(&self) -> Result<&AtomicU32, ChannelError> {
        self.word(offset_of!(RingHeader, produced))
    }

    fn consumed(&self) -> Result<&AtomicU32, ChannelError> {
        self.word(offset_of!(RingHeader, consumed))
    }

    fn sender_waits(&self) -> Result<&AtomicU32, ChannelError> {
        self.word(offset_of!(RingHeader, sender_waits))
    }

    fn receiver_waits(&self) -> Result<&AtomicU32, ChannelError> {
        self.word(offset_of!(RingHeader, receiver_waits))
    }

    /// Bytes in the ring, if the two indices can be.
    fn filled(&self, produced: u32, consumed: u32) -> Result<u32, ChannelError> {
        let filled = produced.wrapping_sub(consumed);
        if filled > self.capacity { Err(ChannelError::Broken) } else { Ok(filled) }
    }

    /// Where the byte of an index lies, and how many follow it before the ring's end.
    fn place(&self, index: u32) -> (usize, usize) {
        let offset = index & (self.capacity - 1);
        (HEADER + offset as usize, (self.capacity - offset) as usize)
    }
}

/// The end that writes.
#[derive(Debug)]
pub(in crate::channel) struct Sender {
    ring: Ring,
    produced: u32,
}

impl Sender {
    /// Goes on where the ring's own index stands: 0, or where a kernel before a restart stopped.
    pub(in crate::channel) fn new(region: Region) -> Option<Sender> {
        let ring = Ring::new(region)?;
        let produced = ring.produced().ok()?.load(Ordering::Relaxed);
        Some(Sender { ring, produced })
    }

    fn room(&self) -> Result<u32, ChannelError> {
        let consumed = self.ring.consumed()?.load(Ordering::Acquire);
        Ok(self.ring.capacity - self.ring.filled(self.produced, consumed)?)
    }

    pub(in crate::channel) fn send(&mut self, bytes: &[u8]) -> Result<Moved, ChannelError> {
        let count = bytes.len().min(self.room()? as usize);
        if count == 0 {
            return Ok(Moved { bytes: 0, peer_waits: false });
        }
        let (offset, until_end) = self.ring.place(self.produced);
        let (first, second) = bytes[..count].split_at(count.min(until_end));
        let written = self.ring.region.write(offset, first) && self.ring.region.write(HEADER, second);
        if !written {
            return Err(ChannelError::TooSmall);
        }
        self.produced = self.produced.wrapping_add(count as u32);
        self.ring.produced()?.store(self.produced, Ordering::Release);
        fence(Ordering::SeqCst);
        let peer_waits = self.ring.receiver_waits()?.load(Ordering::Relaxed) != 0;
        Ok(Moved { bytes: count, peer_waits })
    }

    /// Sleeps until there is room, or the ring is broken.
    pub(in crate::channel) fn wait_for_room(&self, event: &Event) -> Result<(), ChannelError> {
        wait(self.ring.sender_waits()?, event, || self.room())
    }
}

/// The end that reads.
#[derive(Debug)]
pub(in crate::channel) struct Receiver {
    ring: Ring,
    consumed: u32,
}

impl Receiver {
    /// Goes on where the ring's own index stands, as [`Sender::new`].
    pub(in crate::channel) fn new(region: Region) -> Option<Receiver> {
        let ring = Ring::new(region)?;
        let consumed = ring.consumed().ok()?.load(Ordering::Relaxed);
        Some(Receiver { ring, consumed })
    }

    fn available(&self) -> Result<u32, ChannelError> {
        let produced = self.ring.produced()?.load(Ordering::Acquire);
        self.ring.filled(produced, self.consumed)
    }

    pub(in crate::channel) fn receive(&mut self, bytes: &mut [u8]) -> Result<Moved, ChannelError> {
        let count = bytes.len().min(self.available()? as usize);
        if count == 0 {
            return Ok(Moved { bytes: 0, peer_waits: false });
        }
        let (offset, until_end) = self.ring.place(self.consumed);
        let (first, second) = bytes[..count].split_at_mut(count.min(until_end));
        let read = self.ring.region.read(offset, first) && self.ring.region.read(HEADER, second);
        if !read {
            return Err(ChannelError::TooSmall);
        }
        self.consumed = self.consumed.wrapping_add(count as u32);
        self.ring.consumed()?.store(self.consumed, Ordering::Release);
        fence(Ordering::SeqCst);
        let peer_waits = self.ring.sender_waits()?.load(Ordering::Relaxed) != 0;
        Ok(Moved { bytes: count, peer_waits })
    }

    /// Sleeps until there are bytes, or the ring is broken.
    pub(in crate::channel) fn wait_for_bytes(&self, event: &Event) -> Result<(), ChannelError> {
        wait(self.ring.receiver_waits()?, event, || self.available())
    }
}

/// Sleeps until `amount` is not 0 or is an error, having said so in `waits`.
fn wait(waits: &AtomicU32, event: &Event, amount: impl Fn() -> Result<u32, ChannelError>) -> Result<(), ChannelError> {
    let mut result = Ok(0);
    waits.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    event::wait_until(|| {
        event.take();
        result = amount();
        result != Ok(0)
    });
    waits.store(0, Ordering::Relaxed);
    result.map(|_| ())
}

#[cfg(test)]
mod tests;
