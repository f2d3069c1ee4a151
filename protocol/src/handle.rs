//! Newtypes for every number with a meaning, so that a port is never taken for a space.

/// Declares transparent newtypes over an unsigned integer, each with its text form.
macro_rules! newtype {
    ($($(#[doc = $doc:literal])* $name:ident($raw:ty);)*) => {$(
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[cfg_attr(feature = "manifest", derive(serde::Serialize, serde::Deserialize))]
        #[repr(transparent)]
        pub struct $name(pub $raw);

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::Display::fmt(&self.0, f)
            }
        }

        impl core::fmt::LowerHex for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                core::fmt::LowerHex::fmt(&self.0, f)
            }
        }
    )*};
}

newtype! {
    /// A virtual machine of the running system. Numbers are the order of the system file.
    VmId(u32);
    /// A virtual CPU of the calling VM, from 0.
    VcpuId(u32);
    /// An event port of the calling VM.
    Port(u32);
    /// An address space of the calling VM. Space 0 is the one that the VM starts in.
    SpaceId(u32);
    /// A grant of the VM that created it.
    GrantRef(u32);
    /// A guest frame number: the n-th 4 KiB frame of the calling VM's memory. Never a machine frame.
    Gfn(u64);
    /// A virtual address in the calling VM.
    GuestVirt(u64);
    /// A point in the VM's time, or a span of it, in nanoseconds. Time 0 is the VM's start.
    Nanos(u64);
}

impl Nanos {
    /// A deadline that never comes; disarms a timer.
    pub const NEVER: Nanos = Nanos(u64::MAX);
}

impl SpaceId {
    /// The space that a VM starts in. It cannot be destroyed.
    pub const FIRST: SpaceId = SpaceId(0);
}
