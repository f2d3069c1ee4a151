//! The owner's side.

use functional_support::grants::{CHANNEL, READ_PATTERN, READY_TO_READ, READY_TO_WRITE, REVOKED, USED, WRITE_PATTERN};
use functional_support::wild;
use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::frame::Frame;
use guest_sdk::grant::Grant;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{FrameRelease, GrantCreate};
use guest_sdk::protocol::flags::GrantFlags;
use guest_sdk::protocol::layout::{CHANNEL_FRAMES, TIME_PAGE_FRAME};
use guest_sdk::{GrantRef, StartInfo, Status, VmId, call, check, check_eq, verdict};

pub fn main(start: &'static StartInfo) {
    let Some(channel) = start.channels().first() else {
        verdict::fail(format_args!("no channel"));
    };
    let peer = VmId(channel.peer);
    check_refusals(start, peer);
    match share(peer) {
        Ok(()) => verdict::pass(),
        Err(error) => verdict::fail(format_args!("{error}")),
    }
}

fn check_refusals(start: &StartInfo, peer: VmId) {
    let free = start.first_free_frame;
    let create =
        |peer: u32, frame: u64, flags: u64| wild::call(GrantCreate::NUMBER, [u64::from(peer), frame, flags, 0, 0, 0]);
    check_eq!(create(start.vm, free, 0), Err(Status::NotPermitted), "grant to itself");
    check_eq!(create(63, free, 0), Err(Status::NotPermitted), "grant to nobody");
    check_eq!(create(u32::MAX, free, 0), Err(Status::NotPermitted), "grant to no VM");
    check_eq!(create(peer.0, free, 2), Err(Status::InvalidArgument), "unknown flags");
    for frame in [start.memory_frames, TIME_PAGE_FRAME.0, CHANNEL_FRAMES.0, u64::MAX] {
        check_eq!(create(peer.0, frame, 0), Err(Status::InvalidArgument), "frame {frame:#x}");
    }
    for grant in [0, 255, 256, u32::MAX] {
        let revoked = call::grant_revoke(GrantRef(grant));
        check_eq!(revoked, Err(Status::NotFound), "revoke grant {grant} that is not there");
    }
}

fn share(peer: VmId) -> Result<(), ChannelError> {
    let mut control = Channel::open(CHANNEL)?;
    let readable = grant(peer, GrantFlags::empty())?;
    let writable = grant(peer, GrantFlags::WRITE)?;
    for offset in (0..4096).step_by(8) {
        check!(readable.frame().write(offset, &READ_PATTERN.to_le_bytes()), "fill");
    }
    let release = [readable.frame().number().0, 1, 0, 0, 0, 0];
    check_eq!(wild::call(FrameRelease::NUMBER, release), Err(Status::Busy), "release while granted");

    control.send_value(&[READY_TO_READ, u64::from(readable.reference().0)])?;
    check_eq!(control.receive_value::<u64>()?, USED, "answer");
    control.send_value(&[READY_TO_WRITE, u64::from(writable.reference().0)])?;
    check_eq!(control.receive_value::<u64>()?, USED, "answer");

    let mut word = [0; 8];
    check!(readable.frame().read(4088, &mut word), "read");
    check_eq!(u64::from_le_bytes(word), READ_PATTERN, "the frame for reading, afterwards");
    for offset in [8, 4088] {
        check!(writable.frame().read(offset, &mut word), "read");
        check_eq!(u64::from_le_bytes(word), WRITE_PATTERN, "what the peer wrote at {offset}");
    }
    drop(readable);
    drop(writable);
    control.send_value(&[REVOKED, 0])?;
    check_eq!(control.receive_value::<u64>()?, USED, "answer");
    Ok(())
}

fn grant(peer: VmId, flags: GrantFlags) -> Result<Grant, ChannelError> {
    let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
    Ok(Grant::new(peer, frame, flags)?)
}
