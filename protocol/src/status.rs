//! What a call can refuse, and what its caller can do about it.

/// Declares the status codes, append-only.
macro_rules! statuses {
    ($($(#[doc = $doc:literal])* $name:ident = $value:literal, $meaning:literal, $remedy:literal;)*) => {
        /// Why a call was refused. On the wire the negative of its number stands in rax.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Status {
            $(#[doc = $meaning] #[doc = ""] #[doc = concat!("Remedy: ", $remedy)] $name,)*
        }

        impl Status {
            /// Every status, in the order of its number.
            pub const ALL: &'static [Status] = &[$(Status::$name,)*];

            /// The positive number of the status.
            #[must_use]
            pub const fn number(self) -> u64 {
                match self { $(Status::$name => $value,)* }
            }

            /// The status of a positive number, if there is one.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Status> {
                match number { $($value => Some(Status::$name),)* _ => None }
            }

            /// The name as in the reference.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Status::$name => stringify!($name),)* }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Status::$name => $meaning,)* }
            }

            /// What the caller can do.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Status::$name => $remedy,)* }
            }
        }
    };
}

statuses! {
    UnknownCall = 1, "No call has this number in this version.",
        "Ask `info(Version)` before using a call of a newer version.";
    InvalidArgument = 2, "An argument is outside its range, or a reserved bit is set.",
        "Compare the arguments with the call's page; pass 0 in reserved bits.";
    BadAddress = 3, "A guest address is not the guest's own, or is not mapped for this access.",
        "Map the buffer (writable for results) before the call.";
    NotPermitted = 4, "The policy or the VM's rights do not allow it, or there is no such object of another VM.",
        "Grant the right in the system file; denied and absent answer alike on purpose.";
    NotFound = 5, "The caller has no object with this number.",
        "Use a number that a call returned and that was not closed since.";
    Busy = 6, "The object is in use, so it cannot change now.",
        "Undo the use (unmap, unbind, switch away, stop) and call again.";
    QuotaExceeded = 7, "The VM's own quota for this is used up; nobody else is affected.",
        "Release what is not needed, or give the VM more in the system file.";
    AlreadyMapped = 8, "Something is mapped at this address.",
        "Unmap it first.";
    NotMapped = 9, "Nothing is mapped at this address.",
        "Map it first, or leave it out.";
    Misaligned = 10, "An address or frame is not a multiple of the page size in use.",
        "Round to 4 KiB, or to 2 MiB with `LARGE`.";
    WrongState = 11, "The object is not in a state that allows the call.",
        "Look at its state; a vCPU starts only when stopped.";
    NotInBatch = 12, "This call cannot stand in a batch.",
        "Make it on its own.";
    TooLong = 13, "A count or length is over the call's limit.",
        "Cut it into pieces of at most the limit.";
    Retry = 14, "Nothing was done, because it would have taken too long now.",
        "Call again.";
}

impl Status {
    /// The status as it stands in rax.
    #[must_use]
    pub const fn to_register(self) -> u64 {
        self.number().wrapping_neg()
    }

    /// Splits rax into a value or a status. A negative number that this version does not know
    /// reads as [`Status::InvalidArgument`]'s neighbour of least promise: [`Status::UnknownCall`].
    ///
    /// # Errors
    /// The status, when the register holds a negative number.
    pub const fn check_register(rax: u64) -> Result<u64, Status> {
        if rax <= MAX_VALUE {
            return Ok(rax);
        }
        match Status::from_number(rax.wrapping_neg()) {
            Some(status) => Err(status),
            None => Err(Status::UnknownCall),
        }
    }
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Status {}

/// The greatest value that a call can return; above it, rax holds a status.
pub const MAX_VALUE: u64 = u64::MAX >> 1;

#[cfg(test)]
mod tests {
    use super::Status;

    #[test]
    fn every_status_survives_its_register_and_none_reads_as_a_value() {
        for status in Status::ALL {
            assert_eq!(Status::check_register(status.to_register()), Err(*status));
        }
        assert_eq!(Status::check_register(0), Ok(0));
        assert_eq!(Status::check_register(u64::MAX >> 1), Ok(u64::MAX >> 1));
        assert_eq!(Status::check_register(1 << 63), Err(Status::UnknownCall));
    }

    #[test]
    fn numbers_are_consecutive_so_that_none_is_reused() {
        for (index, status) in Status::ALL.iter().enumerate() {
            assert_eq!(status.number(), u64::try_from(index).unwrap() + 1);
        }
    }
}
