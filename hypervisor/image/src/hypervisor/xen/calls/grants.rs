//! Grants of the VM's frames, which only itself uses.

use hv_arch::mmu::direct;
use hv_core::abi::xen::Domain;
use hv_core::abi::xen::grant::{self, Access, Begun, Clear, GrantTable, Place, Side};
use hv_core::addr::Mfn;
use hv_core::addr::convert::{index, wide};
use hv_core::paging::{self, Progress};
use hv_core::space::TableMemory;
use protocol::xen::grant as number;
use protocol::xen::structure::{GrantCopy, GrantGetVersion, GrantMap, GrantQuerySize, GrantSetupTable, GrantUnmap};
use spin::mutex::SpinMutexGuard;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::super::memory::{Memory, finished, tables};
use super::{Arguments, Caller, Refusal, Reply, element, read, write};
use crate::hypervisor::lock::Serving;
use crate::hypervisor::machine::DIRECT;

/// Elements of one call that are done before events are looked at: so many copies of a page.
const ELEMENTS: u64 = 16;
/// How often an entry is read again that the guest changes meanwhile.
const TRIES: usize = 4;

/// The call `grant_table_op`.
///
/// # Errors
/// `NotImplemented` for an unknown operation; `Fault` when an element cannot be read or written.
pub(super) fn grant_table_op(caller: &mut Caller<'_>, arguments: &mut Arguments) -> Reply {
    let [command, argument, ..] = *arguments;
    match command {
        number::MAP => each(caller, arguments, map, |asked| &mut asked.status),
        number::UNMAP => each(caller, arguments, unmap, |asked| &mut asked.status),
        number::SETUP_TABLE => each(caller, arguments, set_up, |asked| &mut asked.status),
        number::COPY => each(caller, arguments, copy, |asked| &mut asked.status),
        number::QUERY_SIZE => each(caller, arguments, query_size, |asked| &mut asked.status),
        number::SET_VERSION => {
            grant::set_version(read(argument)?)?;
            Ok(0)
        }
        number::GET_VERSION => {
            let asked: GrantGetVersion = read(argument)?;
            // There is no status: one that is no domain of the caller's has no such table either.
            let version = caller.domain.grants.lock().version(asked.dom);
            let version = version.map_err(|_| protocol::xen::Errno::NoDomain)?;
            write(argument, &GrantGetVersion { version, ..asked })?;
            Ok(0)
        }
        _ => caller.unknown(protocol::xen::call::GRANT_TABLE_OP),
    }
}

/// Does something for the elements of an array, each of which gets its status. The rest of a long array is
/// done when the call is made again.
///
/// # Errors
/// `Fault` when an element cannot be read or written.
fn each<T: FromBytes + IntoBytes + Immutable>(
    caller: &Caller<'_>,
    arguments: &mut Arguments,
    step: impl Fn(&mut Work<'_>, &mut T) -> Result<(), i16>,
    status: impl Fn(&mut T) -> &mut i16,
) -> Reply {
    let [_, array, count, ..] = *arguments;
    let count = count & u64::from(u32::MAX);
    for number in 0..count {
        let at = element::<T>(array, number)?;
        let work = if number < ELEMENTS { Work::begin(caller) } else { Err(Refusal::Restart) };
        if work.is_err() {
            arguments[1] = at;
            arguments[2] = count.wrapping_sub(number);
        }
        let mut work = work?;
        let mut asked: T = read(at)?;
        let done = step(&mut work, &mut asked);
        *status(&mut asked) = done.err().unwrap_or(number::OKAY);
        write(at, &asked)?;
    }
    Ok(0)
}

/// The memory and the grants of a VM, locked, without unfinished work.
struct Work<'a> {
    caller: &'a Caller<'a>,
    memory: Memory<'a>,
    /// The root of the caller's kernel mode.
    root: Mfn,
    grants: SpinMutexGuard<'a, GrantTable, Serving>,
}

/// A frame that is referred to while it is copied, and the use of the grant by which it is.
struct Held {
    frame: Mfn,
    access: Access,
    handle: Option<u32>,
}

impl<'a> Work<'a> {
    /// # Errors
    /// [`Refusal::Restart`] while there is other work.
    fn begin(caller: &'a Caller<'a>) -> Result<Work<'a>, Refusal> {
        let mut memory = caller.domain.memory()?;
        finished(Ok(memory.paging.drain(tables(caller.vm()))))?;
        let root = caller.state().own.kernel_root;
        Ok(Work { caller, memory, root, grants: caller.domain.grants.lock() })
    }

    /// The page-table entry where a grant is to be mapped, or is.
    ///
    /// # Errors
    /// `BAD_ADDRESS` when there is no table for it.
    fn entry(&self, place: Place) -> Result<paging::Place, i16> {
        match place {
            Place::Page(address) => {
                let found = self.memory.paging.find(tables(self.caller.vm()), self.root, address);
                found.ok_or(number::BAD_ADDRESS)
            }
            Place::Entry(address) => {
                let table = Mfn::containing(address);
                Ok(paging::Place { table, index: index(address.0 >> 3 & 511) })
            }
            Place::Held => Err(number::BAD_ADDRESS),
        }
    }

    /// Changes such an entry; what it was.
    ///
    /// # Errors
    /// `GENERAL_ERROR` when it is in no table of level 1, or cannot be what it was to become.
    fn change(&mut self, place: Place, change: impl FnMut(u64) -> Option<u64>) -> Result<u64, i16> {
        let entry = self.entry(place)?;
        match self.memory.paging.change(tables(self.caller.vm()), entry, change) {
            Ok(Progress::Done(old)) => Ok(old),
            Ok(Progress::Again) | Err(_) => Err(number::GENERAL_ERROR),
        }
    }

    /// Has a frame for a copy.
    ///
    /// # Errors
    /// `BAD_PAGE` when it is not the VM's memory; else that it is not granted so.
    fn hold(&mut self, side: Side, access: Access) -> Result<Held, i16> {
        let Side::Grant(reference) = side else {
            let Side::Own(frame) = side else { return Err(number::BAD_PAGE) };
            self.refer(frame, access)?;
            return Ok(Held { frame, access, handle: None });
        };
        let begun = self.grants.begin_hold(reference, access, Domain::of(self.caller.vm().id))?;
        let claimed = claim(&begun).and_then(|frame| self.refer(frame, access).map(|()| frame));
        match claimed {
            Ok(frame) => Ok(Held { frame, access, handle: Some(self.grants.complete(begun, frame)) }),
            Err(status) => {
                clear(self.grants.abandon(begun));
                Err(status)
            }
        }
    }

    /// Gives it up.
    fn release(&mut self, held: &Held) {
        let machine = tables(self.caller.vm());
        match held.access {
            Access::Read => self.memory.paging.drop_readable(machine, held.frame),
            Access::Write => self.memory.paging.drop_writable(machine, held.frame),
        }
        if let Some(ending) = held.handle.and_then(|handle| self.grants.begin_release(handle)) {
            clear(self.grants.finish(ending));
        }
    }

    /// Takes a reference to a frame.
    ///
    /// # Errors
    /// `BAD_PAGE` when it is not the VM's memory.
    fn refer(&mut self, frame: Mfn, access: Access) -> Result<(), i16> {
        let machine = tables(self.caller.vm());
        let taken = match access {
            Access::Read => self.memory.paging.take_readable(machine, frame),
            Access::Write => self.memory.paging.take_writable(machine, frame),
        };
        taken.map_err(|_| number::BAD_PAGE)
    }
}

/// Puts the marks of a use into its entry; the frame that it grants.
///
/// # Errors
/// `GENERAL_ERROR` when it does not grant that, or changes all the time.
fn claim(begun: &Begun) -> Result<Mfn, i16> {
    let entry = begun.entry;
    for _ in 0..TRIES {
        let claim = begun.claim(DIRECT.load(entry.frame, entry.index))?;
        if direct::compare_exchange_word(entry.frame, entry.index, claim.expected, claim.desired) {
            return Ok(claim.frame);
        }
    }
    Err(number::GENERAL_ERROR)
}

/// Takes marks out of an entry.
fn clear(owed: Clear) {
    if let Some(entry) = owed.entry {
        direct::clear_bits(entry.frame, entry.index, owed.bits);
    }
}

/// Shows a granted frame at a place of the caller.
///
/// # Errors
/// As hv-core says, or `GENERAL_ERROR` when the page table cannot have such an entry.
fn map(work: &mut Work<'_>, asked: &mut GrantMap) -> Result<(), i16> {
    let begun = work.grants.begin_map(asked)?;
    let mapped = claim(&begun).and_then(|frame| {
        let leaf = begun.leaf(frame);
        work.change(begun.place(), |_| Some(leaf)).map(|_| frame)
    });
    match mapped {
        Ok(frame) => {
            asked.handle = work.grants.complete(begun, frame);
            asked.dev_bus_addr = frame.start().0;
            Ok(())
        }
        Err(status) => {
            clear(work.grants.abandon(begun));
            Err(status)
        }
    }
}

/// Takes it out again.
///
/// # Errors
/// As hv-core says, or `GENERAL_ERROR` when something else is there.
fn unmap(work: &mut Work<'_>, asked: &mut GrantUnmap) -> Result<(), i16> {
    let ending = work.grants.begin_unmap(asked)?;
    let old = work.change(ending.place, |old| ending.is_in(old).then_some(0))?;
    if !ending.is_in(old) {
        return Err(number::GENERAL_ERROR);
    }
    // Who takes the grant back finds nobody that still reaches the frame.
    work.memory.paging.flush(tables(work.caller.vm()));
    clear(work.grants.finish(ending));
    Ok(())
}

/// Copies a part of a page.
///
/// # Errors
/// As hv-core says, or `BAD_PAGE` for what is not the VM's memory.
fn copy(work: &mut Work<'_>, asked: &mut GrantCopy) -> Result<(), i16> {
    let copying = work.grants.copy(asked)?;
    let (source, target) = (copying.source, copying.target);
    let from = work.hold(source.0, Access::Read)?;
    let to = work.hold(target.0, Access::Write);
    if let Ok(to) = &to {
        direct::copy_frame((from.frame, source.1), (to.frame, target.1), copying.length);
        work.release(to);
    }
    work.release(&from);
    to.map(drop)
}

/// Tells the caller the frames of its table.
///
/// # Errors
/// As hv-core says, or `BAD_ADDRESS` when the list cannot be written.
fn set_up(work: &mut Work<'_>, asked: &mut GrantSetupTable) -> Result<(), i16> {
    let frames = work.grants.set_up(asked.dom, asked.nr_frames)?;
    for (number, frame) in (0..).zip(frames) {
        let written = element::<u64>(asked.frame_list, number).and_then(|at| write(at, &frame.0));
        written.map_err(|_| number::BAD_ADDRESS)?;
    }
    Ok(())
}

/// Tells the caller how long its table is, and can become.
///
/// # Errors
/// As hv-core says.
fn query_size(work: &mut Work<'_>, asked: &mut GrantQuerySize) -> Result<(), i16> {
    let (shown, most) = work.grants.size(asked.dom)?;
    [asked.nr_frames, asked.max_nr_frames] = [shown, most].map(|count| u32::try_from(wide(count)).unwrap_or(0));
    Ok(())
}
