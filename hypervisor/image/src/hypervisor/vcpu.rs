//! A virtual CPU. What its own CPU touches on every entry are atomics (nobody else writes them while
//! it runs); what a switch saves is behind a lock, which also keeps a CPU that chose the vCPU from
//! loading it before the last one has saved it.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hv_arch::guest::Registers;
use hv_arch::guest::fpu;
use hv_arch::guest::page::SharedPage;
use hv_arch::guest::segments::{self, Selectors};
use hv_arch::mmu;
use hv_core::abi::native::cpuid::Controls;
use hv_core::abi::native::debug::DebugRegisters;
use hv_core::abi::native::entry::Mode;
use hv_core::abi::native::traps::HANDLERS;
use hv_core::addr::convert::{index, wide};
use hv_core::addr::{CpuId, Mfn};
use hv_core::space::Roots;
use protocol::processor::TimeSource;
use protocol::{SpaceId, VcpuId};

use super::cell::Cell;
use super::cpu::Cpu;
use super::lock::Lock;
use super::machine::{Vm, machine};
use super::xen::{self, XenVcpu};

/// Where a vCPU is, as senders of events need to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Loaded on a CPU.
    Running(CpuId),
    /// Waiting for a CPU, or stopped: it looks for events when it starts.
    Away,
    /// Sleeping until something wakes it.
    Blocked,
}

const AWAY: u32 = 0x100;
const BLOCKED: u32 = 0x200;
/// The vCPU's VM has no memory.
const NO_SPACE: u32 = u32::MAX;

/// A vCPU's controls and number in one word.
#[expect(clippy::as_conversions, reason = "const code: u32 widens to u64")]
const fn pack(controls: Controls, number: u32) -> u64 {
    (controls.bits() as u64) << 32 | number as u64
}

/// Bits of [`Vcpu::controls`].
const NO_TSC: u64 = pack(Controls::NO_TSC, 0);
const TSC_AUX: u64 = pack(Controls::TSC_AUX, 0);

/// A virtual CPU.
#[derive(Debug)]
pub(super) struct Vcpu {
    /// Index among all vCPUs; the scheduler's key.
    pub(super) index: usize,
    /// Index of its VM.
    pub(super) vm: usize,
    /// Its number in the VM.
    pub(super) id: VcpuId,
    /// What its VM's [`Controls`] and its number make: equal for vCPUs that need no change between them.
    pub(super) controls: u64,
    page: Cell,
    /// 0 for kernel mode, 1 for user mode.
    user_mode: Cell,
    /// Roots of kernel and user mode.
    roots: [Cell; 2],
    space: AtomicU32,
    /// The GS base of the mode that does not run.
    pub(super) other_gs: Cell,
    presence: AtomicU32,
    has_breakpoints: AtomicBool,
    /// It was told to stop, and not started anew since. Written under the scheduler's lock.
    pub(super) stopping: AtomicBool,
    handlers: [Cell; HANDLERS],
    /// The last calls, for the report of a crash.
    pub(super) trace: Trace,
    /// Debug registers.
    pub(super) debug: Lock<DebugRegisters>,
    /// What a switch saves.
    pub(super) saved: Lock<Saved>,
    /// What it has besides when it speaks Xen's ABI.
    pub(super) xen: Option<XenVcpu>,
}

/// State of a vCPU that is not loaded. This is the whole list: a register that is not here is either
/// the same for all guests or not usable by any.
#[derive(Debug)]
pub(super) struct Saved {
    pub(super) registers: Registers,
    pub(super) selectors: Selectors,
    pub(super) fs_base: u64,
    pub(super) gs_base: u64,
    pub(super) fpu: fpu::State,
}

impl Saved {
    const INITIAL: Saved = Saved {
        registers: Registers::ZERO,
        selectors: Selectors::NULL,
        fs_base: 0,
        gs_base: 0,
        fpu: fpu::State::INITIAL,
    };
}

impl Vcpu {
    /// A stopped vCPU.
    pub(super) fn new(index: usize, vm: usize, id: VcpuId, controls: Controls, xen: Option<XenVcpu>) -> Vcpu {
        Vcpu {
            index,
            vm,
            id,
            controls: pack(controls, id.0),
            page: Cell::new(0),
            user_mode: Cell::new(0),
            roots: [const { Cell::new(0) }; 2],
            space: AtomicU32::new(NO_SPACE),
            other_gs: Cell::new(0),
            presence: AtomicU32::new(AWAY),
            has_breakpoints: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            handlers: [const { Cell::new(0) }; HANDLERS],
            trace: Trace::new(),
            debug: Lock::new(DebugRegisters::INITIAL),
            saved: Lock::new(Saved::INITIAL),
            xen,
        }
    }

    /// The VM that it belongs to.
    #[inline(always)]
    pub(super) fn vm(&self) -> &'static Vm {
        match machine().vms.get(self.vm) {
            Some(vm) => vm,
            None => super::panic::broken("V1", "a vCPU without a VM"),
        }
    }

    /// Whether instructions can read its number.
    #[inline(always)]
    pub(super) const fn has_tsc_aux(&self) -> bool {
        self.controls & TSC_AUX != 0
    }

    /// How it sees time.
    #[inline(always)]
    pub(super) const fn time(&self) -> TimeSource {
        if self.controls & NO_TSC == 0 { TimeSource::Native } else { TimeSource::Coarse }
    }

    /// The page that it shares with its guest, if that is a native one.
    #[inline(always)]
    pub(super) fn page(&self) -> SharedPage {
        SharedPage::new(Mfn(self.page.get()))
    }

    /// Tells it which frame its shared page is.
    pub(super) fn set_page(&self, frame: Mfn) {
        self.page.set(frame.0);
        self.page().set_number(self.id.0);
    }

    /// Which half of it runs.
    #[inline(always)]
    pub(super) fn mode(&self) -> Mode {
        if self.user_mode.get() == 0 { Mode::Kernel } else { Mode::User }
    }

    /// The space that it runs in.
    pub(super) fn space(&self) -> SpaceId {
        SpaceId(self.space.load(Ordering::Relaxed))
    }

    /// Takes its space away, when its VM ends; nothing if it had none.
    pub(super) fn take_space(&self) -> Option<SpaceId> {
        let space = self.space.swap(NO_SPACE, Ordering::Relaxed);
        (space != NO_SPACE).then_some(SpaceId(space))
    }

    /// Makes a space its own; loads it when the vCPU is.
    pub(super) fn set_space(&self, space: SpaceId, roots: Roots) {
        self.space.store(space.0, Ordering::Relaxed);
        for (root, frame) in self.roots.iter().zip([roots.kernel, roots.user]) {
            root.set(frame.0);
        }
    }

    /// Makes tables that its guest wrote its roots.
    #[cfg(feature = "xen")]
    pub(super) fn set_roots(&self, kernel: Mfn, user: Option<Mfn>) {
        let [own_kernel, own_user] = &self.roots;
        own_kernel.set(kernel.0);
        own_user.set(user.unwrap_or(kernel).0);
    }

    /// Has it go on in a mode. It must not be loaded.
    #[cfg(feature = "xen")]
    pub(super) fn set_mode(&self, mode: Mode) {
        self.user_mode.set(u64::from(mode == Mode::User));
    }

    /// The root that it uses now, if it has one.
    #[cfg(feature = "xen")]
    pub(super) fn loaded_root(&self) -> Option<Mfn> {
        let [kernel, user] = &self.roots;
        let root = if self.user_mode.get() == 0 { kernel.get() } else { user.get() };
        (root != 0).then_some(Mfn(root))
    }

    /// Has the debug registers in force that were set just now. The vCPU must be loaded.
    pub(super) fn reload_debug(&self) {
        hv_arch::cpu::disarm_breakpoints();
        self.load_debug();
    }

    /// Loads the root of its space and mode.
    #[inline(always)]
    pub(super) fn load_root(&self) {
        let [kernel, user] = &self.roots;
        mmu::load_root(Mfn(if self.user_mode.get() == 0 { kernel.get() } else { user.get() }));
    }

    /// Goes to the other mode: its root, its GS base. The vCPU must be loaded.
    #[inline(always)]
    pub(super) fn change_mode(&self, mode: Mode) {
        self.user_mode.set(u64::from(mode == Mode::User));
        self.load_root();
        let leaving = segments::guest_gs_base();
        segments::set_guest_gs_base(self.other_gs.get());
        self.other_gs.set(leaving);
    }

    /// A handler's address, or 0.
    #[inline(always)]
    pub(super) fn handler(&self, index: usize) -> u64 {
        self.handlers.get(index).map_or(0, Cell::get)
    }

    /// Installs a handler.
    pub(super) fn set_handler(&self, index: usize, address: u64) {
        if let Some(handler) = self.handlers.get(index) {
            handler.set(address);
        }
    }

    /// Where it is.
    pub(super) fn presence(&self) -> Presence {
        match self.presence.load(Ordering::SeqCst) {
            AWAY => Presence::Away,
            BLOCKED => Presence::Blocked,
            cpu => Presence::Running(CpuId(cpu)),
        }
    }

    /// Notes where it is.
    pub(super) fn set_presence(&self, presence: Presence) {
        let value = match presence {
            Presence::Running(cpu) => cpu.0,
            Presence::Away => AWAY,
            Presence::Blocked => BLOCKED,
        };
        self.presence.store(value, Ordering::SeqCst);
    }

    /// Gives it the state of a vCPU that starts at an entry.
    pub(super) fn prepare(&self, registers: Registers) {
        self.stopping.store(false, Ordering::SeqCst);
        self.user_mode.set(0);
        self.other_gs.set(0);
        self.set_debug(DebugRegisters::INITIAL);
        let mut saved = self.saved.lock();
        *saved = Saved::INITIAL;
        saved.registers = registers;
    }

    /// Takes over the handlers of the vCPU that starts this one.
    pub(super) fn copy_handlers(&self, from: &Vcpu) {
        for (own, other) in self.handlers.iter().zip(&from.handlers) {
            own.set(other.get());
        }
    }

    /// Forgets all handlers.
    pub(super) fn clear_handlers(&self) {
        for handler in &self.handlers {
            handler.set(0);
        }
    }

    /// Sets the debug registers; they are in force from the next time that it is loaded.
    pub(super) fn set_debug(&self, registers: DebugRegisters) {
        *self.debug.lock() = registers;
        self.has_breakpoints.store(registers.is_active(), Ordering::Relaxed);
    }

    /// Saves the loaded state.
    pub(super) fn save(&self, saved: &mut Saved, registers: &Registers) {
        saved.registers = *registers;
        saved.selectors = Selectors::read();
        saved.fs_base = segments::fs_base();
        saved.gs_base = segments::guest_gs_base();
        if let Some(xen) = &self.xen {
            xen.leave(self);
        }
        saved.fpu.save(machine().fpu);
        if self.has_breakpoints.load(Ordering::Relaxed) {
            hv_arch::cpu::disarm_breakpoints();
        }
    }

    /// Loads the saved state, and its root.
    pub(super) fn load(&self, cpu: &Cpu, registers: &mut Registers) {
        // First the root: what the CPU knows of a window may be of another time.
        self.load_root();
        let saved = self.saved.lock();
        *registers = saved.registers;
        match &self.xen {
            None => {
                xen::load_native(cpu);
                saved.selectors.load();
            }
            Some(xen) => xen.enter(cpu, self, saved.selectors),
        }
        segments::set_fs_base(saved.fs_base);
        segments::set_guest_gs_base(saved.gs_base);
        saved.fpu.load(machine().fpu);
        drop(saved);
        self.load_debug();
        if let Some(xen) = &self.xen {
            xen.entered(self);
        }
    }

    /// Loads the debug registers, if any breakpoint is on.
    pub(super) fn load_debug(&self) {
        if self.has_breakpoints.load(Ordering::Relaxed) {
            hv_arch::guest::load_breakpoints(&self.debug.lock());
        }
    }
}

/// Calls that a report shows.
const TRACED: usize = 16;

/// A ring of the last calls. Written by the vCPU's own CPU only.
#[derive(Debug)]
pub(super) struct Trace {
    next: Cell,
    calls: [[Cell; 4]; TRACED],
}

/// Call number of a slot that holds no call.
const NO_CALL: u64 = u64::MAX;

impl Trace {
    fn new() -> Trace {
        Trace { next: Cell::new(0), calls: [const { [const { Cell::new(NO_CALL) }; 4] }; TRACED] }
    }

    fn slot(&self, number: u64) -> Option<&[Cell; 4]> {
        self.calls.get(index(number) % TRACED)
    }

    /// Notes a call before it is made: number and two arguments.
    #[inline(always)]
    pub(super) fn begin(&self, number: u64, first: u64, second: u64) {
        let next = self.next.get();
        self.next.set(next.wrapping_add(1));
        if let Some([a, b, c, _]) = self.slot(next) {
            a.set(number);
            b.set(first);
            c.set(second);
        }
    }

    /// Notes what the last call returned.
    #[inline(always)]
    pub(super) fn end(&self, result: u64) {
        if let Some([_, _, _, last]) = self.slot(self.next.get().wrapping_sub(1)) {
            last.set(result);
        }
    }

    /// The calls, newest first: number, two arguments, result.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = [u64; 4]> + '_ {
        let next = self.next.get();
        let slots = (1..=wide(TRACED)).filter_map(move |back| self.slot(next.wrapping_sub(back)));
        slots.map(|call| call.each_ref().map(Cell::get)).filter(|call| call.first() != Some(&NO_CALL))
    }

    /// Forgets all calls.
    pub(super) fn clear(&self) {
        self.calls.iter().flatten().for_each(|word| word.set(NO_CALL));
    }
}
