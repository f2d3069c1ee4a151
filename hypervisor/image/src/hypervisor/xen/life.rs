//! A VM's beginning and end.

use core::fmt;
use core::sync::atomic::Ordering;

use hv_arch::boot;
use hv_arch::guest::Registers;
use hv_core::abi::native::debug::DebugRegisters;
use hv_core::abi::xen::clock;
use hv_core::space::entry::{Stored, reportable};
use hv_core::space::{TableMemory, Teardown};
use hv_core::vm::xen::{XenBuilder, XenMemory};
use hv_core::vm::{Build, Origin};
use protocol::manifest::{Personality, XenKernel};
use protocol::record::WalkStep;
use protocol::xen::{Errno, sched, selector};

use super::calls::{Caller, Refusal, Reply};
use super::local::{self, LocalTable};
use super::memory::tables;
use super::{Domain, Own, UNKNOWN, XenVcpu};
use crate::hypervisor::death::{self, Cause};
use crate::hypervisor::machine::{After, DIRECT, Vm, machine};
use crate::hypervisor::start;
use crate::hypervisor::vcpu::Vcpu;

/// How far taking a VM apart came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Apart {
    /// Another step is needed.
    Again,
    /// Its frames are to become free.
    Free,
    /// It was built again and runs.
    Built,
}

/// The kernel that a VM's manifest names.
fn kernel(vm: &Vm) -> Option<XenKernel> {
    let index = usize::try_from(vm.id.0).unwrap_or(usize::MAX);
    match machine().image.manifest().vms.get(index)?.personality {
        Personality::Xen(kernel) => Some(kernel),
        Personality::Native => None,
    }
}

/// A builder for a VM.
fn builder(vm: &'static Vm, origin: Origin) -> XenBuilder<'static> {
    let Some(kernel) = kernel(vm) else {
        crate::hypervisor::panic::broken("V3", "a VM that speaks another ABI than its manifest says");
    };
    XenBuilder::new(start::source(vm, origin), kernel)
}

impl Domain {
    /// Builds the VM for the first time, and makes its first vCPU ready.
    pub(in super::super) fn build(&'static self, vm: &'static Vm) {
        let mut builder = builder(vm, Origin::Free);
        loop {
            match builder.step(tables(vm)) {
                Ok(Build::Again) => {}
                Ok(Build::Done) => break,
                Err(error) => boot::refuse(format_args!("VM {} cannot be built: {error}", vm.name())),
            }
        }
        self.launch(vm, builder.finish());
    }

    /// Does one step of taking the VM apart and, if it is to start again, of building it. No CPU has a root of
    /// it loaded.
    pub(in super::super) fn take_apart(&'static self, vm: &'static Vm, after: After) -> Apart {
        if self.report_unknown(vm) {
            return Apart::Again;
        }
        {
            // From now on nobody reaches for a frame that is given away.
            let _alone = self.moving.lock();
            self.console.set(0);
        }
        let mut memory = self.memory.lock();
        if let Some(own) = &mut *memory {
            if let Teardown::Done(remains) = own.teardown_step(tables(vm)) {
                *memory = None;
                if after == After::Restart {
                    *self.building.lock() = Some(builder(vm, Origin::Kept(remains)));
                    return Apart::Again;
                }
                return Apart::Free;
            }
            return Apart::Again;
        }
        drop(memory);
        let mut building = self.building.lock();
        match building.as_mut().map(|builder| builder.step(tables(vm))) {
            Some(Ok(Build::Again)) => Apart::Again,
            Some(Ok(Build::Done)) => {
                let built = building.take();
                drop(building);
                if let Some(builder) = built {
                    self.launch(vm, builder.finish());
                }
                Apart::Built
            }
            Some(Err(_)) => crate::hypervisor::panic::broken("F5", "a VM could not be built again from its own frames"),
            None => Apart::Free,
        }
    }

    /// Gives the VM the memory that was built for it and makes its first vCPU ready.
    fn launch(&self, vm: &'static Vm, memory: XenMemory) {
        self.shared.set(memory.shared_info.0);
        self.console.set(memory.console.0);
        self.polling.store(0, Ordering::SeqCst);
        self.assists.store(0, Ordering::SeqCst);
        self.grants.lock().reset(&memory.grants);
        self.ports.lock().reset();
        start::reset_clock(vm);
        let time = clock::time_info(*vm.clock.lock(), 0);
        for (vcpu, xen) in vm.vcpus().iter().filter_map(|vcpu| Some((vcpu, vcpu.xen.as_ref()?))) {
            xen.info.set(self.shared().info(vcpu.id.0).0);
            xen.info().set_time(&time);
            let mut state = xen.state.lock();
            state.traps.clear();
            state.local = LocalTable::NONE;
            local::clear_window(vcpu);
            state.own = Own::new(0);
            hv_arch::mmu::window::show_table(machine().root, vcpu.index, &[]);
            vcpu.trace.clear();
            vcpu.set_debug(DebugRegisters::INITIAL);
            vcpu.prepare(Registers::ZERO);
            if vcpu.id.0 == 0 {
                state.own.is_initialised = true;
                state.own.kernel_root = memory.root;
                state.own.kernel_stack = memory.stack;
                vcpu.set_roots(memory.root, None);
                vcpu.saved.lock().registers = Registers {
                    rsi: memory.start_info,
                    cs: u64::from(selector::CODE_64),
                    ss: u64::from(selector::DATA),
                    ..Registers::start(memory.entry, memory.stack, 0)
                };
            }
        }
        *self.memory.lock() = Some(memory);
        start::begin(vm);
    }

    /// Says which calls the VM made that do not exist here, and how often. Answers whether there were any since
    /// it was asked last.
    pub(in super::super) fn report_unknown(&self, vm: &Vm) -> bool {
        let counts = self.unknown.each_ref().map(|count| count.swap(0, Ordering::Relaxed));
        let is_any = counts.iter().any(|count| *count != 0);
        if is_any {
            machine().line.lock().say(format_args!(
                "{} made calls in ways that are not offered here: {}",
                vm.name(),
                Unknown(&counts)
            ));
        }
        is_any
    }
}

/// Numbers of calls with how often each was made.
struct Unknown<'a>(&'a [u32; UNKNOWN]);

impl fmt::Display for Unknown<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.0.iter().enumerate().filter(|(_, count)| **count != 0);
        for (place, (number, count)) in made.enumerate() {
            let before = if place == 0 { "" } else { ", " };
            let more = if number.wrapping_add(1) == UNKNOWN { " or above" } else { "" };
            write!(to, "{before}{number}{more} (times {count})")?;
        }
        Ok(())
    }
}

/// The VM asks for its own end.
///
/// # Errors
/// [`Refusal::Taken`]: its registers do not matter any more.
pub(super) fn shut_down(caller: &mut Caller<'_>, reason: u32) -> Reply {
    let vm = caller.vm();
    caller.domain.drain_console(vm);
    match reason {
        sched::POWEROFF => death::end(caller.cpu, vm, 0),
        sched::REBOOT => death::end_to_restart(caller.cpu, vm),
        // Nobody could bring it back.
        sched::SUSPEND => return Err(Errno::Invalid.into()),
        _ => death::die(caller.cpu, caller.vcpu, caller.registers, &Cause::OwnWord { reason }),
    }
    Err(Refusal::Taken)
}

impl XenVcpu {
    /// Walks the tables that the vCPU uses to an address; how many steps there are.
    pub(in super::super) fn page_walk(&self, vcpu: &Vcpu, address: u64, into: &mut [WalkStep; 4]) -> usize {
        let Some(mut table) = vcpu.loaded_root() else {
            return 0;
        };
        let mut steps = 0_usize;
        for (slot, level) in into.iter_mut().zip((1..=4_u8).rev()) {
            let shift = u32::from(level).wrapping_mul(9).wrapping_add(3);
            let index = (address >> shift) & 511;
            let word = DIRECT.load(table, hv_core::addr::convert::index(index));
            *slot = WalkStep { level, index: u16::try_from(index).unwrap_or(0), flags: reportable(word) };
            steps = steps.saturating_add(1);
            match Stored::of(word) {
                Stored::Table(next) if level > 1 => table = next,
                Stored::Table(_) | Stored::Large(_) | Stored::Nothing => break,
            }
        }
        steps
    }
}
