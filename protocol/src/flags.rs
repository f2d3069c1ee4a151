//! Flag words and small choices that calls take. Unknown bits and values are refused, never ignored.

use bitflags::bitflags;

bitflags! {
    /// How a page may be used. Every mapped page can be read. Pages in the lower half are visible
    /// in user mode, pages in the upper half only in kernel mode.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    #[cfg_attr(feature = "manifest", derive(serde::Serialize, serde::Deserialize))]
    pub struct MapFlags: u64 {
        /// The page can be written.
        const WRITE = 1 << 0;
        /// The page can be executed.
        const EXECUTE = 1 << 1;
        /// One 2 MiB page: address and frame are multiples of 512 pages, and the frames lie
        /// together in machine memory (frames that a VM starts with do, in runs of 512).
        const LARGE = 1 << 2;
    }

    /// What the receiver of a grant may do with the frame.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct GrantFlags: u64 {
        /// The receiver may write the frame. Without it the grant is for reading.
        const WRITE = 1 << 0;
    }

    /// What the running hypervisor offers beyond wire version 1.0, as [`InfoTopic::Features`] tells.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Features: u64 {
        /// `rdfsbase` and its kin run in the guest without a call.
        const FSGSBASE = 1 << 0;
        /// SGDT, SIDT, SLDT, SMSW and STR fault in the guest.
        const UMIP = 1 << 1;
        /// AVX state is kept for the guest.
        const AVX = 1 << 2;
        /// The CPU state is kept by XSAVE (otherwise by FXSAVE).
        const XSAVE = 1 << 3;
        /// The `cpuid` instruction is answered like the call [`crate::call::Cpuid`]. Without it, the
        /// instruction shows the machine's own values.
        const CPUID = 1 << 4;
    }
}

/// Declares an open number set with a fallible way to a closed enum.
macro_rules! choice {
    ($($(#[doc = $doc:literal])* $name:ident { $($(#[doc = $vdoc:literal])* $variant:ident = $value:literal,)* })*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $vdoc])* $variant,)*
        }

        impl $name {
            /// Every value with its number and name, for the reference and the C header.
            pub const ALL: &'static [($name, u64, &'static str)] =
                &[$(($name::$variant, $value, stringify!($variant)),)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> u64 {
                match self { $($name::$variant => $value,)* }
            }

            /// The value of a number, or nothing for a number that has none.
            #[must_use]
            pub const fn from_number(number: u64) -> Option<Self> {
                match number { $($value => Some($name::$variant),)* _ => None }
            }
        }
    )*};
}

choice! {
    /// What [`crate::call::Info`] can tell.
    InfoTopic {
        /// The wire version, packed: major in bits 16..32, minor in bits 0..16.
        Version = 0,
        /// The [`Features`] word.
        Features = 1,
        /// The number of the calling VM.
        OwnVm = 2,
        /// The number of the calling vCPU.
        OwnVcpu = 3,
        /// How many vCPUs the VM has.
        VcpuCount = 4,
        /// How many guest frames the VM has, released ones included.
        MemoryFrames = 5,
        /// How many frames are free in the VM's pool (page tables come from it).
        PoolFrames = 6,
        /// Virtual time of the VM in nanoseconds, as the time page tells it.
        Time = 7,
    }

    /// What makes a port pending.
    EventSource {
        /// Input is ready on the VM's console. The index is 0.
        ConsoleInput = 1,
        /// The one-shot timer of the vCPU that the index names.
        Timer = 2,
        /// The channel with that index in the start info: the peer's sends arrive, and own sends go
        /// to the peer.
        Channel = 3,
    }

    /// A segment base that a guest sets without FSGSBASE.
    SegmentBase {
        /// FS, in both modes.
        Fs = 0,
        /// GS of kernel mode.
        KernelGs = 1,
        /// GS of user mode.
        UserGs = 2,
    }

    /// How much of an I/O port is read or written at once.
    IoWidth {
        /// One port.
        Byte = 1,
        /// Two ports.
        Word = 2,
        /// Four ports.
        Long = 4,
    }

    /// Which way [`crate::call::GrantCopy`] copies.
    CopyDirection {
        /// From the granted frame to the caller's buffer.
        FromGrant = 0,
        /// From the caller's buffer to the granted frame.
        ToGrant = 1,
    }

    /// What one entry of [`crate::call::MemoryBatch`] does.
    MemoryOperation {
        /// As [`crate::call::Map`].
        Map = 1,
        /// As [`crate::call::Unmap`]; `frame` and `flags` are 0.
        Unmap = 2,
        /// As [`crate::call::Protect`]; `frame` is 0.
        Protect = 3,
    }
}

#[cfg(test)]
mod tests {
    use super::{EventSource, InfoTopic};

    #[test]
    fn numbers_outside_a_choice_have_no_value() {
        assert_eq!(EventSource::from_number(0), None);
        assert_eq!(EventSource::from_number(4), None);
        assert_eq!(EventSource::from_number(u64::MAX), None);
    }

    #[test]
    fn every_choice_survives_the_round_trip() {
        for (topic, number, _) in InfoTopic::ALL {
            assert_eq!(topic.number(), *number);
            assert_eq!(InfoTopic::from_number(*number), Some(*topic));
        }
    }
}
