//! What a case works with.

use alloc::string::String;
use core::sync::atomic::{AtomicU64, Ordering};

use guest_sdk::frame::FrameRun;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Info, Map, SegmentBaseGet, Unmap};
use guest_sdk::protocol::flags::{MapFlags, SegmentBase};
use guest_sdk::protocol::layout::PHYSMAP;
use guest_sdk::{Gfn, GuestVirt, Nanos, SpaceId, StartInfo, Status, VcpuId, VmId, call, time};
use hostile_support::board::{Board, word};
use hostile_support::wild::{self, go};

use crate::accomplice::Accomplice;
use crate::execute::Code;

/// What a case comes to: why it failed.
pub type Outcome = Result<(), String>;

/// One case: what runs, and the code of the report when it is to end the VM.
#[derive(Clone, Copy)]
pub struct Case {
    /// The row of the catalogue.
    pub id: &'static str,
    /// What it does.
    pub run: fn(&mut World) -> Outcome,
    /// Code of the report.
    pub dies: Option<&'static str>,
}

/// A case that leaves the VM alive.
pub const fn case(id: &'static str, run: fn(&mut World) -> Outcome) -> Case {
    Case { id, run, dies: None }
}

/// A case that ends the VM.
pub const fn death(id: &'static str, run: fn(&mut World) -> Outcome, code: &'static str) -> Case {
    Case { id, run, dies: Some(code) }
}

/// Fails a case unless a condition holds.
#[macro_export]
macro_rules! hold {
    ($condition:expr, $($why:tt)+) => {
        if !$condition { return Err(::alloc::format!($($why)+)) }
    };
}

/// Fails a case unless two values are equal.
#[macro_export]
macro_rules! same {
    ($left:expr, $right:expr, $($what:tt)+) => {
        match (&$left, &$right) {
            (left, right) => if *left != *right {
                return Err(::alloc::format!("{}: {:?} instead of {:?}", ::alloc::format!($($what)+), left, right))
            },
        }
    };
}

/// A page that calls may read and write.
#[repr(align(4096))]
struct Buffer([AtomicU64; 512]);
static BUFFER: Buffer = Buffer([const { AtomicU64::new(0) }; 512]);

/// A word of the buffer.
pub fn buffer(word: usize) -> &'static AtomicU64 {
    &BUFFER.0[word]
}

/// The buffer's address.
pub fn buffer_address() -> u64 {
    BUFFER.0.as_ptr().expose_provenance() as u64
}

/// Writes words to the start of the buffer.
pub fn set_buffer(words: &[u64]) {
    for (slot, word) in BUFFER.0.iter().zip(words) {
        slot.store(*word, Ordering::SeqCst);
    }
}

/// An address of the kernel's code, which is read-only.
pub fn code_address() -> u64 {
    crate::driver::main as fn(&'static StartInfo) as usize as u64
}

/// Where cases map things: lower half, each a gigabyte apart from what else is there.
pub const PLACE: u64 = 0x10_0000_0000;
/// Another such place.
pub const OTHER: u64 = 0x20_0000_0000;
/// The space that every VM has.
pub const FIRST: SpaceId = SpaceId::FIRST;
/// Rights.
pub const READ: MapFlags = MapFlags::empty();
/// Rights.
pub const WRITE: MapFlags = MapFlags::WRITE;
/// All ones.
pub const ONES: u64 = u64::MAX;

/// The world of the attacker.
#[derive(Debug)]
pub struct World {
    /// What the VM was told.
    pub start: &'static StartInfo,
    /// The board that the neighbour watches.
    pub board: Board,
    /// The other VM of the attacker.
    pub accomplice: Accomplice,
    /// Runs instructions.
    pub code: Code,
    /// GS base of the SDK.
    pub gs: u64,
    /// First of 512 frames that nothing maps.
    pub loose: u64,
    /// Floating-point state at the start of this life.
    pub fpu: [u64; 64],
    /// Whether events interrupt the attacker all the time.
    pub is_interrupted: bool,
}

impl World {
    /// Sets it up.
    pub fn new(start: &'static StartInfo, board: Board, accomplice: Accomplice) -> Result<World, Status> {
        crate::execute::install()?;
        let gs = go(SegmentBaseGet { base: SegmentBase::KernelGs })?.1;
        let code = Code::new()?;
        code.run(&[0x0f, 0xae, 0x07], [0, 0, 0, 0, 0, buffer_address()]);
        let fpu = core::array::from_fn(|word| buffer(word).swap(0, Ordering::Relaxed));
        let run = FrameRun::new(512, 512).ok_or(Status::QuotaExceeded)?;
        let loose = run.first().0;
        // Nobody maps them again: they are never given back.
        core::mem::forget(run);
        unmap(FIRST, PHYSMAP.0 + loose * 4096, 512)?;
        Ok(World { start, board, accomplice, code, gs, loose, fpu, is_interrupted: false })
    }

    /// The VM that is to notice nothing.
    pub fn neighbour(&self) -> VmId {
        self.board.peer
    }

    /// Has builds for tests recount all frames.
    pub fn recount(&self) -> Outcome {
        same!(wild::call(Info::NUMBER, [ONES, 0, 0, 0, 0, 0]), Err(Status::InvalidArgument), "info of nothing");
        Ok(())
    }

    /// Asks the neighbour, and waits for its answer.
    pub fn ask_neighbour(&self) -> Outcome {
        let before = self.board.get(word::CHANGED);
        let number = self.board.count(word::ASKED);
        self.board.ring();
        let end = time::now().0 + 30_000_000_000;
        while self.board.get(word::ANSWERED) < number {
            hold!(time::now().0 < end, "the neighbour does not answer");
            self.board.wait(Nanos(500_000));
        }
        same!(self.board.get(word::CHANGED), before, "changes at the neighbour");
        Ok(())
    }
}

/// Maps pages; what the call returns.
pub fn map(space: SpaceId, address: u64, frame: u64, count: u64, flags: MapFlags) -> Result<u64, Status> {
    go(Map { space, address: GuestVirt(address), frame: Gfn(frame), count, flags })
}

/// Takes pages out; what the call returns.
pub fn unmap(space: SpaceId, address: u64, count: u64) -> Result<u64, Status> {
    go(Unmap { space, address: GuestVirt(address), count })
}

/// Frames that are left in the VM's pool.
pub fn pool() -> u64 {
    call::info(guest_sdk::protocol::flags::InfoTopic::PoolFrames).unwrap_or(0)
}

/// This VM's first vCPU.
pub const VCPU: VcpuId = VcpuId(0);
