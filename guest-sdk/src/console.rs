//! The VM's console.

use core::fmt::{self, Write};
use core::panic::PanicInfo;

use protocol::flags::EventSource;
use protocol::layout::limit;
use protocol::{Nanos, Status};

use crate::event::Event;
use crate::raw::call;
use crate::sync::Mutex;

/// Held while a `print` writes, so that lines of several vCPUs do not mix.
static WRITER: Mutex<()> = Mutex::new(());

const BUFFER_BYTES: usize = 256;

/// Collects text and writes it in pieces, so that a line costs one call and not one per word.
struct Writer {
    bytes: [u8; BUFFER_BYTES],
    length: usize,
}

impl Writer {
    const fn new() -> Writer {
        Writer { bytes: [0; BUFFER_BYTES], length: 0 }
    }

    fn flush(&mut self) {
        write(self.bytes.get(..self.length).unwrap_or_default());
        self.length = 0;
    }
}

impl Write for Writer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(BUFFER_BYTES) {
            if self.length + piece.len() > BUFFER_BYTES {
                self.flush();
            }
            if let Some(room) = self.bytes.get_mut(self.length..self.length + piece.len()) {
                room.copy_from_slice(piece);
                self.length += piece.len();
            }
        }
        Ok(())
    }
}

/// Writes bytes to the console, waiting while it is full.
pub fn write(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let piece = bytes.get(..limit::CONSOLE_BYTES as usize).unwrap_or(bytes);
        match call::console_write(piece) {
            Ok(taken) => bytes = bytes.get(taken as usize..).unwrap_or_default(),
            Err(Status::Retry) => {
                let _ = call::yield_cpu();
            }
            Err(_) => return,
        }
    }
}

/// What [`print!`](crate::print) does.
pub fn print(arguments: fmt::Arguments<'_>) {
    let _writer = WRITER.lock();
    print_unlocked(arguments);
}

fn print_unlocked(arguments: fmt::Arguments<'_>) {
    let mut writer = Writer::new();
    let _ = writer.write_fmt(arguments);
    writer.flush();
}

/// Prints a panic and ends the VM: what [`panic_handler!`](crate::panic_handler) does.
///
/// It takes no lock: the panicking code may hold it.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    print_unlocked(format_args!("{info}\n"));
    call::exit(crate::exit_code::PANIC)
}

/// What was typed for this VM.
#[derive(Debug)]
pub struct Input {
    event: Event,
}

impl Input {
    /// The console's input, taken by this vCPU.
    ///
    /// # Errors
    /// [`Status::Busy`] when it is open already.
    pub fn open() -> Result<Input, Status> {
        Event::bound(EventSource::ConsoleInput, 0).map(|event| Input { event })
    }

    /// Takes typed bytes that wait; returns how many, 0 for none.
    pub fn try_read(&mut self, bytes: &mut [u8]) -> usize {
        let end = bytes.len().min(limit::CONSOLE_BYTES as usize);
        let Some(bytes) = bytes.get_mut(..end) else { return 0 };
        call::console_read(bytes).map_or(0, |taken| taken as usize)
    }

    /// Waits for typed bytes until the deadline; returns how many, 0 for none by then.
    pub fn read(&mut self, bytes: &mut [u8], deadline: Nanos) -> usize {
        loop {
            let taken = self.try_read(bytes);
            if taken > 0 || bytes.is_empty() || !self.event.wait_deadline(deadline) {
                return taken;
            }
        }
    }
}
