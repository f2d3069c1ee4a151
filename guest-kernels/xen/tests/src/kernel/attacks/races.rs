//! What two vCPUs do at the same time.

use core::sync::atomic::{AtomicU64, Ordering};

use protocol::xen::{DOMID_SELF, call, memory, mmuext};

use super::{Attack, Outcome, refused, same};
use crate::kernel::abi::reserve;
use crate::kernel::raw;
use crate::kernel::smp::{beside, give_way, is_over};
use crate::kernel::world::{
    BASE, Own, RO, RW, TABLE, extended, first_root, flush, frame_at, hypercall, list, map, map_lazily, pin, unpin,
    update,
};

/// In the order in which they run.
pub const ALL: &[Attack] = &[
    ("PT-06", changed_while_validated),
    ("PT-16", two_types_at_once),
    ("PT-17", unpinned_twice),
    ("RC-05", released_and_taken),
    ("RC-07", dropped_by_both),
    ("TL-01", stale_writer),
    ("TL-09", root_of_the_other),
    ("TL-10", deaf_vcpu),
];

/// Rounds of a race.
const ROUNDS: u64 = 100;

/// What both vCPUs work on.
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static FRAMES: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];
/// Successes of the second vCPU, and how far the first is.
static WON: AtomicU64 = AtomicU64::new(0);
static ROUND: AtomicU64 = AtomicU64::new(0);
static READY: AtomicU64 = AtomicU64::new(0);

fn set(pages: &[Own]) {
    for (slot, page) in FRAMES.iter().zip(pages) {
        slot.store(page.frame, Ordering::SeqCst);
    }
    ADDRESS.store(pages[0].at, Ordering::SeqCst);
    WON.store(0, Ordering::SeqCst);
    ROUND.store(0, Ordering::SeqCst);
    READY.store(0, Ordering::SeqCst);
}

fn shared(index: usize) -> u64 {
    FRAMES[index].load(Ordering::SeqCst)
}

/// Has both vCPUs do something in each round, as nearly at once as can be.
fn in_step(rounds: u64, theirs: fn(), mut own: impl FnMut() -> Outcome, mut after: impl FnMut() -> Outcome) -> Outcome {
    static STEP: AtomicU64 = AtomicU64::new(0);
    static DONE: AtomicU64 = AtomicU64::new(0);
    static WORK: raw::Shared<Option<fn()>> = raw::Shared::new(None);
    STEP.store(0, Ordering::SeqCst);
    DONE.store(0, Ordering::SeqCst);
    WORK.set(Some(theirs));
    let follow = || {
        let mut seen = 0;
        while !is_over() {
            let step = STEP.load(Ordering::SeqCst);
            if step != seen {
                seen = step;
                if let Some(work) = WORK.get() {
                    work();
                }
                DONE.store(seen, Ordering::SeqCst);
            } else {
                give_way();
            }
        }
    };
    beside(follow, || {
        for round in 1..=rounds {
            ROUND.store(round, Ordering::SeqCst);
            STEP.store(round, Ordering::SeqCst);
            own()?;
            while DONE.load(Ordering::SeqCst) != round {
                give_way();
            }
            after()?;
        }
        Ok(())
    })
}

/// One vCPU validates a tree while the other pins, unpins and changes its parts: whatever each call comes to.
fn changed_while_validated() -> Outcome {
    let tables: [Own; 5] = Own::several();
    let [root, third, second, first, page] = tables;
    set(&tables);
    for slot in (0..512).filter(|slot| !(256..272).contains(slot)) {
        raw::store(root.word(slot), third.entry(TABLE));
        raw::store(third.word(slot), second.entry(TABLE));
        raw::store(second.word(slot), first.entry(TABLE));
        raw::store(first.word(slot), page.entry(RO));
    }
    tables[..4].iter().for_each(|table| {
        table.read_only();
    });
    fn disturb() {
        while !is_over() {
            for (level, index) in [(3, 1), (2, 2), (1, 3)] {
                let _ = pin(level, shared(index));
                let _ = update((shared(index) << 12) | (511 * 8), 0);
                let _ = update((shared(index) << 12) | (511 * 8), 0x1000 | TABLE);
                let _ = extended(mmuext::NEW_USER_BASEPTR, shared(0), 0);
                let _ = extended(mmuext::NEW_USER_BASEPTR, 0, 0);
                let _ = unpin(shared(index));
            }
        }
        let _ = extended(mmuext::NEW_USER_BASEPTR, 0, 0);
    }
    beside(disturb, || {
        for _ in 0..30 {
            let _ = pin(4, root.frame);
            let _ = extended(mmuext::NEW_USER_BASEPTR, root.frame, 0);
            let _ = unpin(root.frame);
            let _ = extended(mmuext::NEW_USER_BASEPTR, 0, 0);
        }
    });
    for table in tables {
        let _ = unpin(table.frame);
    }
    Ok(())
}

/// Both give one frame a type, each another one: one of them at most at a time.
fn two_types_at_once() -> Outcome {
    let [frame] = Own::several();
    set(&[frame]);
    frame.read_only();
    fn theirs() {
        let level = 1 + ROUND.load(Ordering::SeqCst) as u32 % 3;
        if pin(level, shared(0)) == 0 {
            WON.fetch_add(1, Ordering::SeqCst);
        }
    }
    let own = core::cell::Cell::new(0);
    in_step(
        ROUNDS,
        theirs,
        || {
            // The second vCPU has levels 1 to 3.
            own.set(i64::from(pin(1 + (ROUND.load(Ordering::SeqCst) as u32 + 1) % 3, shared(0)) == 0));
            Ok(())
        },
        || {
            same("one of both", own.get() + WON.swap(0, Ordering::SeqCst) as i64, 1)?;
            same("unpinned", unpin(shared(0)), 0)
        },
    )
}

/// Both unpin one table: one of them does.
fn unpinned_twice() -> Outcome {
    let [frame, below] = Own::several();
    set(&[frame, below]);
    raw::store(frame.word(0), below.entry(TABLE));
    frame.read_only();
    below.read_only();
    fn theirs() {
        if unpin(shared(0)) == 0 {
            WON.fetch_add(1, Ordering::SeqCst);
        }
    }
    same("pinned", pin(2, frame.frame), 0)?;
    let own = core::cell::Cell::new(0);
    in_step(
        ROUNDS,
        theirs,
        || {
            own.set(i64::from(unpin(shared(0)) == 0));
            Ok(())
        },
        || {
            same("one of both", own.get() + WON.swap(0, Ordering::SeqCst) as i64, 1)?;
            same("is memory", frame.show(RW) + below.show(RW), 0)?;
            frame.read_only();
            below.read_only();
            same("pinned", pin(2, frame.frame), 0)
        },
    )?;
    same("unpinned", unpin(frame.frame), 0)
}

/// One releases a frame and takes one, while the other shows it and pins it.
fn released_and_taken() -> Outcome {
    let [page, place] = Own::several();
    set(&[place, page]);
    ADDRESS.store(place.at, Ordering::SeqCst);
    same("hidden", map(page.at, 0), 0)?;
    fn disturb() {
        let at = ADDRESS.load(Ordering::SeqCst);
        while !is_over() {
            let frame = shared(1);
            let _ = map_lazily(at, frame << 12 | RW);
            let _ = raw::try_store(at, 0xbad);
            let _ = map_lazily(at, frame << 12 | RO);
            let _ = pin(1, frame);
            let _ = unpin(frame);
            let _ = map(at, 0);
        }
    }
    let guest_frame = (page.at - BASE) >> 12;
    let result = beside(disturb, || {
        let mut released = 0;
        for _ in 0..300 {
            if reserve(memory::DECREASE_RESERVATION, &mut [shared(1)], DOMID_SELF) != 1 {
                continue;
            }
            released += 1;
            let mut taken = [guest_frame];
            same("taken", reserve(memory::POPULATE_PHYSMAP, &mut taken, DOMID_SELF), 1)?;
            FRAMES[1].store(taken[0], Ordering::SeqCst);
        }
        same("released at times", i64::from(released > 0), 1)
    });
    raw::store(list() + guest_frame * 8, shared(1));
    same("shown", map(place.at, place.entry(RW)), 0)?;
    result
}

/// Both let one tree go, part by part.
fn dropped_by_both() -> Outcome {
    let [root, third, other] = Own::several();
    set(&[root, third, other]);
    root.read_only();
    third.read_only();
    fn theirs() {
        let _ = update(shared(0) << 12, 0);
        let _ = unpin(shared(1));
    }
    same("pinned", pin(4, root.frame), 0)?;
    in_step(
        ROUNDS,
        theirs,
        || {
            let _ = update(root.machine(0), third.entry(TABLE));
            let _ = update(root.machine(0), 0);
            let _ = pin(3, third.frame);
            let _ = unpin(third.frame);
            Ok(())
        },
        || {
            let _ = unpin(third.frame);
            same("away", update(root.machine(0), 0), 0)?;
            same("is memory", third.show(RW), 0)?;
            third.read_only();
            Ok(())
        },
    )?;
    same("unpinned", unpin(root.frame), 0)
}

/// A frame becomes a page table while the other vCPU goes on writing to it by what it remembers.
fn stale_writer() -> Outcome {
    let [frame, target] = Own::several();
    set(&[frame, target]);
    fn write() {
        let at = ADDRESS.load(Ordering::SeqCst);
        let root = frame_at(first_root());
        while !is_over() {
            // An entry by which it could write to its root.
            if raw::try_store(at + 8, root << 12 | RW).is_ok() {
                WON.fetch_add(1, Ordering::SeqCst);
            }
            let _ = raw::try_store(at + 8, 0);
            READY.fetch_add(1, Ordering::SeqCst);
        }
    }
    let mut became = 0_u32;
    let result = beside(write, || {
        for _ in 0..ROUNDS {
            let seen = READY.load(Ordering::SeqCst);
            while READY.load(Ordering::SeqCst) < seen + 2 {
                give_way();
            }
            same("to read, nothing forgotten", map_lazily(frame.at, frame.entry(RO)), 0)?;
            if pin(1, frame.frame) == 0 {
                became += 1;
                let first = raw::load(frame.at + 8);
                same("its entry", first, 0_u64)?;
                let seen = READY.load(Ordering::SeqCst);
                while READY.load(Ordering::SeqCst) < seen + 2 {
                    give_way();
                }
                same("its entry afterwards", raw::load(frame.at + 8), 0_u64)?;
                same("unpinned", unpin(frame.frame), 0)?;
            }
            same("to write", map_lazily(frame.at, frame.entry(RW)), 0)?;
        }
        Ok(())
    });
    flush();
    result?;
    same("the other wrote", i64::from(WON.load(Ordering::SeqCst) > 0), 1)?;
    same("it became a table at times", i64::from(became > 0), 1)
}

/// The root that the other vCPU has loaded is unpinned, and is to be something else.
fn root_of_the_other() -> Outcome {
    let [root] = Own::several();
    set(&[root]);
    raw::store(root.word(511), raw::load(first_root() + 511 * 8));
    root.read_only();
    same("pinned", pin(4, root.frame), 0)?;
    fn use_it() {
        let loaded = extended(mmuext::NEW_BASEPTR, shared(0), 0);
        WON.store(u64::from(loaded == 0), Ordering::SeqCst);
        READY.store(1, Ordering::SeqCst);
        while !is_over() {
            raw::local(0);
        }
        let _ = extended(mmuext::NEW_BASEPTR, frame_at(first_root()), 0);
    }
    beside(use_it, || {
        while READY.load(Ordering::SeqCst) == 0 {
            give_way();
        }
        same("loaded", WON.load(Ordering::SeqCst), 1_u64)?;
        same("unpinned", unpin(root.frame), 0)?;
        for _ in 0..50 {
            refused("to write", root.show(RW))?;
            refused("another table", pin(3, root.frame))?;
            same("released", reserve(memory::DECREASE_RESERVATION, &mut [root.frame], DOMID_SELF), 0)?;
            refused("its first entry", update(root.machine(256), 0))?;
        }
        Ok(())
    })?;
    same("is memory", root.show(RW), 0)
}

/// A vCPU that does nothing but spin, its events masked, cannot delay what all must do.
fn deaf_vcpu() -> Outcome {
    let [page] = Own::several();
    set(&[page]);
    fn spin() {
        while !is_over() {}
    }
    beside(spin, || {
        for _ in 0..200 {
            same("all forget", extended(mmuext::TLB_FLUSH_ALL, 0, 0), 0)?;
            same("all forget a page", hypercall(call::UPDATE_VA_MAPPING, [page.at, page.entry(RW), 6]), 0)?;
        }
        Ok(())
    })
}
