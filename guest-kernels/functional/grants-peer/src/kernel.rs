//! The peer's side.

use functional_support::grants::{CHANNEL, READ_PATTERN, READY_TO_READ, READY_TO_WRITE, REVOKED, USED, WRITE_PATTERN};
use functional_support::probe::{self, Access};
use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::grant::{self, MappedGrant};
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::space::Space;
use guest_sdk::{GrantRef, GuestVirt, StartInfo, Status, VmId, check_eq, verdict};

const PAGE: u64 = 0x40_0000;
const OTHER: u64 = 0x50_0000;

pub fn main(start: &'static StartInfo) {
    let Some(channel) = start.channels().first() else {
        verdict::fail(format_args!("no channel"));
    };
    match use_grants(VmId(channel.peer)) {
        Ok(()) => verdict::pass(),
        Err(error) => verdict::fail(format_args!("{error}")),
    }
}

fn use_grants(owner: VmId) -> Result<(), ChannelError> {
    probe::install()?;
    let mut control = Channel::open(CHANNEL)?;
    let space = Space::new()?;
    space.make_current()?;
    let map = |grant: GrantRef, page: u64, flags: MapFlags| {
        MappedGrant::new(owner, grant, space.id(), GuestVirt(page), flags)
    };

    let [step, number] = control.receive_value::<[u64; 2]>()?;
    check_eq!(step, READY_TO_READ, "step");
    let readable = GrantRef(number as u32);
    check_eq!(map(readable, PAGE, MapFlags::WRITE).err(), Some(Status::NotPermitted), "map to write");
    for flags in [MapFlags::EXECUTE, MapFlags::LARGE] {
        check_eq!(map(readable, PAGE, flags).err(), Some(Status::InvalidArgument), "map {flags:?}");
    }
    let unknown = GrantRef(number as u32 + 100);
    check_eq!(map(unknown, PAGE, MapFlags::empty()).err(), Some(Status::NotPermitted), "no grant");
    let mapped = map(readable, PAGE, MapFlags::empty())?;
    check_eq!(map(readable, OTHER, MapFlags::empty()).err(), Some(Status::Busy), "map twice");
    check_eq!(probe::read(PAGE + 4088), Access::Done(READ_PATTERN), "read");
    check_eq!(probe::write(PAGE, 0), Access::Fault(7), "write to a grant for reading");
    let mut bytes = [0; 16];
    grant::copy_from(owner, readable, 4080, &mut bytes)?;
    check_eq!(u128::from_le_bytes(bytes) as u64, READ_PATTERN, "copied word");
    let beyond = grant::copy_from(owner, readable, 4081, &mut bytes);
    check_eq!(beyond, Err(Status::InvalidArgument), "copy beyond the frame");
    let written = grant::copy_to(owner, readable, 0, &bytes);
    check_eq!(written, Err(Status::NotPermitted), "copy to a grant for reading");
    drop(mapped);
    check_eq!(probe::read(PAGE), Access::Fault(4), "read after unmap");
    let kept = map(readable, OTHER, MapFlags::empty())?;
    control.send_value(&USED)?;

    let [step, number] = control.receive_value::<[u64; 2]>()?;
    check_eq!(step, READY_TO_WRITE, "step");
    let writable = GrantRef(number as u32);
    let mapped = map(writable, PAGE, MapFlags::WRITE)?;
    check_eq!(probe::write(PAGE + 8, WRITE_PATTERN), Access::Done(0), "write");
    grant::copy_to(owner, writable, 4088, &WRITE_PATTERN.to_le_bytes())?;
    check_eq!(probe::read(PAGE + 4088), Access::Done(WRITE_PATTERN), "what was copied");
    control.send_value(&USED)?;

    let [step, _] = control.receive_value::<[u64; 2]>()?;
    check_eq!(step, REVOKED, "step");
    check_eq!(probe::read(PAGE), Access::Fault(4), "read of a revoked page");
    check_eq!(probe::read(OTHER), Access::Fault(4), "read of the other revoked page");
    for grant in [readable, writable] {
        let copied = grant::copy_from(owner, grant, 0, &mut bytes);
        check_eq!(copied, Err(Status::NotPermitted), "copy from a revoked grant");
        let again = map(grant, PAGE, MapFlags::empty()).err();
        check_eq!(again, Some(Status::NotPermitted), "map a revoked grant");
    }
    drop(mapped);
    drop(kept);
    control.send_value(&USED)?;
    Ok(())
}
