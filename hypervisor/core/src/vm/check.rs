//! The rules of a manifest. `xtask` has told people about most of them already; here they are
//! checked by the one who depends on them.

use protocol::flags::MapFlags;
use protocol::layout::{CHANNEL_STRIDE, PAGE_SIZE, PHYSMAP, limit};
use protocol::manifest::{ChannelManifest, Manifest, OnCrash, Personality, Segment, VmManifest};
use protocol::processor::{ProcessorFeatures, reserved};
use protocol::version::CURRENT;
use protocol::{GuestVirt, VmId};

use super::error::{Problem, Subject, ensure, within};
use super::image::Payloads;
use super::plan::Plan;
use crate::addr::convert::{index, wide};
use crate::frame::NUMBER_END;
use crate::policy::{Monitor, Operation};

/// Most CPU time of a VM: all of as many CPUs as it can have vCPUs.
const MOST_PERCENT: u64 = 1600;

/// Checks a decoded manifest.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_manifest(manifest: &Manifest, payloads: Payloads<'_>) -> Result<(), Problem> {
    within("the system has # VMs; # to # are possible", wide(manifest.vms.len()), 1, limit::VMS.into())?;
    for ((number, vm), position) in (0..).zip(&manifest.vms).zip(0..) {
        let earlier = manifest.vms.iter().take(position);
        check_name(&vm.name, earlier.map(|vm| vm.name.as_str()))
            .and_then(|()| check_vm(vm, payloads))
            .and_then(|()| check_channel_count(manifest, number))
            .map_err(|problem| problem.of(Subject::Vm(number)))?;
    }
    check_ports(manifest)?;
    for ((number, channel), position) in (0..).zip(&manifest.channels).zip(0..) {
        let earlier = manifest.channels.iter().take(position);
        check_name(&channel.name, earlier.map(|channel| channel.name.as_str()))
            .and_then(|()| check_channel(manifest, channel))
            .map_err(|problem| problem.of(Subject::Channel(number)))?;
    }
    Ok(())
}

/// Checks that the policy allows what the manifest asks for.
///
/// # Errors
/// The first thing that it does not.
pub(super) fn check_permitted(manifest: &Manifest, monitor: &Monitor) -> Result<(), Problem> {
    for (number, channel) in (0..).zip(&manifest.channels) {
        let [first, second] = channel.ends.map(VmId);
        let ends = channel.ends.map(u64::from);
        let both_ways = monitor.decide(first, Operation::ChannelUse, second).is_ok();
        let one_way = monitor.decide(first, Operation::EventSend, second).is_ok()
            && (both_ways || monitor.policy().flows.contains(&[first, second]));
        let (is_permitted, sentence) = match channel.frames {
            0 => (one_way, "the policy does not know a one-way channel from VM # to #"),
            _ => (both_ways, "the policy forbids a channel between VMs # and #"),
        };
        ensure(is_permitted, sentence, &ends).map_err(|problem| problem.of(Subject::Channel(number)))?;
    }
    for (number, vm) in (0..).zip(&manifest.vms) {
        let is_permitted =
            vm.on_crash != OnCrash::HaltAll || monitor.decide(VmId(number), Operation::HaltAll, VmId(number)).is_ok();
        ensure(is_permitted, "it halts all VMs when it dies, but is no operator", &[])
            .map_err(|problem| problem.of(Subject::Vm(number)))?;
    }
    Ok(())
}

/// Checks everything of a VM that concerns no other.
///
/// # Errors
/// The first thing that is wrong.
fn check_vm(vm: &VmManifest, payloads: Payloads<'_>) -> Result<(), Problem> {
    within("its memory_frames is #; # to # are possible", vm.memory_frames, 1, NUMBER_END)?;
    within("its pool_frames is #; # to # are possible", vm.pool_frames, 1, NUMBER_END)?;
    within("it has # vCPUs; # to # are possible", vm.vcpus.into(), 1, limit::VCPUS.into())?;
    within("its weight is #; # to # are possible", vm.weight.into(), 1, u32::MAX.into())?;
    within("its cap_percent is #; # to # are possible", vm.cap_percent.into(), 0, MOST_PERCENT)?;
    within("it has # ranges of ports; # to # are possible", wide(vm.ports.len()), 0, limit::PORT_RANGES.into())?;
    let agrees = vm.processor.features(ProcessorFeatures::all()).is_ok();
    ensure(agrees, "its processor policy adds a feature and hides it, or one that it needs", &[])?;
    match vm.personality {
        Personality::Native => check_native(vm, payloads),
        #[cfg(feature = "xen")]
        Personality::Xen(kernel) => super::xen::check::check(vm, kernel, payloads),
        #[cfg(not(feature = "xen"))]
        Personality::Xen(_) => Err(Problem::new("it speaks Xen's ABI, which this hypervisor was built without", &[])),
    }
}

/// Checks what only a native VM must keep.
///
/// # Errors
/// The first thing that is wrong.
fn check_native(vm: &VmManifest, payloads: Payloads<'_>) -> Result<(), Problem> {
    let versions = [vm.abi.major, vm.abi.minor, CURRENT.major, CURRENT.minor].map(u64::from);
    let sentence = "its kernel was built for ABI #.#, but this hypervisor serves #.#";
    ensure(CURRENT.serves(vm.abi), sentence, &versions)?;
    check_command_line(vm, limit::COMMAND_LINE.into())?;
    let physmap = vm.memory_frames.saturating_mul(PAGE_SIZE);
    let first = PHYSMAP.0.saturating_add(physmap);
    check_segments(vm, payloads, "the segment at @ lies where no guest kernel may lie", |address, bytes| {
        address >= first && GuestVirt(address).is_guest_range(bytes)
    })?;
    let is_entered = containing(vm, vm.entry).is_some_and(|segment| segment.flags.contains(MapFlags::EXECUTE));
    ensure(is_entered, "its entry @ is in no executable segment", &[vm.entry])?;
    check_modules(vm, payloads, limit::MODULES)?;
    let needed = Plan::of(vm).first_free.0;
    let sentence = "it has # frames of memory, but its kernel, modules and start need #";
    ensure(needed <= vm.memory_frames, sentence, &[vm.memory_frames, needed])
}

/// Checks the text for the kernel.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_command_line(vm: &VmManifest, most: u64) -> Result<(), Problem> {
    let bytes = wide(vm.command_line.len());
    within("its command line has # bytes; # to # are possible", bytes, 0, most)?;
    let is_text = vm.command_line.bytes().all(|byte| byte != 0);
    ensure(is_text, "its command line holds a zero byte", &[])
}

/// Checks the segments; `has_place` says whether so many bytes may lie at an address, and `sentence`
/// that they may not.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_segments(
    vm: &VmManifest,
    payloads: Payloads<'_>,
    sentence: &'static str,
    has_place: impl Fn(u64, u64) -> bool,
) -> Result<(), Problem> {
    let mut free = 0_u64;
    for segment in &vm.segments {
        let address = segment.address;
        let has_shape =
            address.is_multiple_of(PAGE_SIZE) && segment.memory_bytes > 0 && segment.file_bytes <= segment.memory_bytes;
        let shape = "the segment at @ is empty, not page-aligned, or larger in the image than in memory";
        ensure(has_shape, shape, &[address])?;
        ensure(has_place(address, segment.memory_bytes), sentence, &[address])?;
        ensure(address >= free, "the segment at @ does not lie behind the one before it", &[address])?;
        let is_small = !segment.flags.contains(MapFlags::LARGE);
        ensure(is_small, "the segment at @ asks for large pages", &[address])?;
        payloads.check(segment.image_offset, segment.file_bytes)?;
        let end = address.saturating_add(segment.memory_bytes);
        free = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
    }
    Ok(())
}

/// The segment that an address is in.
pub(super) fn containing(vm: &VmManifest, address: u64) -> Option<&Segment> {
    vm.segments.iter().find(|segment| {
        let offset = address.checked_sub(segment.address);
        offset.is_some_and(|offset| offset < segment.memory_bytes)
    })
}

/// Checks the modules.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_modules(vm: &VmManifest, payloads: Payloads<'_>, most: u32) -> Result<(), Problem> {
    let count = wide(vm.modules.len());
    within("it has # modules; # to # are possible", count, 0, most.into())?;
    for (position, module) in vm.modules.iter().enumerate() {
        let earlier = vm.modules.iter().take(position);
        check_name(&module.name, earlier.map(|module| module.name.as_str()))?;
        payloads.check(module.image_offset, module.bytes)?;
    }
    Ok(())
}

/// Checks that no VM has a port of the hypervisor or of another.
///
/// # Errors
/// The first range that is wrong.
fn check_ports(manifest: &Manifest) -> Result<(), Problem> {
    let all = || (0..).zip(&manifest.vms).flat_map(|(number, vm)| vm.ports.iter().map(move |range| (number, *range)));
    for (position, (number, range)) in all().enumerate() {
        let numbers = [range.first, range.last].map(u64::from);
        let is_free = range.first <= range.last && reserved(range).is_none();
        ensure(is_free, "its ports @ to @ are no range, or are not for VMs", &numbers)
            .and_then(|()| {
                let is_first = !all().take(position).any(|(_, earlier)| earlier.overlaps(range));
                ensure(is_first, "its ports @ to @ are given twice", &numbers)
            })
            .map_err(|problem| problem.of(Subject::Vm(number)))?;
    }
    Ok(())
}

/// Checks how many channels end at a VM.
///
/// # Errors
/// That there are too many.
fn check_channel_count(manifest: &Manifest, vm: u32) -> Result<(), Problem> {
    let ends = manifest.channels.iter();
    let count = ends.filter(|channel| channel.ends.contains(&vm)).count();
    within("it has # channels; # to # are possible", wide(count), 0, limit::CHANNELS.into())
}

/// Checks the ends and size of a channel.
///
/// # Errors
/// The first thing that is wrong.
fn check_channel(manifest: &Manifest, channel: &ChannelManifest) -> Result<(), Problem> {
    let numbers @ [first, second] = channel.ends.map(u64::from);
    let are_vms = first != second && numbers.iter().all(|end| *end < wide(manifest.vms.len()));
    ensure(are_vms, "its ends # and # are not two VMs of the system", &numbers)?;
    for end in channel.ends {
        let vm = manifest.vms.get(index(end.into()));
        let is_native = vm.is_some_and(|vm| vm.personality == Personality::Native);
        ensure(is_native, "its end # is a VM that speaks Xen's ABI and can have no channel", &[end.into()])?;
    }
    within("it has # frames; # to # are possible", channel.frames, 0, CHANNEL_STRIDE / PAGE_SIZE)
}

/// Checks a name by itself and against those before it.
///
/// # Errors
/// What is wrong with it.
fn check_name<'n>(name: &str, mut earlier: impl Iterator<Item = &'n str>) -> Result<(), Problem> {
    within("a name has # bytes; # to # are possible", wide(name.len()), 1, limit::NAME.into())?;
    let is_visible = name.bytes().all(|byte| byte.is_ascii_graphic());
    ensure(is_visible, "a name holds a character that is not visible ASCII", &[])?;
    ensure(!earlier.any(|taken| taken == name), "its name is taken already", &[])
}
