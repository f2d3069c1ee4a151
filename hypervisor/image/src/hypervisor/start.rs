//! From the loader to the first guest.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hv_arch::boot::{self, BootInfo};
use hv_arch::cpu::features::Features;
use hv_arch::cpu::gate;
use hv_arch::guest::{Registers, fpu};
use hv_arch::io::{Serial, serial};
use hv_arch::irq::{io_apic, local_apic, pic, timer, vector};
use hv_arch::{heap, local, mmu, time};
use hv_core::abi::native::cpuid::{self, Gate, Processor};
use hv_core::abi::native::entry::Upcalls;
use hv_core::addr::{CpuId, MAX_CPUS, Mfn};
use hv_core::audit::Log;
use hv_core::console::Console;
use hv_core::event::{self, PortTable};
use hv_core::firmware::Topology;
use hv_core::grant::GrantTable;
use hv_core::sched::VcpuKey;
use hv_core::sched::partition::Plan;
use hv_core::space::{self, Region};
use hv_core::time::{Clock, Scale, VmClock};
use hv_core::vm::{Build, Builder, ChannelEnd, Origin, SystemImage, VmSource, claim_channel};
use protocol::audit::AuditKind;
use protocol::layout::{FIRST_STACK_TOP, START_INFO};
use protocol::manifest::{Manifest, OnCrash, VmManifest};
use protocol::policy::{Hardware, Profile};
use protocol::record::{Record, Started};
use protocol::{SpaceId, VcpuId, VmId, flags};

use super::audit;
use super::cell::Cell;
use super::cpu::Cpu;
use super::line::Line;
use super::lock::Lock;
use super::machine::{self, Life, Machine, Vm, machine};
use super::memory::{self, Memory};
use super::run;
use super::slots::{OwnSlot, Partition, Slots};
use super::vcpu::Vcpu;
use super::xen;

/// What the hypervisor does, from first to last.
pub(super) fn main(boot: &'static BootInfo) -> ! {
    let features = check_cpu();
    // First of all: the final tables use what it turns on.
    let gate = bring_up(CpuId(0), features);
    let memory = memory::set_up(boot);
    let image = load_image(boot, features);
    pic::silence();
    let apic_clock = time::learn().unwrap_or_else(|error| boot::refuse(error));
    timer::start(features, apic_clock);
    let machine = set_up(boot, (features, gate), apic_clock, memory, image);
    audit::begin();
    #[cfg(feature = "recount")]
    super::recount::start();
    build_all(machine);
    start_processors(boot, machine);
    route_serial(boot);
    announce(boot, machine);
    heap::seal();
    run::start(super::cpu::own())
}

/// Refuses a machine that lacks what the hypervisor cannot do without.
fn check_cpu() -> Features {
    Features::detect().check_required().unwrap_or_else(|missing| {
        boot::refuse(format_args!("this CPU does not have {missing}, which Cloister needs"));
    })
}

/// Loads this CPU's own state and checks it as the hardware reports it.
fn bring_up(cpu: CpuId, features: Features) -> Gate {
    if let Err(violated) = local::bring_up(cpu, features) {
        boot::refuse(format_args!("start-up check failed on CPU {}: {violated}", cpu.0));
    }
    local_apic::enable(features);
    local::set_apic_id(cpu, local_apic::id());
    gate::close()
}

/// Checks the system image and its policy.
fn load_image(boot: &'static BootInfo, features: Features) -> &'static SystemImage<'static> {
    if boot.module.is_empty() {
        boot::refuse("no system image: the loader passed no module");
    }
    let image = match SystemImage::parse(boot.module) {
        Ok(image) => Box::leak(Box::new(image)),
        Err(error) => boot::refuse(format_args!("the system image is refused: {error}")),
    };
    let monitor = image.monitor();
    if monitor.policy().hardware == Hardware::Strict
        && monitor.is_labelled()
        && let Err(missing) = features.check_labelled()
    {
        boot::refuse(format_args!(
            "VMs of different labels need {missing}, unless the policy says hardware = degraded"
        ));
    }
    image
}

/// Makes the machine out of its parts.
fn set_up(
    boot: &BootInfo,
    (features, gate): (Features, Gate),
    apic_clock: &time::Clock,
    memory: Memory,
    image: &'static SystemImage<'static>,
) -> &'static Machine {
    let Some(scale) = Scale::new(apic_clock.tsc_hz) else {
        boot::refuse("the time-stamp counter's frequency makes no sense");
    };
    let clock = Clock::new(scale, boot.started_tsc);
    let manifest = image.manifest();
    let cpus = boot.topology.as_ref().map_or(1, |topology| topology.cpus().count()).clamp(1, MAX_CPUS);
    let vm_count = u32::try_from(manifest.vms.len()).unwrap_or(0);
    xen::make_windows(&manifest.vms, memory.root, &memory.frames);
    let slots = mmu::own::slots(memory.root);
    let tables = space::Machine { frames: &memory.frames, tables: &machine::DIRECT };
    let regions: Vec<Region> = manifest
        .channels
        .iter()
        .map(|channel| claim_channel(tables, channel.frames).unwrap_or_else(|error| boot::refuse(error)))
        .collect();
    let ends: Vec<&'static [ChannelEnd<'static>]> =
        (0..vm_count).map(|vm| channel_ends(manifest, &regions, vm)).collect();
    let plan = plan(image);
    let partitions = plan.as_ref().map_or(1, |plan| plan.partitions().len());
    let console = Console::new(vm_count);
    let partition_of = |vm| plan.as_ref().map_or(0, |plan| plan.partition_of(VmId(vm)));
    let mut vcpus = Vec::new();
    let machine = cpuid::Machine::learn(hv_arch::cpu::ask_cpuid);
    let ground =
        Ground { manifest, clock, machine, tsc_hz: apic_clock.tsc_hz, offered: guest_features(features, gate) };
    let vms = manifest
        .vms
        .iter()
        .zip(0..)
        .zip(&ends)
        .map(|((entry, number), ends)| {
            let vm = make_vm(entry, number, ends, &mut vcpus, &ground);
            Vm { partition: partition_of(number), ..vm }
        })
        .collect();
    let shares: Vec<u32> = image.monitor().policy().subjects.iter().map(|subject| subject.audit_share).collect();
    machine::install(Machine {
        frames: memory.frames,
        vms,
        vcpus: vcpus.into_boxed_slice(),
        cpus: (0..u32::try_from(cpus).unwrap_or(1))
            .map(|id| Cpu::new(CpuId(id), if plan.is_some() { OwnSlot::over() } else { OwnSlot::endless() }))
            .collect(),
        partitions: (0..partitions).map(|_| Partition::new(cpus, vm_count)).collect(),
        line: Lock::new(Line::new(
            if plan.is_some() { console.holding() } else { console },
            Serial::start(),
            Log::new(&shares),
        )),
        time_slots: plan.map(|plan| Slots::new(plan, features)),
        clock: super::clock::Clock(clock),
        fpu: if features.contains(Features::XSAVE) { fpu::Method::Xsave } else { fpu::Method::Fxsave },
        gate,
        root: memory.root,
        slots,
        image,
        ends: ends.into_boxed_slice(),
        live: AtomicU32::new(vm_count),
        failed: AtomicU32::new(0),
    })
}

/// What all VMs are made with.
struct Ground<'a> {
    manifest: &'a Manifest,
    clock: Clock,
    machine: cpuid::Machine,
    tsc_hz: u64,
    offered: flags::Features,
}

/// The time slots that the policy asks for.
fn plan(image: &SystemImage<'_>) -> Option<Plan> {
    match &image.monitor().policy().profile {
        Profile::Shared => None,
        Profile::Strict(schedule) => Some(Plan::new(schedule)),
    }
}

/// What guests can use.
fn guest_features(features: Features, gate: Gate) -> flags::Features {
    let pairs = [
        (Features::FSGSBASE, flags::Features::FSGSBASE),
        (Features::UMIP, flags::Features::UMIP),
        (Features::AVX, flags::Features::AVX),
        (Features::XSAVE, flags::Features::XSAVE),
    ];
    let answered = if gate == Gate::Open { flags::Features::empty() } else { flags::Features::CPUID };
    pairs.into_iter().filter(|(here, _)| features.contains(*here)).fold(answered, |all, (_, offered)| all | offered)
}

/// The channel ends of a VM, in the order of the manifest.
fn channel_ends(manifest: &'static Manifest, regions: &[Region], vm: u32) -> &'static [ChannelEnd<'static>] {
    let mut ends = Vec::new();
    for (channel, region) in manifest.channels.iter().zip(regions) {
        let [first, second] = channel.ends;
        for (side, own, peer) in [(0, first, second), (1, second, first)] {
            if own == vm {
                ends.push(ChannelEnd { name: channel.name.as_str(), region: *region, peer: VmId(peer), side });
            }
        }
    }
    ends.leak()
}

/// The same channel at its other end: its index there.
fn peer_index(manifest: &Manifest, name: &str, peer: u32) -> u32 {
    let of_peer = manifest.channels.iter().filter(|channel| channel.ends.contains(&peer));
    of_peer.zip(0_u32..).find(|(channel, _)| channel.name == name).map_or(0, |(_, index)| index)
}

/// Makes a VM that has no memory yet, and its vCPUs.
fn make_vm(
    entry: &'static VmManifest,
    number: u32,
    ends: &[ChannelEnd<'_>],
    vcpus: &mut Vec<Vcpu>,
    ground: &Ground<'_>,
) -> Vm {
    let processor = Processor::new(&entry.processor, &ground.machine).unwrap_or_else(|missing| {
        let name = missing.first_name();
        boot::refuse(format_args!(
            "VM {} cannot run here: its policy asks for {name}, which this CPU does not have",
            entry.name
        ));
    });
    let first_vcpu = vcpus.len();
    let index = usize::try_from(number).unwrap_or(0);
    for vcpu in 0..entry.vcpus {
        vcpus.push(Vcpu::new(vcpus.len(), index, VcpuId(vcpu), processor.controls(), xen::vcpu(entry)));
    }
    let channels: Vec<event::ChannelEnd> = ends
        .iter()
        .map(|end| event::ChannelEnd {
            peer: end.peer,
            peer_channel: peer_index(ground.manifest, end.name, end.peer.0),
            sends: end.region.frames > 0 || end.side == 0,
        })
        .collect();
    let restarts = if let OnCrash::Restart(times) = entry.on_crash { times } else { 0 };
    Vm {
        id: VmId(number),
        processor,
        features: processor.offered(ground.offered),
        io_ports: &entry.ports,
        has_debug_registers: entry.processor.debug_registers,
        partition: 0,
        held: AtomicU64::new(0),
        first_vcpu,
        vcpu_count: vcpus.len().saturating_sub(first_vcpu),
        memory: Lock::new(None),
        ports: Lock::new(PortTable::new(VmId(number), entry.vcpus, &channels)),
        grants: Lock::new(GrantTable::new(VmId(number))),
        clock: Lock::new(VmClock::starting_at(ground.clock, hv_arch::cpu::read_tsc(), entry.processor.time)),
        time: entry.processor.time,
        time_page: Cell::new(0),
        cpus: AtomicU64::new(0),
        life: Lock::new(Life::Live),
        restarts_left: AtomicU32::new(restarts),
        log_sequence: AtomicU32::new(0),
        hit_quota: AtomicBool::new(false),
        xen: xen::domain(entry, VmId(number), &ground.machine, ground.tsc_hz),
    }
}

/// Builds all VMs from the image.
fn build_all(machine: &'static Machine) {
    for vm in &machine.vms {
        if let Some(domain) = &vm.xen {
            domain.build(vm);
            continue;
        }
        let mut builder = builder(vm, Origin::Free);
        let refused = |error| boot::refuse(format_args!("VM {} cannot be built: {error}", vm.name()));
        while builder.step(machine.memory()).unwrap_or_else(refused) == Build::Again {}
        launch(vm, builder.finish());
    }
}

/// A builder for a VM.
pub(super) fn builder(vm: &'static Vm, origin: Origin) -> Builder<'static> {
    Builder::new(source(vm, origin))
}

/// What a VM is built from.
pub(super) fn source(vm: &'static Vm, origin: Origin) -> VmSource<'static> {
    let index = usize::try_from(vm.id.0).unwrap_or(usize::MAX);
    let image = machine().image;
    let (Some(manifest), Some(channels)) = (image.manifest().vms.get(index), machine().ends.get(index)) else {
        super::panic::broken("V3", "a VM that the manifest does not name");
    };
    VmSource {
        vm: vm.id,
        manifest,
        image: image.bytes(),
        channels,
        slots: machine().slots,
        features: vm.features.bits(),
        origin,
    }
}

/// Gives a VM the memory that was built for it and makes its first vCPU ready.
pub(super) fn launch(vm: &'static Vm, mut memory: space::Memory) {
    let clock = reset_clock(vm);
    mmu::direct::write_time_page(memory.time_page(), &clock.page());
    vm.time_page.set(memory.time_page().0);
    vm.ports.lock().reset();
    let index = usize::try_from(vm.id.0).unwrap_or(usize::MAX);
    let entry = machine().image.manifest().vms.get(index);
    let first = entry.map_or(0, |entry| entry.entry);
    for (vcpu, page) in vm.vcpus().iter().zip(*memory.vcpu_pages()) {
        vcpu.set_page(page.unwrap_or(Mfn(0)));
        vcpu.page().replace_mask(Upcalls::Masked);
        vcpu.clear_handlers();
        vcpu.trace.clear();
        if let Ok(roots) = memory.enter(SpaceId::FIRST) {
            vcpu.set_space(SpaceId::FIRST, roots);
        }
        vcpu.prepare(Registers::start(first, FIRST_STACK_TOP.0, START_INFO.0));
    }
    vm.replace_memory(Some(memory));
    begin(vm);
}

/// Has a VM's time begin now.
pub(super) fn reset_clock(vm: &Vm) -> VmClock {
    let clock = VmClock::starting_at(machine().clock.0, hv_arch::cpu::read_tsc(), vm.time);
    *vm.clock.lock() = clock;
    clock
}

/// Lets a VM run that has memory and a first vCPU.
pub(super) fn begin(vm: &'static Vm) {
    let index = usize::try_from(vm.id.0).unwrap_or(usize::MAX);
    let entry = machine().image.manifest().vms.get(index);
    let (weight, cap) = entry.map_or((100, 0), |entry| (entry.weight, entry.cap_percent));
    machine().line.lock().console.open(vm.id, vm.name(), vm.label_text());
    vm.hit_quota.store(false, Ordering::Relaxed);
    audit::record(vm, AuditKind::VmStarted, [vm.generation().into(), 0]);
    let count = u32::try_from(vm.vcpu_count).unwrap_or(0);
    let mut scheduler = vm.partition().scheduler.lock();
    let added = scheduler.add_vm(vm.id, count, weight, cap);
    let now = run::now(super::cpu::own());
    // From here on it can die: its vCPU may run elsewhere before this returns.
    *vm.life.lock() = Life::Live;
    let started = scheduler.start(VcpuKey { vm: vm.id, vcpu: VcpuId(0) }, now);
    drop(scheduler);
    if added.is_err() {
        super::panic::broken("V4", "a VM that was there already was launched");
    }
    if let Ok(Some(on)) = started
        && IS_RUNNING.load(Ordering::Acquire)
    {
        run::interrupt(on);
    }
}

/// Whether guests run: before, no CPU waits to be interrupted.
static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Starts the other processors; each waits for guests at once.
fn start_processors(boot: &BootInfo, machine: &'static Machine) {
    IS_RUNNING.store(true, Ordering::Release);
    let mut present = 1_u64;
    let own = local_apic::id();
    let others = boot.topology.iter().flat_map(Topology::cpus).filter(|apic| *apic != own);
    for (apic_id, cpu) in others.zip(machine.cpus.iter().skip(1)) {
        if boot::start_processor(boot, apic_id, cpu.id, machine.root) {
            present = present.saturating_add(1);
        } else {
            machine.line.lock().say(format_args!("CPU with APIC id {apic_id} does not answer; it stays off"));
        }
    }
    if let Some(slots) = &machine.time_slots {
        slots.start(present);
    }
}

/// What another processor runs.
pub(super) fn processor(cpu: CpuId) -> ! {
    let features = Features::detect();
    bring_up(cpu, features);
    if let Some(clock) = time::known() {
        timer::start(features, clock);
    }
    run::start(super::cpu::own())
}

/// Has the serial line interrupt this CPU.
fn route_serial(boot: &BootInfo) {
    if let Ok(topology) = &boot.topology {
        io_apic::mask_all(topology);
        if machine().time_slots.is_some() {
            // It is asked between slots: an interrupt would take time from whoever runs.
            return;
        }
        if !io_apic::route(topology, serial::ISA_LINE, vector::SERIAL, local_apic::id()) {
            machine().line.lock().say(format_args!("the serial line cannot interrupt: no input"));
        }
    }
    machine().line.lock().listen();
}

/// Says what runs.
fn announce(boot: &BootInfo, machine: &Machine) {
    let time_ns = machine.clock.now();
    let cpus = u32::try_from(machine.cpus.len()).unwrap_or(0);
    let mut line = machine.line.lock();
    line.say(format_args!(
        "Cloister {} on {cpus} CPUs, started by {}: system {}, {} VMs; Ctrl-] switches consoles",
        env!("CARGO_PKG_VERSION"),
        boot.data.protocol,
        machine.image.manifest().name,
        machine.vms.len()
    ));
    line.say(format_args!(
        "the cpuid instruction {} in guests",
        if machine.gate == Gate::Open { "shows the machine" } else { "is answered by policy" }
    ));
    let policy = machine.image.monitor().short_hash();
    match &machine.time_slots {
        None => line.say(format_args!("policy {policy:032x}, profile shared")),
        Some(Slots { plan, .. }) => line.say(format_args!(
            "policy {policy:032x}, profile strict (frame {} ms, {} slots)",
            plan.frame() / 1_000_000,
            plan.slots()
        )),
    }
    line.record(&Record::Started(Started { cpus, time_ns }));
}
