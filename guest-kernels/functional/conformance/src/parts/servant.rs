//! The VM that shares frames with the suite as it is asked to.

use alloc::vec::Vec;

use functional_support::probe::{self, Access};
use guest_sdk::event::Event;
use guest_sdk::frame::Frame;
use guest_sdk::grant::{self, Grant, MappedGrant};
use guest_sdk::protocol::flags::{EventSource, GrantFlags, MapFlags};
use guest_sdk::protocol::shared::AuditRecord;
use guest_sdk::space::Space;
use guest_sdk::{GrantRef, GuestVirt, Status, VmId, call};

use super::QUIT;
use crate::board::{Board, Request};

/// Grants a fresh frame: to which VM, whether for writing. Answers the grant.
pub const GRANT: u32 = 1;
/// Revokes a grant of its own.
pub const REVOKE: u32 = 2;
/// Reads the word at an offset of a frame that it granted.
pub const READ_OWN: u32 = 3;
/// Maps a grant of the suite's: which, whether for writing.
pub const MAP: u32 = 4;
/// Reads the first word of what it mapped; `BadAddress` when that faults.
pub const READ: u32 = 5;
/// Writes that word.
pub const WRITE: u32 = 6;
/// Takes out what it mapped.
pub const UNMAP: u32 = 7;
/// Copies the first word out of a grant of the suite's.
pub const COPY: u32 = 8;
/// Binds its end of the channel to a port.
pub const BIND: u32 = 9;
/// Whether that port was pending since this was asked last.
pub const TAKE: u32 = 10;
/// Closes that port.
pub const UNBIND: u32 = 11;
/// Sets a debug register (not 0) or reads it (0): which, and its value.
pub const DEBUG: u32 = 12;
/// Reads the audit log: how many records.
pub const AUDIT: u32 = 13;

/// What each frame that it grants holds in each word.
pub const PATTERN: u32 = 0x1234_5678;
/// Where it maps.
const PAGE: u64 = 0x40_0000;

struct Servant<'a> {
    board: &'a Board,
    space: Space,
    granted: Vec<Grant>,
    mapped: Option<MappedGrant>,
    bound: Option<Event>,
}

/// Does what is asked until told to end.
pub fn serve(board: &Board) {
    let (Ok(space), Ok(())) = (Space::new(), probe::install()) else {
        return;
    };
    let _ = space.make_current();
    let mut servant = Servant { board, space, granted: Vec::new(), mapped: None, bound: None };
    board.serve(|request| (request.operation != QUIT).then(|| servant.answer(request)));
}

impl Servant<'_> {
    fn answer(&mut self, request: Request) -> Result<u32, Status> {
        let [first, second, third, _] = request.arguments;
        let suite = self.board.peer;
        match request.operation {
            GRANT => self.grant(VmId(first), second != 0),
            REVOKE => {
                let place = self.place(first)?;
                drop(self.granted.remove(place));
                Ok(0)
            }
            READ_OWN => {
                let mut word = [0; 4];
                let place = self.place(first)?;
                let is_read =
                    self.granted.get(place).is_some_and(|grant| grant.frame().read(second as usize, &mut word));
                if is_read { Ok(u32::from_le_bytes(word)) } else { Err(Status::InvalidArgument) }
            }
            MAP => {
                let flags = if second == 0 { MapFlags::empty() } else { MapFlags::WRITE };
                let mapped = MappedGrant::new(suite, GrantRef(first), self.space.id(), GuestVirt(PAGE), flags)?;
                self.mapped = Some(mapped);
                Ok(0)
            }
            READ => access(probe::read(PAGE)),
            WRITE => access(probe::write(PAGE, u64::from(first))),
            UNMAP => {
                self.mapped = None;
                Ok(0)
            }
            COPY => {
                let mut word = [0; 4];
                grant::copy_from(suite, GrantRef(first), 0, &mut word)?;
                Ok(u32::from_le_bytes(word))
            }
            BIND => {
                self.bound = Some(Event::bound(EventSource::Channel, self.board.channel)?);
                Ok(0)
            }
            TAKE => {
                guest_sdk::event::dispatch();
                Ok(u32::from(self.bound.as_ref().is_some_and(Event::take)))
            }
            UNBIND => {
                self.bound = None;
                Ok(0)
            }
            DEBUG => {
                let (index, value) = (u64::from(second), u64::from(third));
                let read = || call::debug_register_get(index).map(|_| 0);
                if first == 0 { read() } else { call::debug_register_set(index, value).map(|()| 0) }
            }
            AUDIT => {
                let mut records = [AuditRecord::default(); 33];
                let count = (first as usize).min(records.len());
                call::audit_read(records.get_mut(..count).unwrap_or_default()).map(|read| read as u32)
            }
            _ => Err(Status::UnknownCall),
        }
    }

    fn grant(&mut self, peer: VmId, is_writable: bool) -> Result<u32, Status> {
        let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
        for offset in (0..4096).step_by(4) {
            let _ = frame.write(offset, &PATTERN.to_le_bytes());
        }
        let flags = if is_writable { GrantFlags::WRITE } else { GrantFlags::empty() };
        let grant = Grant::new(peer, frame, flags)?;
        let number = grant.reference().0;
        self.granted.push(grant);
        Ok(number)
    }

    fn place(&self, grant: u32) -> Result<usize, Status> {
        self.granted.iter().position(|own| own.reference().0 == grant).ok_or(Status::NotFound)
    }
}

fn access(access: Access) -> Result<u32, Status> {
    match access {
        Access::Done(value) => Ok(value as u32),
        Access::Fault(_) | Access::FaultElsewhere(_) => Err(Status::BadAddress),
    }
}
