//! Spaces: created, entered, destroyed.

use core::sync::atomic::{AtomicU32, Ordering};

use functional_support::probe::{self, Access};
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::protocol::call::{Map, SpaceCreate, SpaceDestroy, SpaceSwitch, Translate, Unmap};
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::protocol::layout::{KERNEL_START, PAGE_SIZE, SLOT_SIZE};
use guest_sdk::space::Space;
use guest_sdk::{GuestVirt, SpaceId, Status, call};

use super::mapping::{MISSING, PAGE, frame};
use crate::case::{Fault, Outcome};
use crate::scene::{self, Fresh};
use crate::{ensure, ensure_eq, record};

crate::cases! {
    SpaceCreate "one kernel half for all" ["SPC-1"] [] kernel_half;
    SpaceCreate "as many as there may be" ["SPC-2"] [QuotaExceeded] too_many;
    SpaceCreate "with an empty pool" ["SPC-2"] [QuotaExceeded] empty_pool;
    SpaceDestroy "spaces that are in use" ["SPC-3"] [Busy] in_use;
    SpaceDestroy "in parts" ["SPC-4"] [Retry] in_parts;
    SpaceSwitch "the lower half" ["SPC-5"] [] lower_half;
}

/// A page of the kernel half in a top-level slot that nothing has used.
const UPPER: u64 = KERNEL_START + 16 * SLOT_SIZE;

fn switch(space: SpaceId) -> Result<(), Status> {
    record::make(SpaceSwitch { space })
}

fn word_of(frame: &Frame, value: u64) -> Outcome {
    ensure!(frame.write(0, &value.to_le_bytes()), "a frame could not be written");
    Ok(())
}

fn kernel_half() -> Outcome {
    probe::install()?;
    let frame = frame()?;
    word_of(&frame, 0x5eed)?;
    let before = Fresh::new()?;
    ensure_eq!(before.map(UPPER, frame.number(), 1, MapFlags::empty())?, 1, "pages mapped in the kernel half");
    let after = Fresh::new()?;
    for space in [SpaceId::FIRST, before.0, after.0] {
        switch(space)?;
        ensure_eq!(probe::read(UPPER), Access::Done(0x5eed), "the kernel half in space {space}");
    }
    record::make(Unmap { space: after.0, address: GuestVirt(UPPER), count: 1 })?;
    for space in [SpaceId::FIRST, before.0, after.0] {
        switch(space)?;
        ensure_eq!(probe::read(UPPER), Access::Fault(MISSING), "the kernel half in space {space}, unmapped");
    }
    Ok(())
}

fn too_many() -> Outcome {
    let mut spaces = alloc::vec::Vec::new();
    let refused = loop {
        match Fresh::new() {
            Ok(space) => spaces.push(space),
            Err(status) => break status,
        }
    };
    ensure_eq!(refused, Status::QuotaExceeded, "one space too many");
    ensure_eq!(spaces.len(), 63, "spaces beside the first");
    scene::refuse(SpaceCreate {}, Status::QuotaExceeded)
}

fn empty_pool() -> Outcome {
    let space = Fresh::new()?;
    space.drain_pool()?;
    scene::refuse(SpaceCreate {}, Status::QuotaExceeded)
}

static RELEASED: AtomicU32 = AtomicU32::new(0);

fn in_use() -> Outcome {
    scene::wait_stopped()?;
    let space = Space::new()?;
    let number = space.id();
    scene::refuse(SpaceDestroy { space: SpaceId::FIRST }, Status::Busy)?;
    space.make_current()?;
    scene::refuse(SpaceDestroy { space: number }, Status::Busy)?;
    RELEASED.store(0, Ordering::SeqCst);
    scene::second(|| while RELEASED.load(Ordering::SeqCst) == 0 {})?;
    // The second vCPU is in it still.
    switch(SpaceId::FIRST)?;
    let refused = scene::refuse(SpaceDestroy { space: number }, Status::Busy);
    RELEASED.store(1, Ordering::SeqCst);
    refused?;
    scene::wait_stopped()?;
    switch(number)?;
    switch(SpaceId::FIRST)?;
    Ok(())
}

fn in_parts() -> Outcome {
    let run = FrameRun::new(512, 1).ok_or_else(|| Fault("the suite has too little memory".into()))?;
    let space = Fresh::new()?;
    let number = space.0;
    for block in 0..16 {
        ensure_eq!(space.map(PAGE + (block << 30), run.first(), 512, MapFlags::empty())?, 512, "pages mapped");
    }
    ensure_eq!(record::make(SpaceDestroy { space: number }), Err(Status::Retry), "destroying a great space");
    for address in [PAGE, PAGE + (15 << 30)] {
        let address = GuestVirt(address);
        let flags = MapFlags::empty();
        let map = Map { space: number, address, frame: run.first(), count: 1, flags };
        ensure_eq!(record::make(map), Err(Status::NotFound), "map in a space that goes");
        let translated = record::make(Translate { space: number, address });
        ensure_eq!(translated, Err(Status::NotFound), "translate in a space that goes");
    }
    ensure_eq!(switch(number), Err(Status::NotFound), "switch to a space that goes");
    let mut parts = 1;
    while record::make(SpaceDestroy { space: number }) == Err(Status::Retry) {
        parts += 1;
        ensure!(parts < 1000, "it never ends");
    }
    ensure_eq!(record::make(SpaceDestroy { space: number }), Err(Status::NotFound), "destroying it again");
    // Once more from end to end, for the call's own success.
    let other = record::make(SpaceCreate {})?;
    Ok(record::make(SpaceDestroy { space: other })?)
}

fn lower_half() -> Outcome {
    probe::install()?;
    let frames = [frame()?, frame()?];
    let spaces = [Fresh::new()?, Fresh::new()?];
    for ((space, frame), value) in spaces.iter().zip(&frames).zip([0xaaaa, 0xbbbb]) {
        word_of(frame, value)?;
        space.map(PAGE, frame.number(), 1, MapFlags::WRITE)?;
    }
    for _ in 0..3 {
        for (space, value) in spaces.iter().zip([0xaaaa, 0xbbbb]) {
            switch(space.0)?;
            ensure_eq!(probe::read(PAGE), Access::Done(value), "the page in its space");
            ensure_eq!(probe::read(PAGE + PAGE_SIZE), Access::Fault(MISSING), "the page behind");
        }
        switch(SpaceId::FIRST)?;
        ensure_eq!(probe::read(PAGE), Access::Fault(MISSING), "the page in the first space");
    }
    let [first, _] = &spaces;
    switch(first.0)?;
    ensure_eq!(call::space_destroy(first.0), Err(Status::Busy), "it is the current one");
    Ok(())
}
