//! One serial line for many consoles: who may write what, in which order it goes out, and who gets
//! what is typed.
//!
//! Whole lines, as `[name] text`, and records go through one queue, in which each VM may have only so
//! much: one that writes without end is held back itself, delays others by no more than that, and
//! makes nobody lose anything. The foreground VM's incomplete line is shown at once; before another line
//! it is taken back ([`ERASE`]), and later drawn anew. `stream` keeps guests from imitating any of
//! this; `attention` is the way past all guests.
//!
//! Records (see `protocol::record`) may stand within a line; terminals do not show them.
//!
//! Not here: the UART, and the lock. Operations allocate nothing.

mod attention;
mod base64;
mod held;
mod queue;
mod stream;

use alloc::borrow::Cow;
use alloc::boxed::Box;
use core::fmt::{self, Write as _};
use core::slice;

use protocol::VmId;
use protocol::layout::limit;
use protocol::record::{INPUT_LINE, Log, PREFIX, Record, SUFFIX};
use protocol::shared::AuditRecord;
use zerocopy::IntoBytes as _;

use self::attention::{Choice, Menu};
use self::held::{Held, Kind};
use self::queue::Queue;
use self::stream::Stream;
use crate::addr::convert::index;

/// The key that gives the next VM the foreground: Ctrl-].
pub const SWITCH_KEY: u8 = 0x1d;
/// What takes an incomplete line back: default colours, to the left edge, erase to the right.
const ERASE: &[u8] = b"\x1b[0m\r\x1b[K";
/// Bytes that the hypervisor's own lines and records can wait in.
const OWN_BUDGET: usize = 64 * 1024;
/// Bytes that audit records can wait in; further ones wait in the log.
const AUDIT_BUDGET: usize = 8 * 1024;
/// Bytes of the hypervisor's longest line without its end; longer ones are cut.
const OWN_LINE: usize = 510;
/// Bytes of the longest log record before its encoding: a frame and what goes with it.
const LOG_BYTES: usize = 1024 + 32;
const _: () = assert!(limit::CONSOLE_BYTES == 1024);

/// All consoles.
#[derive(Debug)]
pub struct Console {
    queue: Queue,
    streams: Box<[Stream]>,
    /// With time partitions, what each VM wrote in its slot.
    held: Box<[Held]>,
    /// The hypervisor's origin in the queue; a VM's is its number.
    own: u16,
    foreground: Option<VmId>,
    /// The VM whose incomplete line the cursor stands in, and how many bytes of it are shown. Until
    /// that line is complete and going out, all of the VM's units in the queue come after it.
    shown: Option<(VmId, usize)>,
    /// The foreground's incomplete line has news, and goes before the next unit.
    is_fresh: bool,
    /// The rest of [`ERASE`].
    erasing: slice::Iter<'static, u8>,
    /// The trusted path is open.
    menu: Option<Menu>,
}

impl Console {
    /// Consoles for the VMs `0..vms`, none of them open. Allocates all that is ever needed.
    #[must_use]
    pub fn new(vms: u32) -> Console {
        let own = u16::try_from(vms).unwrap_or(u16::MAX);
        let count = usize::from(own);
        let room = count.saturating_mul(stream::ROOM).saturating_add(OWN_BUDGET).saturating_add(AUDIT_BUDGET);
        Console {
            queue: Queue::new(count.saturating_add(2), room),
            streams: (0..own).map(Stream::new).collect(),
            held: Box::default(),
            own,
            foreground: None,
            shown: None,
            is_fresh: false,
            erasing: [].iter(),
            menu: None,
        }
    }

    /// The same for time partitions: what VMs write waits for [`Console::release`].
    #[must_use]
    pub fn holding(self) -> Console {
        Console { held: self.streams.iter().map(|_| Held::new(LOG_BYTES)).collect(), ..self }
    }

    /// Whether what VMs write waits for [`Console::release`].
    #[must_use]
    pub const fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Opens the console of a VM that starts, whose label reads so. The first gets the foreground.
    pub fn open(&mut self, vm: VmId, name: &str, label: &str) {
        if let Some(stream) = self.stream_mut(vm) {
            stream.open(name, label);
            self.foreground.get_or_insert(vm);
        }
    }

    /// Closes the console of a VM that ended: its incomplete line goes out, and the next VM gets
    /// the foreground.
    pub fn close(&mut self, vm: VmId) {
        self.release(vm);
        if let Some(stream) = self.streams.get_mut(index(u64::from(vm.0))) {
            stream.close(&mut self.queue);
        }
        if self.foreground == Some(vm) {
            self.move_foreground();
        }
    }

    /// The secure attention key: what was typed for VMs is forgotten, none is heard or shown from now
    /// on, and the person at the line is asked who shall have the input.
    pub fn attention(&mut self) {
        for stream in &mut self.streams {
            stream.input.clear();
        }
        self.menu = Some(Menu::default());
        self.line(format_args!("SECURE ATTENTION: no VM is heard or shown until you choose who has the input"));
        let back = self.foreground.and_then(|vm| self.stream(vm)).map_or("", |stream| stream.prefix());
        let back = OwnLine::new(format_args!("  0  back {back}"));
        self.queue.push(self.own, OWN_BUDGET, back.bytes());
        for (number, stream) in (1_u32..).zip(&self.streams).filter(|(_, stream)| stream.is_live) {
            let line = OwnLine::new(format_args!("  {number}  {}{}", stream.prefix(), stream.label));
            self.queue.push(self.own, OWN_BUDGET, line.bytes());
        }
        self.line(format_args!("type a number, then Return; a minus in front ends the VM"));
    }

    /// The VM that gets what is typed.
    #[must_use]
    pub const fn foreground(&self) -> Option<VmId> {
        self.foreground
    }

    /// Takes bytes that a VM writes; how many, from the start.
    pub fn write(&mut self, vm: VmId, bytes: &[u8]) -> usize {
        match self.held.get_mut(index(u64::from(vm.0))) {
            Some(held) => held.put(Kind::Text, bytes),
            None => self.put(vm, bytes),
        }
    }

    /// Lets out what a VM wrote in its slot. What has no room then is lost, so that nobody can tell by
    /// the room how much others write.
    pub fn release(&mut self, vm: VmId) {
        let Some(held) = self.held.get_mut(index(u64::from(vm.0))) else {
            return;
        };
        let mut held = core::mem::replace(held, Held::NOTHING);
        held.take(|kind, unit| match (kind, u16::try_from(vm.0)) {
            (Kind::Log, Ok(origin)) if self.menu.is_none() => {
                self.put_record(origin, stream::BUDGET, unit);
            }
            (Kind::Log, _) => {}
            (Kind::Text, _) => {
                self.put(vm, unit);
            }
        });
        if let Some(slot) = self.held.get_mut(index(u64::from(vm.0))) {
            *slot = held;
        }
    }

    fn put(&mut self, vm: VmId, bytes: &[u8]) -> usize {
        let is_heard = self.menu.is_none();
        let stream = self.streams.get_mut(index(u64::from(vm.0))).filter(|stream| stream.is_live && is_heard);
        let taken = stream.map_or(0, |stream| stream.write(bytes, &mut self.queue));
        self.is_fresh |= taken > 0 && self.foreground == Some(vm);
        taken
    }

    /// Takes a byte from the serial line; what it leads to.
    pub fn receive(&mut self, byte: u8) -> Option<Typed> {
        if let Some(menu) = &mut self.menu {
            let choice = menu.key(byte);
            return self.choose(choice, byte).map(Typed::End);
        }
        if byte == SWITCH_KEY {
            self.move_foreground();
            return None;
        }
        let vm = self.foreground?;
        self.stream_mut(vm)?.receive(byte).then_some(Typed::Input(vm))
    }

    /// Copies what was typed for a VM; how many bytes. They stay until [`Console::consume`], so that
    /// a buffer that turns out bad loses none.
    pub fn peek(&self, vm: VmId, out: &mut [u8]) -> usize {
        let typed = self.stream(vm).into_iter().flat_map(|stream| &stream.input);
        out.iter_mut().zip(typed).map(|(slot, byte)| *slot = *byte).count()
    }

    /// Takes bytes that were typed for a VM.
    pub fn consume(&mut self, vm: VmId, count: usize) {
        if let Some(stream) = self.stream_mut(vm) {
            stream.input.drain(..count.min(stream.input.len()));
        }
    }

    /// Writes a line of the hypervisor's own. Whether there was room; else it is lost.
    pub fn line(&mut self, text: fmt::Arguments<'_>) -> bool {
        let line = OwnLine::new(text);
        self.queue.push(self.own, OWN_BUDGET, line.bytes())
    }

    /// Writes a record, given in postcard. Whether there was room; else it is lost whole.
    pub fn record(&mut self, payload: &[u8]) -> bool {
        self.put_record(self.own, OWN_BUDGET, payload)
    }

    /// Writes a record of the audit log. Whether there was room; else it is to be tried again.
    pub fn audit(&mut self, record: &AuditRecord) -> bool {
        let mut buffer = [0; size_of::<AuditRecord>() + 8];
        let record = Record::Audit(Cow::Borrowed(record.as_bytes()));
        let origin = self.own.saturating_add(1);
        postcard::to_slice(&record, &mut buffer).is_ok_and(|payload| self.put_record(origin, AUDIT_BUDGET, payload))
    }

    /// Writes a `Record::Log` at the cost of its source: a VM or the hypervisor. Whether there was
    /// room; what is lost leaves a gap in the sequence.
    pub fn log(&mut self, source: Option<VmId>, time_ns: u64, sequence: u32, frame: &[u8]) -> bool {
        let record = Record::Log(Log { source, time_ns, sequence, frame: Cow::Borrowed(frame) });
        let mut buffer = [0; LOG_BYTES];
        let Ok(payload) = postcard::to_slice(&record, &mut buffer) else {
            return false;
        };
        match source.map(|vm| u16::try_from(vm.0)) {
            None => self.record(payload),
            Some(Ok(origin)) if origin < self.own => match self.held.get_mut(usize::from(origin)) {
                Some(held) => held.put(Kind::Log, payload) != 0,
                None if self.menu.is_none() => self.put_record(origin, stream::BUDGET, payload),
                None => false,
            },
            Some(_) => false,
        }
    }

    /// Whether anything is to be transmitted.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.queue.is_empty() || !self.erasing.as_slice().is_empty() || self.partial_byte().is_some()
    }

    /// Takes the next byte for the serial line.
    pub fn next_byte(&mut self) -> Option<u8> {
        loop {
            if let Some(byte) = self.erasing.next().copied().or_else(|| self.queue.pop()) {
                return Some(byte);
            }
            match (self.partial_byte(), self.foreground) {
                (Some(byte), Some(vm)) if self.is_fresh || self.queue.is_empty() => {
                    self.is_fresh = true;
                    if self.shown.is_none_or(|(other, _)| other == vm) {
                        let count = self.shown.map_or(0, |(_, count)| count);
                        self.shown = Some((vm, count.saturating_add(1)));
                        return Some(byte);
                    }
                    self.erase();
                }
                _ => self.begin_unit()?,
            }
        }
    }

    /// The next byte of the foreground's incomplete line that is to be shown; none before all that the
    /// VM wrote earlier is.
    fn partial_byte(&self) -> Option<u8> {
        let vm = self.foreground.filter(|_| self.menu.is_none())?;
        let stream = self.stream(vm).filter(|stream| self.queue.is_through(stream.origin))?;
        stream.partial_byte(self.shown.filter(|(shown, _)| *shown == vm).map_or(0, |(_, count)| count))
    }

    /// Lets the next unit out: a line without what is shown of it, or after what is shown of another.
    fn begin_unit(&mut self) -> Option<()> {
        let (origin, first) = self.queue.next_unit()?;
        let is_record = PREFIX.first() == Some(&first);
        match self.shown.filter(|_| !is_record) {
            Some((vm, count)) if vm.0 == u32::from(origin) => {
                self.shown = None;
                self.queue.begin_unit(count)
            }
            Some(_) => {
                self.erase();
                Some(())
            }
            None => self.queue.begin_unit(0),
        }
    }

    fn erase(&mut self) {
        self.shown = None;
        self.is_fresh = false;
        self.erasing = ERASE.iter();
    }

    fn move_foreground(&mut self) {
        let after = self.foreground.map_or(0, |vm| index(u64::from(vm.0)).saturating_add(1));
        let all = (0_u32..).map(VmId).zip(&self.streams);
        let mut live = all.clone().skip(after).chain(all.take(after)).filter(|(_, stream)| stream.is_live);
        self.foreground = live.next().map(|(vm, _)| vm);
        self.say_foreground();
    }

    /// Says who has the input.
    fn say_foreground(&mut self) {
        if let Some(stream) = self.foreground.and_then(|vm| self.stream(vm)) {
            let line = OwnLine::new(format_args!("{INPUT_LINE}{}from now on{}", stream.prefix(), Label(&stream.label)));
            self.queue.push(self.own, OWN_BUDGET, line.bytes());
        }
    }

    /// Does what was chosen in the menu. Answers a VM that is to end.
    fn choose(&mut self, choice: Choice, byte: u8) -> Option<VmId> {
        if choice == Choice::Part {
            self.queue.push(self.own, OWN_BUDGET, [byte].into_iter());
            return None;
        }
        self.queue.push(self.own, OWN_BUDGET, b"\r\n".iter().copied());
        let is_live = |vm| self.stream(vm).is_some_and(|stream| stream.is_live);
        let ended = match choice {
            Choice::Vm(vm) if is_live(vm) => {
                self.foreground = Some(vm);
                None
            }
            Choice::End(vm) if is_live(vm) => Some(vm),
            Choice::Back => None,
            Choice::Part | Choice::Vm(_) | Choice::End(_) | Choice::Unknown => {
                self.line(format_args!("there is no such choice; type a number, then Return"));
                return None;
            }
        };
        self.menu = None;
        self.is_fresh = true;
        self.say_foreground();
        ended
    }

    fn put_record(&mut self, origin: u16, budget: usize, payload: &[u8]) -> bool {
        let text = base64::encode(payload);
        self.queue.push(origin, budget, PREFIX.iter().copied().chain(text).chain(SUFFIX.iter().copied()))
    }

    fn stream(&self, vm: VmId) -> Option<&Stream> {
        self.streams.get(index(u64::from(vm.0)))
    }

    fn stream_mut(&mut self, vm: VmId) -> Option<&mut Stream> {
        self.streams.get_mut(index(u64::from(vm.0)))
    }
}

/// What a byte from the serial line leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typed {
    /// This VM has input now.
    Input(VmId),
    /// The person at the line wants this VM to end.
    End(VmId),
}

/// A label behind a VM's name, if it has one in words.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// A line of the hypervisor's own.
struct OwnLine {
    text: [u8; OWN_LINE],
    length: usize,
}

impl OwnLine {
    fn new(text: fmt::Arguments<'_>) -> OwnLine {
        let mut line = OwnLine { text: [0; OWN_LINE], length: 0 };
        // A cut line is still a line.
        let _cut = write!(line, "cloister: {text}");
        line
    }

    fn bytes(&self) -> impl Iterator<Item = u8> + Clone {
        self.text.iter().take(self.length).chain(b"\r\n").copied()
    }
}

impl fmt::Write for OwnLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let plain = byte >= 0x80 || byte.is_ascii_graphic() || byte == b' ';
            *self.text.get_mut(self.length).ok_or(fmt::Error)? = if plain { byte } else { b'?' };
            self.length = self.length.saturating_add(1);
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
