//! I/O ports: the suite has those of the real-time clock, 0x70 and 0x71, and as a second range 0x72 and
//! 0x73. A byte of the clock's memory stands for the device.

use guest_sdk::Status;
use guest_sdk::protocol::call::{IoRead, IoWrite};
use guest_sdk::protocol::flags::IoWidth;

use crate::case::{Fault, Outcome};
use crate::{ensure, ensure_eq, record, scene};

crate::cases! {
    IoRead "what the device answers" ["IO-1"] [] read_device;
    IoRead "ports of others" ["IO-2"] [NotPermitted] read_others;
    IoWrite "ports of others" ["IO-4"] [NotPermitted] write_others;
    IoWrite "a value beyond its width" ["IO-5"] [InvalidArgument] too_wide;
    IoWrite "a refused one reaches no device" ["IO-6"] [NotPermitted InvalidArgument] write_refused;
}

/// The clock's index and data port.
const INDEX: u32 = 0x70;
const DATA: u32 = 0x71;
/// A byte of the clock's memory that nobody uses.
const SCRATCH: u32 = 0x50;

fn read(port: u32, width: IoWidth) -> Result<u64, Status> {
    record::make(IoRead { port, width })
}

fn write(port: u32, value: u32) -> Result<(), Status> {
    record::make(IoWrite { port, width: IoWidth::Byte, value })
}

/// Does something while the scratch byte is chosen, and puts it back.
fn with_scratch(body: impl FnOnce() -> Outcome) -> Outcome {
    write(INDEX, SCRATCH)?;
    let before = read(DATA, IoWidth::Byte)?;
    let outcome = body();
    write(INDEX, SCRATCH)?;
    write(DATA, u32::try_from(before).map_err(|_| Fault("more than a byte was read".into()))?)?;
    outcome
}

fn read_device() -> Outcome {
    with_scratch(|| {
        for value in [0xa5, 0x5a, 0xff, 0] {
            write(DATA, value)?;
            ensure_eq!(read(DATA, IoWidth::Byte)?, u64::from(value), "a byte of the clock's memory");
        }
        let word = read(INDEX, IoWidth::Word)?;
        ensure!(word <= 0xffff, "two ports gave {word:#x}");
        Ok(())
    })
}

/// Accesses of which a port is not the suite's, or that its two ranges share.
fn others() -> impl Iterator<Item = (u32, IoWidth)> {
    let single = [0, 0x20, 0x40, 0x60, 0x6f, 0x74, 0xcf8, 0xcfc, 0x3f8, 0xf4, 0xffff, 0x1_0070, 1 << 31, u32::MAX];
    let widths = [IoWidth::Byte, IoWidth::Word, IoWidth::Long];
    let across = [(0x6f, IoWidth::Word), (0x71, IoWidth::Word), (0x73, IoWidth::Word)];
    let long = [0x6e, 0x6f, 0x70, 0x71, 0x72, 0x73, 0xfffd].map(|port| (port, IoWidth::Long));
    single.into_iter().flat_map(move |port| widths.map(|width| (port, width))).chain(across).chain(long)
}

fn read_others() -> Outcome {
    with_scratch(|| {
        write(DATA, 0x33)?;
        for (port, width) in others() {
            scene::refuse(IoRead { port, width }, Status::NotPermitted)?;
        }
        ensure_eq!(read(DATA, IoWidth::Byte)?, 0x33, "the byte that is chosen");
        Ok(())
    })
}

fn write_others() -> Outcome {
    for (port, width) in others() {
        for value in [0, 0x55, u32::MAX] {
            scene::refuse(IoWrite { port, width, value }, Status::NotPermitted)?;
        }
    }
    Ok(())
}

fn too_wide() -> Outcome {
    for (width, value) in
        [(IoWidth::Byte, 0x100), (IoWidth::Byte, u32::MAX), (IoWidth::Word, 0x1_0000), (IoWidth::Word, 1 << 31)]
    {
        scene::refuse(IoWrite { port: INDEX, width, value }, Status::InvalidArgument)?;
    }
    Ok(())
}

fn write_refused() -> Outcome {
    with_scratch(|| {
        write(DATA, 0x66)?;
        let refuse = |port, width, value, status| scene::refuse(IoWrite { port, width, value }, status);
        refuse(DATA, IoWidth::Byte, 0x177, Status::InvalidArgument)?;
        refuse(DATA, IoWidth::Word, 0x77, Status::NotPermitted)?;
        refuse(INDEX, IoWidth::Long, 0x7700, Status::NotPermitted)?;
        refuse(0x6f, IoWidth::Word, 0x7700, Status::NotPermitted)?;
        ensure_eq!(read(DATA, IoWidth::Byte)?, 0x66, "the byte that is chosen");
        Ok(())
    })
}
