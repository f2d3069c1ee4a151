//! What long mode and later processors added.

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use functional_support::program::Program;
use guest_sdk::protocol::flags::{Features, MapFlags};
use guest_sdk::protocol::layout::LOWER_END;
use guest_sdk::space::Space;
use guest_sdk::user::{Exit, UserContext};
use guest_sdk::{Nanos, VcpuId, call, smp, start};

use crate::bare::Values;
use crate::item::{Item, Verdict};
use crate::{code, words};

const UD: &[u8] = &[6];
const GP_UD: &[u8] = &[13, 6];
const PF: &[u8] = &[14];
/// `iretq`: the page fault is QEMU's, see the table of Robin and Irvine.
const GP_PF: &[u8] = &[13, 14];

/// Leaks, each with what closes it.
const CPU_MODEL: Verdict = Verdict::Leaks("closed by CPUID faulting");
const CLOCK: Verdict = Verdict::Leaks("a fine clock; closed by the policy of time (CR4.TSD)");
const LINE: Verdict = Verdict::Leaks("a wait for another's line; closed by CPUs without it");
const CACHE: Verdict = Verdict::Leaks("state of caches; not closed (docs/caveats.md)");
const ENTROPY: Verdict = Verdict::Leaks("contention for one shared unit; not closed (docs/caveats.md)");
const TRANSACTION: Verdict = Verdict::Leaks("faults unseen; closed by microcode or another CPU");
const THREAD: Verdict = Verdict::Leaks("a clock even without RDTSC; closed by one vCPU");

fn yes(_: &Values) -> bool {
    true
}

fn advances(values: &Values) -> bool {
    values.rax.cast_signed() > 0
}

/// TSC_AUX holds the vCPU's number.
fn is_own_vcpu(aux: u64) -> bool {
    aux == u64::from(smp::current().0)
}

fn has(feature: Features) -> bool {
    start::features().contains(feature)
}

pub(crate) const ITEMS: &[Item] = &[
    Item::new("CPUID", "CPUID leaf 0", "3A", code::cpuid_vendor)
        .runs(CPU_MODEL, words::vendor, yes)
        .instead("cpuid::vendor", words::policy_vendor),
    Item::new("CPUID", "CPUID leaf 1", "3A", code::cpuid_features)
        .runs(CPU_MODEL, words::features, yes)
        .instead("cpuid::leaf", words::policy_features),
    Item::new("RDTSC", "RDTSC", "3B", code::rdtsc)
        .runs(CLOCK, words::advances, advances)
        .instead("time::now", words::clock),
    Item::new("RDTSC", "RDTSCP", "3B", code::rdtscp)
        .faults(GP_UD)
        .runs(CLOCK, words::advances_and_aux, |values| advances(values) && is_own_vcpu(values.rsi))
        .instead("time::now, smp::current", words::clock),
    Item::new("RDPID", "RDPID", "3A", code::rdpid)
        .faults(UD)
        .runs(Verdict::Own, words::aux, |values| is_own_vcpu(values.rax))
        .instead("smp::current", words::vcpu),
    Item::new("RDPMC", "RDPMC", "3B", code::rdpmc),
    Item::new("RDPRU", "RDPRU", "3B", code::rdpru).faults(GP_UD),
    Item::new("UMWAIT", "UMWAIT", "3B", code::umwait)
        .faults(GP_UD)
        .runs(LINE, words::ran, yes)
        .instead("event::wait_until", words::wait),
    Item::new("UMWAIT", "TPAUSE", "3B", code::tpause)
        .faults(GP_UD)
        .runs(LINE, words::ran, yes)
        .instead("time::sleep", words::clock),
    Item::new("UMWAIT", "MWAITX", "3B", code::mwaitx)
        .faults(GP_UD)
        .runs(LINE, words::ran, yes)
        .instead("event::wait_until", words::wait),
    Item::new("XGETBV", "XGETBV 0", "3A", code::xgetbv_0)
        .faults(UD)
        .runs(Verdict::Constant, words::rax, |values| values.rax & !0b111 == 0)
        .instead("cpuid::leaf", words::policy_xcr0),
    Item::new("XGETBV", "XGETBV 1", "3A", code::xgetbv_1)
        .faults(GP_UD)
        .runs(Verdict::Own, words::rax, |values| values.rax & !0b111 == 0)
        .instead("raw::fpu", words::none),
    Item::new("RDPKRU", "RDPKRU", "3C", code::rdpkru).faults(UD).instead("call::protect", words::protection),
    Item::new("RDPKRU", "WRPKRU", "3C", code::wrpkru).faults(UD).instead("call::protect", words::protection),
    Item::new("FSGSBASE", "RDFSBASE WRFSBASE", "3B", code::fs_base)
        .faults(UD)
        .runs(Verdict::Own, words::rax, |values| has(Features::FSGSBASE) && values.rax == 0x12_3450)
        .instead("segment::set, segment::get", words::fs_base),
    Item::new("FSGSBASE", "RDGSBASE WRGSBASE", "3B", code::gs_base)
        .faults(UD)
        .runs(Verdict::Own, words::rax, |values| has(Features::FSGSBASE) && values.rax == 0x12_3450)
        .instead("segment::set, segment::get", words::fs_base),
    Item::new("privileged", "SWAPGS", "3B", code::swapgs).instead("none: the mode changes GS", words::none),
    Item::new("privileged", "SYSRETQ", "3A", code::sysret).instead("UserContext::run_in", words::user_mode),
    Item::new("privileged", "LGDT", "3B", code::lgdt).instead("flat selectors of the ABI", words::flat_selectors),
    Item::new("privileged", "LIDT", "3B", code::lidt).instead("trap::set_handler", words::handler),
    Item::new("privileged", "LLDT", "3B", code::lldt).instead("none: there is no LDT", words::none),
    Item::new("privileged", "LTR", "3B", code::ltr).instead("kernel_stack of the vCPU's page", words::user_mode),
    Item::new("privileged", "LMSW", "3B", code::lmsw).instead("control::cr0", words::cr0),
    Item::new("privileged", "CLTS", "3B", code::clts).instead("none: TS is never set", words::cr0),
    Item::new("privileged", "MOV from CR0", "3B", code::mov_from_cr0).instead("control::cr0", words::cr0),
    Item::new("privileged", "MOV from CR2", "3B", code::mov_from_cr2).instead("TrapFrame::address", words::handler),
    Item::new("privileged", "MOV from CR3", "3C", code::mov_from_cr3).instead("control::space", words::space),
    Item::new("privileged", "MOV from CR4", "3B", code::mov_from_cr4).instead("control::cr4", words::cr4),
    Item::new("privileged", "MOV from CR8", "3B", code::mov_from_cr8).instead("event::state", words::mask_state),
    Item::new("privileged", "MOV to CR0", "3B", code::mov_to_cr0).instead("none: CR0 is fixed", words::cr0),
    Item::new("privileged", "MOV to CR3", "3C", code::mov_to_cr3).instead("Space::make_current", words::space),
    Item::new("privileged", "MOV to CR4", "3B", code::mov_to_cr4).instead("none: CR4 is fixed", words::cr4),
    Item::new("privileged", "MOV to CR8", "3B", code::mov_to_cr8).instead("event::mask", words::mask_and_restore),
    Item::new("privileged", "MOV from DR", "3B", code::mov_from_dr).instead("debug::status", words::debug_status),
    Item::new("privileged", "MOV to DR", "3B", code::mov_to_dr).instead("debug::set", words::debug_status),
    Item::new("privileged", "RDMSR", "3B", code::rdmsr).instead("control::efer, segment::get", words::efer),
    Item::new("privileged", "WRMSR", "3B", code::wrmsr).instead("segment::set", words::fs_base),
    Item::new("privileged", "INVLPG", "3C", code::invlpg)
        .instead("call::unmap, call::protect flush", words::protection),
    Item::new("privileged", "INVPCID", "3C", code::invpcid)
        .faults(GP_UD)
        .instead("call::unmap, call::protect flush", words::protection),
    Item::new("privileged", "INVD", "3B", code::invd),
    Item::new("privileged", "WBINVD", "3B", code::wbinvd),
    Item::new("privileged", "HLT", "3A", code::hlt).instead("event::wait_until", words::wait),
    Item::new("privileged", "CLI", "3B", code::cli).instead("event::mask", words::mask_and_restore),
    Item::new("privileged", "STI", "3B", code::sti).instead("event::unmask", words::mask_and_restore),
    Item::new("privileged", "IN", "3D", code::port_in)
        .instead("IoPort::read, by leave of the system file", words::port_read),
    Item::new("privileged", "OUT", "3D", code::port_out)
        .instead("IoPort::write, by leave of the system file", words::port_write),
    Item::new("privileged", "INS", "3D", code::port_ins)
        .instead("IoPort::read, by leave of the system file", words::port_read),
    Item::new("privileged", "OUTS", "3D", code::port_outs)
        .instead("IoPort::write, by leave of the system file", words::port_write),
    Item::new("privileged", "XSETBV", "3B", code::xsetbv)
        .faults(GP_UD)
        .instead("none: XCR0 is fixed", words::policy_xcr0),
    Item::new("privileged", "MONITOR", "3B", code::monitor).faults(GP_UD).instead("event::wait_until", words::wait),
    Item::new("privileged", "MWAIT", "3B", code::mwait).faults(GP_UD).instead("event::wait_until", words::wait),
    Item::new("privileged", "STAC", "3C", code::stac).faults(GP_UD),
    Item::new("privileged", "RSM", "3A", code::rsm).faults(GP_UD),
    Item::new("privileged", "VMCALL", "3A", code::vmcall).faults(GP_UD).instead("the calls of the ABI", words::calls),
    Item::new("SYSCALL", "SYSCALL", "3A", code::syscall)
        .faults(&[])
        .runs(Verdict::Own, unknown_call, is_unknown_call)
        .instead("the calls of the ABI", words::calls),
    Item::new("SYSCALL", "SYSCALL with DF NT AC ID", "3A", code::syscall_flags)
        .faults(&[])
        .runs(Verdict::Own, unknown_call, is_unknown_call)
        .instead("the calls of the ABI", words::calls),
    Item::shown("SYSRET", "SYSRET to an address that is not canonical", "3A", Verdict::Traps, sysret_is_guarded)
        .instead("UserContext::run_in", words::user_mode),
    Item::new("SYSENTER", "SYSENTER", "3A", code::sysenter).faults(GP_UD).instead("SYSCALL", words::calls),
    Item::new("IRET", "IRETQ", "3A", code::iret)
        .faults(PF)
        .runs(Verdict::NoEffect, words::stay, words::interrupts_on)
        .instead("UserContext::run_in, resume", words::user_mode),
    Item::new("IRET", "IRETQ to ring 0", "3A", code::iret_ring0)
        .faults(GP_PF)
        .instead("UserContext::run_in, resume", words::user_mode),
    Item::new("debug traps", "INT3", "3C", code::int3).faults(&[3]).instead("the same", words::none),
    // QEMU 7.2 has no ICEBP: it is an invalid opcode there.
    Item::new("debug traps", "ICEBP", "3C", code::icebp).faults(&[1, 6]).instead("INT3", words::none),
    Item::new("debug traps", "INTO", "3C", code::into).faults(UD),
    Item::new("debug traps", "POPFQ with TF", "3B", code::single_step).faults(&[1]).instead("the same", words::none),
    Item::new("debug traps", "MOV to SS, then INT3", "3C", code::mov_ss_int3)
        .faults(&[3])
        .instead("the same", words::none),
    Item::new("EFLAGS.AC", "POPFQ with AC", "3B", code::alignment)
        .faults(&[])
        .runs(Verdict::NoEffect, words::alignment, yes)
        .instead("none: there are no alignment checks", words::none),
    Item::new("null selector", "MOV to FS of 0", "3B", code::null_fs)
        .faults(UD)
        .runs(Verdict::Own, words::rax, yes)
        .instead("segment::set", words::fs_base),
    Item::new("null selector", "MOV to GS of 0", "3B", code::null_gs)
        .faults(UD)
        .runs(Verdict::Own, words::gs_after_null, yes)
        .instead("segment::set", words::fs_base),
    Item::new("cache control", "CLFLUSH", "3B", code::clflush).faults(UD).runs(CACHE, words::ran, yes),
    Item::new("cache control", "CLFLUSHOPT", "3B", code::clflushopt).faults(UD).runs(CACHE, words::ran, yes),
    Item::new("cache control", "CLWB", "3B", code::clwb).faults(UD).runs(CACHE, words::ran, yes),
    Item::new("cache control", "PREFETCHT0", "3B", code::prefetch).faults(&[]).runs(CACHE, words::ran, yes),
    Item::new("cache control", "CLZERO", "3B", code::clzero).faults(UD).runs(CACHE, words::ran, yes),
    Item::new("cache control", "MOVNTI", "3B", code::movnti).faults(&[]).runs(CACHE, words::ran, yes),
    Item::new("RDRAND", "RDRAND", "3B", code::rdrand).faults(UD).runs(ENTROPY, words::random, yes),
    Item::new("RDRAND", "RDSEED", "3B", code::rdseed).faults(UD).runs(ENTROPY, words::random, yes),
    Item::new("TSX", "XBEGIN", "3C", code::xbegin).faults(UD).runs(TRANSACTION, words::ran, yes),
    Item::new("unmanaged features", "ENCLU", "3C", code::enclu).faults(GP_UD),
    Item::new("unmanaged features", "SENDUIPI", "3B", code::senduipi)
        .faults(UD)
        .instead("call::vcpu_kick", words::kick),
    Item::new("unmanaged features", "PTWRITE", "3B", code::ptwrite).faults(UD),
    Item::new("unmanaged features", "RDSSPQ", "3C", code::rdssp).faults(UD).runs(
        Verdict::NoEffect,
        words::rax,
        |values| values.rax == 0x5a5a,
    ),
    Item::new("unmanaged features", "MOV through a masked address (LAM)", "3C", code::masked_address).faults(&[13, 14]),
    Item::new("unmanaged features", "XGETBV for MPX, LWP, PKRU, AMX", "3A", code::xgetbv_0).faults(UD).runs(
        Verdict::Constant,
        states,
        |values| values.rax & !0b111 == 0,
    ),
    Item::new("LA57", "MOV from 2^50", "3C", code::far_address),
    Item::new("segment limits", "MOV through DS of 0", "3C", code::null_ds)
        .faults(&[])
        .runs(Verdict::Constant, words::rax, |values| values.rax == 0x77)
        .instead("pages", words::none),
    Item::new("ring collapse", "MOV from the kernel half", "3C", code::kernel_half)
        .faults(PF)
        .runs(Verdict::Own, words::ran, yes)
        .instead("the same: user mode has a root of its own", words::none),
    Item::new("ring collapse", "MOV from the hypervisor's half", "3C", code::hypervisor_half)
        .faults(PF)
        .instead("none", words::none),
    Item::shown("ring collapse", "MOV from CS tells no mode", "3A", Verdict::Constant, same_selector)
        .instead("frame_info::USER of a frame", words::user_mode),
    Item::shown("counting thread", "a second vCPU counts", "3B", THREAD, another_counts)
        .instead("time::now", words::clock),
];

fn is_unknown_call(values: &Values) -> bool {
    guest_sdk::Status::check_register(values.rax) == Err(guest_sdk::Status::UnknownCall)
}

fn unknown_call(_: &Values) -> String {
    "the hypervisor says UnknownCall".into()
}

fn states(values: &Values) -> String {
    alloc::format!("XCR0 {:#x}: none of them", values.rax)
}

/// The frame is refused before SYSRET could fault in ring 0, and no `syscall` can stand where its
/// return address would not be canonical.
fn sysret_is_guarded() -> Result<String, &'static str> {
    let program = Program::new(&[]).map_err(|_| "no space")?;
    let mut outside = UserContext::new(1 << 47, 0x1000);
    match outside.run_in(program.space.id()) {
        Ok(Exit::Fault(fault)) if fault.vector == 13 => {}
        _ => return Err("a return to 2^47 was not refused"),
    }
    let mut space = Space::new().map_err(|_| "no space")?;
    match space.map_zeroed(LOWER_END, 1, MapFlags::EXECUTE) {
        Err(_) => Ok("frame refused; the last page below 2^47 cannot be mapped".into()),
        Ok(()) => Err("the last page below 2^47 was mapped"),
    }
}

/// Kernel mode and user mode have one code selector.
fn same_selector() -> Result<String, &'static str> {
    let mut runner = crate::bare::Runner::new().map_err(|_| "no space")?;
    let (kernel, user) = runner.both(code::mov_from_seg()).map_err(|_| "no space")?;
    if kernel == user { Ok("the same in both modes".into()) } else { Err("differs between the modes") }
}

/// Turns of the counting vCPU.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Ends it.
static ENOUGH: AtomicU64 = AtomicU64::new(0);

/// Another vCPU counts while this one only looks. To be called by vCPU 0 before it starts others.
fn another_counts() -> Result<String, &'static str> {
    if smp::count() < 2 {
        return Ok("the VM has one vCPU".into());
    }
    let counter = || {
        while ENOUGH.load(Ordering::Relaxed) == 0 {
            COUNT.fetch_add(1, Ordering::Relaxed);
            let _ = call::yield_cpu();
        }
    };
    smp::spawn(VcpuId(1), counter).map_err(|_| "the vCPU did not start")?;
    let deadline = Nanos(guest_sdk::time::now().0 + 10_000_000_000);
    while COUNT.load(Ordering::Relaxed) < 10 && guest_sdk::time::now() < deadline {
        let _ = call::yield_cpu();
    }
    ENOUGH.store(1, Ordering::Relaxed);
    while call::vcpu_kick(VcpuId(1)).is_ok() {
        let _ = call::yield_cpu();
    }
    if COUNT.load(Ordering::Relaxed) < 10 { Err("stands") } else { Ok("advances".into()) }
}
