//! Attacks on grants, channels, policy and life cycle.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{
    Batch, FrameReclaim, FrameRelease, GrantCopy, GrantCreate, GrantMap, GrantRevoke, GrantUnmap, Info, SpaceCreate,
    SpaceDestroy, Translate, VcpuStart,
};
use guest_sdk::protocol::flags::{GrantFlags, MapFlags};
use guest_sdk::protocol::layout::{CHANNEL_FRAMES, HYPERVISOR_START, LOWER_END, PHYSMAP, TIME_PAGE_FRAME};
use guest_sdk::protocol::shared::BatchEntry;
use guest_sdk::{Gfn, GrantRef, GuestVirt, Nanos, Port, Status, VmId, call, print, time};
use hostile_support::board::word;
use hostile_support::wild::{self, go};

use crate::workers::race;
use crate::world::{
    Case, FIRST, ONES, OTHER, Outcome, PLACE, READ, VCPU, WRITE, World, buffer, buffer_address, case, death, map,
    set_buffer, unmap,
};
use crate::{hold, same};

/// The cases of this group.
pub const CASES: &[Case] = &[
    case("GR-01", table_filled_again_and_again),
    case("GR-02", references_of_nothing),
    case("GR-03", orders_of_undoing),
    case("GR-04", granted_pages_by_ordinary_calls),
    case("GR-05", revoked_under_a_writer),
    case("GR-06", misaligned),
    case("GR-07", mapped_and_revoked_at_once),
    case("GR-08", copied_and_mapped),
    case("GR-09", passed_on),
    case("GR-10", released_while_shared),
    case("GR-11", special_owners),
    case("GR-12", one_frame_many_grants),
    case("GR-13", revoked_in_between),
    case("GR-14", frames_of_other_kinds),
    case("GR-15", granter_dies),
    case("GR-16", bounds_of_a_copy),
    case("GR-17", more_than_was_granted),
    case("GR-18", full_table),
    case("GR-19", onto_a_page_in_use),
    case("RC-08", after_the_end),
    case("PR-06", both_ways_at_once),
    case("PO-02", refused_before_anything_is_done),
    case("PO-06", lines_of_somebody_else),
    case("PO-08", what_a_refusal_tells),
    case("IO-07", objects_of_others),
    case("IO-08", a_flood_of_refusals),
    case("LC-04", many_lives),
    death("LC-01", die_without_a_word, "HV-VM-003"),
    case("LC-03", names_of_an_earlier_life),
    death("LC-02", die_in_the_middle, "HV-VM-003"),
    death("LC-05", die_while_others_start, "HV-VM-003"),
];

fn text(status: Status) -> String {
    format!("{status}")
}

fn create(peer: VmId, frame: u64, flags: GrantFlags) -> Result<GrantRef, Status> {
    go(GrantCreate { peer, frame: Gfn(frame), flags })
}

fn release(frame: u64, count: u64) -> Result<u64, Status> {
    go(FrameRelease { frame: Gfn(frame), count })
}

fn reclaim(frame: u64, count: u64) -> Result<u64, Status> {
    go(FrameReclaim { frame: Gfn(frame), count })
}

const NO: Result<u64, Status> = Err(Status::NotPermitted);

impl World {
    /// A grant of a loose frame to the accomplice.
    fn give(&self, offset: u64, flags: GrantFlags) -> Result<GrantRef, String> {
        create(self.accomplice.vm, self.loose + offset, flags).map_err(text)
    }

    /// Has the accomplice map a grant of ours.
    fn theirs(&self, grant: GrantRef, address: u64, flags: u64) -> Result<u64, Status> {
        let arguments = [u64::from(self.start.vm), u64::from(grant.0), 0, address, flags, 0];
        self.accomplice.call(GrantMap::NUMBER, arguments)
    }

    /// Has it take it out.
    fn theirs_out(&self, grant: GrantRef) -> Result<u64, Status> {
        self.accomplice.call(GrantUnmap::NUMBER, [u64::from(self.start.vm), u64::from(grant.0), 0, 0, 0, 0])
    }

    /// Has the accomplice grant us a frame of its own, well inside its free memory.
    fn take(&self, flags: GrantFlags) -> Result<GrantRef, String> {
        let arguments = [u64::from(self.start.vm), 1500, flags.bits(), 0, 0, 0];
        let grant = self.accomplice.call(GrantCreate::NUMBER, arguments).map_err(text)?;
        Ok(GrantRef(grant as u32))
    }

    fn map_of(&self, grant: GrantRef, address: u64, flags: MapFlags) -> Result<u64, Status> {
        go(GrantMap { owner: self.accomplice.vm, grant, space: FIRST, address: GuestVirt(address), flags }).map(|()| 0)
    }

    fn unmap_of(&self, grant: GrantRef) -> Result<u64, Status> {
        go(GrantUnmap { owner: self.accomplice.vm, grant }).map(|()| 0)
    }

    fn copy_of(&self, grant: GrantRef, offset: u64, buffer: u64, length: u64, direction: u64) -> Result<u64, Status> {
        let owner = u64::from(self.accomplice.vm.0);
        wild::call(GrantCopy::NUMBER, [owner, u64::from(grant.0), offset, buffer, length, direction])
    }

    fn give_back(&self, grant: GrantRef) -> Result<u64, Status> {
        self.accomplice.call(GrantRevoke::NUMBER, [u64::from(grant.0), 0, 0, 0, 0, 0])
    }
}

fn table_filled_again_and_again(w: &mut World) -> Outcome {
    let mut old = Vec::new();
    for round in 0..3 {
        let mut grants = Vec::new();
        while let Ok(grant) = create(w.accomplice.vm, w.loose, GrantFlags::empty()) {
            hold!(!old.contains(&grant), "grant {grant:?} was used in round {round} already");
            grants.push(grant);
        }
        same!(grants.len(), 256, "grants in round {round}");
        for grant in &grants {
            same!(call::grant_revoke(*grant), Ok(()), "revoke");
            same!(call::grant_revoke(*grant), Err(Status::NotFound), "revoke again");
        }
        same!(w.theirs(grants[7], PLACE, 0), NO, "a grant of an earlier round");
        old = grants;
    }
    same!(release(w.loose, 1), Ok(1), "no reference is left");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    Ok(())
}

fn references_of_nothing(w: &mut World) -> Outcome {
    for reference in [0, 1, 255, 256, 1 << 16, 1 << 31, u32::MAX] {
        let grant = GrantRef(reference);
        same!(call::grant_revoke(grant), Err(Status::NotFound), "revoke {reference}");
        for owner in [w.accomplice.vm, w.neighbour(), VmId(w.start.vm)] {
            let mapped = go(GrantMap { owner, grant, space: FIRST, address: GuestVirt(PLACE), flags: READ });
            same!(mapped, Err(Status::NotPermitted), "map {reference} of {owner:?}");
            same!(go(GrantUnmap { owner, grant }), Err(Status::NotPermitted), "unmap {reference} of {owner:?}");
            let arguments = [u64::from(owner.0), u64::from(reference), 0, buffer_address(), 8, 0];
            same!(wild::call(GrantCopy::NUMBER, arguments), NO, "copy {reference} of {owner:?}");
        }
    }
    Ok(())
}

fn orders_of_undoing(w: &mut World) -> Outcome {
    // Two grants of one frame, mapped at two places: taken out, revoked, in each order.
    for order in 0..6 {
        let grants = [w.give(0, GrantFlags::empty())?, w.give(0, GrantFlags::WRITE)?];
        same!(w.theirs(grants[0], PLACE, 0), Ok(0), "map the first");
        same!(w.theirs(grants[1], OTHER, WRITE.bits()), Ok(0), "map the second");
        let steps: [usize; 3] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]][order];
        for step in steps {
            same!(release(w.loose, 1), Err(Status::Busy), "order {order}");
            match step {
                0 => same!(w.theirs_out(grants[0]), Ok(0), "order {order}: unmap"),
                1 => same!(call::grant_revoke(grants[1]), Ok(()), "order {order}: revoke"),
                _ => w.recount()?,
            }
        }
        same!(w.theirs_out(grants[0]), NO, "unmap again");
        same!(call::grant_revoke(grants[0]), Ok(()), "revoke the first");
        same!(release(w.loose, 1), Ok(1), "order {order}: nothing is left");
        same!(reclaim(w.loose, 1), Ok(1), "undo");
        same!((w.accomplice.read(PLACE), w.accomplice.read(OTHER)), (Err(4), Err(4)), "their pages");
    }
    Ok(())
}

fn granted_pages_by_ordinary_calls(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::WRITE)?;
    same!(w.map_of(grant, PLACE, READ), Ok(0), "map for reading");
    let protect = |flags: u64| wild::call(guest_sdk::protocol::call::Protect::NUMBER, [0, PLACE, 1, flags, 0, 0]);
    for flags in [0, 1, 2, 3] {
        same!(protect(flags), Err(Status::Busy), "protect {flags}");
    }
    same!(unmap(FIRST, PLACE, 1), Err(Status::Busy), "unmap");
    same!(map(FIRST, PLACE, w.loose, 1, WRITE), Err(Status::AlreadyMapped), "map over it");
    same!(map(FIRST, PLACE, w.loose, 1, MapFlags::LARGE), Err(Status::AlreadyMapped), "a large page over it");
    hold!(w.code.write(PLACE, 1).is_err(), "it was written");
    same!(w.map_of(grant, OTHER, READ), Err(Status::Busy), "a second place");
    same!(w.unmap_of(grant), Ok(0), "unmap as it should be");
    // A space that shows it cannot go.
    let space = go(SpaceCreate {}).map_err(text)?;
    let owner = w.accomplice.vm;
    same!(go(GrantMap { owner, grant, space, address: GuestVirt(PLACE), flags: WRITE }), Ok(()), "in another space");
    same!(go(SpaceDestroy { space }), Err(Status::Busy), "destroy it");
    same!(w.unmap_of(grant), Ok(0), "unmap");
    while go(SpaceDestroy { space }) == Err(Status::Retry) {}
    same!(w.give_back(grant), Ok(0), "undo");
    Ok(())
}

fn revoked_under_a_writer(w: &mut World) -> Outcome {
    same!(map(FIRST, PLACE, w.loose, 1, READ), Ok(1), "look");
    for _ in 0..20 {
        let grant = w.give(0, GrantFlags::WRITE)?;
        same!(w.theirs(grant, PLACE, WRITE.bits()), Ok(0), "map");
        w.accomplice.keep_writing(PLACE);
        let (before, patience) = (w.code.read(PLACE), time::now().0 + 20_000_000);
        while w.code.read(PLACE) == before && time::now().0 < patience {
            // Until the writer runs.
        }
        same!(call::grant_revoke(grant), Ok(()), "revoke");
        let first = w.code.read(PLACE);
        // Busy, so that the writer has the other CPU meanwhile and keeps what it has of translations.
        let end = time::now().0 + 300_000;
        while time::now().0 < end {
            core::hint::spin_loop();
        }
        same!(w.code.read(PLACE), first, "the word after the revoke");
        same!(w.accomplice.read(PLACE), Err(4), "their page");
    }
    same!(unmap(FIRST, PLACE, 1), Ok(1), "undo");
    Ok(())
}

fn misaligned(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::empty())?;
    for low in [1, 7, 8, 0x800, 0xfff] {
        same!(w.map_of(grant, PLACE + low, READ), Err(Status::Misaligned), "+ {low:#x}");
    }
    for address in [LOWER_END, HYPERVISOR_START, 1 << 47, ONES & !0xfff] {
        same!(w.map_of(grant, address, READ), Err(Status::BadAddress), "at {address:#x}");
    }
    for flags in [MapFlags::LARGE, MapFlags::EXECUTE] {
        same!(w.map_of(grant, PLACE, flags), Err(Status::InvalidArgument), "{flags:?}");
    }
    same!(w.map_of(grant, PLACE, READ), Ok(0), "it can be mapped still");
    same!(w.unmap_of(grant), Ok(0), "undo");
    same!(w.give_back(grant), Ok(0), "undo");
    Ok(())
}

static OWNER: AtomicU64 = AtomicU64::new(0);
static GRANT: AtomicU64 = AtomicU64::new(0);

fn theirs_in_and_out(_: u64) {
    let owner = VmId(OWNER.load(Ordering::SeqCst) as u32);
    let grant = GrantRef(GRANT.load(Ordering::SeqCst) as u32);
    let _ = go(GrantMap { owner, grant, space: FIRST, address: GuestVirt(OTHER), flags: READ });
    let _ = go(GrantUnmap { owner, grant });
}

fn mapped_and_revoked_at_once(w: &mut World) -> Outcome {
    OWNER.store(u64::from(w.accomplice.vm.0), Ordering::SeqCst);
    let racing = race(&[theirs_in_and_out, theirs_in_and_out]);
    for _ in 0..60 {
        let grant = w.take(GrantFlags::empty())?;
        GRANT.store(u64::from(grant.0), Ordering::SeqCst);
        let _ = w.map_of(grant, PLACE, READ);
        let _ = w.unmap_of(grant);
        same!(w.give_back(grant), Ok(0), "revoke");
        hold!(w.code.read(PLACE).is_err() && w.code.read(OTHER).is_err(), "a page after the revoke");
    }
    drop(racing);
    w.recount()
}

fn copied_and_mapped(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::empty())?;
    same!(w.copy_of(grant, 0, buffer_address(), 8, 0), Ok(0), "copy");
    same!(w.copy_of(grant, 0, buffer_address(), 8, 1), NO, "copy to it");
    same!(w.map_of(grant, PLACE, READ), Ok(0), "map");
    same!(w.copy_of(grant, 0, buffer_address(), 8, 0), Ok(0), "copy while mapped");
    same!(w.copy_of(grant, 0, PLACE, 8, 0), Err(Status::BadAddress), "copy onto its own page");
    same!(w.map_of(grant, OTHER, READ), Err(Status::Busy), "map again");
    same!(w.give_back(grant), Ok(0), "revoke");
    same!(w.copy_of(grant, 0, buffer_address(), 8, 0), NO, "copy afterwards");
    same!(w.unmap_of(grant), NO, "unmap afterwards");
    same!(w.map_of(grant, PLACE, READ), NO, "map afterwards");
    hold!(w.code.read(PLACE).is_err(), "the page is there still");
    Ok(())
}

fn passed_on(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::WRITE)?;
    same!(w.map_of(grant, PLACE, WRITE), Ok(0), "map");
    let (number, _) =
        go(Translate { space: FIRST, address: GuestVirt(PLACE) }).map(|pair| (pair.0, pair.1)).map_err(text)?;
    hold!(number >> 62 == 1, "its number is {number:#x}");
    for number in [number, number & 0xff, number & !(1 << 62) | 1 << 63] {
        if number >= w.start.memory_frames {
            same!(create(w.accomplice.vm, number, GrantFlags::WRITE), Err(Status::InvalidArgument), "{number:#x}");
            same!(map(FIRST, OTHER, number, 1, READ), Err(Status::InvalidArgument), "map {number:#x}");
            same!(release(number, 1), Err(Status::InvalidArgument), "release {number:#x}");
        }
    }
    // The neighbour is not the peer: it is told nothing that it could use, and neither is anybody.
    same!(w.unmap_of(grant), Ok(0), "undo");
    same!(w.give_back(grant), Ok(0), "undo");
    Ok(())
}

fn released_while_shared(w: &mut World) -> Outcome {
    let grant = w.give(3, GrantFlags::WRITE)?;
    for _ in 0..20 {
        same!(release(w.loose + 3, 1), Err(Status::Busy), "granted");
        same!(release(w.loose, 8), Ok(3), "up to it");
        same!(reclaim(w.loose, 3), Ok(3), "undo");
        same!(w.theirs(grant, PLACE, WRITE.bits()), Ok(0), "map");
        same!(release(w.loose + 3, 1), Err(Status::Busy), "mapped by the peer");
        same!(w.theirs_out(grant), Ok(0), "out");
    }
    same!(call::grant_revoke(grant), Ok(()), "revoke");
    same!(release(w.loose + 3, 1), Ok(1), "free");
    same!(reclaim(w.loose + 3, 1), Ok(1), "undo");
    Ok(())
}

fn special_owners(w: &mut World) -> Outcome {
    for vm in [w.start.vm, 40, 62, 63, 64, 127, 128, u32::MAX - 1, u32::MAX] {
        same!(create(VmId(vm), w.loose, GrantFlags::empty()), Err(Status::NotPermitted), "grant to VM {vm}");
        let grant = GrantRef(0);
        let mapped = go(GrantMap { owner: VmId(vm), grant, space: FIRST, address: GuestVirt(PLACE), flags: READ });
        same!(mapped, Err(Status::NotPermitted), "map of VM {vm}");
        same!(go(GrantUnmap { owner: VmId(vm), grant }), Err(Status::NotPermitted), "unmap of VM {vm}");
    }
    same!(release(w.loose, 1), Ok(1), "no refusal left a reference");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    Ok(())
}

fn one_frame_many_grants(w: &mut World) -> Outcome {
    let mut grants = Vec::new();
    while let Ok(grant) = create(w.accomplice.vm, w.loose, GrantFlags::empty()) {
        grants.push(grant);
    }
    for (index, grant) in grants.iter().enumerate().take(6) {
        same!(w.theirs(*grant, PLACE + index as u64 * 4096, 0), Ok(0), "map {index}");
    }
    w.recount()?;
    // Every other one first, among them mapped ones.
    for grant in grants.iter().step_by(2).chain(grants.iter().skip(1).step_by(2)) {
        same!(release(w.loose, 1), Err(Status::Busy), "before {grant:?}");
        same!(call::grant_revoke(*grant), Ok(()), "revoke {grant:?}");
    }
    same!(release(w.loose, 1), Ok(1), "after the last");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    Ok(())
}

fn revoked_in_between(w: &mut World) -> Outcome {
    static FRAME: AtomicU64 = AtomicU64::new(0);
    FRAME.store(w.loose + 9, Ordering::SeqCst);
    OWNER.store(u64::from(w.accomplice.vm.0), Ordering::SeqCst);
    // Workers create and revoke while the accomplice maps whatever it finds.
    let racing = race(&[|_| {
        let peer = VmId(OWNER.load(Ordering::SeqCst) as u32);
        if let Ok(grant) = create(peer, FRAME.load(Ordering::SeqCst), GrantFlags::WRITE) {
            GRANT.store(u64::from(grant.0), Ordering::SeqCst);
            let _ = call::yield_cpu();
            let _ = call::grant_revoke(grant);
        }
    }]);
    for _ in 0..100 {
        let grant = GrantRef(GRANT.load(Ordering::SeqCst) as u32);
        let mapped = w.theirs(grant, PLACE, WRITE.bits());
        hold!(matches!(mapped, Ok(0) | Err(Status::NotPermitted | Status::AlreadyMapped | Status::Busy)), "{mapped:?}");
        let _ = w.theirs_out(grant);
    }
    drop(racing);
    same!(w.accomplice.read(PLACE), Err(4), "their page");
    same!(release(w.loose + 9, 1), Ok(1), "no reference is left");
    same!(reclaim(w.loose + 9, 1), Ok(1), "undo");
    Ok(())
}

fn frames_of_other_kinds(w: &mut World) -> Outcome {
    same!(release(w.loose, 1), Ok(1), "a released frame");
    let kinds = [w.loose, TIME_PAGE_FRAME.0, CHANNEL_FRAMES.0, w.start.memory_frames, 1 << 40, 1 << 62 | 3, ONES];
    for frame in kinds {
        for flags in [GrantFlags::empty(), GrantFlags::WRITE] {
            same!(create(w.accomplice.vm, frame, flags), Err(Status::InvalidArgument), "frame {frame:#x}");
        }
    }
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    for flags in [2, 3, 1 << 31, 1 << 32, 1 << 63, ONES] {
        let arguments = [u64::from(w.accomplice.vm.0), w.loose, flags, 0, 0, 0];
        same!(wild::call(GrantCreate::NUMBER, arguments), Err(Status::InvalidArgument), "flags {flags:#x}");
    }
    Ok(())
}

fn granter_dies(w: &mut World) -> Outcome {
    let theirs = w.take(GrantFlags::WRITE)?;
    same!(w.map_of(theirs, PLACE, WRITE), Ok(0), "map theirs");
    hold!(w.code.write(PLACE, 0x5ec2).is_ok(), "write");
    let ours = w.give(0, GrantFlags::WRITE)?;
    same!(w.theirs(ours, OTHER, WRITE.bits()), Ok(0), "they map ours");
    hold!(w.accomplice.die(), "the accomplice did not come back");
    hold!(w.code.read(PLACE).is_err(), "a page of a VM that is gone");
    same!(w.unmap_of(theirs), NO, "unmap");
    same!(w.copy_of(theirs, 0, buffer_address(), 8, 0), NO, "copy");
    same!(w.accomplice.read(OTHER), Err(4), "our frame in their next life");
    same!(call::grant_revoke(ours), Ok(()), "our grant is ours still");
    same!(release(w.loose, 1), Ok(1), "and the frame");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    Ok(())
}

fn bounds_of_a_copy(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::WRITE)?;
    for (offset, length, good) in [
        (0, 0, true),
        (4096, 0, true),
        (0, 4096, true),
        (4095, 1, true),
        (4096, 1, false),
        (1, 4096, false),
        (0, 4097, false),
        (ONES, 1, false),
        (ONES, 2, false),
        (1, ONES, false),
        (1 << 63, 1 << 63, false),
    ] {
        for direction in [0, 1] {
            let copied = w.copy_of(grant, offset, buffer_address(), length, direction);
            let expected = if good { Ok(0) } else { Err(Status::InvalidArgument) };
            same!(copied, expected, "offset {offset:#x}, length {length:#x}, direction {direction}");
        }
    }
    for direction in [2, 1 << 32, ONES] {
        let copied = w.copy_of(grant, 0, buffer_address(), 8, direction);
        same!(copied, Err(Status::InvalidArgument), "direction {direction:#x}");
    }
    for address in [0, PLACE, HYPERVISOR_START, 1 << 47, ONES - 3, LOWER_END - 4] {
        same!(w.copy_of(grant, 0, address, 8, 0), Err(Status::BadAddress), "to {address:#x}");
        same!(w.copy_of(grant, 0, address, 8, 1), Err(Status::BadAddress), "from {address:#x}");
    }
    // A copy is exact: not one byte beside it changes.
    let mark = 0xa5a5_a5a5_a5a5_a5a5;
    set_buffer(&[mark; 8]);
    same!(w.copy_of(grant, 16, buffer_address() + 16, 24, 0), Ok(0), "copy");
    for word in [0, 1, 5, 6, 7] {
        same!(buffer(word).load(Ordering::SeqCst), mark, "word {word}");
    }
    set_buffer(&[0; 8]);
    same!(w.give_back(grant), Ok(0), "undo");
    Ok(())
}

fn more_than_was_granted(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::empty())?;
    same!(w.map_of(grant, PLACE, WRITE), NO, "write what may be read");
    same!(w.copy_of(grant, 0, buffer_address(), 8, 1), NO, "copy to what may be read");
    same!(w.map_of(grant, PLACE, READ), Ok(0), "read");
    hold!(w.code.write(PLACE, 1).is_err(), "it was written");
    same!(w.unmap_of(grant), Ok(0), "undo");
    same!(w.give_back(grant), Ok(0), "undo");
    // The VM above: nothing that needs equal labels, whatever the direction.
    let Some(above) = above(w) else { return Ok(()) };
    same!(create(above, w.loose, GrantFlags::WRITE), Err(Status::NotPermitted), "grant for writing, up");
    let mapped =
        go(GrantMap { owner: above, grant: GrantRef(0), space: FIRST, address: GuestVirt(PLACE), flags: READ });
    same!(mapped, Err(Status::NotPermitted), "map from above");
    Ok(())
}

/// The VM with the higher label: the last of the system.
fn above(w: &World) -> Option<VmId> {
    (w.accomplice.vm.0 + 1 < 64).then_some(VmId(w.accomplice.vm.0 + 1))
}

fn full_table(w: &mut World) -> Outcome {
    let mut grants = Vec::new();
    while let Ok(grant) = create(w.accomplice.vm, w.loose + grants.len() as u64 % 512, GrantFlags::WRITE) {
        grants.push(grant);
    }
    let refused = create(w.accomplice.vm, w.loose, GrantFlags::empty());
    same!(refused, Err(Status::QuotaExceeded), "one too many");
    let theirs = w.take(GrantFlags::empty())?;
    same!(w.give_back(theirs), Ok(0), "the other VM's table has room");
    for grant in grants {
        same!(call::grant_revoke(grant), Ok(()), "undo");
    }
    same!(release(w.loose, 1), Ok(1), "the refused one left no reference");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    Ok(())
}

fn onto_a_page_in_use(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::WRITE)?;
    same!(map(FIRST, PLACE, w.loose, 1, READ), Ok(1), "a page in use");
    for _ in 0..20 {
        same!(w.map_of(grant, PLACE, WRITE), Err(Status::AlreadyMapped), "map onto it");
        same!(w.unmap_of(grant), NO, "unmap what was not mapped");
    }
    hold!(w.code.write(PLACE, 1).is_err(), "the page in use was replaced");
    same!(unmap(FIRST, PLACE, 1), Ok(1), "undo");
    same!(release(w.loose, 1), Ok(1), "no reference is left");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    same!(w.map_of(grant, PLACE, WRITE), Ok(0), "now it can be mapped");
    same!(w.unmap_of(grant), Ok(0), "undo");
    same!(w.give_back(grant), Ok(0), "undo");
    Ok(())
}

fn after_the_end(w: &mut World) -> Outcome {
    let grant = w.take(GrantFlags::WRITE)?;
    OWNER.store(u64::from(w.accomplice.vm.0), Ordering::SeqCst);
    GRANT.store(u64::from(grant.0), Ordering::SeqCst);
    let racing = race(&[theirs_in_and_out, |_| {
        let owner = OWNER.load(Ordering::SeqCst);
        let grant = GRANT.load(Ordering::SeqCst);
        let _ = wild::call(GrantCopy::NUMBER, [owner, grant, 0, buffer_address() + 2048, 64, 1]);
        let _ = create(VmId(owner as u32), 0, GrantFlags::empty()).map(call::grant_revoke);
    }]);
    hold!(w.accomplice.die(), "the accomplice did not come back");
    let rounds = racing.rounds(0);
    while racing.rounds(0) < rounds + 20 {
        let _ = call::yield_cpu();
    }
    drop(racing);
    same!(w.unmap_of(grant), NO, "unmap of a VM that was built again");
    w.recount()
}

fn both_ways_at_once(w: &mut World) -> Outcome {
    let theirs = w.take(GrantFlags::WRITE)?;
    OWNER.store(u64::from(w.accomplice.vm.0), Ordering::SeqCst);
    GRANT.store(u64::from(theirs.0), Ordering::SeqCst);
    let ours = w.give(0, GrantFlags::WRITE)?;
    // Workers take both memories in one order while the accomplice does in the other.
    let racing = race(&[theirs_in_and_out, theirs_in_and_out]);
    for _ in 0..100 {
        let _ = w.theirs(ours, PLACE, WRITE.bits());
        let _ = w.theirs_out(ours);
    }
    drop(racing);
    let _ = w.unmap_of(theirs);
    same!(w.give_back(theirs), Ok(0), "undo");
    same!(call::grant_revoke(ours), Ok(()), "undo");
    Ok(())
}

fn refused_before_anything_is_done(w: &mut World) -> Outcome {
    let mut denied = alloc::vec![VmId(62), VmId(63), VmId(64)];
    denied.extend(above(w));
    let before = crate::world::pool();
    for _ in 0..200 {
        for peer in &denied {
            same!(create(*peer, w.loose, GrantFlags::WRITE), Err(Status::NotPermitted), "grant to {peer:?}");
            // The policy speaks before anything is looked at, so a bad frame makes no difference.
            same!(create(*peer, ONES, GrantFlags::WRITE), Err(Status::NotPermitted), "grant of nothing to {peer:?}");
            let mapped = go(GrantMap {
                owner: *peer,
                grant: GrantRef(0),
                space: guest_sdk::SpaceId(9),
                address: GuestVirt(1),
                flags: WRITE,
            });
            same!(mapped, Err(Status::NotPermitted), "map of {peer:?} to nowhere");
        }
    }
    for peer in &denied {
        refused_in_a_batch(*peer)?;
    }
    same!(crate::world::pool(), before, "the pool");
    same!(release(w.loose, 1), Ok(1), "no refusal left a reference");
    same!(reclaim(w.loose, 1), Ok(1), "undo");
    Ok(())
}

/// What is refused alone is refused in a batch, entry by entry; the recount looks for the records.
fn refused_in_a_batch(peer: VmId) -> Outcome {
    let arguments = [peer.0.into(), 0, 0, 0, 0, 0];
    let mut entries = [BatchEntry { number: GrantUnmap::NUMBER, arguments, ..BatchEntry::default() }; 16];
    let mut done = 0;
    while let Some(rest @ [_, ..]) = entries.get_mut(done..) {
        let batch =
            Batch { entries: GuestVirt(rest.as_mut_ptr().expose_provenance() as u64), count: rest.len() as u64 };
        done += go(batch).map_err(|status| format!("batch: {status}"))? as usize;
    }
    for entry in core::hint::black_box(entries) {
        same!(entry.result, Status::NotPermitted.to_register(), "in a batch, of {peer:?}");
    }
    Ok(())
}

/// Prints what would be lines of others, if the console let it.
fn lines_of_somebody_else(w: &mut World) -> Outcome {
    for start in [
        "\r",
        "\n",
        "\x1b[2K\r",
        "\x1b[1A",
        "\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08\x08",
        "\0",
        "\x1b]\x07\n",
        "\u{85}",
        "\x0b",
        "\x0c",
    ] {
        print!("spoof{start}[neighbour] spoofed\n");
        print!("spoof{start}cloister: spoofed\n");
    }
    // What looks like a record of the hypervisor's.
    print!("\x1b_cloister;AAAA\x1b\\spoofed\n");
    print!("\x1bPcloister;AAAA\x1b\\spoofed\n\x1b]7;AAAA\x07spoofed\n");
    w.ask_neighbour()
}

/// What does not exist answers exactly like what is denied.
fn what_a_refusal_tells(w: &mut World) -> Outcome {
    let absent = VmId(60);
    if let Some(denied) = above(w) {
        for frame in [w.loose, TIME_PAGE_FRAME.0, ONES] {
            let one = create(denied, frame, GrantFlags::WRITE);
            same!(one, create(absent, frame, GrantFlags::WRITE), "grant of {frame:#x}");
        }
        for reference in [0, 7, 256, u32::MAX] {
            let grant = GrantRef(reference);
            for address in [PLACE, 1, HYPERVISOR_START] {
                let map =
                    |owner| go(GrantMap { owner, grant, space: FIRST, address: GuestVirt(address), flags: WRITE });
                same!(map(denied), map(absent), "map of {reference} at {address:#x}");
            }
            same!(
                go(GrantUnmap { owner: denied, grant }),
                go(GrantUnmap { owner: absent, grant }),
                "unmap {reference}"
            );
            let copy = |owner: VmId, direction| {
                let arguments = [u64::from(owner.0), u64::from(reference), 0, buffer_address(), 8, direction];
                wild::call(GrantCopy::NUMBER, arguments)
            };
            same!(copy(denied, 1), copy(absent, 1), "copy to {reference}");
        }
    }
    Ok(())
}

fn objects_of_others(w: &mut World) -> Outcome {
    // The neighbour has given one grant, for somebody else; slots and generations are guessed.
    let owner = w.neighbour();
    for generation in 0..4 {
        for slot in 0..256 {
            let grant = GrantRef(generation << 8 | slot);
            let mapped = go(GrantMap { owner, grant, space: FIRST, address: GuestVirt(PLACE), flags: READ });
            same!(mapped, Err(Status::NotPermitted), "map {grant:?}");
            same!(go(GrantUnmap { owner, grant }), Err(Status::NotPermitted), "unmap {grant:?}");
            for direction in [0, 1] {
                let arguments = [u64::from(owner.0), u64::from(grant.0), 0, buffer_address(), 8, direction];
                same!(wild::call(GrantCopy::NUMBER, arguments), NO, "copy {grant:?}");
            }
        }
    }
    // Ports are the caller's own: a number of the neighbour's is one of ours, or none.
    for port in 100..256 {
        same!(call::event_send(Port(port)), Err(Status::NotFound), "port {port}");
    }
    Ok(())
}

fn a_flood_of_refusals(w: &mut World) -> Outcome {
    let owner = w.neighbour();
    let start = time::now().0;
    for _ in 0..20_000 {
        same!(go(GrantUnmap { owner, grant: GrantRef(0) }), Err(Status::NotPermitted), "refused");
    }
    w.ask_neighbour()?;
    let span = time::now().0 - start;
    hold!(span < 20_000_000_000, "20,000 refusals and an answer took {span} ns");
    Ok(())
}

fn many_lives(w: &mut World) -> Outcome {
    for _ in 0..3 {
        let grant = w.give(0, GrantFlags::WRITE)?;
        same!(w.theirs(grant, PLACE, WRITE.bits()), Ok(0), "map");
        hold!(w.accomplice.die(), "the accomplice did not come back");
        w.recount()?;
        same!(call::grant_revoke(grant), Ok(()), "revoke");
    }
    // A VM that was built again finds nothing of its own or ours.
    for frame in [1400, 1500, 1600] {
        same!(w.accomplice.read(PHYSMAP.0 + frame * 4096), Ok(0), "frame {frame} of a new life");
    }
    same!(w.accomplice.call(Info::NUMBER, [0; 6]).is_ok(), true, "it works");
    Ok(())
}

fn die_without_a_word(w: &mut World) -> Outcome {
    let theirs = w.take(GrantFlags::WRITE)?;
    same!(w.map_of(theirs, PLACE, WRITE), Ok(0), "map theirs");
    let ours = w.give(0, GrantFlags::WRITE)?;
    same!(w.theirs(ours, PLACE, WRITE.bits()), Ok(0), "they map ours");
    w.accomplice.keep_writing(PLACE);
    let port = call::event_alloc(VCPU).map_err(text)?;
    // The next life tries these names.
    w.board.set(word::NOTES, u64::from(ours.0));
    w.board.set(word::NOTES + 1, u64::from(theirs.0));
    w.board.set(word::NOTES + 2, u64::from(port.0));
    crate::accomplice::die()
}

fn names_of_an_earlier_life(w: &mut World) -> Outcome {
    let [ours, theirs, port] = [0, 1, 2].map(|note| w.board.get(word::NOTES + note) as u32);
    if !w.is_interrupted && w.board.get(word::LIVES) > 1 {
        same!(call::grant_revoke(GrantRef(ours)), Err(Status::NotFound), "a grant of an earlier life");
        let free = call::event_send(Port(port));
        hold!(matches!(free, Err(Status::NotFound) | Ok(())), "a port of an earlier life: {free:?}");
    }
    // What the other VM gave is this VM's still, since it keeps its number: but it is not mapped.
    hold!(w.code.read(PLACE).is_err(), "a page of an earlier life");
    same!(w.unmap_of(GrantRef(theirs)), NO, "unmap what an earlier life mapped");
    let _ = w.give_back(GrantRef(theirs));
    same!(w.map_of(GrantRef(theirs), PLACE, READ), NO, "map what was revoked");
    Ok(())
}

fn die_in_the_middle(w: &mut World) -> Outcome {
    let theirs = w.take(GrantFlags::WRITE)?;
    OWNER.store(u64::from(w.accomplice.vm.0), Ordering::SeqCst);
    GRANT.store(u64::from(theirs.0), Ordering::SeqCst);
    let racing = race(&[theirs_in_and_out, |round| {
        let peer = VmId(OWNER.load(Ordering::SeqCst) as u32);
        let _ = create(peer, round % 64, GrantFlags::WRITE).map(call::grant_revoke);
        let _ = map(FIRST, OTHER + (1 << 30), 0, 64, READ);
        let _ = unmap(FIRST, OTHER + (1 << 30), 64);
    }]);
    while racing.rounds(0) < 30 {
        let _ = call::yield_cpu();
    }
    crate::accomplice::die()
}

/// A stack for a vCPU that is started anew.
#[repr(align(4096))]
struct Stack([AtomicU64; 512]);

static STACK: Stack = Stack([const { AtomicU64::new(0) }; 512]);

/// Starts a vCPU with [`start_others`], if it is stopped.
fn start(vcpu: u64) {
    let entry = start_others as *const () as u64;
    // As behind a call: 8 below a multiple of 16.
    let stack = STACK.0.as_ptr() as u64 + 4088;
    let _ = wild::call(VcpuStart::NUMBER, [vcpu, entry, stack, 0, 0, 0]);
}

/// What a vCPU does that was started while its VM ended.
extern "C" fn start_others() -> ! {
    loop {
        start(1);
        start(2);
    }
}

/// The hypervisor stops the vCPUs one after the other. The second sleeps, so it is stopped at once, and the third
/// starts it again before it is stopped itself.
fn die_while_others_start(_: &mut World) -> Outcome {
    let racing = race(&[
        |_| {
            let _ = call::block(Nanos(time::now().0 + 1_000_000_000));
        },
        |_| start(1),
    ]);
    while racing.rounds(1) < 100 {
        let _ = call::yield_cpu();
    }
    crate::accomplice::die()
}
