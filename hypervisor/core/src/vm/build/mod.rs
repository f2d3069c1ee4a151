//! The VM builder: claims frames, loads the image, makes the first space, writes the start info.
//!
//! It works in bounded steps and allocates nothing, so that a VM can also be built again while
//! others run. Frames come from free memory the first time, and afterwards from those that
//! [`Memory::teardown_step`] kept for the VM: building again cannot fail for lack of frames.

use protocol::call::Map;
use protocol::flags::MapFlags;
use protocol::layout::{
    CHANNEL_FRAME_STRIDE, CHANNEL_FRAMES, CHANNEL_STRIDE, CHANNELS, FIRST_STACK_PAGES,
    FIRST_STACK_TOP, LARGE_PAGE_FRAMES, PAGE_SIZE, PHYSMAP, START_INFO, TIME_PAGE, TIME_PAGE_FRAME,
    VCPU_PAGES, limit,
};
use protocol::manifest::VmManifest;
use protocol::shared::{ChannelInfo, ModuleInfo, START_MAGIC, StartInfo, VcpuPage};
use protocol::{Gfn, GuestVirt, SpaceId, Status, VmId};
use zerocopy::IntoBytes;

use super::error::BuildError;
use super::plan::{Piece, Plan, pieces};
use crate::addr::Mfn;
use crate::addr::convert::{index, wide};
use crate::frame::{FrameTable, Kind, Owner, Refused, Use};
use crate::space::{FrameList, HypervisorSlots, Machine, Memory, Parts, Region, TableMemory};

/// Frames that one step clears, loads or puts into the pool.
const STEP_FRAMES: u64 = 64;

/// Whether a VM is built from free memory or from what was kept of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The first time.
    Free,
    /// Again.
    Kept,
}

/// One end of a channel, for the VM that is built.
#[derive(Debug, Clone, Copy)]
pub struct ChannelEnd<'a> {
    /// Name of the channel.
    pub name: &'a str,
    /// Its region, from [`claim_channel`].
    pub region: Region,
    /// The VM at the other end.
    pub peer: VmId,
    /// 0 or 1.
    pub side: u32,
}

/// What a VM is built from.
#[derive(Debug, Clone, Copy)]
pub struct VmSource<'a> {
    /// Its number.
    pub vm: VmId,
    /// Its part of a checked manifest.
    pub manifest: &'a VmManifest,
    /// The whole system image.
    pub image: &'a [u8],
    /// Its channel ends, in the order of the manifest.
    pub channels: &'a [ChannelEnd<'a>],
    /// The hypervisor's slots.
    pub slots: HypervisorSlots,
    /// The features word for the start info.
    pub features: u64,
    /// Where its frames come from.
    pub origin: Origin,
}

/// A VM that is ready to be started.
#[derive(Debug)]
pub struct Built {
    /// Its memory; space 0 exists and nobody is in it.
    pub memory: Memory,
    /// The pages of its vCPUs, pinned until the teardown.
    pub vcpu_pages: [Option<Mfn>; VCPUS],
    /// Its time page, still zero.
    pub time_page: Mfn,
    /// Where vCPU 0 starts.
    pub entry: GuestVirt,
    /// Its stack pointer.
    pub stack: GuestVirt,
    /// Its rdi.
    pub start_info: GuestVirt,
}

const VCPUS: usize = 16;
const _: () = assert!(limit::VCPUS == 16);

/// Whether the VM is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// Another step is needed.
    Again,
    /// [`Builder::finish`] can be called.
    Done,
}

/// What the next step does; numbers say how far it came.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Claims guest frames from this one on.
    Claim(u64),
    /// Clears guest frames from this one on.
    Clear(u64),
    /// Fills the pool, which has this many frames.
    Pool(u64),
    /// Creates the first space.
    Space,
    /// Loads the pieces' frames from this one on.
    Load(u64),
    /// Maps regions: which one, and how many of its pages are mapped.
    Map(usize, u64),
    /// Writes what the guest reads first.
    Inform,
    /// Nothing.
    Done,
}

/// A VM that is being built.
#[derive(Debug)]
pub struct Builder<'a> {
    source: VmSource<'a>,
    plan: Plan,
    memory: Memory,
    time_page: Mfn,
    vcpu_pages: [Option<Mfn>; VCPUS],
    stage: Stage,
}

/// Claims and clears the region of a channel. It lives as long as the system.
///
/// # Errors
/// [`BuildError::OutOfMemory`].
pub fn claim_channel<T: TableMemory>(
    machine: Machine<'_, T>,
    frames: u64,
) -> Result<Region, BuildError> {
    let usage = Use::new(Owner::Hypervisor, Kind::Channel);
    let claimed = machine.frames.claim_run(usage, frames, 1);
    let first = claimed.map_err(|_| BuildError::OutOfMemory {
        what: "a channel",
        frames,
    })?;
    for offset in 0..frames {
        machine.tables.clear(first.offset(offset));
    }
    Ok(Region { first, frames })
}

impl<'a> Builder<'a> {
    /// Claims the frames that everything else is written into.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`]; then nothing is claimed.
    pub fn new<T: TableMemory>(
        machine: Machine<'_, T>,
        source: VmSource<'a>,
    ) -> Result<Builder<'a>, BuildError> {
        let owner = Owner::Vm(source.vm);
        let claims = Claims {
            frames: machine.frames,
            origin: source.origin,
            owner,
        };
        let run = FrameList::run_length(source.manifest.memory_frames);
        let first = claims.run(Use::new(owner, Kind::FrameList), run, 1, "its frame list")?;
        let time_page = match claims.run(Use::new(owner, Kind::Shared), 1, 1, "its time page") {
            Ok(time_page) => time_page,
            Err(error) => {
                for offset in 0..run {
                    let _ = machine
                        .frames
                        .free(first.offset(offset), owner, Kind::FrameList);
                }
                return Err(error);
            }
        };
        for offset in 0..run {
            machine.tables.clear(first.offset(offset));
        }
        machine.tables.clear(time_page);
        let mut memory = Memory::new(Parts {
            vm: source.vm,
            list: FrameList::new(first, source.manifest.memory_frames),
            slots: source.slots,
            time_page,
        });
        for (index, end) in source.channels.iter().enumerate() {
            memory.attach_channel(index, end.region);
        }
        Ok(Builder {
            source,
            plan: Plan::of(source.manifest),
            memory,
            time_page,
            vcpu_pages: [None; VCPUS],
            stage: Stage::Claim(0),
        })
    }

    /// Does one step.
    ///
    /// # Errors
    /// Why the VM cannot be built; [`Builder::abandon`] is what is left to do.
    pub fn step<T: TableMemory>(&mut self, machine: Machine<'_, T>) -> Result<Build, BuildError> {
        self.stage = match self.stage {
            Stage::Claim(next) => self.claim(machine, next)?,
            Stage::Clear(next) => self.clear(machine, next),
            Stage::Pool(filled) => self.fill_pool(machine, filled)?,
            Stage::Space => {
                self.memory
                    .space_create(machine)
                    .map_err(|_| self.pool_too_small())?;
                Stage::Load(0)
            }
            Stage::Load(next) => self.load(machine, next),
            Stage::Map(region, done) => self.map(machine, region, done)?,
            Stage::Inform => self.inform(machine)?,
            Stage::Done => return Ok(Build::Done),
        };
        Ok(Build::Again)
    }

    /// The VM, when [`Builder::step`] has answered [`Build::Done`].
    #[must_use]
    pub fn finish(self) -> Option<Built> {
        matches!(self.stage, Stage::Done).then_some(Built {
            memory: self.memory,
            vcpu_pages: self.vcpu_pages,
            time_page: self.time_page,
            entry: GuestVirt(self.source.manifest.entry),
            stack: FIRST_STACK_TOP,
            start_info: START_INFO,
        })
    }

    /// What was built so far, to be torn down.
    #[must_use]
    pub fn abandon(self) -> Memory {
        self.memory
    }

    fn claims<'m, T>(&self, machine: Machine<'m, T>) -> Claims<'m> {
        Claims {
            frames: machine.frames,
            origin: self.source.origin,
            owner: Owner::Vm(self.source.vm),
        }
    }

    const fn pool_too_small(&self) -> BuildError {
        BuildError::PoolTooSmall {
            frames: self.source.manifest.pool_frames,
        }
    }

    /// Claims 512 frames that lie together, or the frames that are left one by one.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`].
    fn claim<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        next: u64,
    ) -> Result<Stage, BuildError> {
        let left = self.memory.memory_frames().saturating_sub(next);
        if left == 0 {
            return Ok(Stage::Clear(0));
        }
        let (run, count) = if left >= LARGE_PAGE_FRAMES {
            (LARGE_PAGE_FRAMES, 1)
        } else {
            (1, left.min(STEP_FRAMES))
        };
        let claims = self.claims(machine);
        for turn in 0..count {
            let usage = Use {
                owner: claims.owner,
                kind: Kind::Data,
                number: next.saturating_add(turn),
            };
            let first = claims.run(usage, run, run, "its memory")?;
            for offset in 0..run {
                let frame = Gfn(usage.number.saturating_add(offset));
                self.memory.set_frame(machine, frame, first.offset(offset));
            }
        }
        Ok(Stage::Claim(next.saturating_add(run.saturating_mul(count))))
    }

    /// Clears guest frames. Kept frames are clear.
    fn clear<T: TableMemory>(&mut self, machine: Machine<'_, T>, next: u64) -> Stage {
        let frames = self.memory.memory_frames();
        if next >= frames || self.source.origin == Origin::Kept {
            return Stage::Pool(0);
        }
        let end = next.saturating_add(STEP_FRAMES).min(frames);
        for frame in next..end {
            if let Some(found) = self.memory.frame(machine, Gfn(frame)) {
                machine.tables.clear(found);
            }
        }
        Stage::Clear(end)
    }

    /// Adds frames to the pool.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`].
    fn fill_pool<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        filled: u64,
    ) -> Result<Stage, BuildError> {
        let wanted = self.source.manifest.pool_frames;
        if filled >= wanted {
            return Ok(Stage::Space);
        }
        let claims = self.claims(machine);
        let end = filled.saturating_add(STEP_FRAMES).min(wanted);
        for _ in filled..end {
            let kept = Use::new(claims.owner, Kind::Kept);
            let frame = claims.run(kept, 1, 1, "its pool")?;
            self.memory.give(machine, frame, Kind::Kept);
        }
        Ok(Stage::Pool(end))
    }

    /// Copies bytes of the image into guest frames.
    fn load<T: TableMemory>(&mut self, machine: Machine<'_, T>, next: u64) -> Stage {
        if next >= self.plan.start_info.0 {
            return Stage::Map(0, 0);
        }
        let end = next.saturating_add(STEP_FRAMES);
        for piece in pieces(self.source.manifest) {
            let first = piece.first.0.max(next);
            let behind = piece.first.0.saturating_add(piece.frames).min(end);
            for frame in first..behind {
                if let Some(found) = self.memory.frame(machine, Gfn(frame))
                    && let Some(bytes) = page_bytes(self.source.image, piece, frame)
                {
                    machine.tables.write(found, 0, bytes);
                }
            }
        }
        Stage::Load(end)
    }

    /// Maps up to 512 pages of a region.
    ///
    /// # Errors
    /// [`BuildError::PoolTooSmall`], or [`BuildError::NotMapped`].
    fn map<T: TableMemory>(
        &mut self,
        machine: Machine<'_, T>,
        number: usize,
        done: u64,
    ) -> Result<Stage, BuildError> {
        let Some(region) = self.region(number) else {
            return Ok(Stage::Inform);
        };
        let left = region.pages.saturating_sub(done);
        if left == 0 {
            return Ok(Stage::Map(number.saturating_add(1), 0));
        }
        let address = GuestVirt(
            region
                .address
                .0
                .saturating_add(done.saturating_mul(PAGE_SIZE)),
        );
        let is_large = region.is_physmap && left >= LARGE_PAGE_FRAMES;
        let (count, flags) = if is_large {
            (1, region.flags.union(MapFlags::LARGE))
        } else {
            (left.min(LARGE_PAGE_FRAMES), region.flags)
        };
        let call = Map {
            space: SpaceId::FIRST,
            address,
            frame: Gfn(region.frame.0.saturating_add(done)),
            count,
            flags,
        };
        let too_small = self.pool_too_small();
        let failed = |status| {
            if status == Status::QuotaExceeded {
                return too_small;
            }
            BuildError::NotMapped {
                address: address.0,
                status,
            }
        };
        let covered = match self.memory.map(machine, call) {
            Ok(covered) => covered,
            Err(status) => return Err(failed(status)),
        };
        // Nobody has run in the space, so no CPU can hold a translation of it.
        self.memory.settle(machine, covered.flush, |_| {});
        if let Some(status) = covered.stopped {
            return Err(failed(status));
        }
        let mapped = if is_large { LARGE_PAGE_FRAMES } else { count };
        Ok(Stage::Map(number, done.saturating_add(mapped)))
    }

    /// The regions that are mapped at the start, by number.
    fn region(&self, number: usize) -> Option<MappedRegion> {
        let segments = &self.source.manifest.segments;
        if let Some(segment) = segments.get(number) {
            return pieces(self.source.manifest)
                .nth(number)
                .map(|piece| MappedRegion {
                    address: GuestVirt(segment.address),
                    frame: piece.first,
                    pages: piece.frames,
                    flags: segment.flags,
                    is_physmap: false,
                });
        }
        let fixed = |address, frame, pages, flags| {
            Some(MappedRegion {
                address,
                frame,
                pages,
                flags,
                is_physmap: false,
            })
        };
        let stack = FIRST_STACK_PAGES.wrapping_mul(PAGE_SIZE);
        let stack = GuestVirt(FIRST_STACK_TOP.0.wrapping_sub(stack));
        let (read, write) = (MapFlags::empty(), MapFlags::WRITE);
        match number.wrapping_sub(segments.len()) {
            0 => fixed(stack, self.plan.stack, FIRST_STACK_PAGES, write),
            1 => fixed(START_INFO, self.plan.start_info, 1, read),
            2 => {
                let vcpus = self.source.manifest.vcpus.into();
                fixed(VCPU_PAGES, self.plan.vcpu_pages, vcpus, write)
            }
            3 => fixed(TIME_PAGE, TIME_PAGE_FRAME, 1, read),
            4 => Some(MappedRegion {
                address: PHYSMAP,
                frame: Gfn(0),
                pages: self.memory.memory_frames(),
                flags: write,
                is_physmap: true,
            }),
            behind => {
                let channel = behind.wrapping_sub(5);
                let end = self.source.channels.get(channel)?;
                let (address, frame) = channel_place(channel);
                fixed(address, frame, end.region.frames, write)
            }
        }
    }
}

/// Pages that are mapped at the start.
#[derive(Debug, Clone, Copy)]
struct MappedRegion {
    address: GuestVirt,
    frame: Gfn,
    pages: u64,
    flags: MapFlags,
    is_physmap: bool,
}

/// Where a channel is mapped at the start, and its first frame number.
fn channel_place(channel: usize) -> (GuestVirt, Gfn) {
    let address = wide(channel).wrapping_mul(CHANNEL_STRIDE);
    let frame = wide(channel).wrapping_mul(CHANNEL_FRAME_STRIDE);
    (
        GuestVirt(CHANNELS.0.wrapping_add(address)),
        Gfn(CHANNEL_FRAMES.0.wrapping_add(frame)),
    )
}

/// The image's bytes for one frame of a piece; nothing when the frame stays zero.
fn page_bytes(image: &[u8], piece: Piece, frame: u64) -> Option<&[u8]> {
    let start = frame.checked_sub(piece.first.0)?.checked_mul(PAGE_SIZE)?;
    let length = piece.bytes.checked_sub(start)?.min(PAGE_SIZE);
    let from = piece.image_offset.checked_add(start)?;
    image.get(index(from)..index(from.checked_add(length)?))
}

/// Where the builder's frames come from.
#[derive(Debug, Clone, Copy)]
struct Claims<'m> {
    frames: &'m FrameTable<'m>,
    origin: Origin,
    owner: Owner,
}

impl Claims<'_> {
    /// Claims a run.
    ///
    /// # Errors
    /// [`BuildError::OutOfMemory`].
    fn run(
        self,
        usage: Use,
        frames: u64,
        alignment: u64,
        what: &'static str,
    ) -> Result<Mfn, BuildError> {
        let from = match self.origin {
            Origin::Free => Use::new(Owner::Nobody, Kind::Free),
            Origin::Kept => Use::new(self.owner, Kind::Kept),
        };
        let claimed = self.frames.claim_run_from(from, usage, frames, alignment);
        claimed.map_err(|_: Refused| BuildError::OutOfMemory { what, frames })
    }
}

impl Builder<'_> {
    /// Writes the start info and the vCPU pages, and pins the latter for the hypervisor.
    ///
    /// # Errors
    /// [`BuildError::NotMapped`]; the plan gave frames that the VM does not have.
    fn inform<T: TableMemory>(&mut self, machine: Machine<'_, T>) -> Result<Stage, BuildError> {
        let vcpus = self.source.manifest.vcpus;
        let first = self.plan.vcpu_pages;
        for (slot, vcpu) in self.vcpu_pages.iter_mut().zip(0..vcpus) {
            let number = Gfn(first.0.saturating_add(vcpu.into()));
            let page = self.memory.pin(machine, number);
            let page = page.map_err(|status| BuildError::NotMapped {
                address: VCPU_PAGES.0,
                status,
            })?;
            let content = VcpuPage {
                vcpu,
                events_masked: 1,
                ..VcpuPage::default()
            };
            machine.tables.write(page, 0, content.as_bytes());
            *slot = Some(page);
            self.memory
                .set_vcpu_pages(first, u64::from(vcpu).saturating_add(1));
        }
        if let Some(page) = self.memory.frame(machine, self.plan.start_info) {
            machine.tables.write(page, 0, self.start_info().as_bytes());
        }
        Ok(Stage::Done)
    }

    fn start_info(&self) -> StartInfo {
        let manifest = self.source.manifest;
        let mut info = StartInfo {
            magic: START_MAGIC,
            version: protocol::version::CURRENT.packed(),
            vm: self.source.vm.0,
            vcpus: manifest.vcpus,
            memory_frames: manifest.memory_frames,
            first_free_frame: self.plan.first_free.0,
            features: self.source.features,
            name: text(&manifest.name),
            command_line: text(&manifest.command_line),
            ..StartInfo::default()
        };
        for (slot, (number, end)) in info
            .channels
            .iter_mut()
            .zip(self.source.channels.iter().enumerate())
        {
            let (address, frame) = channel_place(number);
            *slot = ChannelInfo {
                name: text(end.name),
                address: address.0,
                frame: frame.0,
                frames: end.region.frames,
                peer: end.peer.0,
                side: end.side,
                ..ChannelInfo::default()
            };
            info.channel_count = info.channel_count.saturating_add(1);
        }
        let modules = pieces(manifest).skip(manifest.segments.len());
        for (slot, (module, piece)) in info
            .modules
            .iter_mut()
            .zip(manifest.modules.iter().zip(modules))
        {
            *slot = ModuleInfo {
                name: text(&module.name),
                frame: piece.first.0,
                bytes: module.bytes,
            };
            info.module_count = info.module_count.saturating_add(1);
        }
        info
    }
}

/// A text with zeros behind it, at least one.
fn text<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    let most = N.saturating_sub(1);
    for (slot, byte) in bytes.iter_mut().take(most).zip(text.bytes()) {
        *slot = byte;
    }
    bytes
}

#[cfg(test)]
mod tests;
