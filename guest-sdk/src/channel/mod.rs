//! Channels: bytes in order to and from another VM.
//!
//! Each side writes a ring of its own in the shared region. The peer is not trusted: it can change
//! the region at any time. Indices of one's own are kept privately and the peer's are checked, so
//! that the worst it can do is to send wrong bytes or to break the channel.
//!
//! ```no_run
//! use guest_sdk::channel::Channel;
//!
//! let mut link = Channel::open("link").unwrap();
//! link.send(b"hello").unwrap();
//! let mut answer = [0; 5];
//! link.receive_exact(&mut answer).unwrap();
//! ```

mod ring;

use core::fmt;

use protocol::Status;
use protocol::flags::EventSource;
use protocol::shared::ChannelInfo;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::event::Event;
use crate::raw::channel::regions;
use crate::start::{StartInfo, text};

use ring::{Receiver, Sender};

/// Why a channel does not do what it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelError {
    /// The VM has no channel of this name.
    NoSuchChannel,
    /// The region is too small for two rings.
    TooSmall,
    /// The peer wrote an index that cannot be: nothing in the rings can be relied on.
    Broken,
    /// The hypervisor refused a call.
    Refused(Status),
}

impl fmt::Display for ChannelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChannelError::NoSuchChannel => f.write_str("the VM has no channel of this name"),
            ChannelError::TooSmall => f.write_str("the channel's region is too small"),
            ChannelError::Broken => f.write_str("the peer broke the channel"),
            ChannelError::Refused(status) => write!(f, "refused: {status}"),
        }
    }
}

impl core::error::Error for ChannelError {}

impl From<Status> for ChannelError {
    fn from(status: Status) -> Self {
        ChannelError::Refused(status)
    }
}

/// One end of a channel. Its events come to the vCPU that opened it; only that one may wait.
#[derive(Debug)]
pub struct Channel {
    event: Event,
    sender: Sender,
    receiver: Receiver,
}

impl Channel {
    /// Opens the channel of a name.
    ///
    /// # Errors
    /// [`ChannelError::NoSuchChannel`]; [`ChannelError::Refused`] with `Busy` when it is open.
    pub fn open(name: &str) -> Result<Channel, ChannelError> {
        let channels = StartInfo::of_this_vm().channels();
        let (index, info) = channels
            .iter()
            .enumerate()
            .find(|(_, info)| text(&info.name) == name)
            .ok_or(ChannelError::NoSuchChannel)?;
        Channel::open_end(index as u64, info)
    }

    /// The event of a one-way channel: its sender can only [`Event::send`], and learns nothing by it;
    /// its receiver can only wait.
    ///
    /// # Errors
    /// As [`Channel::open`].
    pub fn open_one_way(name: &str) -> Result<Event, ChannelError> {
        let mut channels = StartInfo::of_this_vm().channels().iter().zip(0..);
        let found = channels.find(|(info, _)| info.frames == 0 && text(&info.name) == name);
        let (_, index) = found.ok_or(ChannelError::NoSuchChannel)?;
        Ok(Event::bound(EventSource::Channel, index)?)
    }

    fn open_end(index: u64, info: &'static ChannelInfo) -> Result<Channel, ChannelError> {
        let event = Event::bound(EventSource::Channel, index)?;
        let (own, peer) = regions(info).ok_or(ChannelError::TooSmall)?;
        let sender = Sender::new(own).ok_or(ChannelError::TooSmall)?;
        let receiver = Receiver::new(peer).ok_or(ChannelError::TooSmall)?;
        Ok(Channel { event, sender, receiver })
    }

    /// The event that the peer sends, for code that waits for several things.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Sends as many bytes as there is room for; returns how many.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<usize, ChannelError> {
        let sent = self.sender.send(bytes)?;
        if sent.peer_waits {
            self.event.send()?;
        }
        Ok(sent.bytes)
    }

    /// Takes bytes that are there; returns how many.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn try_receive(&mut self, bytes: &mut [u8]) -> Result<usize, ChannelError> {
        let taken = self.receiver.receive(bytes)?;
        if taken.peer_waits {
            self.event.send()?;
        }
        Ok(taken.bytes)
    }

    /// Sends all bytes, waiting for room.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), ChannelError> {
        loop {
            let sent = self.try_send(bytes)?;
            bytes = bytes.get(sent..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(());
            }
            self.sender.wait_for_room(&self.event)?;
        }
    }

    /// Takes at least one byte (unless `bytes` is empty), waiting for it; returns how many.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn receive(&mut self, bytes: &mut [u8]) -> Result<usize, ChannelError> {
        loop {
            let taken = self.try_receive(bytes)?;
            if taken > 0 || bytes.is_empty() {
                return Ok(taken);
            }
            self.receiver.wait_for_bytes(&self.event)?;
        }
    }

    /// Fills `bytes`, waiting for it.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn receive_exact(&mut self, mut bytes: &mut [u8]) -> Result<(), ChannelError> {
        while !bytes.is_empty() {
            let taken = self.receive(bytes)?;
            bytes = bytes.get_mut(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends one value of a type with a fixed layout.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn send_value<T: IntoBytes + Immutable>(&mut self, value: &T) -> Result<(), ChannelError> {
        self.send(value.as_bytes())
    }

    /// Receives one value of a type with a fixed layout.
    ///
    /// # Errors
    /// [`ChannelError::Broken`].
    pub fn receive_value<T: FromBytes + IntoBytes>(&mut self) -> Result<T, ChannelError> {
        let mut value = T::new_zeroed();
        self.receive_exact(value.as_mut_bytes())?;
        Ok(value)
    }
}
