//! The audit log. The suite is no auditor.

use guest_sdk::protocol::call::AuditRead;
use guest_sdk::{GuestVirt, Status};

use crate::case::Outcome;
use crate::scene;

crate::cases! {
    AuditRead "without the role" ["AUD-2"] [NotPermitted] without_role;
}

fn without_role() -> Outcome {
    for buffer in [scene::buffer(), 0, scene::code(), u64::MAX] {
        for count in [0, 1, 32, 33, u64::MAX] {
            scene::refuse(AuditRead { buffer: GuestVirt(buffer), count }, Status::NotPermitted)?;
        }
    }
    Ok(())
}
