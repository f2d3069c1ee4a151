//! What cases need around them: memory, spaces, other vCPUs and VMs, and the state that a refusal must
//! not change.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use guest_sdk::frame::{self, FrameRun};
use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::{Map, SpaceCreate, Unmap};
use guest_sdk::protocol::flags::{InfoTopic, MapFlags, SegmentBase};
use guest_sdk::protocol::layout::{LARGE_PAGE_FRAMES, PAGE_SIZE, PHYSMAP, TIME_PAGE_FRAME};
use guest_sdk::{Gfn, GuestVirt, SpaceId, Status, VcpuId, call, smp};

use crate::board::{self, Board};
use crate::case::{Fault, Outcome};
use crate::parts::leaver;
use crate::{ensure, ensure_eq, record};

/// A page that calls may read and write.
#[repr(align(4096))]
struct Buffer([AtomicU64; 512]);

static BUFFER: Buffer = Buffer([const { AtomicU64::new(0) }; 512]);

/// The address of a page that calls may read and write.
pub fn buffer() -> u64 {
    BUFFER.0.as_ptr().expose_provenance() as u64
}

/// The words of the buffer.
pub fn words() -> &'static [AtomicU64; 512] {
    &BUFFER.0
}

/// The address of code of the kernel, which nobody can write.
pub fn code() -> u64 {
    code as fn() -> u64 as usize as u64
}

/// What the VM can ask about itself, as far as no time goes into it.
#[derive(Debug, PartialEq, Eq)]
struct Snapshot {
    facts: [u64; 7],
    bases: [u64; 3],
    debug: [u64; 6],
    frames: (u64, u64),
    buffer: u64,
}

fn snapshot() -> Result<Snapshot, Status> {
    let mut facts = [0; 7];
    for (fact, (topic, _, _)) in facts.iter_mut().zip(InfoTopic::ALL) {
        *fact = call::info(*topic)?;
    }
    let base = |base| call::segment_base_get(base).map(|pair| pair.1);
    let debug = |index| call::debug_register_get(index).map(|pair| pair.1);
    Ok(Snapshot {
        facts,
        bases: [base(SegmentBase::Fs)?, base(SegmentBase::KernelGs)?, base(SegmentBase::UserGs)?],
        debug: [debug(0)?, debug(1)?, debug(2)?, debug(3)?, debug(6)?, debug(7)?],
        frames: frame::usage(),
        buffer: words().iter().fold(0, |sum, word| sum.rotate_left(1) ^ word.load(Ordering::Relaxed)),
    })
}

/// Makes a call that must be refused with a status and change nothing.
pub fn refuse_raw(number: u64, arguments: [u64; 6], status: Status) -> Outcome {
    let before = snapshot()?;
    let result = record::call(number, arguments);
    ensure_eq!(result, Err(status), "{} of {arguments:x?}", record::name(number));
    ensure_eq!(snapshot()?, before, "state after the refusal of {}", record::name(number));
    Ok(())
}

/// As above, for a typed call.
pub fn refuse<C: Call>(call: C, status: Status) -> Outcome {
    refuse_raw(C::NUMBER, call.encode(), status)
}

/// Makes a space the current one.
pub fn enter(space: SpaceId) -> Outcome {
    Ok(call::space_switch(space)?)
}

/// A space of the case's own, destroyed with the value.
#[derive(Debug)]
pub struct Fresh(pub SpaceId);

impl Fresh {
    /// An empty one.
    pub fn new() -> Result<Fresh, Status> {
        Ok(Fresh(record::make(SpaceCreate {})?))
    }

    /// Maps frames.
    pub fn map(&self, address: u64, frame: Gfn, count: u64, flags: MapFlags) -> Result<u64, Status> {
        record::make(Map { space: self.0, address: GuestVirt(address), frame, count, flags })
    }

    /// Takes pages out.
    pub fn unmap(&self, address: u64, count: u64) -> Result<u64, Status> {
        record::make(Unmap { space: self.0, address: GuestVirt(address), count })
    }

    /// Uses up the pool by page tables: a page every 2 MiB.
    pub fn drain_pool(&self) -> Outcome {
        for page in 0..100_000 {
            let address = 0x100_0000_0000 + page * LARGE_PAGE_FRAMES * PAGE_SIZE;
            match self.map(address, TIME_PAGE_FRAME, 1, MapFlags::empty()) {
                Ok(_) => {}
                Err(Status::QuotaExceeded) => {
                    // The other tables of a way may fit where this one does not.
                    if call::info(InfoTopic::PoolFrames)? == 0 {
                        return Ok(());
                    }
                }
                Err(status) => return Err(status.into()),
            }
        }
        Err(Fault("the pool is never empty".into()))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = call::space_switch(SpaceId::FIRST);
        while call::space_destroy(self.0) == Err(Status::Retry) {}
    }
}

/// 512 frames that lie together and that nothing shows: out of the physmap while the value lives.
#[derive(Debug)]
pub struct Hidden(FrameRun);

impl Hidden {
    /// Takes frames and hides them.
    pub fn new() -> Result<Hidden, Fault> {
        let run = FrameRun::new(LARGE_PAGE_FRAMES, LARGE_PAGE_FRAMES);
        let run = run.ok_or_else(|| Fault("the suite has too little memory".into()))?;
        let address = GuestVirt(PHYSMAP.0 + run.first().0 * PAGE_SIZE);
        let out = record::make(Unmap { space: SpaceId::FIRST, address, count: LARGE_PAGE_FRAMES })?;
        ensure_eq!(out, LARGE_PAGE_FRAMES, "pages taken out of the physmap");
        Ok(Hidden(run))
    }

    /// The first frame.
    pub fn first(&self) -> Gfn {
        self.0.first()
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let first = self.first();
        for frame in first.0..first.0 + LARGE_PAGE_FRAMES {
            // Those that the case did not release are refused.
            let _ = call::frame_reclaim(Gfn(frame), 1);
        }
        let address = GuestVirt(PHYSMAP.0 + first.0 * PAGE_SIZE);
        let back =
            Map { space: SpaceId::FIRST, address, frame: first, count: LARGE_PAGE_FRAMES, flags: MapFlags::WRITE };
        let _ = record::make(back);
    }
}

/// The vCPU beside the suite's own.
pub const SECOND: VcpuId = VcpuId(1);

/// Runs something on the second vCPU, once it is stopped.
pub fn second(body: impl FnOnce() + Send + 'static) -> Outcome {
    wait_stopped()?;
    Ok(smp::spawn(SECOND, body)?)
}

/// Waits until the second vCPU has stopped.
pub fn wait_stopped() -> Outcome {
    board::wait("the second vCPU does not stop", || call::vcpu_kick(SECOND) == Err(Status::WrongState))
}

/// The board of a helper VM.
pub fn helper(name: &str) -> Result<Board, Fault> {
    Board::open(name).ok_or_else(|| Fault("there is no such helper VM".into()))
}

/// Has the leaver end, if it is still there.
pub fn have_leaver_end() -> Result<Board, Fault> {
    static ENDED: AtomicBool = AtomicBool::new(false);
    let board = helper("leaver")?;
    if !ENDED.swap(true, Ordering::Relaxed) {
        board.begin(leaver::LEAVE, &[]);
    }
    board::wait("the leaver does not run on two vCPUs", || board.note(leaver::COUNT) >= 1000)?;
    // Nothing tells a VM that another ended: its second vCPU counts no further.
    let mut counts = [u32::MAX; 300];
    for count in (0..).take(50_000) {
        let place = count % counts.len();
        counts[place] = board.note(leaver::COUNT);
        if counts.iter().all(|seen| *seen == counts[0]) {
            return Ok(board);
        }
        board::pause();
    }
    ensure!(false, "a vCPU of the leaver runs on");
    Ok(board)
}
