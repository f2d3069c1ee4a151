//! `offend COUNT`: asks so often for what it may not have. `read VM COUNT`: finds that many denials of the VM.

use functional_support::wild;
use guest_sdk::protocol::Call;
use guest_sdk::protocol::audit::AuditKind;
use guest_sdk::protocol::call::{AuditRead, GrantMap};
use guest_sdk::protocol::shared::AuditRecord;
use guest_sdk::{Nanos, StartInfo, Status, VmId, call, check, check_eq, println, time, verdict};

pub fn main(start: &'static StartInfo) {
    let mut words = start.command_line().split(' ');
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    match start.command_line().split(' ').next() {
        Some("offend") => {
            number();
            offend(number());
        }
        Some("read") => {
            number();
            read(VmId(number() as u32), number());
        }
        _ => verdict::fail(format_args!("a command line of a kind that there is not")),
    }
}

/// Asks for a frame of VM 0, which is kept apart.
fn offend(count: u64) {
    for _ in 0..count {
        let asked = wild::call(GrantMap::NUMBER, [0, 0, 0, 0x40_0000, 0, 0]);
        check_eq!(asked, Err(Status::NotPermitted), "a frame of another label");
    }
    check_eq!(call::audit_read(&mut [AuditRecord::default(); 1]), Err(Status::NotPermitted), "audit_read");
    check_eq!(call::audit_read(&mut [AuditRecord::default(); 33]), Err(Status::NotPermitted), "too many, and no right");
    println!("{} denials", count + 2);
    verdict::pass();
}

/// Reads until the VM has ended.
fn read(offender: VmId, wanted: u64) {
    let mut records = [AuditRecord::default(); 32];
    let mut too_many = [AuditRecord::default(); 33];
    check_eq!(call::audit_read(&mut too_many), Err(Status::TooLong), "33 records");
    check_eq!(call::audit_read(&mut []), Ok(0), "no record");
    let unmapped = wild::call(AuditRead::NUMBER, [0x7000, 1, 0, 0, 0, 0]);
    check_eq!(unmapped, Err(Status::BadAddress), "a buffer that is not there");
    let (mut next, mut denials, mut lost) = (0, 0, 0);
    loop {
        let count = match call::audit_read(&mut records) {
            Ok(count) => count as usize,
            Err(status) => verdict::fail(format_args!("audit_read: {status}")),
        };
        check!(count <= records.len(), "more than asked for");
        for record in &records[..count] {
            check_eq!(record.sequence, next, "sequence");
            next += 1;
            let is_denial = matches!(record.meaning(), Some(AuditKind::Denied | AuditKind::DeniedMore));
            if record.subject == offender.0 {
                denials += if is_denial { record.count } else { 0 };
                lost += record.lost;
            }
            if record.subject == offender.0 && record.meaning() == Some(AuditKind::VmEnded) {
                check_eq!((denials, lost), (wanted, 0), "denials recorded and lost");
                println!("{denials} denials in {next} records");
                verdict::pass();
            }
        }
        if count == 0 {
            time::sleep(Nanos(5_000_000));
        }
    }
}
