//! The checks.

use functional_support::probe::{self, Access};
use functional_support::program::{CODE, DATA, Program};
use functional_support::{user_code, wild};
use guest_sdk::frame::{Frame, FrameRun};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{FrameRelease, Map, Pair, Protect, Unmap};
use guest_sdk::protocol::flags::{InfoTopic, MapFlags};
use guest_sdk::protocol::layout::{KERNEL_START, PHYSMAP, TIME_PAGE_FRAME};
use guest_sdk::space::Space;
use guest_sdk::user::{Exit, Fault};
use guest_sdk::{GuestVirt, SpaceId, StartInfo, Status, call, check, check_eq, trap, verdict};

const PAGE: u64 = 0x1234_5000;
/// Error codes: user mode (as which the kernel runs), present, write.
const MISSING: u64 = 4;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;

pub fn main(_start: &'static StartInfo) {
    match run() {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run() -> Result<(), Status> {
    probe::install()?;
    check_two_spaces()?;
    check_rights()?;
    check_destruction()?;
    check_large_page()?;
    check_ranges()?;
    check_release()?;
    check_user_mode()
}

/// The same address in two spaces, and the kernel half in both.
fn check_two_spaces() -> Result<(), Status> {
    let mut spaces = [Space::new()?, Space::new()?];
    for (space, value) in spaces.iter_mut().zip([0xaaaa_u64, 0xbbbb]) {
        let frame = Frame::new().ok_or(Status::QuotaExceeded)?;
        check!(frame.write(8, &value.to_le_bytes()), "write to a frame");
        space.map(PAGE, frame, MapFlags::WRITE)?;
    }
    check_eq!(probe::read(PAGE), Access::Fault(MISSING), "read in the first space");
    for _ in 0..3 {
        for (space, value) in spaces.iter().zip([0xaaaa_u64, 0xbbbb]) {
            space.make_current()?;
            check_eq!(probe::read(PAGE + 8), Access::Done(value), "read in its space");
            check_eq!(probe::read(PAGE + 4096), Access::Fault(MISSING), "the page behind");
        }
    }
    let [first, second] = &spaces;
    first.make_current()?;
    check_eq!(probe::write(PAGE + 16, 7), Access::Done(0), "write");
    let mut word = [0; 8];
    first.read(PAGE + 16, &mut word)?;
    check_eq!(u64::from_le_bytes(word), 7, "what was written");
    second.read(PAGE + 16, &mut word)?;
    check_eq!(u64::from_le_bytes(word), 0, "the other space's word");
    Ok(())
}

/// Rights that are given, taken away and given back, while the page is in use.
fn check_rights() -> Result<(), Status> {
    let mut space = Space::new()?;
    space.map_zeroed(PAGE, 1, MapFlags::WRITE)?;
    space.make_current()?;
    for round in 0..10 {
        check_eq!(probe::write(PAGE, round), Access::Done(0), "write");
        space.protect(PAGE, MapFlags::empty())?;
        check_eq!(probe::read(PAGE), Access::Done(round), "read of a read-only page");
        let refused = Access::Fault(MISSING | PRESENT | WRITE);
        check_eq!(probe::write(PAGE, 99), refused, "write to a read-only page");
        let (number, flags) = translate(space.id(), PAGE + 5)?;
        check_eq!(flags, MapFlags::empty(), "flags of a read-only page");
        space.protect(PAGE, MapFlags::WRITE)?;
        check_eq!(translate(space.id(), PAGE)?, (number, MapFlags::WRITE), "translation");
    }
    let frame = space.unmap(PAGE)?;
    check_eq!(probe::read(PAGE), Access::Fault(MISSING), "read after unmap");
    check_eq!(translate(space.id(), PAGE), Err(Status::NotMapped), "translate after unmap");
    space.map(PAGE, frame, MapFlags::empty())?;
    check_eq!(probe::read(PAGE), Access::Done(9), "the frame kept its contents");
    Ok(())
}

fn translate(space: SpaceId, address: u64) -> Result<(u64, MapFlags), Status> {
    let Pair(number, flags) = call::translate(space, GuestVirt(address))?;
    Ok((number, MapFlags::from_bits_retain(flags)))
}

/// Spaces that are in use cannot be destroyed; the pool gets all tables back.
fn check_destruction() -> Result<(), Status> {
    check_eq!(call::space_destroy(SpaceId::FIRST), Err(Status::Busy), "destroy space 0");
    check_eq!(call::space_destroy(SpaceId(63)), Err(Status::NotFound), "destroy no space");
    let before = call::info(InfoTopic::PoolFrames)?;
    for _ in 0..3 {
        let mut space = Space::new()?;
        space.map_zeroed(PAGE, 3, MapFlags::WRITE)?;
        space.map_zeroed(0x7000_0000_0000, 1, MapFlags::WRITE)?;
        check!(call::info(InfoTopic::PoolFrames)? < before, "tables come from the pool");
        space.make_current()?;
        check_eq!(call::space_destroy(space.id()), Err(Status::Busy), "destroy the current space");
        drop(space);
        check_eq!(call::info(InfoTopic::PoolFrames)?, before, "pool after destruction");
    }
    Ok(())
}

/// A large page, whole or not at all.
fn check_large_page() -> Result<(), Status> {
    const LARGE: u64 = 0x4000_0000;
    let Some(run) = FrameRun::new(512, 512) else {
        return Err(Status::QuotaExceeded);
    };
    check!(run.write(0x1f_f008, &0xcafe_u64.to_le_bytes()), "write to the run");
    let space = Space::new()?;
    let flags = MapFlags::WRITE | MapFlags::LARGE;
    let number = u64::from(space.id().0);
    let map = |address: u64, frame: u64| wild::call(Map::NUMBER, [number, address, frame, 1, flags.bits(), 0]);
    check_eq!(map(LARGE + 4096, run.first().0), Err(Status::Misaligned), "address off");
    check_eq!(map(LARGE, run.first().0 + 1), Err(Status::Misaligned), "frame off");
    check_eq!(map(LARGE, run.first().0), Ok(1), "map a large page");
    check_eq!(map(LARGE, run.first().0), Err(Status::AlreadyMapped), "map it again");
    space.make_current()?;
    check_eq!(probe::read(LARGE + 0x1f_f008), Access::Done(0xcafe), "its last page");
    let (frame, found) = translate(space.id(), LARGE + 0x3000)?;
    check_eq!((frame, found), (run.first().0 + 3, flags), "translate inside it");
    let unmap = |address: u64, count: u64| wild::call(Unmap::NUMBER, [number, address, count, 0, 0, 0]);
    check_eq!(unmap(LARGE, 1), Err(Status::Misaligned), "unmap a part");
    check_eq!(probe::read(LARGE + 0x1f_f008), Access::Done(0xcafe), "still there");
    check_eq!(unmap(LARGE, 512), Ok(512), "unmap the whole");
    check_eq!(probe::read(LARGE + 0x1f_f008), Access::Fault(MISSING), "gone");
    Ok(())
}

/// Ranges that stop part of the way.
fn check_ranges() -> Result<(), Status> {
    let Some(run) = FrameRun::new(600, 1) else {
        return Err(Status::QuotaExceeded);
    };
    let space = Space::new()?;
    let number = u64::from(space.id().0);
    let first = run.first().0;
    let map = |address: u64, frame: u64, count: u64| {
        wild::call(Map::NUMBER, [number, address, frame, count, MapFlags::WRITE.bits(), 0])
    };
    let unmap = |address: u64, count: u64| wild::call(Unmap::NUMBER, [number, address, count, 0, 0, 0]);
    check_eq!(map(PAGE, first, 0), Ok(0), "nothing");
    check_eq!(map(PAGE + 100 * 4096, first, 1), Ok(1), "a page in the way");
    check_eq!(map(PAGE, first, 512), Ok(100), "pages up to it");
    check_eq!(map(PAGE, first, 512), Err(Status::AlreadyMapped), "none");
    check_eq!(map(PAGE + 101 * 4096, first, 512), Ok(512), "the greatest number");
    check_eq!(map(PAGE, first, 513), Err(Status::TooLong), "one more");
    check_eq!(unmap(PAGE, 512), Ok(512), "unmap across both");
    check_eq!(unmap(PAGE, 512), Err(Status::NotMapped), "unmap again");
    let protect = [number, PAGE + 511 * 4096, 512, 0, 0, 0];
    check_eq!(wild::call(Protect::NUMBER, protect), Err(Status::NotMapped), "protect nothing");
    check_eq!(unmap(PAGE + 512 * 4096, 512), Ok(101), "unmap the rest");
    let time = |flags: u64| wild::call(Map::NUMBER, [number, PAGE, TIME_PAGE_FRAME.0, 1, flags, 0]);
    check_eq!(time(MapFlags::WRITE.bits()), Err(Status::NotPermitted), "time page for writing");
    check_eq!(time(0), Ok(1), "time page for reading");
    space.make_current()?;
    check!(matches!(probe::read(PAGE + 16), Access::Done(multiplier) if multiplier > 0), "time page");
    check_eq!(unmap(PAGE, 1), Ok(1), "unmap the time page");
    Ok(())
}

/// Frames that are mapped cannot be released; reclaimed ones are zero. The physmap shows memory by
/// large pages, so that whole ones leave it.
fn check_release() -> Result<(), Status> {
    let Some(run) = FrameRun::new(512, 512) else {
        return Err(Status::QuotaExceeded);
    };
    let first = run.first();
    check!(run.write(4096, &[0xff; 4096]), "fill");
    let physmap = PHYSMAP.0 + first.0 * 4096;
    let release = |frame: u64, count: u64| wild::call(FrameRelease::NUMBER, [frame, count, 0, 0, 0, 0]);
    let map = |address: u64, frame: u64, count: u64| {
        wild::call(Map::NUMBER, [0, address, frame, count, MapFlags::WRITE.bits(), 0])
    };
    let free = call::info(InfoTopic::PoolFrames)?;
    check_eq!(release(first.0, 1), Err(Status::Busy), "release a frame that the physmap shows");
    let unmap = [0, physmap, 512, 0, 0, 0];
    check_eq!(wild::call(Unmap::NUMBER, unmap), Ok(512), "take them out of the physmap");
    check_eq!(release(first.0, 65), Err(Status::TooLong), "release too many");
    check_eq!(release(first.0, 64), Ok(64), "release frames that nothing shows");
    check_eq!(call::info(InfoTopic::PoolFrames)?, free + 64, "the pool has them");
    check_eq!(release(first.0, 1), Err(Status::InvalidArgument), "release again");
    check_eq!(map(PAGE, first.0, 1), Err(Status::InvalidArgument), "map a released frame");
    check_eq!(call::frame_reclaim(first, 64), Ok(64), "reclaim");
    check_eq!(call::frame_reclaim(first, 1), Err(Status::AlreadyMapped), "reclaim again");
    check_eq!(map(physmap, first.0, 512), Ok(512), "back into the physmap, by small pages");
    check_eq!(probe::read(physmap + 4096), Access::Done(0), "a reclaimed frame is zero");
    Ok(())
}

user_code! {
    /// Reads the word at the address in rdi.
    read_word:
        "mov rax, [rdi]",
        "syscall",
}

user_code! {
    /// Writes a word to the address in rdi.
    write_word:
        "mov [rdi], rdi",
        "syscall",
}

/// User mode against its own pages, code, the kernel half and the hypervisor.
fn check_user_mode() -> Result<(), Status> {
    let fault = |error_code, address| Exit::Fault(Fault { vector: trap::PAGE_FAULT, error_code, address });
    let mut reader = Program::new(read_word())?;
    reader.context.registers_mut().rdi = DATA;
    check_eq!(reader.run_on()?, Exit::Syscall, "user read of its data");
    check_eq!(user_access(read_word(), 0)?, fault(MISSING, 0), "user read of address 0");
    let written = user_access(write_word(), CODE)?;
    check_eq!(written, fault(MISSING | PRESENT | WRITE, CODE), "user write to its code");
    for address in [KERNEL_START, PHYSMAP.0, main as fn(&'static StartInfo) as usize as u64] {
        let exit = user_access(read_word(), address)?;
        check_eq!(exit, fault(MISSING, address), "user read of the kernel at {address:#x}");
    }
    let hypervisor = 0xffff_82d0_8000_0000;
    match user_access(write_word(), hypervisor)? {
        Exit::Fault(fault) => check_eq!(fault.address, hypervisor, "user write to the hypervisor"),
        other => verdict::fail(format_args!("user write to the hypervisor: {other:?}")),
    }
    Ok(())
}

fn user_access(code: &[u8], address: u64) -> Result<Exit, Status> {
    let mut program = Program::new(code)?;
    program.context.registers_mut().rdi = address;
    program.run_on()
}
