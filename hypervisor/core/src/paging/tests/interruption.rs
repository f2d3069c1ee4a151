//! A call that is cut at every point, with another vCPU's call in between.

use super::specification::{Answer, Call, Use};
use super::world::{World, check_security, engine, with_world};
use super::{FIRST, L};
use crate::addr::Mfn;
use crate::frame::typed::Level;
use crate::paging::Progress;

/// Work that finishes anything here in one call.
const ENOUGH: u32 = 1 << 20;
/// Points that are skipped where tests are slow.
const STEP: usize = if cfg!(debug_assertions) { 1009 } else { 1 };

/// Two trees that share a table of level 2, with one more page each, in memory that is nothing yet. The
/// last entry of the last table is `last`.
fn build(world: &mut World<'_>, last: u64) {
    for (from, slot, to, flags) in [
        (0, 1, 2, 0x67),
        (0, 511, 3, 0x67),
        (2, 0, 4, 0x67),
        (3, 5, 4, 0x67),
        (3, 6, 5, 0x67),
        (4, 0, 6, 0x67),
        (5, 1, 7, 0x67),
        (6, 0, 8, 0x63),
        (6, 1, 6, 0x61),
        (7, 1, 8, 0x61),
        (7, 2, 9, 0x63),
    ] {
        world.finish(0, Call::Update(FIRST + from, slot, 0, (FIRST + to) << 12 | flags)).unwrap();
    }
    world.finish(0, Call::Update(FIRST + 7, 511, 0, last)).unwrap();
}

/// What the other vCPU does.
fn others() -> Vec<Call> {
    let tree = FIRST..FIRST + 10;
    let mut calls = vec![
        Call::Update(FIRST + 10, 0, 0, (FIRST + 6) << 12 | 0x63),
        Call::Update(FIRST + 6, 2, 0, (FIRST + 9) << 12 | 0x63),
        Call::Set(FIRST + 7, 2, 0),
        Call::Pin(FIRST + 4, Level::L2),
        Call::Pin(FIRST + 5, Level::L1),
        Call::TakeRoot(FIRST),
        Call::Unpin(FIRST + 1),
    ];
    calls.extend(tree.clone().map(|frame| Call::Take(frame, Use::Writable)));
    calls.extend(tree.clone().map(|frame| Call::Take(frame, Use::Descriptors)));
    calls.extend(tree.map(Call::Release));
    calls
}

/// Entries behind which a validation is through, and ones that end it at the last one.
const LASTS: [u64; 4] = [0, 0x1067, (FIRST + 6) << 12 | 0x63, 0x8063];

/// Cuts `call` after each amount of work up to the whole, prepared by `prepare`; `between` is told where.
fn cut(last: u64, call: Call, prepare: &[Call], mut between: impl FnMut(&mut World<'_>)) -> usize {
    let mut points = 0;
    for work in (1..).step_by(STEP) {
        let is_cut = with_world(ENOUGH, |mut world| {
            build(&mut world, last);
            for call in prepare {
                world.finish(0, *call).unwrap();
            }
            world.paging.work = work;
            let answer = world.call(0, call, 0);
            world.check();
            let is_cut = world.paging.job.is_some();
            if is_cut {
                between(&mut world);
                if answer == Ok(Progress::Again) {
                    world.paging.work = ENOUGH;
                    // Not always what it would have been: compared by the specification.
                    let _ = world.finish(0, call);
                    world.check();
                }
            }
            is_cut
        });
        if !is_cut {
            return points;
        }
        points += 1;
    }
    points
}

#[test]
fn a_call_of_another_vcpu_comes_in_between() {
    let calls = [
        (Call::Pin(FIRST, Level::L4), vec![]),
        (Call::TakeRoot(FIRST), vec![]),
        (Call::Unpin(FIRST), vec![Call::Pin(FIRST, Level::L4)]),
        (Call::Update(FIRST, 511, 0, 0), vec![Call::Pin(FIRST, Level::L4)]),
    ];
    let mut points = 0;
    for last in LASTS {
        for (call, prepare) in &calls {
            if !prepare.is_empty() && last != 0 {
                continue;
            }
            // At once, or also in pieces.
            for (other, work) in others().into_iter().zip([ENOUGH, 700].into_iter().cycle()) {
                points += cut(last, *call, prepare, |world| {
                    world.paging.work = work;
                    let _ = world.finish(1, other);
                    world.check();
                });
            }
        }
    }
    assert!(points > 8 * 37 * 2000 / STEP, "{points}");
}

/// The hypervisor's own references wait for nothing: taken in between, they are refused or hold, and the
/// rest agrees with them.
#[test]
fn references_taken_in_between_hold() {
    let take = |world: &mut World<'_>, frame: u64, used: Use| -> Answer {
        let (machine, paging) = (world.machine, &mut world.paging);
        let taken = match used {
            Use::Writable => paging.take_writable(machine, Mfn(frame)),
            Use::Descriptors | Use::Table(_) => paging.take_descriptors(machine, Mfn(frame)),
        };
        taken.map(Progress::Done)
    };
    let pin = Call::Pin(FIRST, Level::L4);
    for work in (1..8000).step_by(STEP) {
        for (frame, used) in (FIRST..FIRST + 10).flat_map(|frame| [(frame, Use::Writable), (frame, Use::Descriptors)]) {
            with_world(ENOUGH, |mut world| {
                build(&mut world, 0);
                world.paging.work = work;
                assert!(engine(world.machine, &mut world.paging, 0, pin).is_ok());
                let is_cut = world.paging.job.is_some();
                let taken = take(&mut world, frame, used);
                check_security(world.machine.frames, world.machine.tables);
                world.paging.work = ENOUGH;
                let pinned =
                    if is_cut { engine(world.machine, &mut world.paging, 0, pin) } else { Ok(Progress::Done(())) };
                assert!(pinned.is_ok() || taken.is_ok(), "{work} {frame} {used:?}");
                // The counts must be those of what was answered.
                world.spec.unknown = true;
                world.spec.holds.extend(taken.map(|_| (frame, used)));
                if pinned.is_ok() {
                    world.spec.pins.insert(FIRST, L[3]);
                    world.spec.fill_root(FIRST);
                }
                world.check();
            });
        }
    }
}
