//! The audit log. The suite is an auditor, the servant is not.

use alloc::vec::Vec;

use guest_sdk::protocol::Call;
use guest_sdk::protocol::call::AuditRead;
use guest_sdk::protocol::shared::AuditRecord;
use guest_sdk::{GrantRef, GuestVirt, Status, VmId, grant};

use crate::case::Outcome;
use crate::parts::servant;
use crate::{board, ensure, ensure_eq, record, scene};

crate::cases! {
    AuditRead "in order and once" ["AUD-1"] [] in_order;
    AuditRead "without the role" ["AUD-2"] [NotPermitted] without_role;
    AuditRead "a bad buffer" ["AUD-3"] [BadAddress] bad_buffer;
    AuditRead "too many" [] [TooLong] too_many;
}

fn read(records: &mut [AuditRecord]) -> Result<u64, Status> {
    let buffer = GuestVirt(records.as_mut_ptr().expose_provenance() as u64);
    record::make(AuditRead { buffer, count: records.len() as u64 })
}

/// All that is new.
fn read_all() -> Result<Vec<AuditRecord>, Status> {
    let mut all = Vec::new();
    loop {
        let mut some = [AuditRecord::default(); 5];
        let count = read(&mut some)? as usize;
        all.extend_from_slice(some.get(..count).unwrap_or_default());
        if count == 0 {
            return Ok(all);
        }
    }
}

/// Has the servant refused something: that makes a record, or is counted.
fn make_news() -> Outcome {
    let board = scene::helper("servant")?;
    let answer = board.ask(servant::AUDIT, &[1])?;
    record::note(AuditRead::NUMBER, answer.map_or_else(Status::to_register, u64::from));
    ensure_eq!(answer, Err(Status::NotPermitted), "the servant's");
    Ok(())
}

fn in_order() -> Outcome {
    let mut known = read_all()?;
    make_news()?;
    let news = read_all()?;
    ensure!(news.iter().all(|new| known.iter().all(|old| old.sequence != new.sequence)), "a record came twice");
    known.extend(news);
    ensure!(known.windows(2).all(|pair| pair[0].sequence < pair[1].sequence), "not in order");
    ensure!(known.windows(2).all(|pair| pair[0].time_ns <= pair[1].time_ns), "not in order of time");
    ensure_eq!(read(&mut [])?, 0, "none asked for");
    Ok(())
}

/// What the servant is answered counts here.
fn without_role() -> Outcome {
    let board = scene::helper("servant")?;
    for count in [0, 1, 32, 33] {
        let answer = board.ask(servant::AUDIT, &[count])?;
        record::note(AuditRead::NUMBER, answer.map_or_else(Status::to_register, u64::from));
        ensure_eq!(answer, Err(Status::NotPermitted), "{count} records");
    }
    Ok(())
}

fn bad_buffer() -> Outcome {
    read_all()?;
    // A refusal makes a record at once, or is counted with others for a second at most.
    let refused = grant::copy_from(VmId(u32::MAX), GrantRef(0), 0, &mut [0; 1]);
    ensure_eq!(refused, Err(Status::NotPermitted), "a VM that does not exist");
    let nowhere = AuditRead { buffer: GuestVirt(0), count: 1 };
    board::wait("news", || record::make(nowhere) != Ok(0))?;
    for buffer in [0, scene::code(), u64::MAX - 100, 1 << 47] {
        scene::refuse(AuditRead { buffer: GuestVirt(buffer), count: 1 }, Status::BadAddress)?;
    }
    ensure!(!read_all()?.is_empty(), "the record is lost");
    Ok(())
}

fn too_many() -> Outcome {
    for count in [33, 1 << 32, u64::MAX] {
        scene::refuse(AuditRead { buffer: GuestVirt(scene::buffer()), count }, Status::TooLong)?;
    }
    Ok(())
}
