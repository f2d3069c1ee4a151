//! Builds for tests: what must hold behind whatever a guest did. Checked when a guest asks for a fact that
//! does not exist, and whenever a VM was taken apart:
//! * every frame is what all tables, lists, pools and grants say (R1, R2);
//! * each refusal for want of a right is in the audit log, once (R3);
//! * nothing that a guest can read holds what fills the hypervisor's unused memory (R4).
//!
//! Also measures how long ring 0 keeps the CPU and how deep its stack goes. Nothing here shows to a guest.

use alloc::boxed::Box;
use alloc::vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hv_arch::guest::Registers;
use hv_arch::local;
use hv_arch::mmu::direct;
use hv_core::addr::Mfn;
use hv_core::addr::convert::index;
use hv_core::frame::{Class, Kind};
use hv_core::space::{self, Memory, Recount, Wrong};
use protocol::call::Info;
use protocol::{Call, Status};

use super::line::Line;
use super::lock::Lock;
use super::machine::{Life, Vm, machine};
use super::panic;
use super::xen::Held;

/// A word for each frame, and how many frames each VM had when it was looked at first.
static SCRATCH: Lock<(&'static mut [u64], [u64; 128])> = Lock::new((&mut [], [0; 128]));
/// Recounts that were made.
static DONE: AtomicU64 = AtomicU64::new(0);
/// Recounts that were begun: a stay in ring 0 during one does not count.
static BEGUN: AtomicU64 = AtomicU64::new(0);
/// When each CPU entered ring 0, and how many recounts had begun by then.
static ENTERED: [[AtomicU64; 2]; 64] = [const { [const { AtomicU64::new(0) }; 2] }; 64];
/// The longest time in ring 0, in ticks of the time-stamp counter, and what it was for.
static LONGEST: Lock<(u64, u64, u64)> = Lock::new((0, 0, 0));

/// Calls of each VM that were answered with [`Status::NotPermitted`].
static REFUSED: [AtomicU64; 64] = [const { AtomicU64::new(0) }; 64];
/// Bytes of stack that a CPU used at most between two recounts.
static DEEPEST: AtomicUsize = AtomicUsize::new(0);
/// Bytes of stack that most calls use at most.
const SHALLOW: usize = 1536;
/// Looks at the audit log before a difference is one: another CPU may be between answer and record.
const PATIENCE: u32 = 1_000_000;

/// Takes memory, while there is a heap, and fills the frames that nobody has, before there are VMs.
pub(super) fn start() {
    SCRATCH.lock().0 = Box::leak(vec![0; index(machine().frames.frames())].into_boxed_slice());
    space::unused(&machine().frames).for_each(direct::paint);
}

/// A call of a VM is answered: what it finds in rax, or in an entry of its batch.
pub(super) fn answered(vm: &Vm, rax: u64) {
    if rax == Status::NotPermitted.to_register()
        && let Some(count) = REFUSED.get(index(vm.id.0.into()))
    {
        count.fetch_add(1, Ordering::SeqCst);
    }
}

/// Whether a call is the one that asks for a recount: the last topic of all, which `info` refuses.
pub(super) fn is_asked(number: u64, topic: u64) -> bool {
    number == Info::NUMBER && topic == u64::MAX
}

/// Whether a call of Xen's ABI is that one: the last command of all, which `xen_version` refuses.
#[cfg(feature = "xen")]
pub(super) fn is_asked_by_xen(number: u64, command: u64) -> bool {
    number == protocol::xen::call::XEN_VERSION && command == u64::MAX
}

/// Checks everything. A difference ends the machine.
pub(super) fn run() {
    let number = BEGUN.fetch_add(1, Ordering::SeqCst);
    agree();
    machine().vms.iter().for_each(check_audit);
    // A whole word shows in either half; what is only half a word shows every second time.
    let look = if number.is_multiple_of(2) { space::leaked::<32> } else { space::leaked::<0> };
    if let Some((frame, at, word)) = look(machine().memory(), local::PATTERN) {
        leak(format_args!("word {at} of frame {:#x} is {word:#x}", frame.0));
    }
    DEEPEST.fetch_max(local::stack_use().0, Ordering::Relaxed);
    local::paint_stack(usize::MAX);
}

/// Memory of the hypervisor came to where a guest can read it.
fn leak(place: core::fmt::Arguments<'_>) -> ! {
    panic::broken("R4", format_args!("recount: unused memory of the hypervisor can be read: {place}"))
}

/// Compares the refusals that a VM was told with those in the log.
fn check_audit(vm: &Vm) {
    let mut tries = 0;
    loop {
        let logged: u64 = machine().line.lock().audit.denials(vm.id).iter().sum();
        let told = REFUSED.get(index(vm.id.0.into())).map_or(0, |count| count.load(Ordering::SeqCst));
        if logged == told {
            return;
        }
        tries = u32::saturating_add(tries, 1);
        if tries > PATIENCE {
            panic::broken(
                "R3",
                format_args!("recount: {} was refused {told} times, the audit log knows of {logged}", vm.name()),
            );
        }
    }
}

/// Recounts all frames, unless some VM is being taken apart or a grant revoked just now.
fn agree() {
    let vms = &machine().vms;
    // In the order of locks: all memories, so that nothing changes, then each table of grants.
    let memories: [_; 64] = core::array::from_fn(|number| vms.get(number).map(|vm| vm.memory.lock()));
    let held: [_; 64] = core::array::from_fn(|number| vms.get(number).and_then(|vm| vm.xen.as_ref()?.hold(vm)));
    let is_busy = vms.iter().any(|vm| matches!(*vm.life.lock(), Life::Ending(_)));
    if is_busy || vms.iter().any(|vm| vm.grants.lock().given().any(|(_, _, is_revoked)| is_revoked)) {
        return;
    }
    let mut scratch = SCRATCH.lock();
    let (words, before) = &mut *scratch;
    let native = memories.iter().flatten().filter_map(|memory| memory.as_ref());
    let result = count(words, native, held.iter().flatten());
    let owned = match result {
        Ok(owned) => owned,
        Err((what, frame)) => panic::broken("R1", format_args!("recount: {what}: frame {:#x}", frame.0)),
    };
    for ((now, before), number) in owned.iter().zip(before).zip(0_usize..).skip(1) {
        let place = number.wrapping_sub(1);
        let is_native = memories.get(place).is_some_and(|found| found.as_deref().is_some_and(Option::is_some));
        let exists = is_native || held.get(place).is_some_and(Option::is_some);
        if *before == 0 {
            *before = *now;
        }
        if *now != if exists { *before } else { 0 } {
            panic::broken("R2", format_args!("recount: VM {place} has {now} frames, it had {before}"));
        }
    }
    DONE.fetch_add(1, Ordering::Relaxed);
}

/// Makes the table anew and compares it.
///
/// # Errors
/// What does not agree.
fn count<'a>(
    words: &mut [u64],
    native: impl Iterator<Item = &'a Memory>,
    mut held: impl Iterator<Item = &'a Held<'a>>,
) -> Result<[u64; 128], Wrong> {
    let mut all = Recount::begin(words);
    native.into_iter().try_for_each(|memory| memory.recount(machine().memory(), &mut all))?;
    held.try_for_each(|held| held.recount(&mut all))?;
    let mut mapped = 0_u64;
    for vm in &machine().vms {
        for (frame, is_mapped, _) in vm.grants.lock().given() {
            all.refer(frame, Class::new(Some(vm.id), Kind::Data))?;
            mapped = mapped.saturating_add(u64::from(is_mapped));
        }
    }
    if mapped != all.grants {
        return Err((
            "as many grants are mapped as pages show them, but for this many",
            Mfn(mapped.abs_diff(all.grants)),
        ));
    }
    all.finish(&machine().frames)
}

/// A CPU enters ring 0, or goes on there after it waited or recounted.
pub(super) fn enter() {
    if let Some([entered, begun]) = ENTERED.get(index(local::id().0.into())) {
        entered.store(hv_arch::cpu::read_tsc(), Ordering::Relaxed);
        begun.store(BEGUN.load(Ordering::SeqCst), Ordering::Relaxed);
    }
}

/// A CPU leaves ring 0, which it entered for a vector or call.
pub(super) fn leave(registers: &Registers, vector: u64, number: u64) {
    if registers.words().into_iter().any(|word| space::holds(word, local::PATTERN)) {
        leak(format_args!("registers {registers:x?}"));
    }
    let Some([entered, begun]) = ENTERED.get(index(local::id().0.into())) else {
        return;
    };
    let ticks = hv_arch::cpu::read_tsc().saturating_sub(entered.load(Ordering::Relaxed));
    let mut longest = LONGEST.lock();
    if begun.load(Ordering::Relaxed) == BEGUN.load(Ordering::SeqCst) && ticks > longest.0 {
        *longest = (ticks, vector, number);
    }
    drop(longest);
    // The next call finds nothing of this one where its own variables lie.
    local::paint_stack(SHALLOW);
}

/// What was found, for the last lines of the machine.
pub(super) fn report(line: &mut Line) {
    let (ticks, vector, number) = *LONGEST.lock();
    let (used, bytes) = local::stack_use();
    let used = used.max(DEEPEST.load(Ordering::Relaxed));
    let [mut recorded, mut lost] = [0_u64; 2];
    for vm in &machine().vms {
        line.audit.settle(machine().clock.now(), local::id(), Some(vm.id));
        let [in_records, without, _] = line.audit.denials(vm.id);
        recorded = recorded.saturating_add(in_records);
        lost = lost.saturating_add(without);
    }
    line.say(format_args!(
        "recount: {} times all frames agreed; longest in ring 0 {ticks} ticks (vector {vector}, rax {number:#x}); stack {used} of {bytes} bytes; {recorded} refusals recorded, {lost} lost",
        DONE.load(Ordering::Relaxed),
    ));
}
