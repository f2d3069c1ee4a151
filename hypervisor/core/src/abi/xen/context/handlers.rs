//! Where the kernel of a vCPU is entered: its trap table and its callbacks.

use alloc::boxed::Box;
use alloc::vec;

use protocol::xen::structure::{CallbackRegister, TrapInfo};
use protocol::xen::{Errno, callback, trap};

use super::is_canonical;
use crate::abi::native::entry::{Mode, Upcalls};

/// Traps that a table has room for.
const TRAPS: usize = 256;

/// A place to go on at. Its address is canonical, so that SYSRET can lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handler {
    address: u64,
    masks_events: bool,
}

impl Handler {
    /// Its first instruction.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Whether events are masked when it begins.
    #[must_use]
    pub const fn masks_events(self) -> bool {
        self.masks_events
    }

    /// A handler as a guest states it: address 0 is none. `Masked` has it begin with events masked,
    /// `Open` leaves them as they are.
    ///
    /// # Errors
    /// `Invalid` for an address that is not canonical.
    pub fn new(address: u64, events: Upcalls) -> Result<Option<Handler>, Errno> {
        if !is_canonical(address) {
            return Err(Errno::Invalid);
        }
        Ok(Some(Handler { address, masks_events: events == Upcalls::Masked }).filter(|_| address != 0))
    }
}

/// An entry of the trap table.
#[derive(Debug, Clone, Copy, Default)]
struct Trap {
    handler: Option<Handler>,
    flags: u8,
}

impl Trap {
    /// # Errors
    /// `Invalid` for an address that is not canonical.
    fn new(flags: u8, address: u64) -> Result<Trap, Errno> {
        let events = if flags & trap::MASK_EVENTS == 0 { Upcalls::Open } else { Upcalls::Masked };
        Ok(Trap { handler: Handler::new(address, events)?, flags })
    }
}

/// The handlers of a vCPU's traps.
#[derive(Debug)]
pub struct TrapTable(Box<[Trap]>);

impl Default for TrapTable {
    fn default() -> TrapTable {
        TrapTable(vec![Trap::default(); TRAPS].into_boxed_slice())
    }
}

impl TrapTable {
    /// Forgets all handlers.
    pub fn clear(&mut self) {
        self.0.fill(Trap::default());
    }

    /// Takes one entry of `set_trap_table`. The list ends before an entry with address 0, which is the
    /// caller's to see; here it takes the handler away.
    ///
    /// # Errors
    /// `Invalid` for an address that is not canonical. Nothing has changed then.
    pub fn set(&mut self, entry: &TrapInfo) -> Result<(), Errno> {
        let trap = Trap::new(entry.flags, entry.address)?;
        self.store(entry.vector, trap);
        Ok(())
    }

    /// Takes the whole table of a vCPU that is started, in the order of the traps.
    ///
    /// # Errors
    /// `Invalid` for an address that is not canonical. Nothing has changed then.
    pub fn replace(&mut self, entries: &[TrapInfo; TRAPS]) -> Result<(), Errno> {
        if !entries.iter().all(|entry| is_canonical(entry.address)) {
            return Err(Errno::Invalid);
        }
        for (slot, entry) in self.0.iter_mut().zip(entries) {
            *slot = Trap::new(entry.flags, entry.address)?;
        }
        Ok(())
    }

    /// The handler of an exception, and of the instruction `int 0x80`, which any mode may use.
    #[must_use]
    pub fn handler(&self, vector: u8) -> Option<Handler> {
        self.trap(vector).handler
    }

    /// The handler of an instruction `int` with this vector in this mode. Without one it is a general
    /// protection fault.
    #[must_use]
    pub fn software(&self, vector: u8, mode: Mode) -> Option<Handler> {
        let trap = self.trap(vector);
        let needed = match mode {
            Mode::Kernel => 1,
            Mode::User => 3,
        };
        trap.handler.filter(|_| trap.flags & trap::LEVEL >= needed)
    }

    fn trap(&self, vector: u8) -> Trap {
        self.0.get(usize::from(vector)).copied().unwrap_or_default()
    }

    fn store(&mut self, vector: u8, trap: Trap) {
        if let Some(slot) = self.0.get_mut(usize::from(vector)) {
            *slot = trap;
        }
    }
}

/// The handlers of what is no trap. That of events always masks events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Callbacks {
    /// An event is pending.
    pub event: Option<Handler>,
    /// A segment could not be loaded.
    pub failsafe: Option<Handler>,
    /// User mode executed `syscall`.
    pub syscall: Option<Handler>,
    /// User mode executed `syscall` in 32-bit code.
    pub syscall_32: Option<Handler>,
}

impl Callbacks {
    /// No handler.
    pub const NONE: Callbacks = Callbacks { event: None, failsafe: None, syscall: None, syscall_32: None };

    /// Registers a handler. That of non-maskable interrupts is an entry of the trap table.
    ///
    /// # Errors
    /// `Invalid` for an address that is not canonical, `NotImplemented` for an unknown type.
    pub fn register(&mut self, traps: &mut TrapTable, request: &CallbackRegister) -> Result<(), Errno> {
        let masks = request.kind == callback::EVENT || request.flags & callback::MASK_EVENTS != 0;
        let handler = Handler::new(request.address, if masks { Upcalls::Masked } else { Upcalls::Open })?;
        match request.kind {
            callback::EVENT => self.event = handler,
            callback::FAILSAFE => self.failsafe = handler,
            callback::SYSCALL => self.syscall = handler,
            callback::SYSCALL32 => self.syscall_32 = handler,
            callback::NMI => traps.store(trap::NMI, Trap::new(trap::MASK_EVENTS, request.address)?),
            _ => return Err(Errno::NotImplemented),
        }
        Ok(())
    }

    /// Takes a handler away, which only that of non-maskable interrupts allows.
    ///
    /// # Errors
    /// `Invalid` for the others, `NotImplemented` for an unknown type.
    pub fn unregister(traps: &mut TrapTable, kind: u16) -> Result<(), Errno> {
        match kind {
            callback::NMI => {
                traps.store(trap::NMI, Trap::default());
                Ok(())
            }
            callback::EVENT | callback::FAILSAFE | callback::SYSCALL | callback::SYSCALL32 => Err(Errno::Invalid),
            _ => Err(Errno::NotImplemented),
        }
    }

    /// The call that registers three handlers. It cannot fail: an address that is not canonical is left
    /// out.
    pub fn set(&mut self, event: u64, failsafe: u64, syscall: u64) {
        self.event = Handler::new(event, Upcalls::Masked).unwrap_or(self.event);
        self.failsafe = Handler::new(failsafe, Upcalls::Open).unwrap_or(self.failsafe);
        self.syscall = Handler::new(syscall, Upcalls::Open).unwrap_or(self.syscall);
    }
}

#[cfg(test)]
mod tests {
    use super::{Callbacks, Handler, Mode, TRAPS, TrapTable};
    use protocol::xen::structure::{CallbackRegister, TrapInfo};
    use protocol::xen::{Errno, callback, trap};

    const HOLE: u64 = 0x8000_0000_0000;
    const CODE: u64 = 0xffff_ffff_8100_0000;

    fn entry(vector: u8, flags: u8, address: u64) -> TrapInfo {
        TrapInfo { vector, flags, address, ..TrapInfo::default() }
    }

    fn request(kind: u16, flags: u16, address: u64) -> CallbackRegister {
        CallbackRegister { kind, flags, address, ..CallbackRegister::default() }
    }

    const MASKS: Option<Handler> = Some(Handler { address: CODE, masks_events: true });
    const LEAVES: Option<Handler> = Some(Handler { address: CODE, masks_events: false });

    #[test]
    fn every_vector_has_a_place_of_its_own_and_address_zero_is_none() {
        let mut table = TrapTable::default();
        for vector in 0..=255 {
            assert_eq!(table.handler(vector), None);
            table.set(&entry(vector, 0, CODE)).unwrap();
            assert_eq!(table.handler(vector), LEAVES);
        }
        table.set(&entry(13, trap::MASK_EVENTS, CODE)).unwrap();
        assert_eq!(table.handler(13), MASKS);
        table.set(&entry(14, trap::MASK_EVENTS, 0)).unwrap();
        assert_eq!(table.handler(14), None);
        table.clear();
        assert!((0..=255).all(|vector| table.handler(vector).is_none()));
    }

    #[test]
    fn an_address_in_the_hole_is_refused_and_changes_nothing() {
        let mut table = TrapTable::default();
        table.set(&entry(3, 0, CODE)).unwrap();
        for address in [HOLE, !HOLE ^ (1 << 63), HOLE << 1, 0xffff_7fff_ffff_ffff, 1 << 63] {
            assert_eq!(table.set(&entry(3, 0, address)), Err(Errno::Invalid));
            let mut entries = [entry(0, 0, HOLE - 1); TRAPS];
            entries[255].address = address;
            assert_eq!(table.replace(&entries), Err(Errno::Invalid));
            assert_eq!(table.handler(3), LEAVES);
            assert_eq!(table.handler(0), None);
            let refused = Callbacks::default().register(&mut table, &request(callback::EVENT, 0, address));
            assert_eq!(refused, Err(Errno::Invalid));
        }
    }

    #[test]
    fn a_whole_table_is_taken_by_place() {
        let mut table = TrapTable::default();
        table.set(&entry(9, 0, CODE)).unwrap();
        let mut entries = [TrapInfo::default(); TRAPS];
        entries[8] = entry(77, 3, CODE);
        table.replace(&entries).unwrap();
        assert_eq!(table.handler(8), LEAVES);
        assert_eq!((table.handler(9), table.handler(77)), (None, None));
    }

    #[test]
    fn instructions_raise_only_what_their_mode_may() {
        let mut table = TrapTable::default();
        for flags in 0..=255 {
            table.set(&entry(0x80, flags, CODE)).unwrap();
            let expected = if flags & 4 == 0 { LEAVES } else { MASKS };
            let may = |needed| expected.filter(|_| flags & 3 >= needed);
            assert_eq!(table.software(0x80, Mode::Kernel), may(1));
            assert_eq!(table.software(0x80, Mode::User), may(3));
            assert_eq!(table.handler(0x80), expected);
        }
        assert_eq!(table.software(4, Mode::User), None);
    }

    #[test]
    fn each_type_registers_its_own_handler() {
        for kind in 0..=u16::from(u8::MAX) {
            let mut table = TrapTable::default();
            let mut callbacks = Callbacks::default();
            let mut expected = callbacks;
            let registered = callbacks.register(&mut table, &request(kind, 0, CODE));
            match kind {
                0 => expected.event = MASKS,
                1 => expected.failsafe = LEAVES,
                2 => expected.syscall = LEAVES,
                4 => {}
                7 => expected.syscall_32 = LEAVES,
                _ => assert_eq!(registered, Err(Errno::NotImplemented)),
            }
            assert_eq!(callbacks, expected, "{kind}");
            assert_eq!(table.handler(2), MASKS.filter(|_| kind == 4));
            let removed = Callbacks::unregister(&mut table, kind);
            match kind {
                4 => assert_eq!(removed, Ok(())),
                _ => assert_eq!(removed.err(), registered.err().or(Some(Errno::Invalid)), "{kind}"),
            }
            assert_eq!(table.handler(2), None);
        }
    }

    #[test]
    fn flags_mask_events_and_the_event_handler_always_does() {
        let (mut table, mut callbacks) = (TrapTable::default(), Callbacks::default());
        for kind in [0, 1, 2, 7] {
            callbacks.register(&mut table, &request(kind, 1, CODE)).unwrap();
        }
        let all = Callbacks { event: MASKS, failsafe: MASKS, syscall: MASKS, syscall_32: MASKS };
        assert_eq!(callbacks, all);
        callbacks.register(&mut table, &request(callback::SYSCALL, 0xfffe, 0)).unwrap();
        assert_eq!(callbacks.syscall, None);
    }

    #[test]
    fn the_old_call_leaves_out_what_is_not_canonical() {
        let mut callbacks = Callbacks::default();
        callbacks.set(CODE, CODE, CODE);
        callbacks.set(HOLE, 0, HOLE);
        let expected = Callbacks { event: MASKS, failsafe: None, syscall: LEAVES, ..Callbacks::default() };
        assert_eq!(callbacks, expected);
    }
}
