//! Mapping and spaces.

use functional_support::wild;
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Map, Protect, Unmap};
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::space::Space;
use guest_sdk::{SpaceId, Status, call};

use crate::meter::{measure, measure_between, report};

const PAGE: u64 = 0x4000_0000;

pub fn measure_all() -> Result<(), Status> {
    let run = FrameRun::new(512, 1).ok_or(Status::QuotaExceeded)?;
    let mut space = Space::new()?;
    // Keeps the tables of the range, as a kernel in use would have them.
    let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
    space.map(PAGE + 512 * 4096, frame, MapFlags::WRITE)?;
    let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
    space.map(PAGE + 4096, frame, MapFlags::WRITE)?;
    space.make_current()?;
    let number = u64::from(space.id().0);
    let first = run.first().0;
    let map = |address: u64, count: u64| {
        let _ = wild::call(Map::NUMBER, [number, address, first, count, MapFlags::WRITE.bits(), 0]);
    };
    let unmap = |address: u64, count: u64| {
        let _ = wild::call(Unmap::NUMBER, [number, address, count, 0, 0, 0]);
    };
    let protect = |flags: MapFlags| {
        let _ = wild::call(Protect::NUMBER, [number, PAGE, 1, flags.bits(), 0, 0]);
    };
    report("map-1", measure_between(|| (), |()| map(PAGE, 1), |()| unmap(PAGE, 1)));
    report("unmap-1", measure_between(|| map(PAGE, 1), |()| unmap(PAGE, 1), |()| ()));
    map(PAGE, 1);
    report("protect-1", measure_between(|| (), |()| protect(MapFlags::empty()), |()| protect(MapFlags::WRITE)));
    unmap(PAGE, 1);
    let many = PAGE + 1024 * 4096;
    map(many, 1);
    unmap(many, 1);
    report("map-512-per-page", measure_between(|| (), |()| map(many, 512), |()| unmap(many, 512)) / 512);
    report("unmap-512-per-page", measure_between(|| map(many, 512), |()| unmap(many, 512), |()| ()) / 512);
    let other = Space::new()?;
    let mut ids = [other.id(), space.id()].into_iter().cycle();
    report(
        "space-switch",
        measure(|| {
            let _ = call::space_switch(ids.next().unwrap_or(SpaceId::FIRST));
        }),
    );
    // The SDK goes by what it switched to itself.
    call::space_switch(space.id())
}
