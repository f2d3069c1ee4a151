//! With another VM.

use functional_support::bench::{ECHO, GRANT, YIELD};
use guest_sdk::channel::{Channel, ChannelError};
use guest_sdk::grant::{self, MappedGrant};
use guest_sdk::protocol::flags::MapFlags;
use guest_sdk::space::Space;
use guest_sdk::{GrantRef, GuestVirt, StartInfo, VmId, call};

use crate::meter::{measure, report};

const PAGE: u64 = 0x40_0000;

pub fn measure_all(start: &StartInfo) -> Result<(), ChannelError> {
    let owner = VmId(start.channels().first().ok_or(ChannelError::NoSuchChannel)?.peer);
    let grant = GrantRef(Channel::open(GRANT)?.receive_value()?);
    let space = Space::new()?;
    let map = || MappedGrant::new(owner, grant, space.id(), GuestVirt(PAGE), MapFlags::WRITE);
    drop(map()?);
    report("grant-map-unmap", measure(|| drop(map())));
    let mut buffer = [0; 4096];
    grant::copy_from(owner, grant, 0, &mut buffer)?;
    report(
        "grant-copy-4096",
        measure(|| {
            let _ = grant::copy_from(owner, grant, 0, &mut buffer);
        }),
    );

    let echo = Channel::open(ECHO)?;
    let round = measure(|| {
        let _ = echo.event().send();
        echo.event().wait();
    });
    report("event-round-trip", round);

    let yields = Channel::open(YIELD)?;
    yields.event().send()?;
    let round = measure(|| {
        let _ = call::yield_cpu();
    });
    report("vm-switch", round / 2);
    yields.event().send()?;
    Ok(())
}
