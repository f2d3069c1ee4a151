//! The second emulator: boots an ISO and gives what the serial line said.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Context, Failure};

/// Memory of the machine.
pub const MEMORY_MIB: u64 = 256;

/// The machine: two CPUs of a model with x2APIC, serial line into a file, no window.
fn configuration(iso: &Path, serial: &Path, log: &Path) -> String {
    format!(
        "megs: {MEMORY_MIB}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest\n\
         cpu: model=tigerlake, count=2, ips=200000000, reset_on_triple_fault=0\n\
         clock: sync=none\n\
         ata0: enabled=1\n\
         ata0-master: type=cdrom, path=\"{}\", status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=file, dev=\"{}\"\n\
         display_library: rfb, options=\"timeout=0\"\n\
         plugin_ctrl: unmapped=1\n\
         sound: driver=dummy, waveoutdrv=dummy\n\
         speaker: enabled=0\n\
         panic: action=fatal\n\
         log: \"{}\"\n",
        iso.display(),
        serial.display(),
        log.display()
    )
}

/// Boots an ISO until the machine ends or the time is over; what the serial line said.
pub fn run(iso: &Path, timeout: Duration) -> Result<Vec<u8>, Failure> {
    let folder = iso.with_extension("bochs");
    let serial = folder.join("serial");
    let text = configuration(iso, &serial, &folder.join("log"));
    let settings = folder.join("bochsrc");
    crate::cmd::write(&settings, text.as_bytes())?;
    crate::cmd::write(&serial, b"")?;
    // Debian's build starts in its debugger and waits for this word.
    let commands = folder.join("commands");
    crate::cmd::write(&commands, b"c\n")?;
    let mut child = Command::new("bochs")
        .arg("-q")
        .arg("-f")
        .arg(&settings)
        .arg("-rc")
        .arg(&commands)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("bochs does not start")?;
    let start = Instant::now();
    while start.elapsed() < timeout {
        if child.try_wait().context("waiting for bochs")?.is_some() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
    std::fs::read(&serial).context(serial.display())
}
