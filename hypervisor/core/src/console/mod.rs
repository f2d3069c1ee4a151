//! One serial line for many consoles: who may write what, in which order it goes out, and who gets
//! what is typed.
//!
//! Each VM has a transmit ring of its own, filled by whole lines and records, and the rings are
//! served in turn when the line takes a byte: a VM that writes without end fills its own ring and
//! delays another's line by one of its own. Complete lines go out as `[name] text`. The foreground
//! VM's incomplete line is shown at once; when something else interrupts it, it is ended and later
//! drawn anew. `sanitise` keeps guests from imitating any of this.
//!
//! Records (see `protocol::record`) may stand within a line; terminals do not show them.
//!
//! Not here: the UART, and the lock. Operations allocate nothing.

mod base64;
mod ring;
mod sanitise;
mod stream;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use core::fmt::{self, Write as _};

use protocol::VmId;
use protocol::layout::limit;
use protocol::record::{Log, PREFIX, Record, SUFFIX};

use self::ring::{ByteRing, Kind, UnitRing};
use self::stream::{RESET, Stream};
use crate::addr::convert::index;

/// The key that gives the next VM the foreground: Ctrl-].
pub const SWITCH_KEY: u8 = 0x1d;
/// Bytes that the hypervisor's own lines and records can wait in.
const OWN_RING: usize = 64 * 1024;
/// Bytes of the hypervisor's longest line; longer ones are cut.
const OWN_LINE: usize = 512;
/// Bytes of the longest log record before its encoding: a frame and what goes with it.
const LOG_BYTES: usize = 1024 + 32;
const _: () = assert!(limit::CONSOLE_BYTES == 1024);
/// What the hypervisor's lines begin with.
const OWN_PREFIX: &str = "cloister: ";

/// Whose ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Hypervisor,
    Vm(VmId),
}

/// What is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emission {
    Idle,
    /// So many bytes of a ring's oldest unit.
    Unit(Origin, usize),
    /// The foreground's incomplete line.
    Partial(VmId),
    /// The end of an incomplete line that something else interrupts, from this byte on.
    Break(usize),
}

/// The incomplete line that the cursor stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    vm: VmId,
    /// Which of the VM's lines.
    line: u64,
    /// Bytes of it on the screen.
    count: usize,
    /// It may have changed the colour.
    is_styled: bool,
}

/// All consoles.
#[derive(Debug)]
pub struct Console {
    own: UnitRing,
    streams: Box<[Stream]>,
    foreground: Option<VmId>,
    emission: Emission,
    /// Units in all rings.
    waiting: usize,
    /// The ring that is looked at next: a VM's number, or the count of VMs for the hypervisor.
    turn: u32,
    shown: Option<Shown>,
    lost: u64,
}

impl Console {
    /// Consoles for the VMs `0..vms`, none of them open. Allocates all that is ever needed.
    #[must_use]
    pub fn new(vms: u32) -> Console {
        Console {
            own: UnitRing::new(OWN_RING),
            streams: (0..vms).map(|_| Stream::new()).collect(),
            foreground: None,
            emission: Emission::Idle,
            waiting: 0,
            turn: 0,
            shown: None,
            lost: 0,
        }
    }

    /// Opens the console of a VM that starts. The first gets the foreground.
    pub fn open(&mut self, vm: VmId, name: &str) {
        if let Some(stream) = self.stream_mut(vm) {
            stream.open(name);
            self.foreground.get_or_insert(vm);
        }
    }

    /// Closes the console of a VM that ended: its incomplete line goes out, and the next VM gets
    /// the foreground.
    pub fn close(&mut self, vm: VmId) {
        if self.stream_mut(vm).is_some_and(Stream::close) {
            self.waiting = self.waiting.saturating_add(1);
        }
        if self.foreground == Some(vm) {
            self.move_foreground();
        }
    }

    /// The VM that gets what is typed.
    #[must_use]
    pub const fn foreground(&self) -> Option<VmId> {
        self.foreground
    }

    /// Gives a VM the foreground, if its console is open.
    pub fn set_foreground(&mut self, vm: VmId) {
        if self.stream(vm).is_some_and(|stream| stream.is_live) {
            self.foreground = Some(vm);
        }
    }

    /// Takes bytes that a VM writes; how many, from the start.
    pub fn write(&mut self, vm: VmId, bytes: &[u8]) -> usize {
        let stream = self.stream_mut(vm).filter(|stream| stream.is_live);
        let (taken, lines) = stream.map_or((0, 0), |stream| stream.write(bytes));
        self.waiting = self.waiting.saturating_add(lines);
        taken
    }

    /// Takes a byte from the serial line: the VM that has input now, if this is input.
    pub fn receive(&mut self, byte: u8) -> Option<VmId> {
        if byte == SWITCH_KEY {
            self.move_foreground();
            return None;
        }
        let vm = self.foreground?;
        let taken = self.stream_mut(vm)?.input.push(byte);
        taken.then_some(vm)
    }

    /// Copies what was typed for a VM; how many bytes. They stay until [`Console::consume`], so that
    /// a buffer that turns out bad loses none.
    pub fn peek(&self, vm: VmId, out: &mut [u8]) -> usize {
        let typed = self.stream(vm).map(|stream| stream.input.iter());
        let slots = out.iter_mut().zip(typed.into_iter().flatten());
        slots.map(|(slot, byte)| *slot = byte).count()
    }

    /// Takes bytes that were typed for a VM.
    pub fn consume(&mut self, vm: VmId, count: usize) {
        if let Some(stream) = self.stream_mut(vm) {
            (0..count).map_while(|_| stream.input.pop()).for_each(drop);
        }
    }

    /// Writes a line of the hypervisor's own. It is lost, and counted, when there is no room.
    pub fn line(&mut self, text: fmt::Arguments<'_>) {
        let taken = write_own(&mut self.own, text);
        self.count(taken);
    }

    /// Writes a record, given in postcard. Whether there was room: one that does not fit is lost
    /// whole, and counted.
    pub fn record(&mut self, payload: &[u8]) -> bool {
        self.put_record(Origin::Hypervisor, Some(payload))
    }

    /// Writes a `Record::Log` at the cost of its source: a VM or the hypervisor. Whether there was
    /// room.
    pub fn log(&mut self, source: Option<VmId>, time_ns: u64, sequence: u32, frame: &[u8]) -> bool {
        let record = Record::Log(Log { source, time_ns, sequence, frame: Cow::Borrowed(frame) });
        let origin = source.map_or(Origin::Hypervisor, Origin::Vm);
        let mut buffer = [0; LOG_BYTES];
        let payload = postcard::to_slice(&record, &mut buffer);
        self.put_record(origin, payload.ok().as_deref())
    }

    /// Lines and records that were lost for want of room.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether anything is to be transmitted.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.emission != Emission::Idle || self.waiting > 0 || self.unshown().is_some()
    }

    /// Takes the next byte for the serial line.
    pub fn next_byte(&mut self) -> Option<u8> {
        loop {
            let byte = match self.emission {
                Emission::Idle => None,
                Emission::Unit(_, 0) => None,
                Emission::Unit(origin, left) => {
                    self.emission = Emission::Unit(origin, left.saturating_sub(1));
                    self.ring_mut(origin).and_then(|ring| ring.bytes.pop())
                }
                Emission::Partial(vm) => self.next_of_partial(vm),
                Emission::Break(at) => {
                    self.emission = Emission::Break(at.saturating_add(1));
                    RESET.iter().chain(b"\n").nth(at).copied()
                }
            };
            if byte.is_some() {
                return byte;
            }
            self.emission = Emission::Idle;
            self.emission = self.choose()?;
        }
    }

    /// Chooses what goes out next, each ring in turn.
    fn choose(&mut self) -> Option<Emission> {
        if self.waiting == 0 {
            let vm = self.unshown()?;
            return Some(self.begin_partial(vm));
        }
        // First the rest of a complete line whose beginning is on the screen, and the records before
        // it: then nothing has to be drawn anew.
        if let Some(shown) = self.shown
            && self.stream(shown.vm)?.lines() != shown.line
        {
            return self.begin_unit(Origin::Vm(shown.vm));
        }
        let count = u32::try_from(self.streams.len()).unwrap_or(0);
        for _ in 0..=count {
            let origin = if self.turn < count { Origin::Vm(VmId(self.turn)) } else { Origin::Hypervisor };
            let is_empty = self.ring_mut(origin).is_none_or(|ring| ring.bytes.is_empty());
            let partial = self.unshown().filter(|vm| Origin::Vm(*vm) == origin);
            if let (true, Some(vm)) = (is_empty, partial) {
                self.pass_turn(count);
                return Some(self.begin_partial(vm));
            }
            if !is_empty {
                if let Some(ending) = self.interrupt(origin) {
                    return Some(ending);
                }
                self.pass_turn(count);
                return self.begin_unit(origin);
            }
            self.pass_turn(count);
        }
        None
    }

    const fn pass_turn(&mut self, count: u32) {
        self.turn = if self.turn < count { self.turn.saturating_add(1) } else { 0 };
    }

    /// What has to go out before a line of `origin`: the end of another's incomplete line.
    fn interrupt(&mut self, origin: Origin) -> Option<Emission> {
        let shown = self.shown?;
        let is_other = Origin::Vm(shown.vm) != origin;
        (is_other && self.has_line(origin)).then(|| self.break_off(shown))
    }

    /// Whether the oldest unit of a ring is a line.
    fn has_line(&mut self, origin: Origin) -> bool {
        let header = self.ring_mut(origin).and_then(|ring| ring.header());
        header.is_some_and(|(kind, _)| kind == Kind::Line)
    }

    const fn break_off(&mut self, shown: Shown) -> Emission {
        self.shown = None;
        Emission::Break(if shown.is_styled { 0 } else { RESET.len() })
    }

    /// Takes the header of a unit, and of a line that is shown in part the part that is.
    fn begin_unit(&mut self, origin: Origin) -> Option<Emission> {
        self.waiting = self.waiting.saturating_sub(1);
        let (kind, mut length) = self.ring_mut(origin)?.pop_header()?;
        if let Some(shown) = self.shown
            && kind == Kind::Line
            && origin == Origin::Vm(shown.vm)
        {
            self.shown = None;
            for _ in 0..shown.count.min(length) {
                let _seen = self.ring_mut(origin)?.bytes.pop();
                length = length.saturating_sub(1);
            }
        }
        Some(Emission::Unit(origin, length))
    }

    /// The foreground VM, when its incomplete line is not wholly shown.
    fn unshown(&self) -> Option<VmId> {
        let vm = self.foreground?;
        let shown = self.shown.filter(|shown| shown.vm == vm);
        let at = shown.map_or(0, |shown| shown.count);
        self.stream(vm)?.partial_byte(at).map(|_| vm)
    }

    /// Shows a VM's incomplete line, or first ends another's.
    fn begin_partial(&mut self, vm: VmId) -> Emission {
        match self.shown.filter(|shown| shown.vm != vm) {
            Some(other) => self.break_off(other),
            None => Emission::Partial(vm),
        }
    }

    fn next_of_partial(&mut self, vm: VmId) -> Option<u8> {
        let fresh = Shown { vm, line: self.stream(vm)?.lines(), count: 0, is_styled: false };
        let shown = self.shown.unwrap_or(fresh);
        // Once the line is complete, its rest is in the ring, and the bytes here are the next one's.
        let stream = self.stream(vm).filter(|stream| stream.lines() == shown.line)?;
        let byte = stream.partial_byte(shown.count)?;
        self.shown =
            Some(Shown { count: shown.count.saturating_add(1), is_styled: shown.is_styled || byte == 0x1b, ..shown });
        Some(byte)
    }

    fn move_foreground(&mut self) {
        let count = u32::try_from(self.streams.len()).unwrap_or(0);
        let after = self.foreground.map_or(0, |vm| vm.0.saturating_add(1));
        let next = (after..count)
            .chain(0..after.min(count))
            .map(VmId)
            .find(|vm| self.stream(*vm).is_some_and(|stream| stream.is_live));
        self.foreground = next;
        // Not by way of `stream`, which would borrow the ring too.
        let stream = next.and_then(|vm| self.streams.get(index(u64::from(vm.0))));
        if let Some(stream) = stream {
            let name = &stream.prefix;
            let taken = write_own(&mut self.own, format_args!("the console's input goes to {name}from now on"));
            self.count(taken);
        }
    }

    /// Counts a unit that was put into a ring or lost.
    const fn count(&mut self, taken: Option<()>) {
        if taken.is_some() {
            self.waiting = self.waiting.saturating_add(1);
        } else {
            self.lost = self.lost.saturating_add(1);
        }
    }

    fn put_record(&mut self, origin: Origin, payload: Option<&[u8]>) -> bool {
        let taken = payload.and_then(|payload| self.try_record(origin, payload));
        self.count(taken);
        taken.is_some()
    }

    /// Puts a record into a ring, if it fits.
    fn try_record(&mut self, origin: Origin, payload: &[u8]) -> Option<()> {
        let frame = PREFIX.len().saturating_add(SUFFIX.len());
        let length = base64::encoded_length(payload.len()).saturating_add(frame);
        let fits = match origin {
            Origin::Hypervisor => self.own.bytes.room() >= length.saturating_add(ring::HEADER),
            Origin::Vm(vm) => self.stream(vm)?.has_room(length),
        };
        let ring = self.ring_mut(origin).filter(|_| fits && length <= ring::LONGEST_UNIT)?;
        ring.begin();
        ring.bytes.extend(PREFIX);
        base64::encode(payload.iter().copied(), |byte| {
            ring.bytes.push(byte);
        });
        ring.bytes.extend(SUFFIX);
        ring.commit(Kind::Record);
        Some(())
    }

    fn ring_mut(&mut self, origin: Origin) -> Option<&mut UnitRing> {
        match origin {
            Origin::Hypervisor => Some(&mut self.own),
            Origin::Vm(vm) => self.stream_mut(vm).map(|stream| &mut stream.ring),
        }
    }

    fn stream(&self, vm: VmId) -> Option<&Stream> {
        self.streams.get(index(u64::from(vm.0)))
    }

    fn stream_mut(&mut self, vm: VmId) -> Option<&mut Stream> {
        self.streams.get_mut(index(u64::from(vm.0)))
    }
}

/// Puts a line of the hypervisor's own into its ring, if there is room.
fn write_own(own: &mut UnitRing, text: fmt::Arguments<'_>) -> Option<()> {
    let needs = OWN_LINE.saturating_add(ring::HEADER);
    own.bytes.room().checked_sub(needs)?;
    own.begin();
    // The last byte is the newline's.
    let mut writer = OwnLine { ring: &mut own.bytes, left: OWN_LINE.saturating_sub(1) };
    // A cut line is still a line.
    let _cut = write!(writer, "{OWN_PREFIX}{text}");
    own.bytes.push(b'\n');
    own.commit(Kind::Line);
    Some(())
}

/// A line of the hypervisor's own, while it is written.
struct OwnLine<'a> {
    ring: &'a mut ByteRing,
    left: usize,
}

impl fmt::Write for OwnLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.left = self.left.checked_sub(1).ok_or(fmt::Error)?;
            let plain = byte >= 0x80 || byte.is_ascii_graphic() || byte == b' ';
            self.ring.push(if plain { byte } else { b'?' });
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "tests compute with small numbers of their own"
)]
mod tests;
