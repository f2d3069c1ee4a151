//! The checks.

use core::sync::atomic::{AtomicU32, Ordering};

use guest_sdk::protocol::flags::Features;
use guest_sdk::protocol::shared::{COARSE_STEP_NS, CpuidResult};
use guest_sdk::timer::Timer;
use guest_sdk::{Nanos, StartInfo, Status, VcpuId, call, check, check_eq, println, smp, time, verdict};

use crate::instructions::{self as cpu, Outcome, PROTECTED, UNDEFINED};

static FINISHED: AtomicU32 = AtomicU32::new(0);

/// What the command line says of the policy.
#[derive(Debug, Clone, Copy)]
struct Policy {
    avx: bool,
    fsgsbase: bool,
    coarse: bool,
    no_debug: bool,
}

pub fn main(start: &'static StartInfo) {
    let has = |word| start.command_line().split(' ').any(|other| other == word);
    let policy =
        Policy { avx: has("avx"), fsgsbase: has("fsgsbase"), coarse: has("coarse"), no_debug: has("no-debug") };
    match run(policy) {
        Ok(()) => verdict::pass(),
        Err(status) => verdict::fail(format_args!("{status}")),
    }
}

fn run(policy: Policy) -> Result<(), Status> {
    let digest = digest()?;
    println!("report {digest:#018x}");
    for number in 1..smp::count() {
        smp::spawn(VcpuId(number), move || {
            if let Err(status) = check_vcpu(policy, digest) {
                verdict::fail(format_args!("vCPU {number}: {status}"));
            }
            FINISHED.fetch_add(1, Ordering::SeqCst);
        })?;
    }
    check_vcpu(policy, digest)?;
    // Nobody kicks: a kick that came late would end a `block` below.
    while FINISHED.load(Ordering::SeqCst) + 1 != smp::count() {
        call::block(Nanos(time::now().0 + 100_000))?;
    }
    check_debug(policy)?;
    check_time(policy)
}

/// Every leaf that has a meaning, and some beyond.
fn leaves() -> impl Iterator<Item = (u32, u32)> {
    let leaves = (0..0x20).chain(0x4000_0000..0x4000_0002).chain(0x8000_0000..0x8000_0022);
    leaves.flat_map(|leaf| (0..3).map(move |subleaf| (leaf, subleaf)))
}

/// FNV-1a over all answers of the call.
fn digest() -> Result<u64, Status> {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (leaf, subleaf) in leaves() {
        let CpuidResult { eax, ebx, ecx, edx } = call::cpuid(leaf, subleaf)?;
        for byte in [eax, ebx, ecx, edx].iter().flat_map(|word| word.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    Ok(hash)
}

/// What holds on each vCPU, after it was loaded anew among others.
fn check_vcpu(policy: Policy, wanted: u64) -> Result<(), Status> {
    cpu::install()?;
    for _ in 0..3 {
        check_eq!(digest()?, wanted, "the report");
        check_bare()?;
        check_instructions(policy)?;
        call::yield_cpu()?;
        call::block(Nanos(time::now().0 + 100_000))?;
    }
    Ok(())
}

/// The instruction says what the call does, where the hypervisor offers that.
fn check_bare() -> Result<(), Status> {
    if guest_sdk::start::features().contains(Features::CPUID) {
        for (leaf, subleaf) in leaves() {
            check_eq!(cpu::cpuid(leaf, subleaf), call::cpuid(leaf, subleaf)?, "leaf {leaf:#x}.{subleaf}");
        }
    }
    Ok(())
}

fn check_instructions(policy: Policy) -> Result<(), Status> {
    let leaf1 = call::cpuid(1, 0)?;
    let leaf7 = call::cpuid(7, 0)?;
    let extended = call::cpuid(0x8000_0001, 0)?;
    let shows = |word: u32, bit: u32| word >> bit & 1 != 0;
    let own = u64::from(smp::current().0);

    check_eq!(shows(leaf1.ecx, 28), policy.avx, "AVX is shown");
    check_eq!(matches!(cpu::avx(), Outcome::Done(..)), policy.avx, "AVX");
    check!(policy.avx || cpu::avx() == UNDEFINED, "AVX raises {:?}", cpu::avx());
    if shows(leaf1.ecx, 27) {
        let state = call::cpuid(0xd, 0)?;
        check_eq!(cpu::xgetbv(), Outcome::Done(u64::from(state.eax), 0), "XCR0");
        check_eq!(state.ebx, if policy.avx { 832 } else { 576 }, "bytes of the XSAVE area");
    }
    check_eq!(shows(leaf7.ebx, 0), policy.fsgsbase, "FSGSBASE is shown");
    check_eq!(matches!(cpu::rdfsbase(), Outcome::Done(..)), policy.fsgsbase, "FSGSBASE");
    check!(policy.fsgsbase || cpu::rdfsbase() == UNDEFINED, "rdfsbase raises {:?}", cpu::rdfsbase());

    check_eq!(shows(leaf1.edx, 4), !policy.coarse, "a time-stamp counter is shown");
    check_eq!(cpu::rdtsc() == PROTECTED, policy.coarse, "rdtsc");
    match cpu::rdtscp() {
        Outcome::Done(_, number) => {
            check!(!policy.coarse, "rdtscp tells the time");
            check_eq!(number, own, "rdtscp");
        }
        // A CPU without it may look at the time-stamp bit first.
        raised => check!(!shows(extended.edx, 27) && (raised == UNDEFINED || policy.coarse), "rdtscp: {raised:?}"),
    }
    match cpu::rdpid() {
        Outcome::Done(_, number) => check_eq!(number, own, "rdpid"),
        raised => check!(!shows(leaf7.ecx, 22) && raised == UNDEFINED, "rdpid: {raised:?}"),
    }
    let privileged = [cpu::rdpmc(), cpu::rdmsr(), cpu::wrmsr(), cpu::read_debug(), cpu::write_debug()];
    check_eq!(privileged, [PROTECTED; 5], "performance counter, model-specific and debug registers");
    check!([PROTECTED, UNDEFINED].contains(&cpu::xsetbv()), "xsetbv");
    Ok(())
}

fn check_debug(policy: Policy) -> Result<(), Status> {
    let wanted = if policy.no_debug { Err(Status::NotPermitted) } else { Ok(()) };
    check_eq!(call::debug_register_set(0, 0x1000), wanted, "setting DR0");
    check_eq!(call::debug_register_get(0).map(|_| ()), wanted, "reading DR0");
    check_eq!(call::debug_register_set(0, 0), wanted, "clearing DR0");
    Ok(())
}

/// Time goes on without a call, never backwards, in steps where it is coarse; no deadline is early.
fn check_time(policy: Policy) -> Result<(), Status> {
    let step = if policy.coarse { COARSE_STEP_NS } else { 1 };
    let start = time::now().0;
    let (mut last, mut changes) = (start, 0_u64);
    while last < start + 20_000_000 {
        let now = time::now().0;
        check!(now >= last, "time ran back from {last} to {now}");
        check_eq!(now % step, 0, "time is a multiple of the step");
        changes += u64::from(now != last);
        last = now;
    }
    check!(!policy.coarse || changes <= 20, "{changes} steps in 20 ms");
    let timer = Timer::new()?;
    for span in [1, 100_000, 1_500_000, 3_000_001] {
        let deadline = Nanos(time::now().0 + span);
        timer.set(deadline)?;
        timer.event().wait();
        let now = time::now();
        check!(now >= deadline, "the timer came {} ns early", deadline.0 - now.0);
        check_eq!(now.0 % step, 0, "time is a multiple of the step");
        let deadline = Nanos(now.0 + span);
        call::block(deadline)?;
        check!(time::now() >= deadline, "block ended {} ns early", deadline.0 - time::now().0);
    }
    Ok(())
}
