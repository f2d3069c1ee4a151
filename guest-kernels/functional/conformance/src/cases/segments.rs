//! Segment bases.

use functional_support::program::{DATA, Program};
use functional_support::user_code;
use guest_sdk::protocol::call::{Pair, SegmentBaseGet, SegmentBaseSet};
use guest_sdk::protocol::flags::{Features, SegmentBase};
use guest_sdk::protocol::layout::{HYPERVISOR_START, KERNEL_START};
use guest_sdk::user::Exit;
use guest_sdk::{StartInfo, Status};

use core::sync::atomic::Ordering;

use crate::case::Outcome;
use crate::{assembly, ensure_eq, record, scene};

crate::cases! {
    SegmentBaseSet "in force at once" ["SEG-1"] [] in_force;
    SegmentBaseSet "in force in user mode" ["SEG-1"] [] in_force_in_user_mode;
    SegmentBaseSet "addresses that are not canonical" ["SEG-2"] [InvalidArgument] not_canonical;
    SegmentBaseGet "the base that is there" ["SEG-3"] [] get_base;
}

fn set(base: SegmentBase, address: u64) -> Result<(), Status> {
    record::make(SegmentBaseSet { base, address })
}

fn get(base: SegmentBase) -> Result<u64, Status> {
    let Pair(zero, address) = record::make(SegmentBaseGet { base })?;
    if zero == 0 { Ok(address) } else { Err(Status::UnknownCall) }
}

fn in_force() -> Outcome {
    for (place, value) in [(0, 0x1111), (8, 0x2222)] {
        scene::words()[place].store(value, Ordering::SeqCst);
        let address = scene::buffer() + place as u64 * 8;
        set(SegmentBase::Fs, address)?;
        ensure_eq!(assembly::word_behind(0), value, "the word behind FS");
        // The SDK needs GS itself; between these calls it is not asked for anything.
        let own = get(SegmentBase::KernelGs)?;
        set(SegmentBase::KernelGs, address)?;
        let found = assembly::word_behind(1);
        set(SegmentBase::KernelGs, own)?;
        ensure_eq!(found, value, "the word behind GS");
        scene::words()[place].store(0, Ordering::SeqCst);
    }
    Ok(set(SegmentBase::Fs, 0)?)
}

user_code! {
    /// Reads what is behind GS, and what is behind FS.
    read_bases:
        "mov rdi, gs:[0]",
        "mov rsi, fs:[0]",
        "syscall",
        "ud2",
}

fn in_force_in_user_mode() -> Outcome {
    let mut program = Program::new(read_bases())?;
    program.space.write(DATA + 16, &0x3333_u64.to_le_bytes())?;
    program.space.write(DATA + 32, &0x4444_u64.to_le_bytes())?;
    set(SegmentBase::UserGs, DATA + 16)?;
    program.context.set_fs_base(DATA + 32);
    let exit = program.run_on();
    let kept = get(SegmentBase::UserGs);
    set(SegmentBase::UserGs, 0)?;
    ensure_eq!(exit, Ok(Exit::Syscall), "the program");
    let [gs, fs, ..] = program.context.arguments();
    ensure_eq!((gs, fs), (0x3333, 0x4444), "words behind GS and FS in user mode");
    ensure_eq!(kept, Ok(DATA + 16), "base of GS in user mode, seen from kernel mode");
    Ok(())
}

fn not_canonical() -> Outcome {
    for base in [SegmentBase::Fs, SegmentBase::KernelGs, SegmentBase::UserGs] {
        for address in [1 << 47, 1 << 48, 1 << 63, 0xffff_0000_0000_0000, 0xffff_7fff_ffff_ffff, 0x7fff_8000_0000_0000]
        {
            scene::refuse(SegmentBaseSet { base, address }, Status::InvalidArgument)?;
        }
    }
    Ok(())
}

fn get_base() -> Outcome {
    for base in [SegmentBase::Fs, SegmentBase::UserGs] {
        // A base gives no access: any canonical address will do.
        for address in [0, 1, 0x7fff_ffff_ffff, HYPERVISOR_START, KERNEL_START, u64::MAX] {
            set(base, address)?;
            let found = get(base);
            set(base, 0)?;
            ensure_eq!(found, Ok(address), "base of {base:?}");
        }
    }
    if StartInfo::of_this_vm().features().contains(Features::FSGSBASE) {
        assembly::write_fs_base(0x1234_5678);
        let found = get(SegmentBase::Fs);
        set(SegmentBase::Fs, 0)?;
        ensure_eq!(found, Ok(0x1234_5678), "base that was set without a call");
    }
    Ok(())
}
