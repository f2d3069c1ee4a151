//! VMs that speak Xen's ABI: what they have besides what every VM has, and how their calls and traps reach
//! the decisions of hv-core.
//!
//! Order of locks: a VM's `memory`, then a vCPU's `state`, then `grants`, then `ports`; then as for all VMs.

#[expect(clippy::missing_errors_doc, reason = "each fails with the errors that the ABI gives its call")]
mod calls;
mod deliver;
mod emulate;
mod events;
mod life;
mod local;
mod memory;
#[cfg(feature = "recount")]
mod recount;

pub(super) use life::Apart;
#[cfg(feature = "recount")]
pub(super) use recount::Held;

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hv_arch::guest::Registers;
use hv_arch::guest::segments::Selectors;
use hv_arch::guest::xen_info::{Console, Info, Shared};
use hv_arch::{cpu as processor, mmu};
use hv_core::abi::native::cpuid;
use hv_core::abi::native::entry::Mode;
use hv_core::abi::xen::clock::{Activity, Runstate, Timers};
use hv_core::abi::xen::context::handlers::{Callbacks, TrapTable};
use hv_core::abi::xen::cpuid::{Counter, XenProcessor};
use hv_core::abi::xen::event::Ports;
use hv_core::abi::xen::grant::{self, GrantTable};
use hv_core::abi::xen::register::{self, Controlled, IoPrivilege};
use hv_core::addr::{Mfn, Phys};
use hv_core::frame::{Class, FrameTable};
use hv_core::space::TableMemory;
use hv_core::vm::xen::{XenBuilder, XenMemory};
use protocol::VmId;
use protocol::manifest::{Personality, VmManifest};
use protocol::xen::{call, selector};

use super::cell::Cell;
use super::cpu::Cpu;
use super::lock::Lock;
use super::vcpu::{Presence, Vcpu};

use deliver::Taken;
use local::LocalTable;

/// What a VM of this personality has besides.
#[derive(Debug)]
pub(super) struct Domain {
    /// The processor that it sees.
    processor: XenProcessor,
    /// Its memory; nothing while it does not exist.
    memory: Lock<Option<XenMemory>>,
    /// Its grants.
    grants: Lock<GrantTable>,
    /// Its event channels.
    ports: Lock<Ports>,
    /// vCPUs that wait in a poll, one bit each.
    polling: AtomicU64,
    /// Frames of the shared page and of the console's rings.
    shared: Cell,
    console: Cell,
    /// Held by the CPU that moves bytes between these rings and the line.
    moving: Lock<()>,
    /// What it asked for by `vm_assist`, a bit each.
    assists: AtomicU64,
    /// How often it made calls that do not exist here, by number.
    unknown: [AtomicU32; UNKNOWN],
    /// The VM while it is built again.
    building: Lock<Option<XenBuilder<'static>>>,
}

/// Numbers of calls that are counted apart; greater ones share the last.
const UNKNOWN: usize = 64;
const _: () = assert!(call::END == 64);

/// What a vCPU of this personality has besides.
#[derive(Debug)]
pub(super) struct XenVcpu {
    /// Machine address of its record, which tells of events.
    info: Cell,
    /// Whether how long it did what is to be written when its kernel goes on.
    tells_runstate: AtomicBool,
    /// The greater part. Its own CPU has it alone while it runs.
    state: Lock<State>,
}

/// The state of a vCPU that this ABI defines, beyond registers.
#[derive(Debug)]
struct State {
    traps: TrapTable,
    local: LocalTable,
    /// Whatever begins anew with the vCPU.
    own: Own,
}

/// What of it begins anew with the vCPU.
#[derive(Debug, Clone, Copy)]
struct Own {
    /// Whether `vcpu_op` gave it registers, or it is the first.
    is_initialised: bool,
    /// Whether the guest chose where its record lies.
    has_own_info: bool,
    callbacks: Callbacks,
    /// The stack for entries from user mode.
    kernel_stack: u64,
    privilege: IoPrivilege,
    ports: register::Ports,
    controlled: Controlled,
    /// What RDTSCP tells.
    tsc_aux: u32,
    /// The frames of its descriptor table, from the first on.
    table: [Mfn; TABLE_FRAMES],
    table_frames: usize,
    /// The roots that it holds.
    kernel_root: Mfn,
    user_root: Option<Mfn>,
    timers: Timers,
    runstate: Runstate,
    /// Where it wants to read how long it did what.
    runstate_area: Option<u64>,
}

/// Frames of a descriptor table.
#[expect(clippy::as_conversions, reason = "const code: u16 widens to usize")]
const TABLE_FRAMES: usize = selector::GUEST_FRAMES as usize;

impl Own {
    /// A vCPU that does nothing yet.
    const fn new(now: u64) -> Own {
        Own {
            is_initialised: false,
            has_own_info: false,
            callbacks: Callbacks::NONE,
            kernel_stack: 0,
            privilege: IoPrivilege { level: 0, is_architectural: false },
            ports: register::Ports::NEW,
            controlled: Controlled::INITIAL,
            tsc_aux: 0,
            table: [Mfn(0); TABLE_FRAMES],
            table_frames: 0,
            kernel_root: Mfn(0),
            user_root: None,
            timers: Timers::new(now),
            runstate: Runstate::new(now),
            runstate_area: None,
        }
    }

    /// The frames of its descriptor table.
    fn table(&self) -> &[Mfn] {
        self.table.get(..self.table_frames).unwrap_or(&[])
    }

    /// Notes other frames.
    fn set_table(&mut self, frames: &[Mfn]) {
        self.table.iter_mut().zip(frames).for_each(|(slot, frame)| *slot = *frame);
        self.table_frames = frames.len().min(TABLE_FRAMES);
    }
}

/// What a VM has besides, if its manifest says that it speaks this ABI. `hz` is the time-stamp counter's rate.
pub(super) fn domain(entry: &VmManifest, id: VmId, machine: &cpuid::Machine, hz: u64) -> Option<Domain> {
    let Personality::Xen(_) = entry.personality else {
        return None;
    };
    let counter = Counter { khz: u32::try_from(hz / 1000).unwrap_or(u32::MAX), is_invariant: true };
    let processor = XenProcessor::new(&entry.processor, machine, counter).unwrap_or_else(|missing| {
        let name = missing.first_name();
        hv_arch::boot::refuse(format_args!("VM {} asks for {name}, which this CPU does not have", entry.name));
    });
    Some(Domain {
        processor,
        memory: Lock::new(None),
        grants: Lock::new(GrantTable::new(id, &[Mfn(0); grant::FRAMES])),
        ports: Lock::new(Ports::new(id, entry.vcpus)),
        polling: AtomicU64::new(0),
        shared: Cell::new(0),
        console: Cell::new(0),
        moving: Lock::new(()),
        assists: AtomicU64::new(0),
        unknown: [const { AtomicU32::new(0) }; UNKNOWN],
        building: Lock::new(None),
    })
}

/// What each of its vCPUs has.
pub(super) fn vcpu(entry: &VmManifest) -> Option<XenVcpu> {
    let Personality::Xen(_) = entry.personality else {
        return None;
    };
    let state = Lock::new(State { traps: TrapTable::default(), local: LocalTable::NONE, own: Own::new(0) });
    Some(XenVcpu { info: Cell::new(0), tells_runstate: AtomicBool::new(false), state })
}

/// Makes the window of each vCPU that needs one. Before any root gets the hypervisor's slots.
pub(super) fn make_windows(vms: &[VmManifest], root: Mfn, frames: &FrameTable<'_>) {
    let numbered = vms.iter().flat_map(|vm| (0..vm.vcpus).map(move |_| vm)).enumerate();
    for (number, _) in numbered.filter(|(_, vm)| vm.personality != Personality::Native) {
        mmu::window::make(root, number, &mut || {
            let Some(table) = frames.claim_run(Class::FREE, Class::RESERVED, 0, (1, 1)) else {
                hv_arch::boot::refuse("there is not enough memory for the windows of vCPUs");
            };
            super::machine::DIRECT.clear(table);
            table
        });
    }
}

/// Puts the native descriptor tables in force, if they are not.
#[inline(always)]
pub(super) fn load_native(cpu: &Cpu) {
    if cpu.tables.load(Ordering::Relaxed) != 0 {
        cpu.tables.store(0, Ordering::Relaxed);
        processor::xen::load_native_tables();
    }
}

impl Domain {
    /// The page that it shares.
    fn shared(&self) -> Shared {
        Shared::new(Mfn(self.shared.get()))
    }

    /// The rings of its console.
    fn console(&self) -> Console {
        Console::new(Mfn(self.console.get()))
    }

    /// Whether it asked for a service.
    fn has_assist(&self, which: u64) -> bool {
        self.assists.load(Ordering::Relaxed) >> which & 1 != 0
    }
}

impl XenVcpu {
    /// Its record.
    #[inline(always)]
    fn info(&self) -> Info {
        Info::new(Phys(self.info.get()))
    }

    /// The guest executed `syscall`.
    #[inline(always)]
    pub(super) fn system_call(&'static self, cpu: &'static Cpu, vcpu: &'static Vcpu, registers: &mut Registers) {
        // What the processor took does not say which segments; what it loads on the way back does.
        registers.ss = u64::from(selector::DATA);
        registers.cs = u64::from(selector::CODE_64);
        if registers.vector != Registers::SYSCALL || vcpu.mode() == Mode::User {
            Taken { cpu, vcpu, xen: self, registers }.system_call();
        } else if registers.rax == call::IRET {
            // Every second call is this one.
            Taken { cpu, vcpu, xen: self, registers }.iret();
        } else {
            calls::handle(cpu, vcpu, self, registers);
        }
        self.upcall(cpu, vcpu, registers);
    }

    /// The guest took an exception, or raised vector 0x80.
    pub(super) fn trap(&'static self, cpu: &'static Cpu, vcpu: &'static Vcpu, registers: &mut Registers) {
        Taken { cpu, vcpu, xen: self, registers }.trap();
        self.upcall(cpu, vcpu, registers);
    }

    /// Delivers an event, if one came and the vCPU takes it.
    #[inline(always)]
    pub(super) fn upcall(&'static self, cpu: &'static Cpu, vcpu: &'static Vcpu, registers: &mut Registers) {
        if self.info().wants_upcall() {
            Taken { cpu, vcpu, xen: self, registers }.upcall();
        }
        leave_ring0(registers);
    }

    /// Before the floating-point state of the loaded vCPU is saved.
    pub(super) fn leave(&self, vcpu: &Vcpu) {
        processor::xen::allow_floating_point();
        let activity = match vcpu.presence() {
            _ if vcpu.stopping.load(Ordering::SeqCst) => Activity::Offline,
            Presence::Blocked => Activity::Blocked,
            Presence::Running(_) | Presence::Away => Activity::Runnable,
        };
        self.state.lock().own.runstate.change(activity, vcpu.vm().now().0);
    }

    /// Loads what only this personality has. The root is loaded.
    pub(super) fn enter(&self, cpu: &Cpu, vcpu: &Vcpu, selectors: Selectors) {
        let window = mmu::window::address(vcpu.index);
        if cpu.tables.swap(window, Ordering::Relaxed) != window {
            processor::xen::load_tables(window);
        }
        let mut state = self.state.lock();
        // This CPU may have loaded another since the vCPU was here.
        state.local.load(vcpu);
        if let Some(domain) = &vcpu.vm().xen {
            processor::load_controls(state.own.controlled.controls(&domain.processor));
        }
        if vcpu.has_tsc_aux() {
            processor::set_tsc_aux(state.own.tsc_aux);
        }
        state.own.runstate.change(Activity::Running, vcpu.vm().now().0);
        self.tells_runstate.store(state.own.runstate_area.is_some(), Ordering::Relaxed);
        drop(state);
        // These controls are none of those that are remembered.
        cpu.forget_controls();
        // One that cannot be loaded any more is null from now on.
        let _all_loaded = selectors.load_checked();
    }

    /// After all else was loaded.
    pub(super) fn entered(&self, vcpu: &Vcpu) {
        if self.state.lock().own.controlled.task_switched {
            processor::xen::trap_floating_point();
        }
        calls::tell_runstate(vcpu, self);
    }
}

/// What must hold of registers that go back to the guest: SYSRET takes no address that is not canonical (G2),
/// since these guests can map the page below the hole.
#[inline(always)]
fn leave_ring0(registers: &mut Registers) {
    if registers.rip != hv_arch::guest::segments::canonical(registers.rip) {
        registers.vector = 0;
    }
}
