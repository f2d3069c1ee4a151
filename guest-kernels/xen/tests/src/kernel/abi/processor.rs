//! Instructions that ring 3 cannot execute, registers, vCPUs.

use protocol::xen::structure::{RegisterVcpuInfo, RunstateInfo, SetSingleshotTimer};
use protocol::xen::{Errno, call, physdev, segment, vcpu};

use super::facts::{HOLE, HYPERVISOR};
use crate::kernel::raw::{self, attempt};
use crate::kernel::smp;
use crate::kernel::trap::{self, Trap};
use crate::kernel::world::{Own, RO, check, error, first_root, frame_at, hypercall};

const INVALID: i64 = error(Errno::Invalid);

pub fn run() {
    vcpus();
    bases();
    debug_registers();
    emulated();
    model_registers();
    floating_point();
}

fn vector(outcome: Result<(), Trap>) -> Option<(u64, u64)> {
    outcome.err().map(|trap| (trap.vector, trap.code))
}

fn vcpus() {
    let op = |command, number: u64, argument: u64| hypercall(call::VCPU_OP, [command, number, argument]);
    check("it is up", op(vcpu::IS_UP, 0, 0), 1);
    check("the other is not", op(vcpu::IS_UP, 1, 0), 0);
    for number in [2, 15, 16, 32, 8191, u64::MAX] {
        check("no such vCPU", op(vcpu::IS_UP, number, 0), error(Errno::NotFound));
    }
    check("not started yet", op(vcpu::UP, 1, 0), INVALID);
    let with = |change: fn(&mut protocol::xen::structure::VcpuGuestContext)| {
        let mut given = smp::given();
        change(&mut given);
        op(vcpu::INITIALISE, 1, (&raw mut given) as u64)
    };
    check("no such root", with(|given| given.ctrlreg[3] = 0), INVALID);
    check("no code there", with(|given| given.user_regs.rip = HOLE), INVALID);
    check("no such base", with(|given| given.gs_base_kernel = HOLE), INVALID);
    check("too many descriptors", with(|given| given.gdt_ents = 7169), INVALID);
    check("no such descriptors", with(|given| given.gdt_ents = 1), INVALID);
    check("no user root", with(|given| given.flags = 0), INVALID);
    check("not readable", op(vcpu::INITIALISE, 1, HYPERVISOR), error(Errno::Fault));
    check("started", smp::start(), [0, 0]);
    check("is up now", [op(vcpu::IS_UP, 1, 0), op(vcpu::UP, 1, 0)], [1, 0]);
    check("twice", with(|_| ()), error(Errno::Exists));
    let mut state = RunstateInfo::default();
    check("what it does", (op(vcpu::GET_RUNSTATE, 0, (&raw mut state) as u64), state.state), (0, 0));
    check("told nowhere", op(vcpu::GET_RUNSTATE, 0, HYPERVISOR), error(Errno::Fault));
    let period = |period: u64| op(vcpu::SET_PERIODIC_TIMER, 0, (&raw const period) as u64);
    check("periods", [period(0), period(999_999)], [INVALID; 2]);
    check("a period", (period(1 << 40), op(vcpu::STOP_PERIODIC_TIMER, 0, 0)), (0, 0));
    let timer = SetSingleshotTimer { timeout_abs_ns: u64::MAX / 2, ..SetSingleshotTimer::default() };
    let timer = (&raw const timer) as u64;
    check("a timer", [op(vcpu::SET_SINGLESHOT_TIMER, 0, timer), op(vcpu::STOP_SINGLESHOT_TIMER, 0, 0)], [0, 0]);
    check("another's timer", op(vcpu::SET_SINGLESHOT_TIMER, 1, timer), INVALID);
    record(op);
}

/// The place of a vCPU's record.
fn record(op: impl Fn(u64, u64, u64) -> i64) {
    let [page, table] = Own::several();
    let place = |mfn, offset| {
        let place = RegisterVcpuInfo { mfn, offset, ..RegisterVcpuInfo::default() };
        op(vcpu::REGISTER_VCPU_INFO, 1, (&raw const place) as u64)
    };
    check(
        "crosses a page",
        [place(page.frame, 4096 - 56), place(page.frame, 4096), place(page.frame, u32::MAX)],
        [INVALID; 3],
    );
    check("misaligned", place(page.frame, 4), INVALID);
    check("nobody's", place(0x7f_ffff_ffff, 0), error(Errno::Access));
    check("a page table", place(frame_at(first_root()), 0), error(Errno::Access));
    check("reads only", table.show(RO), 0);
}

fn bases() {
    let set = |which, base| hypercall(call::SET_SEGMENT_BASE, [which, base, 0]);
    let page = Own::new();
    raw::store(page.word(2), 0x77);
    check("base of FS", (set(segment::FS, page.at), raw::load_fs(16)), (0, 0x77));
    check(
        "not canonical",
        [set(segment::FS, HOLE), set(segment::GS_USER, HOLE), set(segment::GS_KERNEL, HOLE)],
        [INVALID; 3],
    );
    check("no such base", [set(4, 0), set(u64::MAX, 0)], [INVALID; 2]);
    check(
        "selectors",
        [0, 3, 0xe02b, 0xe033, 0xfff8, 0x8].map(|selector| set(segment::GS_USER_SELECTOR, selector)),
        [0; 6],
    );
    check("base is kept", raw::local(0), 0);
    check("stack", [0, HOLE, HYPERVISOR].map(|stack| hypercall(call::STACK_SWITCH, [0xe02b, stack, 0])), [0; 3]);
}

fn debug_registers() {
    let set = |register, value| hypercall(call::SET_DEBUGREG, [register, value, 0]);
    let get = |register| hypercall(call::GET_DEBUGREG, [register, 0, 0]);
    check("an address", (set(0, 0x1234), get(0)), (0, 0x1234));
    check("the hypervisor's", [set(0, HYPERVISOR), set(3, HYPERVISOR)], [error(Errno::NotPermitted); 2]);
    check("no such register", [set(8, 0), get(8), set(99, 0)], [error(Errno::NoDevice); 3]);
    check("upper halves", [set(7, 1 << 32), set(6, 1 << 32)], [INVALID; 2]);
    check("trap of its own use", set(7, 1 << 13), error(Errno::NotPermitted));
    check("off", [set(0, 0), set(7, 0)], [0; 2]);
}

fn emulated() {
    let level = |level: u32| hypercall(call::PHYSDEV_OP, [physdev::SET_IOPL, (&raw const level) as u64, 0]);
    let fault = Some((13, 0));
    check("level 0", level(0), 0);
    check("no interrupts", [vector(attempt!("cli")), vector(attempt!("sti"))], [fault; 2]);
    check("no ports", vector(attempt!("in al, 0x42", out("rax") _)), fault);
    check("level 1", level(1), 0);
    check("interrupts", [vector(attempt!("cli")), vector(attempt!("sti"))], [None; 2]);
    let mut byte: u64 = 0x5500;
    check("the timer's port", vector(attempt!("in al, 0x42", inout("rax") byte)), None);
    check("reads 0", byte, 0x5500);
    let mut word = 0_u64;
    check("another port", vector(attempt!("in eax, 0x80", inout("rax") word)), None);
    check("reads ones", word, 0xffff_ffff);
    let refused = [
        vector(attempt!("hlt")),
        vector(attempt!("lgdt [rsp]")),
        vector(attempt!("lidt [rsp]")),
        vector(attempt!("ltr {x:x}", x = in(reg) 0xe040)),
        vector(attempt!("lldt {x:x}", x = in(reg) 0xe050)),
        vector(attempt!("invlpg [rsp]")),
        vector(attempt!("invd")),
        vector(attempt!("lmsw {x:x}", x = in(reg) 0)),
        vector(attempt!("swapgs")),
        vector(attempt!("rdpmc", in("rcx") 0, out("rax") _, out("rdx") _)),
    ];
    for (number, trap) in refused.into_iter().enumerate() {
        check("refused", (number, trap), (number, fault));
    }
    check("written back", vector(attempt!("wbinvd")), None);
    let mut value = 0_u64;
    check("CR3", (vector(attempt!("mov {x}, cr3", x = out(reg) value)), value), (None, frame_at(first_root()) << 12));
    check("CR0", (vector(attempt!("mov {x}, cr0", x = out(reg) value)), value & 0x8000_0001), (None, 0x8000_0001));
    check("CR0 as it is", vector(attempt!("mov cr0, {x}", x = in(reg) value)), None);
    check("CR0 without paging", vector(attempt!("mov cr0, {x}", x = in(reg) value & 0x7fff_ffff)), fault);
    check("CR4", vector(attempt!("mov {x}, cr4", x = out(reg) value)), None);
    check("CR4 bits that are dropped", vector(attempt!("mov cr4, {x}", x = in(reg) value | 0x30_0000)), None);
    check("CR8", vector(attempt!("mov {x}, cr8", x = out(reg) _)), fault);
    let [leaf, subleaf] = [0x4000_0000_u64, 0];
    let (a, c, d): (u64, u64, u64);
    check(
        "CPUID by force",
        vector(attempt!(
            "push rbx; .byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid; pop rbx",
            inout("rax") leaf => a, inout("rcx") subleaf => c, out("rdx") d
        )),
        None,
    );
    check("says Xen", (a >= 0x4000_0002, c, d), (true, 0x6558_4d4d, 0x4d4d_566e));
    let features: u64;
    check(
        "features",
        vector(attempt!(
            "push rbx; .byte 0x0f, 0x0b, 0x78, 0x65, 0x6e; cpuid; pop rbx",
            inout("rax") 1_u64 => _, inout("rcx") 0_u64 => _, out("rdx") features
        )),
        None,
    );
    check("large pages, MTRRs and others are hidden", features & (1 << 1 | 1 << 3 | 1 << 12 | 1 << 13 | 1 << 17), 0);
}

fn model_registers() {
    let read = |number: u64| {
        let (low, high): (u64, u64);
        let trap = attempt!("rdmsr", in("rcx") number, out("rax") low, out("rdx") high);
        trap.map(|()| high << 32 | low).map_err(|trap| trap.vector)
    };
    let write = |number: u64, value: u64| {
        attempt!("wrmsr", in("rcx") number, in("rax") value & 0xffff_ffff, in("rdx") value >> 32)
            .map_err(|trap| trap.vector)
    };
    check("EFER", read(0xc000_0080).map(|value| value & 0xd00), Ok(0xd00));
    check("PAT", read(0x277), Ok(0x0000_0501_0007_0406));
    check("base of FS", (write(0xc000_0100, 0x1000), read(0xc000_0100)), (Ok(()), Ok(0x1000)));
    check("not canonical", [0xc000_0100, 0xc000_0101, 0xc000_0102].map(|msr| write(msr, HOLE)), [Err(13); 3]);
    check("base of GS", read(0xc000_0101), Ok(trap::block(0)));
    for msr in [0x1d9, 0x38f, 0xc000_0081, 0xc000_0082, 0xc000_0084, 0x174, 0x48, 0x10] {
        check("written", (msr, write(msr, 1)), (msr, Err(13)));
    }
    check("no such register", [read(0x4000_0000), read(0xdead_beef)], [Err(13); 2]);
}

fn floating_point() {
    check("set", hypercall(call::FPU_TASKSWITCH, [1, 0, 0]), 0);
    check("traps once", vector(attempt!("fninit")), Some((7, 0)));
    check("and no more", vector(attempt!("fninit")), None);
    check(
        "set and cleared",
        [hypercall(call::FPU_TASKSWITCH, [1, 0, 0]), hypercall(call::FPU_TASKSWITCH, [0, 0, 0])],
        [0; 2],
    );
    check("does not trap", vector(attempt!("fninit")), None);
    check("set once more", hypercall(call::FPU_TASKSWITCH, [1, 0, 0]), 0);
    check("cleared by an instruction", [vector(attempt!("clts")), vector(attempt!("fninit"))], [None; 2]);
}
