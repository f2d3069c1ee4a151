//! I/O ports of VMs that drive devices: which a VM has stands in its manifest.

use protocol::Status;
use protocol::flags::IoWidth;
use protocol::processor::PortRange;

/// A port that a VM may use, and how wide. Only [`check`] makes one, so an effect without a decision
/// does not compile.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an access is there to be used by the one effect that it was asked for"]
pub struct Access {
    port: u16,
    width: IoWidth,
}

impl Access {
    /// The first port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its width.
    #[must_use]
    pub const fn width(&self) -> IoWidth {
        self.width
    }
}

/// Checks a port against the ranges of a VM.
///
/// # Errors
/// [`Status::NotPermitted`] when any byte of the access lies in none of them, or they are not one range.
pub fn check(ranges: &[PortRange], port: u32, width: IoWidth) -> Result<Access, Status> {
    let first = u16::try_from(port).map_err(|_| Status::NotPermitted)?;
    let more = match width {
        IoWidth::Byte => 0,
        IoWidth::Word => 1,
        IoWidth::Long => 3,
    };
    let last = first.checked_add(more).ok_or(Status::NotPermitted)?;
    let has = ranges.iter().any(|range| range.first <= first && last <= range.last);
    if has { Ok(Access { port: first, width }) } else { Err(Status::NotPermitted) }
}

/// Checks that a value fits a width.
///
/// # Errors
/// [`Status::InvalidArgument`] when it does not.
pub fn check_value(value: u32, width: IoWidth) -> Result<u32, Status> {
    let most = match width {
        IoWidth::Byte => 0xff,
        IoWidth::Word => 0xffff,
        IoWidth::Long => u32::MAX,
    };
    if value <= most { Ok(value) } else { Err(Status::InvalidArgument) }
}

#[cfg(test)]
mod tests {
    use super::{check, check_value};
    use protocol::Status;
    use protocol::flags::IoWidth;
    use protocol::processor::PortRange;

    const RANGES: [PortRange; 4] = [
        PortRange { first: 0x70, last: 0x71 },
        PortRange { first: 0x72, last: 0x73 },
        PortRange { first: 0x100, last: 0x104 },
        PortRange { first: 0xfffe, last: 0xffff },
    ];

    #[test]
    #[cfg_attr(miri, ignore = "many cases: too long for an interpreter")]
    fn exactly_the_accesses_within_one_range_pass() {
        for (width, bytes) in [(IoWidth::Byte, 1), (IoWidth::Word, 2), (IoWidth::Long, 4)] {
            for port in 0..0x1_0010_u32 {
                let inside = RANGES
                    .iter()
                    .any(|range| port >= u32::from(range.first) && port + bytes - 1 <= u32::from(range.last));
                match check(&RANGES, port, width) {
                    Ok(access) => {
                        assert!(inside, "{port:#x} {width:?}");
                        assert_eq!((u32::from(access.port()), access.width()), (port, width));
                    }
                    Err(status) => assert!(!inside && status == Status::NotPermitted, "{port:#x} {width:?}"),
                }
            }
            assert_eq!(check(&RANGES, u32::MAX, width), Err(Status::NotPermitted));
            assert_eq!(check(&RANGES, 0x1_0070, width), Err(Status::NotPermitted));
            assert_eq!(check(&[], 0x70, width), Err(Status::NotPermitted));
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused() {
        for (width, most) in [(IoWidth::Byte, 0xff), (IoWidth::Word, 0xffff), (IoWidth::Long, u32::MAX)] {
            assert_eq!(check_value(most, width), Ok(most));
            assert_eq!(check_value(0, width), Ok(0));
            if let Some(over) = most.checked_add(1) {
                assert_eq!(check_value(over, width), Err(Status::InvalidArgument));
            }
        }
    }
}
