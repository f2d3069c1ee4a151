//! A page of words that two VMs of the suite share: one asks, the other answers.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use guest_sdk::protocol::shared::ChannelInfo;
use guest_sdk::raw::region::Region;
use guest_sdk::start::text;
use guest_sdk::{Nanos, StartInfo, Status, VmId, call, time};

use crate::case::Fault;

/// Places of the words.
mod at {
    /// Counts what was asked.
    pub const ASKED: usize = 0;
    /// What is asked for.
    pub const OPERATION: usize = 1;
    /// Its arguments.
    pub const ARGUMENTS: usize = 2;
    /// Counts what was answered.
    pub const ANSWERED: usize = 8;
    /// The number of a status, or 0.
    pub const STATUS: usize = 9;
    /// The value.
    pub const VALUE: usize = 10;
    /// Words of one's own, for what an answer cannot tell.
    pub const NOTES: usize = 16;
}

/// How long an answer may take.
const PATIENCE: u64 = 10_000_000_000;
/// How long a helper sleeps between two looks.
const PAUSE: u64 = 100_000;
const ARGUMENTS: usize = 4;

/// One end of a board.
#[derive(Debug)]
pub struct Board {
    words: Region,
    /// Index of the channel.
    pub channel: u64,
    /// The VM at the other end.
    pub peer: VmId,
}

/// What is asked of a helper.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Which operation.
    pub operation: u32,
    /// With what.
    pub arguments: [u32; ARGUMENTS],
}

impl Board {
    /// The board of a channel's name.
    pub fn open(name: &str) -> Option<Board> {
        let channels = StartInfo::of_this_vm().channels();
        let (index, info) = channels.iter().enumerate().find(|(_, info)| text(&info.name) == name)?;
        Some(Board { words: region(info)?, channel: index as u64, peer: VmId(info.peer) })
    }

    fn load(&self, word: usize) -> u32 {
        self.words.word(word * 4).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, word: usize, value: u32) {
        if let Some(word) = self.words.word(word * 4) {
            word.store(value, Ordering::SeqCst);
        }
    }

    /// A word of one's own.
    pub fn note(&self, number: usize) -> u32 {
        self.load(at::NOTES + number)
    }

    /// Writes a word of one's own.
    pub fn set_note(&self, number: usize, value: u32) {
        self.store(at::NOTES + number, value);
    }

    /// Asks, without waiting.
    pub fn begin(&self, operation: u32, arguments: &[u32]) {
        self.store(at::OPERATION, operation);
        for (index, argument) in arguments.iter().take(ARGUMENTS).enumerate() {
            self.store(at::ARGUMENTS + index, *argument);
        }
        self.store(at::ASKED, self.load(at::ASKED).wrapping_add(1));
    }

    /// Asks, and waits for the answer.
    pub fn ask(&self, operation: u32, arguments: &[u32]) -> Result<Result<u32, Status>, Fault> {
        self.begin(operation, arguments);
        wait("a helper VM does not answer", || self.load(at::ANSWERED) == self.load(at::ASKED))?;
        Ok(match Status::from_number(u64::from(self.load(at::STATUS))) {
            Some(status) => Err(status),
            None => Ok(self.load(at::VALUE)),
        })
    }

    /// Answers requests until one returns nothing.
    pub fn serve(&self, mut answer: impl FnMut(Request) -> Option<Result<u32, Status>>) {
        loop {
            let request = self.next();
            match answer(request) {
                Some(result) => self.answer(result),
                None => return self.answer(Ok(0)),
            }
        }
    }

    /// Waits for a request.
    pub fn next(&self) -> Request {
        while self.load(at::ASKED) == self.load(at::ANSWERED) {
            pause();
        }
        let arguments = core::array::from_fn(|index| self.load(at::ARGUMENTS + index));
        Request { operation: self.load(at::OPERATION), arguments }
    }

    /// Answers the request that came last.
    pub fn answer(&self, result: Result<u32, Status>) {
        self.store(at::STATUS, result.err().map_or(0, |status| status.number() as u32));
        self.store(at::VALUE, result.unwrap_or(0));
        self.store(at::ANSWERED, self.load(at::ASKED));
    }
}

/// Lets others run for a moment.
pub fn pause() {
    let _ = call::block(Nanos(time::now().0 + PAUSE));
}

/// Waits until something is so.
pub fn wait(what: &str, condition: impl Fn() -> bool) -> Result<(), Fault> {
    let end = time::now().0 + PATIENCE;
    while !condition() {
        if time::now().0 > end {
            return Err(Fault(what.into()));
        }
        pause();
    }
    Ok(())
}

#[expect(unsafe_code, reason = "the channel's region as words")]
fn region(info: &ChannelInfo) -> Option<Region> {
    let base = NonNull::new(core::ptr::with_exposed_provenance_mut(info.address as usize))?;
    // SAFETY: the hypervisor maps the region for the whole life of the VM; no reference covers it.
    Some(unsafe { Region::new(base, (info.frames * 4096) as usize) })
}
