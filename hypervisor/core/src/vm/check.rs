//! The rules of a manifest. `xtask` has told people about most of them already; here they are
//! checked by the one who depends on them.

use protocol::GuestVirt;
use protocol::flags::MapFlags;
use protocol::layout::{CHANNEL_STRIDE, PAGE_SIZE, PHYSMAP, limit};
use protocol::manifest::{ChannelManifest, Manifest, Segment, VmManifest};
use protocol::version::CURRENT;

use super::error::{ImageError, Problem};
use super::image::Payloads;
use super::plan::Plan;
use crate::addr::convert::{index, wide};
use crate::frame::NUMBER_END;

/// Most CPU time of a VM: all of as many CPUs as it can have vCPUs.
const MOST_PERCENT: u64 = 1600;

/// Checks a decoded manifest.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_manifest(manifest: &Manifest, payloads: Payloads<'_>) -> Result<(), ImageError> {
    let found = wide(manifest.vms.len());
    if found == 0 || found > u64::from(limit::VMS) {
        return Err(ImageError::VmCount { found });
    }
    for ((vm, machine), position) in (0..).zip(&manifest.vms).zip(0..) {
        let earlier = manifest.vms.iter().take(position);
        check_name(&machine.name, earlier.map(|vm| vm.name.as_str()))
            .and_then(|()| check_vm(machine, payloads))
            .and_then(|()| check_channel_count(manifest, vm))
            .map_err(|problem| ImageError::Vm { vm, problem })?;
    }
    for ((channel, found), position) in (0..).zip(&manifest.channels).zip(0..) {
        let earlier = manifest.channels.iter().take(position);
        check_name(&found.name, earlier.map(|channel| channel.name.as_str()))
            .and_then(|()| check_channel(manifest, found))
            .map_err(|problem| ImageError::Channel { channel, problem })?;
    }
    Ok(())
}

/// Checks everything of a VM that concerns no other.
///
/// # Errors
/// The first thing that is wrong.
fn check_vm(vm: &VmManifest, payloads: Payloads<'_>) -> Result<(), Problem> {
    if !CURRENT.serves(vm.abi) {
        return Err(Problem::Version { wanted: vm.abi });
    }
    within("its memory_frames", vm.memory_frames, 1, NUMBER_END)?;
    within("its pool_frames", vm.pool_frames, 1, NUMBER_END)?;
    within("its number of vCPUs", vm.vcpus.into(), 1, limit::VCPUS.into())?;
    within("its weight", vm.weight.into(), 1, u32::MAX.into())?;
    within("its cap_percent", vm.cap_percent.into(), 0, MOST_PERCENT)?;
    let command_line = wide(vm.command_line.len());
    within("the length of its command line", command_line, 0, limit::COMMAND_LINE.into())?;
    if vm.command_line.bytes().any(|byte| byte == 0) {
        return Err(Problem::CommandLine);
    }
    check_segments(vm, payloads)?;
    check_modules(vm, payloads)?;
    let needed = Plan::of(vm).first_free.0;
    if needed > vm.memory_frames {
        return Err(Problem::MemoryTooSmall { needed, found: vm.memory_frames });
    }
    Ok(())
}

/// Checks the segments and that the entry is in one of them.
///
/// # Errors
/// The first thing that is wrong.
fn check_segments(vm: &VmManifest, payloads: Payloads<'_>) -> Result<(), Problem> {
    let physmap = vm.memory_frames.saturating_mul(PAGE_SIZE);
    let first = PHYSMAP.0.saturating_add(physmap);
    let mut free = 0_u64;
    for segment in &vm.segments {
        let address = segment.address;
        if !address.is_multiple_of(PAGE_SIZE) || segment.memory_bytes == 0 || segment.file_bytes > segment.memory_bytes
        {
            return Err(Problem::SegmentShape { address });
        }
        if address < first || !GuestVirt(address).is_guest_range(segment.memory_bytes) {
            return Err(Problem::SegmentPlace { address });
        }
        if address < free {
            return Err(Problem::SegmentOrder { address });
        }
        if segment.flags.contains(MapFlags::LARGE) {
            return Err(Problem::SegmentFlags { address });
        }
        payloads.check(segment.image_offset, segment.file_bytes)?;
        let end = address.saturating_add(segment.memory_bytes);
        free = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
    }
    let entered = |segment: &Segment| {
        let offset = vm.entry.checked_sub(segment.address);
        segment.flags.contains(MapFlags::EXECUTE) && offset.is_some_and(|offset| offset < segment.memory_bytes)
    };
    if vm.segments.iter().any(entered) { Ok(()) } else { Err(Problem::Entry { address: vm.entry }) }
}

/// Checks the modules.
///
/// # Errors
/// The first thing that is wrong.
fn check_modules(vm: &VmManifest, payloads: Payloads<'_>) -> Result<(), Problem> {
    let count = wide(vm.modules.len());
    within("its number of modules", count, 0, limit::MODULES.into())?;
    for (position, module) in vm.modules.iter().enumerate() {
        let earlier = vm.modules.iter().take(position);
        check_name(&module.name, earlier.map(|module| module.name.as_str()))?;
        payloads.check(module.image_offset, module.bytes)?;
    }
    Ok(())
}

/// Checks how many channels end at a VM.
///
/// # Errors
/// [`Problem::Number`].
fn check_channel_count(manifest: &Manifest, vm: u32) -> Result<(), Problem> {
    let ends = manifest.channels.iter();
    let count = ends.filter(|channel| channel.ends.contains(&vm)).count();
    within("its number of channels", wide(count), 0, limit::CHANNELS.into())
}

/// Checks the ends, size and labels of a channel.
///
/// # Errors
/// The first thing that is wrong.
fn check_channel(manifest: &Manifest, channel: &ChannelManifest) -> Result<(), Problem> {
    let ends = channel.ends;
    let [one, two] = ends.map(|end| manifest.vms.get(index(end.into())));
    let (Some(one), Some(two)) = (one, two) else {
        return Err(Problem::Ends { ends });
    };
    if core::ptr::eq(one, two) {
        return Err(Problem::Ends { ends });
    }
    within("its number of frames", channel.frames, 1, CHANNEL_STRIDE / PAGE_SIZE)?;
    if !one.label.flows_to(two.label) || !two.label.flows_to(one.label) {
        return Err(Problem::Labels { ends });
    }
    Ok(())
}

/// Checks a name by itself and against those before it.
///
/// # Errors
/// What is wrong with it.
fn check_name<'n>(name: &str, mut earlier: impl Iterator<Item = &'n str>) -> Result<(), Problem> {
    let bytes = wide(name.len());
    if bytes == 0 || bytes > u64::from(limit::NAME) {
        return Err(Problem::NameLength { bytes });
    }
    if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Problem::NameCharacter);
    }
    if earlier.any(|taken| taken == name) {
        return Err(Problem::NameTaken);
    }
    Ok(())
}

/// Checks a number against its bounds.
///
/// # Errors
/// [`Problem::Number`].
const fn within(what: &'static str, found: u64, least: u64, most: u64) -> Result<(), Problem> {
    if found < least || found > most {
        return Err(Problem::Number { what, found, least, most });
    }
    Ok(())
}
