//! Tries everything. The command line names all VMs in order; a channel `x-y` is one-way from x to
//! y, a channel `x_y` goes both ways.

extern crate alloc;

use alloc::format;
use alloc::vec::Vec;

use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::frame::Frame;
use guest_sdk::grant::{self, Grant, MappedGrant};
use guest_sdk::protocol::flags::{GrantFlags, MapFlags};
use guest_sdk::space::Space;
use guest_sdk::{GrantRef, GuestVirt, Nanos, StartInfo, Status, VmId, println, time, verdict};

const PAGE: GuestVirt = GuestVirt(0x40_0000);
/// Grants that one VM gives at most: two to each other. Their references are counted from 0.
const GRANTS: u32 = 16;
/// How long the others get to make their grants.
const PATIENCE: Nanos = Nanos(2_000_000_000);
const PAUSE: Nanos = Nanos(20_000_000);

/// The operations on frames of others, by name.
const USES: [&str; 4] = ["grant-map-read", "grant-map-write", "grant-copy-from", "grant-copy-to"];

pub fn main(start: &'static StartInfo) {
    if let Err(error) = try_all(start) {
        verdict::fail(format_args!("{error}"));
    }
    // The others may still use what was granted.
    loop {
        time::sleep(PATIENCE);
    }
}

fn cell(start: &StartInfo, object: &str, operation: &str, allowed: bool) {
    let word = if allowed { "allowed" } else { "refused" };
    println!("{} -> {object}, {operation}: {word}", start.name());
}

/// Whether a call was allowed; anything but a refusal by the policy is a failure of the test.
fn allowed<T>(result: Result<T, Status>) -> Result<bool, Status> {
    match result {
        Ok(_) => Ok(true),
        Err(Status::NotPermitted) => Ok(false),
        Err(other) => Err(other),
    }
}

fn try_all(start: &'static StartInfo) -> Result<(), ChannelError> {
    let names: Vec<&str> = start.command_line().split(' ').collect();
    let others =
        || names.iter().zip(0..).filter(|(name, _)| **name != start.name()).map(|(name, vm)| (*name, VmId(vm)));
    let mut given = Vec::new();
    for (name, peer) in others() {
        for (operation, flags) in
            [("grant-create-read", GrantFlags::empty()), ("grant-create-write", GrantFlags::WRITE)]
        {
            let granted = Grant::new(peer, Frame::new().ok_or(Status::QuotaExceeded)?, flags);
            let is_allowed = granted.is_ok();
            if let Err(status) = granted.map(|grant| given.push(grant)) {
                allowed::<()>(Err(status))?;
            }
            cell(start, name, operation, is_allowed);
        }
    }
    for (name, _) in others() {
        cell(start, name, "channel-use", use_channel(start.name(), name)?);
        cell(start, name, "event-send", send_event(start.name(), name)?);
    }
    // What one does to oneself is printed by being able to print, by having a heap and by a sleep.
    for operation in ["memory-use", "console-write", "time-read"] {
        cell(start, start.name(), operation, true);
    }
    let space = Space::new()?;
    space.make_current()?;
    let mut open: Vec<(&str, VmId, &str)> =
        others().flat_map(|(name, vm)| USES.map(|operation| (name, vm, operation))).collect();
    let end = Nanos(time::now().0 + PATIENCE.0);
    while !open.is_empty() && time::now() < end {
        let mut left = Vec::new();
        for (name, vm, operation) in open {
            if use_grants(&space, vm, operation)? {
                cell(start, name, operation, true);
            } else {
                left.push((name, vm, operation));
            }
        }
        open = left;
        time::sleep(PAUSE);
    }
    for (name, _, operation) in open {
        cell(start, name, operation, false);
    }
    println!("DONE");
    // Until the end of the machine.
    core::mem::forget(given);
    Ok(())
}

/// Whether any grant of a VM can be used so.
fn use_grants(space: &Space, owner: VmId, operation: &str) -> Result<bool, Status> {
    for number in 0..GRANTS {
        let grant = GrantRef(number);
        let mut byte = [0];
        let used = match operation {
            "grant-map-read" => MappedGrant::new(owner, grant, space.id(), PAGE, MapFlags::empty()).map(drop),
            "grant-map-write" => MappedGrant::new(owner, grant, space.id(), PAGE, MapFlags::WRITE).map(drop),
            "grant-copy-from" => grant::copy_from(owner, grant, 0, &mut byte),
            _ => grant::copy_to(owner, grant, 0, &byte),
        };
        if allowed(used)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is a channel both ways, and bytes can be written into it.
fn use_channel(own: &str, other: &str) -> Result<bool, ChannelError> {
    for name in [format!("{own}_{other}"), format!("{other}_{own}")] {
        match Channel::open(&name) {
            Ok(mut channel) => return Ok(channel.try_send(b"x")? == 1),
            Err(ChannelError::NoSuchChannel) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Whether an event can be sent: over a channel that leads there, both ways or one way, or against
/// one that leads here.
fn send_event(own: &str, other: &str) -> Result<bool, ChannelError> {
    for name in [format!("{own}_{other}"), format!("{other}_{own}")] {
        match Channel::open(&name) {
            Ok(channel) => return Ok(allowed(channel.event().send())?),
            Err(ChannelError::NoSuchChannel) => {}
            Err(error) => return Err(error),
        }
    }
    for name in [format!("{own}-{other}"), format!("{other}-{own}")] {
        match Channel::open_one_way(&name) {
            Ok(event) => return Ok(allowed(event.send())?),
            Err(ChannelError::NoSuchChannel) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}
